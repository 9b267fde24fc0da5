"""TensorRT engines run on stand-ins for CUDA and for each version's bindings."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.fakes.cuda_runtime import FakeRuntime, cudaError_t
from tests.fakes.machine import Machine, expected, inputs
from tlp_runtime.engines.caches import caches_folder
from tlp_runtime.engines.options import BatchProfile
from tlp_runtime.errors import DeviceUnavailable, EngineError, MemoryExhausted
from tlp_runtime.warnings import NO_CUDA_GRAPHS


@pytest.mark.parametrize("seed", range(8))
def test_batches_overlap_and_none_is_mixed_up(machine: Machine, seed: int) -> None:
    """Streams run late, early and in any order; results are those of their own batch."""
    machine.cuda.random.seed(seed)
    machine.cuda.eagerness = (0.0, 0.3, 0.8)[seed % 3]
    machine.build()
    batches = [inputs(size, seed) for seed, size in enumerate((3, 3, 1, 3, 3, 3, 2))]
    with machine.open() as engine:
        results = list(engine.run_batches(batches))
    assert len(results) == len(batches)
    for tensors, image in zip(batches, results, strict=True):
        np.testing.assert_array_equal(image, expected(tensors))


def test_the_next_batch_is_on_its_way_before_a_result_is_given(machine: Machine) -> None:
    """What the caller does with a result lies beside the GPU's work."""
    machine.build()
    given = []

    def batches() -> Any:
        for seed in range(4):
            given.append(seed)
            yield inputs(2, seed)

    with machine.open() as engine:
        results = engine.run_batches(batches())
        next(results)
        assert given == [0, 1, 2]
        assert len(list(results)) == 3


def test_no_memory_or_stream_is_left(machine: Machine) -> None:
    machine.build()
    engine = machine.open()
    engine.run(inputs(3))
    assert machine.cuda.used > 0
    engine.close()
    engine.close()
    assert machine.cuda.used == 0
    assert not machine.cuda.host
    assert not any(stream.alive for stream in machine.cuda.streams.values())
    with pytest.raises(EngineError, match=r"is closed"):
        engine.run(inputs(1))


def test_a_shape_is_captured_once_and_replayed(machine: Machine) -> None:
    """Enterprise TensorRT is captured by us, per slot and batch; RTX captures by itself."""
    machine.build()
    with machine.open() as engine:
        for seed in range(4):
            for tensors, image in zip(
                [inputs(2, seed), inputs(2, seed + 9)],
                engine.run_batches([inputs(2, seed), inputs(2, seed + 9)]),
                strict=True,
            ):
                np.testing.assert_array_equal(image, expected(tensors))
        if machine.flavour == "trt":
            assert machine.cuda.graphs == 2
            assert machine.cuda.captured_runs == 6
        else:
            assert machine.cuda.captured_runs == 0
    assert machine.cuda.graphs == 0


def test_a_larger_batch_takes_new_memory_and_forgets_the_graphs(machine: Machine) -> None:
    machine.build()
    with machine.open() as engine:
        for batch in (2, 2, 2, 5, 5, 5, 2, 2, 2):
            tensors = inputs(batch, batch)
            np.testing.assert_array_equal(engine.run(tensors), expected(tensors))


def test_graphs_of_the_other_slot_do_not_keep_freed_work_memory(machine: Machine) -> None:
    machine.build()
    with machine.open() as engine:
        for sizes in ((2, 2, 2, 2), (5,), (2, 2, 2, 2)):
            batches = [inputs(size, seed) for seed, size in enumerate(sizes)]
            for tensors, image in zip(batches, engine.run_batches(batches), strict=True):
                np.testing.assert_array_equal(image, expected(tensors))


def test_a_gpu_that_cannot_capture_is_warned_of_and_runs(machine: Machine) -> None:
    machine.build()
    machine.cuda.fails["cudaStreamEndCapture"] = cudaError_t.cudaErrorStreamCaptureUnsupported

    with machine.open() as engine:
        for seed in range(4):
            tensors = inputs(2, seed)
            np.testing.assert_array_equal(engine.run(tensors), expected(tensors))
    codes = [warning.code for warning in machine.heard]
    assert codes == ([NO_CUDA_GRAPHS] if machine.flavour == "trt" else [])


def profile_and_batch(ran: tuple[int | None, NDArray[np.float32]]) -> tuple[int | None, int]:
    profile, given = ran
    return profile, len(given)


