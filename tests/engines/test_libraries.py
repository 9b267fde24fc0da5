"""Where every optional library is installed, and where one is missing or broken."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.cuda_runtime import FakeRuntime
from tests.fakes.machines import ADA, HOPPER, installed
from tests.support import TinyModel
from tlp_runtime.bench.limit import Product, open_product
from tlp_runtime.engines import openvino as ov_engine
from tlp_runtime.engines.cuda import NEWER_DRIVER, Cuda
from tlp_runtime.engines.registry import find_engine
from tlp_runtime.engines.select import choose
from tlp_runtime.engines.tensorrt import engine as tensorrt_engine
from tlp_runtime.errors import (
    DependencyMissing,
    EngineError,
    Fix,
    Install,
)


def test_no_onnx_runtime_says_which_line_installs_one(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch)
    found = choose(device="cpu")
    assert found.name == "ov-cpu"
    assert found.reason == "as asked; not ort-cpu: ONNX Runtime is not installed"
    installed(monkeypatch, place=ov_engine)
    with pytest.raises(DependencyMissing, match=r"tlp-mri\[cpu\].*tlp-mri\[openvino\]"):
        choose(device="cpu")


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
    installed(monkeypatch)
    assert fixes("ort-cuda") == (Install(("tlp-mri[gpu]",)),)


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


def test_openvino_is_held_against_its_own_products() -> None:
    for precision, kind in (("fp32", "fp32"), ("bf16", "bf16")):
        found = open_product("ov-cpu", "cpu", precision)  # type: ignore[arg-type]
        assert isinstance(found, Product), found
        assert found.what.startswith(f"{kind} 1024 x 1024, openvino")
        assert found.tflops() > 0


def test_the_cuda_names_are_those_of_cuda_bindings() -> None:
    """The stand-in that the tests run on has no name that the real one lacks."""
    runtime = pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")
    called = {name for name in dir(FakeRuntime) if name.startswith("cuda")}
    assert len(called) > 25
    assert [name for name in called if not hasattr(runtime, name)] == []
    for name in ("cudaError_t", "cudaMemcpyKind", "cudaStreamCaptureMode"):
        ours, theirs = getattr(FakeRuntime, name), getattr(runtime, name)
        assert {m.name: m.value for m in ours} == {
            m.name: int(getattr(theirs, m.name)) for m in ours
        }
