"""What was asked for is what runs, or an error says why not."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from tests.fakes.engine import FakeEngine
from tests.support import TinyModel
from tlp_runtime import Synthesizer
from tlp_runtime.engines import onnx as onnx_engine
from tlp_runtime.engines import openvino as ov_engine
from tlp_runtime.engines.base import Engine, Slices
from tlp_runtime.engines.cuda import NEWER_DRIVER, Cuda, Gpu
from tlp_runtime.engines.registry import engine_names, engines, find_engine
from tlp_runtime.engines.select import choose
from tlp_runtime.engines.tensorrt import engine as tensorrt_engine
from tlp_runtime.errors import (
    DependencyConflict,
    DependencyMissing,
    DeviceUnavailable,
    EngineError,
    Fix,
    Install,
    MemoryExhausted,
    UsageError,
)

NAMES = engine_names()
HOPPER = Gpu(0, "NVIDIA H200", (9, 0), 143771, "GPU-0")
ADA = Gpu(0, "NVIDIA L4", (8, 9), 23034, "GPU-1")


def _installed(
    monkeypatch: pytest.MonkeyPatch, *flavours: str, place: ModuleType = onnx_engine
) -> None:
    def version(name: str) -> str:
        if name not in flavours:
            raise PackageNotFoundError(name)
        return "9.9"

    monkeypatch.setattr(place, "version", version)


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make it look as if these engines could run; the others say what they lack."""

    def settle(*names: str) -> None:
        def unavailable(cls: type[Engine], index: int = 0) -> DeviceUnavailable | None:
            return None if cls.name in names else DeviceUnavailable(f"{cls.name} is not there.")

        for kind in engines():
            monkeypatch.setattr(kind, "unavailable", classmethod(unavailable))

    return settle


def test_no_onnx_runtime_says_which_line_installs_one(monkeypatch: pytest.MonkeyPatch) -> None:
    _installed(monkeypatch)
    found = choose(device="cpu")
    assert found.name == "ov-cpu"
    assert found.reason == "as asked; not ort-cpu: ONNX Runtime is not installed"
    _installed(monkeypatch, place=ov_engine)
    with pytest.raises(DependencyMissing, match=r"tlp-mri\[cpu\].*tlp-mri\[openvino\]"):
        choose(device="cpu")


def test_both_flavours_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    _installed(monkeypatch, "onnxruntime", "onnxruntime-gpu")
    for device in ("auto", "cpu", "cuda"):
        with pytest.raises(DependencyConflict, match="Uninstall onnxruntime and onnxruntime-gpu"):
            choose(device=device)


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (("trt", "trt-rtx", "ort-cuda", "ort-cpu"), "trt"),
        (("trt-rtx", "ort-cuda", "ort-cpu"), "trt-rtx"),
        (("ort-cuda", "ort-cpu"), "ort-cuda"),
        (("ort-trt", "ort-cpu"), "ort-cpu"),
        (("ort-cpu",), "ort-cpu"),
    ],
)
def test_auto_prefers_tensorrt_then_cuda_then_the_cpu_and_says_why(
    there: Callable[..., None], names: tuple[str, ...], chosen: str
) -> None:
    there(*names)
    choice = choose()
    assert choice.name == chosen
    assert (choice.cuda_index is None) == (chosen == "ort-cpu")
    if chosen == "ort-cuda":
        assert choice.reason == (
            "the fastest that can run here; not trt: trt is not there; "
            "not trt-rtx: trt-rtx is not there"
        )
    if chosen == "ort-cpu":
        assert choice.reason == "no GPU engine can run: ort-cuda is not there"


def test_a_gpu_that_was_asked_for_is_never_the_cpu(there: Callable[..., None]) -> None:
    there("ort-cpu")
    with pytest.raises(DeviceUnavailable, match=r"trt is not there.*ort-cuda is not there") as e:
        choose(device="cuda")
    assert e.value.exit_code == 5
    for name in ("trt", "trt-rtx", "ort-trt", "ort-cuda"):
        with pytest.raises(DeviceUnavailable, match=f"engine {name} .* but {name} is not there"):
            choose(name)


def test_what_is_there_and_asked_for_is_taken(there: Callable[..., None]) -> None:
    there(*NAMES)
    for name in (kind.name for kind in engines() if kind.on_gpu):
        choice = choose(name, "cuda:3")
        assert (choice.name, choice.cuda_index, choice.reason) == (name, 3, "as asked")
    assert choose("ort-cpu").cuda_index is None
    assert choose(device="cpu").name == "ort-cpu"


@pytest.mark.parametrize(
    ("engine", "device"),
    [
        ("tensorrt", "auto"),
        ("auto", "gpu"),
        ("auto", "cuda:x"),
        ("ort-cpu", "cuda"),
        ("ort-cuda", "cpu"),
        ("trt", "cpu"),
    ],
)
def test_names_and_pairs_that_cannot_be(engine: str, device: str) -> None:
    with pytest.raises(UsageError):
        choose(engine, device)