def test_the_profile_that_fits_best_is_taken_and_padding_is_cut_off(machine: Machine) -> None:
    machine.build(profiles=(BatchProfile(1, 1, 2), BatchProfile(8, 8, 16)))
    with machine.open() as engine:
        del machine.module.ran[:]
        for batch in (1, 2, 3, 8, 9, 16):
            tensors = inputs(batch, batch)
            np.testing.assert_array_equal(engine.run(tensors), expected(tensors))
        ran = {profile_and_batch(one) for one in machine.module.ran}
        assert ran == {(0, 1), (0, 2), (1, 8), (1, 9), (1, 16)}
        engine.run(inputs(3))
        _, given = machine.module.ran[-1]
        assert len(given) == 8
        assert not given[3:].any()  # no earlier patient in the padding
        with pytest.raises(EngineError, match=r"a batch of 17 slices.*1 to 2 and 8 to 16"):
            engine.run(inputs(17))


class OnDevice:
    """An array on the fake GPU, as any library would describe one."""

    def __init__(self, cuda: FakeRuntime, values: NDArray[np.float32], stream: int | None = None):
        self.cuda, self.shape = cuda, values.shape
        _, self.address = cuda.cudaMalloc(values.nbytes)
        self.view()[:] = values.ravel()
        self.__cuda_array_interface__ = {
            "version": 3, "shape": values.shape, "typestr": "<f4", "strides": None,
            "data": (self.address, False), "stream": stream,
        }  # fmt: skip

    def view(self) -> NDArray[np.float32]:
        return self.cuda.floats(self.address, int(np.prod(self.shape)))


@pytest.mark.parametrize("seed", range(4))
def test_arrays_on_the_gpu_are_taken_and_their_producer_is_waited_for(
    machine: Machine, seed: int
) -> None:
    machine.build()
    machine.cuda.random.seed(seed)
    machine.cuda.eagerness = 0.0
    tensors = inputs(2)
    late = OnDevice(machine.cuda, np.full_like(tensors["t1"], np.nan), stream=77)
    machine.cuda.put(77, lambda: late.view().__setitem__(slice(None), tensors["t1"].ravel()))
    with machine.open() as engine:
        image = engine.run({"t1": late, "prompt": tensors["prompt"]})
    np.testing.assert_array_equal(image, expected(tensors))


@pytest.mark.parametrize("kind", ["handle", "cuda_stream", "ptr", "number", "protocol"])
def test_a_stream_of_any_library_orders_the_run(machine: Machine, kind: str) -> None:
    """PyCUDA's ``handle``, PyTorch's ``cuda_stream``, CuPy's ``ptr``, cuda-python's protocol."""
    machine.build()
    machine.cuda.eagerness = 0.0
    tensors = inputs(2)
    given = {name: OnDevice(machine.cuda, np.zeros_like(array)) for name, array in tensors.items()}
    out = OnDevice(machine.cuda, np.zeros_like(tensors["t1"]))
    for name, array in given.items():
        values = tensors[name].ravel()
        machine.cuda.put(55, lambda a=array, v=values: a.view().__setitem__(slice(None), v))  # type: ignore[misc]
    stream: Any = {
        "number": 55,
        "protocol": SimpleNamespace(__cuda_stream__=lambda: (0, 55)),
    }.get(kind) or SimpleNamespace(**{kind: 55})
    after: list[NDArray[np.float32]] = []
    with machine.open() as engine:
        engine.enqueue(given, out, stream)
        machine.cuda.put(55, lambda: after.append(out.view().copy()))
        machine.cuda.cudaStreamSynchronize(55)
    np.testing.assert_array_equal(after[0].reshape(out.shape), expected(tensors))


