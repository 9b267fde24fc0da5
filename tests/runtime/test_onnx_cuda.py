"""ONNX Runtime's GPU engines on a stand-in: what was asked for runs, or the reason is said."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tests.fakes.cuda_runtime import FakeRuntime
from tests.fakes.machine import expected, inputs
from tests.fakes.onnxruntime_module import FakeOnnxRuntime
from tests.support import TinyModel
from tlp_runtime.engines.caches import caches_folder
from tlp_runtime.engines.cuda import Cuda
from tlp_runtime.engines.onnx_device import OnnxDeviceEngine
from tlp_runtime.engines.options import BatchProfile
from tlp_runtime.engines.registry import find_engine
from tlp_runtime.errors import DeviceUnavailable, EngineError, MemoryExhausted
from tlp_runtime.spec.model import SizeSpec

CUDA, TRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"


class OrtMachine:
    """A GPU and an ONNX Runtime for it that are not there."""

    def __init__(self, tiny: TinyModel, *providers: str) -> None:
        self.cuda = FakeRuntime()
        self.module = FakeOnnxRuntime(self.cuda, *providers)
        self.bundle = tiny.bundle

    def open(self, name: str = "ort-cuda", profile: BatchProfile | None = None) -> OnnxDeviceEngine:
        kind = find_engine(name)
        assert issubclass(kind, OnnxDeviceEngine)
        return kind(self.bundle, cuda=Cuda(self.cuda), runtime=self.module, profile=profile)


@pytest.fixture
def machine(tiny: TinyModel) -> OrtMachine:
    return OrtMachine(tiny, CUDA, TRT)


@pytest.mark.parametrize("name", ["ort-cuda", "ort-trt"])
@pytest.mark.parametrize("seed", range(4))
def test_batches_overlap_and_graphs_are_replayed_on_their_own_buffers(
    machine: OrtMachine, name: str, seed: int
) -> None:
    machine.cuda.random.seed(seed)
    machine.cuda.eagerness = (0.0, 0.3, 0.8)[seed % 3]
    with machine.open(name) as engine:
        for sizes in ((2, 2, 2, 2, 2, 1), (4, 4, 4, 4, 3), (2, 2, 2)):
            batches = [inputs(size, number) for number, size in enumerate(sizes)]
            for tensors, image in zip(batches, engine.run_batches(batches), strict=True):
                np.testing.assert_array_equal(image, expected(tensors))
        assert engine.name == name
        assert engine.library == "onnxruntime 9.9.0"
    assert bool(machine.module.captured) == (name == "ort-cuda")
    assert machine.module.preloaded
    assert machine.cuda.used == 0


def test_the_provider_s_options_suit_cuda_graphs_of_several_shapes(machine: OrtMachine) -> None:
    with machine.open():
        options = machine.module.sessions[0].options
    assert (options["enable_cuda_graph"], options["prefer_nhwc"]) == ("1", "0")
    assert options["cudnn_conv_algo_search"] == "EXHAUSTIVE"
    assert int(options["user_compute_stream"]) in machine.cuda.streams
    with machine.open("ort-trt", BatchProfile(2, 4, 8)):
        options = machine.module.sessions[1].options
    assert options["trt_profile_min_shapes"] == "t1:2x1x192x160,prompt:2x1x192x160"
    assert options["trt_profile_max_shapes"] == "t1:8x1x192x160,prompt:8x1x192x160"
    assert options["trt_engine_cache_path"] == str(caches_folder() / "ort-trt")
    assert list(machine.module.sessions[1].providers) == [TRT, CUDA]


def test_a_library_without_the_provider_is_refused(tiny: TinyModel) -> None:
    with pytest.raises(DeviceUnavailable, match=r"has no CUDAExecutionProvider.*tlp-mri\[gpu\]"):
        OrtMachine(tiny).open()
    with pytest.raises(DeviceUnavailable, match="has no TensorrtExecutionProvider"):
        OrtMachine(tiny, CUDA).open("ort-trt")


def test_a_provider_that_cannot_be_loaded_never_ends_on_the_cpu(machine: OrtMachine) -> None:
    machine.module.loads = False
    said = r"would run on CPUExecutionProvider.*Install tlp-mri\[gpu\]"
    with pytest.raises(DeviceUnavailable, match=said) as e:
        machine.open()
    assert e.value.exit_code == 5


def test_a_graph_that_would_compute_on_the_cpu_in_part_is_refused(machine: OrtMachine) -> None:
    machine.module.on_cpu = ("Shape", "LayerNormalization", "Conv")
    with pytest.raises(EngineError, match="would run Conv, LayerNormalization on the CPU"):
        machine.open()


def test_no_gpu_is_refused(machine: OrtMachine) -> None:
    machine.cuda.gpus = 0
    with pytest.raises(DeviceUnavailable, match="CUDA sees none"):
        machine.open()


@pytest.mark.parametrize(
    "words",
    [
        "Failed to allocate memory for requested buffer of size 9",
        "CUDA failure 2: out of memory ; GPU=0",
        "BFCArena::AllocateRawInternal Available memory of 0 is smaller; bad_alloc",
    ],
)
def test_running_out_of_memory_is_exit_6(machine: OrtMachine, words: str) -> None:
    with machine.open() as engine:
        machine.module.says = words
        with pytest.raises(MemoryExhausted, match="batch of 3 slices"):
            engine.run(inputs(3))
        machine.module.says = "CUDNN_STATUS_EXECUTION_FAILED"
        with pytest.raises(EngineError, match="the run failed: CUDNN_STATUS"):
            engine.run(inputs(3))
        machine.module.says = ""
        engine.run(inputs(3))


def test_the_tensorrt_provider_pads_to_its_profile(machine: OrtMachine) -> None:
    with machine.open("ort-trt", BatchProfile(4, 4, 8)) as engine:
        tensors = inputs(3)
        np.testing.assert_array_equal(engine.run(tensors), expected(tensors))
        with pytest.raises(EngineError, match="a batch of 9 slices, but its engine takes up to 8"):
            engine.run(inputs(9))


def test_graphs_are_off_where_slices_vary_in_size(machine: OrtMachine) -> None:
    """Their shapes are computed on the CPU, which a graph cannot hold."""
    spec = dataclasses.replace(
        machine.bundle.spec, sizes=SizeSpec(smallest=(64, 64), largest=(240, 240))
    )
    machine.open().close()
    assert machine.module.sessions[-1].options["enable_cuda_graph"] == "1"
    machine.bundle = dataclasses.replace(machine.bundle, spec=spec)
    with pytest.raises(Exception, match="its specification is not the bundle's"):
        machine.open()
    assert machine.module.sessions[-1].options["enable_cuda_graph"] == "0"


def test_the_stand_in_has_only_names_of_the_real_one() -> None:
    import onnxruntime
    from onnxruntime import InferenceSession

    from tests.fakes.onnxruntime_module import FakeSession

    for name in ("preload_dlls", "get_available_providers", "InferenceSession", "RunOptions"):
        assert hasattr(onnxruntime, name)
    public = {name for name in vars(FakeSession) if not name.startswith("_")}
    assert len(public) == 4
    assert all(hasattr(InferenceSession, name) for name in public)
