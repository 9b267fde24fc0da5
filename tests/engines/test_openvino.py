"""OpenVINO on the CPU: in the model's precision, kept graphs too, and never worse in silence."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tlp_cli.main import main

from tests.scans import scan
from tests.servers import saved
from tests.support import TinyModel
from tlp_export import export
from tlp_export.options import ExportOptions
from tlp_runtime.engines import openvino as module
from tlp_runtime.engines.base import Engine, Opening, Slices
from tlp_runtime.engines.caches import caches_folder
from tlp_runtime.engines.choice import EngineChoice
from tlp_runtime.engines.onnx import OnnxEngine
from tlp_runtime.engines.openvino import GRAPHS, STREAMS, OpenVinoEngine
from tlp_runtime.engines.proof import Deviation, prove
from tlp_runtime.engines.select import choose
from tlp_runtime.errors import EngineError
from tlp_runtime.models.bundle import Bundle
from tlp_runtime.spec.model import SizeSpec
from tlp_train.checkpoint import load_checkpoint


@pytest.fixture(scope="module")
def bf16(tiny: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny model, exported to be computed in bf16."""
    out = tmp_path_factory.mktemp("bf16") / "tiny-bf16"
    return export(load_checkpoint(tiny.run.last), ExportOptions(precision="bf16"), out=out).bundle


def tiny_of_any_size(tiny: TinyModel, out: Path) -> Bundle:
    options = ExportOptions(largest=(240, 240))
    return export(load_checkpoint(tiny.run.last), options, out=out, overwrite=True).bundle


def noise(bundle: Bundle, batch: int, seed: int = 0) -> dict[str, Slices]:
    rng = np.random.default_rng(seed)
    shape = (batch, 1, bundle.spec.crop.height, bundle.spec.crop.width)
    return {n: rng.uniform(-1, 1, shape).astype(np.float32) for n in bundle.spec.tensor_names}


def blobs() -> list[Path]:
    return sorted((caches_folder() / "ov-cpu").glob("*.blob"))


def deviation(engine: Engine) -> Deviation:
    proof = engine.bundle.proof()
    assert proof is not None
    return Deviation.of(engine.run(proof.inputs), proof.expected)


def test_float32_stays_float32_in_a_kept_graph_too(tiny: TinyModel) -> None:
    """OpenVINO computes a graph that it loads in bf16, unless it is told again what it was for."""
    found = []
    for variant in ("f32, compiled", "f32, kept"):
        with OpenVinoEngine(tiny.bundle) as engine:
            assert engine.variant == variant
            found.append(deviation(engine))
            prove(engine, batch=4)
    assert found[0] == found[1]
    assert found[0].max_abs < 1e-4
    assert engine.library.startswith("openvino 2")