def test_arrays_that_cannot_be_taken_are_refused(machine: Machine) -> None:
    machine.build()
    zeros = np.zeros((2, 1, 192, 160), np.float32)
    with machine.open() as engine:
        strided = OnDevice(machine.cuda, zeros)
        strided.__cuda_array_interface__["strides"] = (4, 4, 4, 4)
        with pytest.raises(EngineError, match=r"strides .*Make it contiguous"):
            engine.run({"t1": strided, "prompt": zeros})
        fixed = OnDevice(machine.cuda, zeros)
        fixed.__cuda_array_interface__["data"] = (fixed.address, True)
        given = {"t1": OnDevice(machine.cuda, zeros), "prompt": OnDevice(machine.cuda, zeros)}
        with pytest.raises(EngineError, match=r"read-only"):
            engine.enqueue(given, fixed, 55)
        with pytest.raises(EngineError, match=r"t1ce is float32 .1, 1"):
            engine.enqueue(given, OnDevice(machine.cuda, zeros[:1]), 55)
        with pytest.raises(EngineError, match=r"no CUDA stream"):
            engine.enqueue(given, OnDevice(machine.cuda, zeros), "stream")
        with pytest.raises(EngineError, match=r"t1 is float64"):
            engine.run({"t1": zeros.astype(np.float64), "prompt": zeros})


def test_threads_take_turns_and_a_run_within_a_run_is_refused(machine: Machine) -> None:
    machine.build()
    results: dict[int, bool] = {}
    with machine.open() as engine:

        def work(seed: int) -> None:
            tensors = inputs(2, seed)
            results[seed] = all(
                np.array_equal(engine.run(tensors), expected(tensors)) for _ in range(5)
            )

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results == dict.fromkeys(range(4), True)
        running = engine.run_batches([inputs(1), inputs(1), inputs(1)])
        next(running)
        with pytest.raises(EngineError, match=r"still running batches"):
            engine.run(inputs(1))
        running.close()
        engine.run(inputs(1))


def test_device_times_are_those_of_the_events(machine: Machine) -> None:
    machine.build()
    with machine.open() as engine:
        times = engine.timed(inputs(2))
    assert times.upload_s is not None
    assert times.compute_s is not None
    assert times.download_s is not None
    assert min(times.upload_s, times.compute_s, times.download_s) > 0
    assert engine.memory_mib()[0] < engine.memory_mib()[1] or machine.cuda.used == 0


def test_out_of_memory_frees_what_was_held(machine: Machine) -> None:
    machine.build()
    slice_bytes = 192 * 160 * 4
    machine.cuda.budget = 16 * slice_bytes
    with machine.open() as engine:
        with pytest.raises(MemoryExhausted, match=r"batch of 8 slices.*Set batch to a"):
            engine.run(inputs(8))
        assert machine.cuda.used == 0
        tensors = inputs(2)
        np.testing.assert_array_equal(engine.run(tensors), expected(tensors))


def test_a_failed_call_names_it_and_is_exit_5(machine: Machine) -> None:
    machine.build()
    with machine.open() as engine:
        machine.cuda.fails["cudaEventSynchronize"] = cudaError_t.cudaErrorLaunchFailure
        with pytest.raises(EngineError, match=r"cudaEventSynchronize: cudaErrorLaunchFailure") as e:
            engine.run(inputs(1))
        assert e.value.exit_code == 5
        machine.cuda.fails.clear()
        engine.run(inputs(1))


def test_a_context_that_cannot_be_made_is_one_line(machine: Machine) -> None:
    machine.build()
    machine.module.contexts_fail = "Error Code 1: no kernel image is available\nfor this device"
    with machine.open() as engine:
        with pytest.raises(EngineError, match=r"cannot make a context for profile 0: Error") as e:
            engine.run(inputs(1))
        assert "\n" not in str(e.value)
        machine.module.contexts_fail = "Error Code 2: OutOfMemory (requested 9 bytes)"
        with pytest.raises(MemoryExhausted, match=r"OutOfMemory"):
            engine.run(inputs(1))


def test_no_gpu_is_no_engine(machine: Machine) -> None:
    machine.build()
    machine.cuda.gpus = 0
    with pytest.raises(DeviceUnavailable, match=r"cuda:0 was asked for; CUDA sees none") as e:
        machine.open()
    assert e.value.exit_code == 5
    machine.cuda.gpus = 1
    with pytest.raises(DeviceUnavailable, match=r"cuda:1 .*cuda:0 \(Fake RTX\)"):
        machine.open(cuda_index=1)


def test_compiled_kernels_are_kept_for_the_next_process(machine: Machine) -> None:
    machine.build()
    for _ in range(2):
        with machine.open() as engine:
            engine.run(inputs(1))
    kept = list(caches_folder().glob("kernels-*")) if caches_folder().is_dir() else []
    if machine.flavour == "trt-rtx":
        assert [file.read_bytes() for file in kept] == [b"kernels"]
        assert machine.module.kernel_caches == [b"kernels"]
    else:
        assert kept == []
