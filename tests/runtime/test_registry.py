"""The registry of engines: one line adds one, and everything else reads it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import pytest
from tlp_cli.main import main

from tests.cli.images import image_of
from tests.fakes.cuda_runtime import FakeRuntime
from tests.fakes.tensorrt_binding import FakeBinding
from tests.scans import SMALL, scan
from tests.servers import saved
from tests.support import TinyModel
from tlp_runtime import Synthesizer
from tlp_runtime.doctor import examine
from tlp_runtime.engines import builds, cuda
from tlp_runtime.engines import onnx as onnx_engine
from tlp_runtime.engines.base import Engine, Slices
from tlp_runtime.engines.choice import EngineChoice
from tlp_runtime.engines.registry import engine_names, engines, find_engine, register, unregister
from tlp_runtime.engines.select import choose
from tlp_runtime.engines.tensorrt import engine as tensorrt_engine
from tlp_runtime.engines.tensorrt.binding import TensorRT
from tlp_runtime.errors import UsageError
from tlp_runtime.models.bundle import MANIFEST, Bundle
from tlp_runtime.models.choice import models
from tlp_runtime.synthesis.request import Request
from tlp_runtime.warnings import WarningLog


class Borrowed(Engine):
    """An engine as somebody else would write one."""

    name = "borrowed"
    device = "cpu"
    library = "NumPy 1"

    def __init__(self, bundle: Bundle, warnings: WarningLog | None = None) -> None:
        super().__init__(bundle, warnings)
        self._inner = onnx_engine.OnnxEngine(bundle)

    def _run(self, tensors: Mapping[str, Slices]) -> Slices:
        return self._inner.run(tensors)

    def close(self) -> None:
        self._inner.close()


@pytest.fixture
def borrowed() -> Iterator[type[Engine]]:
    register(Borrowed)
    yield Borrowed
    unregister(Borrowed.name)


@pytest.mark.usefixtures("borrowed")
def test_an_engine_of_ones_own_infers_by_its_name(tiny: TinyModel, tmp_path: Path) -> None:
    tiny.register()
    t1, out = saved(scan(), tmp_path / "t1.nii.gz"), tmp_path / "out.nii.gz"
    assert main(["infer", "--t1", str(t1), "--engine", "borrowed", "--out", str(out)]) == 0
    with Synthesizer.open(choice=EngineChoice(engine="borrowed")) as synthesizer:
        assert synthesizer.engine.library == "NumPy 1"
        volume = synthesizer.run(Request(images={"t1": t1})).volume
    np.testing.assert_array_equal(image_of(out)[0], volume.data)


@pytest.mark.usefixtures("borrowed")
def test_everything_that_lists_engines_reads_the_registry(
    tiny: TinyModel, capfd: pytest.CaptureFixture[str]
) -> None:
    tiny.register()
    assert "borrowed" in [finding.name for finding in examine().engines]
    with pytest.raises(UsageError, match="borrowed"):
        choose("none-such")
    assert main(["bench", "--engines", "borrowed", "--batches", "1", "--runs", "1"]) == 0
    assert "borrowed" in capfd.readouterr().out
    assert choose().name != "borrowed", "it does not say that it may be chosen automatically"


def test_names_are_not_taken_twice() -> None:
    with pytest.raises(ValueError, match="is taken"):
        register(find_engine("ort-cpu"))


def test_every_engine_has_a_name_of_its_own_and_a_place() -> None:
    assert len(set(engine_names())) == len(engines())
    for kind in engines():
        assert kind.name
        assert kind.__doc__
        assert isinstance(kind.on_gpu, bool)


def test_tensorrt_infers_without_onnx_runtime(
    tiny: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`tlp-mri[trt]` does not install ONNX Runtime."""

    def not_installed(name: str) -> str:
        raise PackageNotFoundError(name)

    runtime = FakeRuntime()
    module = FakeBinding("11.4.0", runtime)
    monkeypatch.setattr(onnx_engine, "version", not_installed)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr(cuda, "_bindings", lambda: runtime)
    monkeypatch.setattr(tensorrt_engine, "installed", lambda: {"trt": "11.4.0"})
    for place in (tensorrt_engine, builds):
        monkeypatch.setattr(place, "load", lambda flavour: TensorRT(flavour, module))
    # Without a proof slice: the stand-in computes another function than the model.
    copy = tiny.copy(tmp_path)
    manifest = json.loads((copy / MANIFEST).read_text(encoding="utf-8"))
    (copy / MANIFEST).write_text(json.dumps(manifest | {"proof": None}), encoding="utf-8")
    models().add("unproven", copy)
    t1, out = saved(scan(), tmp_path / "t1.nii.gz"), tmp_path / "out.nii.gz"
    for engine in ("trt", "auto"):
        words = ["infer", "--t1", str(t1), "--engine", engine, "--out", str(out), "--overwrite"]
        assert main(words) == 0
        with Synthesizer.open(choice=EngineChoice(engine=engine)) as synthesizer:
            assert synthesizer.engine.name == "trt"
            assert synthesizer.engine.library == "TensorRT 11.4.0"
    assert module.builds == 1, "the second run opens what the first one built"
    assert SMALL.inputs == ("t1",)