def test_each_engine_reports_what_it_lacks_and_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def problem(name: str, index: int = 0) -> str | None:
        found = find_engine(name).unavailable(index)
        return None if found is None else found.problem

    def fixes(name: str) -> tuple[Fix, ...]:
        found = find_engine(name).unavailable()
        assert found is not None
        return found.fixes

    monkeypatch.setattr(tensorrt_engine, "installed", dict)
    assert problem("trt") == "TensorRT is not installed"
    assert fixes("trt") == (Install(("tlp-mri[trt]",)),)
    assert fixes("trt-rtx") == (Install(("tlp-mri[trt-rtx]",)),)
    with pytest.raises(DependencyMissing, match=r"asked for, but TensorRT is not installed"):
        choose("trt")
    monkeypatch.setattr(tensorrt_engine, "installed", lambda: {"trt": "11.4", "trt-rtx": "1.7"})
    monkeypatch.setattr(Cuda, "gpus", lambda self: ())
    for versions, why in (
        (("0.0", "13.0"), "the NVIDIA driver shows no GPU"),
        (("13.1", "13.5"), "the NVIDIA driver shows no GPU"),
        (("12.8", "13.0"), "the NVIDIA driver (CUDA 12.8) is too old for CUDA 13.0"),
    ):
        monkeypatch.setattr(Cuda, "versions", lambda self, versions=versions: versions)
        assert problem("trt") == why
    assert fixes("trt") == (NEWER_DRIVER,)

    def broken(self: Cuda) -> None:
        raise EngineError("CUDA failed: cudaErrorUnknown.")

    monkeypatch.setattr(Cuda, "gpus", broken)
    assert problem("trt") == "CUDA failed: cudaErrorUnknown."
    assert choose().name == "ort-cpu"  # a broken GPU is a reason, not the end
    monkeypatch.setattr(Cuda, "gpus", lambda self: (HOPPER,))

    def unknown(flavour: str) -> None:
        raise EngineError(f"{flavour} 10.8 is installed; this version knows 10.16")

    monkeypatch.setattr(tensorrt_engine, "load", unknown)
    assert problem("trt") == "trt 10.8 is installed; this version knows 10.16"
    assert "10.8" in str(problem("trt-rtx"))
    monkeypatch.setattr(tensorrt_engine, "load", lambda flavour: None)
    assert problem("trt") is None
    assert problem("trt", 2) == "there is no cuda:2, only cuda:0"
    assert "does not support NVIDIA H200 (compute capability 9.0)" in str(problem("trt-rtx"))
    monkeypatch.setattr(Cuda, "gpus", lambda self: (ADA,))
    assert problem("trt-rtx") is None
    _installed(monkeypatch)
    assert fixes("ort-cuda") == (Install(("tlp-mri[gpu]",)),)


def test_running_out_of_memory_is_exit_6_and_other_failures_5(tiny: TinyModel) -> None:
    class Failing:
        def __init__(self, message: str) -> None:
            self.message = message

        def run(self, *arguments: object) -> None:
            raise RuntimeError(self.message)

    zeros = np.zeros((2, 1, 192, 160), np.float32)
    with onnx_engine.OnnxEngine(tiny.bundle) as engine:
        engine._session = Failing("Failed to allocate memory for requested buffer of size 9")
        with pytest.raises(MemoryExhausted, match="with a batch of 2 slices") as e:
            engine.run({"t1": zeros, "prompt": zeros})
        assert e.value.exit_code == 6
        engine._session = Failing("Non-zero status code")
        with pytest.raises(EngineError, match="the run failed: Non-zero") as other:
            engine.run({"t1": zeros, "prompt": zeros})
        assert other.value.exit_code == 5


class Small(FakeEngine):
    """An engine with memory for two slices."""

    room = 2

    def _run(self, tensors: dict[str, Slices]) -> Slices:  # type: ignore[override]
        if len(tensors["t1"]) > self.room:
            raise MemoryExhausted(f"small: out of memory with {len(tensors['t1'])} slices.")
        return super()._run(tensors)


def test_out_of_memory_halves_the_batch_and_goes_on(tiny: TinyModel) -> None:
    rng = np.random.default_rng(0)
    tensors = {
        name: rng.uniform(-1, 1, (11, 192, 160)).astype(np.float32) for name in ("t1", "prompt")
    }
    want = np.clip(tensors["t1"] * 0.5 + tensors["prompt"] * 0.25, -1, 1)
    engine = Small(tiny.bundle.spec)
    with Synthesizer(engine, batch=8) as synthesizer:
        np.testing.assert_array_equal(synthesizer.run_slices(tensors), want)
        assert synthesizer.batch == 2
    assert engine.batches == [2, 2, 2, 2, 2, 1]