@pytest.mark.parametrize("damage", ["cut", "altered", "empty", "of another model"])
def test_a_graph_that_is_not_what_was_kept_is_compiled_again(
    tiny: TinyModel, bf16: Bundle, damage: str
) -> None:
    with OpenVinoEngine(tiny.bundle) as engine:
        want = engine.run(noise(tiny.bundle, 4))
    (blob,) = blobs()
    content = bytearray(blob.read_bytes())
    if damage == "of another model":
        with OpenVinoEngine(bf16):
            (other,) = set(blobs()) - {blob}
        content = bytearray(other.read_bytes())
    elif damage == "altered":
        content[len(content) // 2] ^= 1
    else:
        content = content[:1000] if damage == "cut" else bytearray()
    blob.write_bytes(content)
    with OpenVinoEngine(tiny.bundle) as engine:
        np.testing.assert_array_equal(engine.run(noise(tiny.bundle, 4)), want)
        assert engine.variant == "f32, compiled"
    with OpenVinoEngine(tiny.bundle) as engine:
        assert engine.variant == "f32, kept", "it was kept again"


@pytest.mark.parametrize("changed", ["library", "machine"])
def test_a_graph_of_another_library_or_processor_is_replaced(
    tiny: TinyModel, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    OpenVinoEngine(tiny.bundle).close()
    if changed == "library":
        monkeypatch.setattr(module, "require_openvino", lambda: "openvino 2099.1.0")
    else:
        monkeypatch.setattr(OpenVinoEngine, "machine", lambda self: {"cpu": "another"})
    for variant in ("f32, compiled", "f32, kept"):
        with OpenVinoEngine(tiny.bundle) as engine:
            assert engine.variant == variant
    assert len(blobs()) == 1


def test_a_home_that_cannot_be_written_only_costs_the_kept_graph(
    tiny: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TLP_HOME", "/proc/none")
    with OpenVinoEngine(tiny.bundle) as engine:
        assert [warning.code.name for warning in engine.warnings] == ["cache-not-kept"]
        assert deviation(engine).max_abs < 1e-4


@pytest.mark.parametrize("streams", [1, 2, 3])
def test_batches_of_every_size_are_right_and_in_order(tiny: TinyModel, streams: int) -> None:
    sizes = (1, 2, 3, 4, 5, 7, 4, 4, 4, 1)
    batches = [noise(tiny.bundle, size, seed) for seed, size in enumerate(sizes)]
    with OpenVinoEngine(tiny.bundle, streams=streams) as engine, OnnxEngine(tiny.bundle) as other:
        for tensors, image in zip(batches, engine.run_batches(batches), strict=True):
            np.testing.assert_allclose(image, other.run(tensors), atol=1e-4)
        left = engine.run_batches(batches)
        next(left)
        left.close()  # whoever stops in the middle leaves nothing behind
        np.testing.assert_allclose(engine.run(batches[2]), other.run(batches[2]), atol=1e-4)


@pytest.mark.parametrize("streams", [1, 2])
def test_a_slice_does_not_depend_on_its_batch(tiny: TinyModel, streams: int) -> None:
    tensors = noise(tiny.bundle, 7)
    with OpenVinoEngine(tiny.bundle, streams=streams) as engine:
        together = engine.run(tensors)
        for number in range(7):
            one = {name: array[number : number + 1] for name, array in tensors.items()}
            np.testing.assert_array_equal(engine.run(one), together[number : number + 1])
    assert len(blobs()) == 1


class WatchedCore:
    """The library's core, of which a test sees what it was told and what of it is still held."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._core = module.openvino_core()
        self._compiled: list[weakref.ref[Any]] = []
        self.settings: dict[str, Any] = {}
        monkeypatch.setattr(module, "openvino_core", lambda: self)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._core, name)

    def compile_model(self, model: Any, device: str, settings: dict[str, Any]) -> Any:
        self.settings = settings
        compiled = self._core.compile_model(model, device, settings)
        self._compiled.append(weakref.ref(compiled))
        return compiled

    def import_model(self, blob: Any, device: str, settings: dict[str, Any]) -> Any:
        compiled = self._core.import_model(blob, device, settings)
        self._compiled.append(weakref.ref(compiled))
        return compiled

    @property
    def held(self) -> int:
        """Compiled graphs that somebody holds."""
        gc.collect()
        return sum(one() is not None for one in self._compiled)


def test_threads_and_streams_are_what_was_asked_for(
    tiny: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = WatchedCore(monkeypatch)
    for threads, streams, settled in ((1, None, 1), (8, None, 2), (64, None, STREAMS), (2, 2, 2)):
        with OpenVinoEngine(tiny.bundle, threads=threads, streams=streams) as engine:
            engine.run(noise(tiny.bundle, 1))
        assert core.settings["INFERENCE_NUM_THREADS"] == threads
        assert core.settings["NUM_STREAMS"] == settled


def test_slices_of_several_sizes_have_a_graph_each_and_few_are_held(
    tiny: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = WatchedCore(monkeypatch)
    spec = replace(tiny.bundle.spec, sizes=SizeSpec(smallest=(64, 64), largest=(240, 240)))
    out = tiny.run.folder.parent / "any size"
    bundle = tiny_of_any_size(tiny, out)
    assert bundle.spec == spec
    with OpenVinoEngine(bundle) as engine, OnnxEngine(bundle) as other:
        for side in (64, 96, 128, 160, 192, 240, 64):
            rng = np.random.default_rng(side)
            tensors = {
                name: rng.uniform(-1, 1, (2, 1, side, 64)).astype(np.float32)
                for name in spec.tensor_names
            }
            np.testing.assert_allclose(engine.run(tensors), other.run(tensors), atol=2e-4)
        assert core.held == GRAPHS


def test_callers_side_by_side_get_their_own_answers(tiny: TinyModel) -> None:
    with OpenVinoEngine(tiny.bundle, streams=2) as engine:
        wanted = [engine.run(noise(tiny.bundle, 2, seed)) for seed in range(4)]
        wrong: list[int] = []

        def call(seed: int) -> None:
            tensors = noise(tiny.bundle, 2, seed)
            right = [np.array_equal(engine.run(tensors), wanted[seed]) for _ in range(5)]
            wrong.extend([seed] * right.count(False))

        threads = [threading.Thread(target=call, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_bf16_is_computed_in_bf16_and_proven(bf16: Bundle) -> None:
    if not module.computes_bf16():
        pytest.skip("this processor does not compute in bf16")
    selected = choose(device="cpu", bundle=bf16)
    assert selected.name == "ov-cpu", "nothing else on a CPU runs it"
    with selected.open(bf16, Opening(EngineChoice(batch=2))) as engine:
        assert engine.variant.startswith("bf16")
        found = deviation(engine)
        assert list(engine.warnings) == []
    assert found.psnr_db >= 50
    assert found.max_abs > 1e-5, "it was computed in float32"


def test_int8_is_taken_to_openvino_where_the_rest_runs_in_bf16(
    tiny: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ExportOptions(precision="int8", min_psnr_db=30.0)
    exported = export(load_checkpoint(tiny.run.last), options, out=tmp_path / "int8")
    executors = {check.executor.split()[0] for check in exported.parity.checks}
    assert executors == {"onnxruntime", "openvino"}
    with choose(device="cpu", bundle=exported.bundle).open(exported.bundle) as engine:
        assert engine.name == "ov-cpu"
        assert engine.variant.startswith("bf16")
    monkeypatch.setattr(module, "computes_bf16", lambda: False)
    assert choose(device="cpu", bundle=exported.bundle).name == "ort-cpu"


@pytest.fixture
def without_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """An older processor."""
    monkeypatch.setattr(module, "computes_bf16", lambda: False)


@pytest.mark.usefixtures("without_bf16")
def test_a_processor_without_bf16_refuses_it_or_runs_it_slowly_by_name(
    bf16: Bundle, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(EngineError, match="which this processor does not compute in") as e:
        choose(device="cpu", bundle=bf16)
    assert e.value.exit_code == 5
    t1, out = saved(scan(), tmp_path / "t1.nii.gz"), tmp_path / "out.nii.gz"
    words = ["infer", "--t1", str(t1), "--model", str(bf16.path), "--out", str(out)]
    assert main(words) == 5
    said = " ".join(capfd.readouterr().err.split())
    assert "this processor does not compute in" in said
    assert "Traceback" not in said
    assert main([*words, "--engine", "ov-cpu"]) == 0
    with OpenVinoEngine(bf16) as engine:
        assert [warning.code.name for warning in engine.warnings] == ["precision-slow"]
        assert engine.variant.startswith("f32")
        prove(engine, batch=4)
        assert deviation(engine).psnr_db >= 50


@pytest.mark.parametrize("left", ["", "raise ImportError('gone')"])
def test_an_openvino_that_is_partly_uninstalled_is_one_sentence(
    tiny: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: str
) -> None:
    import sys

    broken = tmp_path / "openvino"
    broken.mkdir()
    (broken / "__init__.py").write_text(left)
    for name in [name for name in sys.modules if name.partition(".")[0] == "openvino"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(tmp_path))
    problem = OpenVinoEngine.unavailable()
    assert problem is not None
    assert "is installed, but files of it are missing or damaged" in problem.problem
    assert problem.exit_code == 5


def test_without_openvino_auto_goes_on_with_onnx_runtime(
    tiny: TinyModel, bf16: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    from importlib.metadata import PackageNotFoundError

    def version(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(module, "version", version)
    assert choose(device="cpu", bundle=tiny.bundle).name == "ort-cpu"
    with pytest.raises(EngineError, match=r"ONNX Runtime cannot run.*OpenVINO is not installed"):
        choose(device="cpu", bundle=bf16)


def test_what_is_not_a_graph_is_refused(tiny: TinyModel, tmp_path: Path) -> None:
    copy = tiny.copy(tmp_path)
    (copy / "generator.onnx").write_bytes(b"no graph")
    bundle: Any = replace(tiny.bundle, path=copy)
    with pytest.raises(EngineError, match="cannot load it"):
        OpenVinoEngine(bundle)


_ENGINES_AND_A_SIGNAL = """
import os, pathlib, signal, sys, threading
from tlp_runtime.engines.openvino import OpenVinoEngine
from tlp_runtime.models.bundle import Bundle

bundle = Bundle.open(pathlib.Path(sys.argv[1]))
signal.signal(signal.SIGTERM, lambda *_: print("handled", flush=True))
first, second = OpenVinoEngine(bundle), OpenVinoEngine(bundle)
first.close()
del first
os.kill(os.getpid(), signal.SIGTERM)
closing = [second]
del second
thread = threading.Thread(target=lambda: closing.pop().close())
thread.start()
thread.join()
os.kill(os.getpid(), signal.SIGTERM)
"""


def test_signals_are_handled_after_engines_are_closed_in_any_order_and_thread(
    tiny: TinyModel,
) -> None:
    """A Core of OpenVINO that is released may leave a freed stack to handlers of signals."""
    found = subprocess.run(
        [sys.executable, "-c", _ENGINES_AND_A_SIGNAL, tiny.bundle.path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (found.returncode, found.stdout.split()) == (0, ["handled", "handled"]), found.stderr
