"""What was asked for is what runs, or an error says why not."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError

import numpy as np
import pytest

from tests.support import TinyModel
from tlp_runtime.engines import onnx as onnx_engine
from tlp_runtime.engines import select
from tlp_runtime.engines.select import choose
from tlp_runtime.errors import (
    DependencyConflict,
    DependencyMissing,
    DeviceUnavailable,
    EngineError,
    MemoryExhausted,
    UsageError,
)


def _installed(monkeypatch: pytest.MonkeyPatch, *flavours: str) -> None:
    def version(name: str) -> str:
        if name not in flavours:
            raise PackageNotFoundError(name)
        return "9.9"

    monkeypatch.setattr(onnx_engine, "version", version)


def test_no_onnx_runtime_says_which_line_installs_one(monkeypatch: pytest.MonkeyPatch) -> None:
    _installed(monkeypatch)
    with pytest.raises(DependencyMissing, match=r"tlp-mri\[cpu\].*tlp-mri\[gpu\]"):
        choose()


def test_both_flavours_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    _installed(monkeypatch, "onnxruntime", "onnxruntime-gpu")
    with pytest.raises(DependencyConflict, match="pip uninstall -y onnxruntime onnxruntime-gpu"):
        choose()


def test_auto_on_a_machine_without_a_gpu_is_the_cpu_and_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(select, "_no_cuda", lambda library: "there is no GPU")
    choice = choose()
    assert (choice.name, choice.cuda_index, choice.reason) == (
        "ort-cpu",
        None,
        "since there is no GPU",
    )


def test_auto_on_a_machine_with_a_gpu_is_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "_no_cuda", lambda library: None)
    assert choose().name == "ort-cuda"
    assert choose(device="cuda:3").cuda_index == 3
    assert choose(device="cpu").name == "ort-cpu"


@pytest.mark.parametrize(("engine", "device"), [("auto", "cuda"), ("ort-cuda", "auto")])
def test_a_gpu_that_is_not_there_is_never_the_cpu(
    monkeypatch: pytest.MonkeyPatch, engine: str, device: str
) -> None:
    monkeypatch.setattr(select, "_no_cuda", lambda library: "there is no GPU")
    with pytest.raises(DeviceUnavailable, match="but there is no GPU"):
        choose(engine, device)


def test_the_engine_itself_refuses_a_missing_gpu(tiny: TinyModel) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA support")
    with pytest.raises(DeviceUnavailable, match="no CUDA support"):
        onnx_engine.OnnxEngine(tiny.bundle, cuda_index=0)


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


@pytest.mark.gpu
def test_the_cuda_engine_equals_the_cpu_engine(tiny: TinyModel) -> None:
    rng = np.random.default_rng(0)
    tensors = {
        name: rng.uniform(-1, 1, (3, 1, 192, 160)).astype(np.float32)
        for name in tiny.bundle.spec.tensor_names
    }
    with (
        onnx_engine.OnnxEngine(tiny.bundle, cuda_index=0) as gpu,
        onnx_engine.OnnxEngine(tiny.bundle) as cpu,
    ):
        assert (gpu.name, gpu.device) == ("ort-cuda", "cuda:0")
        # TF32 convolutions keep ten bits of mantissa.
        np.testing.assert_allclose(gpu.run(tensors), cpu.run(tensors), atol=5e-3)


@pytest.mark.parametrize(
    ("engine", "device"),
    [
        ("trt", "auto"),
        ("auto", "gpu"),
        ("auto", "cuda:x"),
        ("ort-cpu", "cuda"),
        ("ort-cuda", "cpu"),
    ],
)
def test_names_and_pairs_that_cannot_be(engine: str, device: str) -> None:
    with pytest.raises(UsageError):
        choose(engine, device)