def test_out_of_memory_with_one_slice_is_the_end(tiny: TinyModel) -> None:
    engine = Small(tiny.bundle.spec)
    engine.room = 0
    tensors = {name: np.zeros((3, 192, 160), np.float32) for name in ("t1", "prompt")}
    with Synthesizer(engine, batch=2) as synthesizer, pytest.raises(MemoryExhausted) as e:
        synthesizer.run_slices(tensors)
    assert e.value.exit_code == 6


CONTRACT = [
    pytest.param(kind.name, marks=[pytest.mark.gpu] if kind.on_gpu else []) for kind in engines()
]


@pytest.fixture(params=CONTRACT)
def engine(request: pytest.FixtureRequest, tiny: TinyModel) -> Iterator[Engine]:
    """Every engine that is present: on a GPU those whose libraries are installed."""
    problem = find_engine(request.param).unavailable()
    if problem is not None:
        pytest.skip(f"{request.param}: {problem}")
    with choose(request.param).open(tiny.bundle) as opened:
        yield opened


def _inputs(engine: Engine, batch: int, seed: int = 0) -> dict[str, Slices]:
    rng = np.random.default_rng(seed)
    return {
        name: rng.uniform(-1, 1, (batch, 1, 192, 160)).astype(np.float32)
        for name in engine.spec.tensor_names
    }


def test_contract_values_are_the_cpus(engine: Engine, tiny: TinyModel) -> None:
    with onnx_engine.OnnxEngine(tiny.bundle) as reference:
        for batch in (1, 3, 4):
            tensors = _inputs(engine, batch, batch)
            image = engine.run(tensors)
            assert image.shape == (batch, 1, 192, 160)
            assert image.dtype == np.float32
            assert np.abs(image).max() <= 1
            atol = 1e-6 if engine.name == "ort-cpu" else 2e-4
            np.testing.assert_allclose(image, reference.run(tensors), atol=atol)


def test_contract_batches_keep_their_order(engine: Engine) -> None:
    batches = [_inputs(engine, size, seed) for seed, size in enumerate((2, 2, 1, 2, 2))]
    together = list(engine.run_batches(batches))
    assert len(together) == len(batches)
    for tensors, image in zip(batches, together, strict=True):
        np.testing.assert_allclose(image, engine.run(tensors), atol=1e-5)


def test_contract_says_what_it_is(engine: Engine) -> None:
    assert engine.name in NAMES
    assert (engine.device == "cpu") == (not engine.on_gpu)
    assert any(part.isdigit() for part in engine.library.replace(".", " ").split())
    assert engine.opening["open"] > 0
    times = engine.timed(_inputs(engine, 1))
    assert times.total_s > 0
    assert (times.compute_s is None) == (engine.device == "cpu")
    assert (engine.memory_mib() is None) == (engine.device == "cpu")


def test_contract_refuses_what_is_not_its_input(engine: Engine) -> None:
    good = _inputs(engine, 2)
    bad = {
        "names": {"t1": good["t1"]},
        "type": good | {"t1": good["t1"].astype(np.float64)},
        "shape": good | {"t1": good["t1"][..., :100]},
        "batch": good | {"t1": good["t1"][:1]},
        "empty": {name: array[:0] for name, array in good.items()},
        "list": good | {"t1": good["t1"].tolist()},
    }
    for tensors in bad.values():
        with pytest.raises(EngineError) as e:
            engine.run(tensors)
        assert e.value.exit_code == 5
    engine.run(good)


@pytest.mark.parametrize(
    ("verb", "left"),
    [
        ("infer", ""),
        ("export", "raise ImportError('capi is gone')"),
        ("bench", "import no_such_part"),
        ("verify", "raise RuntimeError"),
    ],
)
def test_an_onnx_runtime_that_is_partly_uninstalled_is_one_sentence(
    tiny: TinyModel, tmp_path: Path, phantom_dir: Path, left: str, verb: str
) -> None:
    """Its metadata are there, most of its files are not."""
    broken = tmp_path / "onnxruntime"
    broken.mkdir()
    (broken / "__init__.py").write_text(left)
    t1 = next(phantom_dir.glob("*/*_t1.nii.gz"))
    commands: dict[str, list[str | Path]] = {
        "infer": ["--t1", t1, "--model", tiny.bundle.path, "--out", tmp_path / "a.nii.gz"],
        "export": [tiny.run.last, "--out", tmp_path / "bundle"],
        "bench": ["--model", tiny.bundle.path],
        "verify": [tiny.bundle.path],
    }
    result = subprocess.run(
        [sys.executable, "-c", "from tlp_cli.main import run; run()", verb, *commands[verb]],
        env={**os.environ, "PYTHONPATH": str(tmp_path), "TLP_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
    )
    said = " ".join(result.stderr.split())
    assert result.returncode == 5, said
    assert "is installed, but files of it are missing or damaged" in said
    assert "onnxruntime" in said
    assert "Traceback" not in said
