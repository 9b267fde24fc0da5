"""What every engine on a GPU shares: fixed buffers, three streams, batches in flight.

Batch n computes while n + 1 is copied in and n - 1 is copied out. Two slots of buffers take
turns; a slot's pinned and device memory keep their addresses, so that a CUDA graph can be replayed
on it.
"""

from __future__ import annotations

import contextlib
import math
import threading
from abc import abstractmethod
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from tlp_runtime.engines.base import Engine, RunTime, Slices
from tlp_runtime.engines.cuda import Cuda, DeviceMemory, PinnedMemory
from tlp_runtime.engines.device_array import DeviceArray, is_device_array, stream_handle
from tlp_runtime.errors import EngineError, MemoryExhausted, RunTask, SetOption, TLPError
from tlp_runtime.models.bundle import Bundle
from tlp_runtime.spec.model import OUTPUT_NAME
from tlp_runtime.warnings import WarningLog

SLOTS = 2
FLOAT32 = 4


class _Slot:
    """Buffers and events of one batch in flight."""

    def __init__(self, cuda: Cuda, names: Iterable[str]) -> None:
        self.pinned = {name: PinnedMemory(cuda) for name in (*names, OUTPUT_NAME)}
        self.device = {name: DeviceMemory(cuda) for name in (*names, OUTPUT_NAME)}
        self.events = {
            f"{stage} {end}": cuda.event(timing=True)
            for stage in ("upload", "compute", "download")
            for end in ("begins", "ends")
        }
        self.given = 0
        self.shape: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        """Bytes that each tensor has."""
        return min(memory.size for memory in self.device.values())

    def reserve(self, size: int) -> None:
        """Hold ``size`` bytes per tensor; the addresses change."""
        for pinned in self.pinned.values():
            pinned.reserve(size)
        for memory in self.device.values():
            memory.reserve(size)

    def free(self) -> None:
        for pinned in self.pinned.values():
            pinned.free()
        for memory in self.device.values():
            memory.free()


class DeviceEngine(Engine):
    """An engine on one GPU. Safe to call from several threads; their runs take turns.

    Parameters
    ----------
    cuda
        The CUDA runtime.
    index
        The GPU.
    """

    on_gpu = True
    concurrent = False
    accepts = (np.ndarray, DeviceArray)

    def __init__(
        self, bundle: Bundle, cuda: Cuda, index: int, warnings: WarningLog | None = None
    ) -> None:
        super().__init__(bundle, warnings)
        self._cuda, self._index = cuda, index
        self.device = f"cuda:{index}"
        self._lock = threading.Lock()
        self._owner: int | None = None
        self._closed = False
        cuda.use(index)
        self._upload, self._compute, self._download = (cuda.stream() for _ in range(3))
        self._crossing = cuda.event()
        self._slots = tuple(_Slot(cuda, bundle.spec.tensor_names) for _ in range(SLOTS))

    @abstractmethod
    def _enqueue(
        self, addresses: Mapping[str, int], shape: tuple[int, ...], slot: int | None
    ) -> None:
        """Put one run into the compute stream and return without waiting.

        Parameters
        ----------
        addresses
            Addresses of the inputs and the output, on the device.
        shape
            (B, 1, H, W) of each.
        slot
            The slot whose fixed buffers these are; None for an outsider's, which no graph may
            remember.
        """

    def _padded(self, batch: int) -> int:
        """The batch to run when ``batch`` slices are given; the rest is zeros.

        Raises :class:`EngineError` when no batch of the engine holds as many.
        """
        return batch

    def _forget(self, slot: int | None = None) -> None:
        """Drop CUDA graphs, which hold addresses: those of one slot, or all."""

    def run_batches(self, batches: Iterable[Mapping[str, Any]]) -> Generator[Slices]:
        """Run one batch after another; copies overlap with compute.

        As :meth:`Engine.run`, for each; besides NumPy arrays it takes any array with
        ``__cuda_array_interface__``, which is copied within the device. No other run can start
        before this is exhausted or closed.
        """
        with self._alone():
            flying: deque[_Slot] = deque()
            number = 0
            try:
                for tensors in batches:
                    given = {
                        name: DeviceArray.of(array, name) if is_device_array(array) else array
                        for name, array in tensors.items()
                    }
                    self.require(given)
                    # The caller's work on a result comes after the next batch is on its way.
                    done = self._collect(flying.popleft()) if len(flying) == SLOTS else None
                    flying.append(self._submit(number % SLOTS, given))
                    number += 1
                    if done is not None:
                        yield done
                while flying:
                    yield self._collect(flying.popleft())
            except BaseException as error:
                self._settle()
                if isinstance(error, MemoryExhausted):
                    self._release()
                raise

    def timed(self, tensors: Mapping[str, Any]) -> RunTime:
        """Run once, timing its parts by events on the device."""
        total = super().timed(tensors).total_s
        events = self._slots[0].events
        parts = {
            stage: self._cuda.elapsed_ms(events[f"{stage} begins"], events[f"{stage} ends"]) / 1e3
            for stage in ("upload", "compute", "download")
        }
        return RunTime(total, parts["upload"], parts["compute"], parts["download"])

    def enqueue(self, tensors: Mapping[str, Any], out: Any, stream: Any) -> None:
        """Put one run into the caller's stream and return without waiting.

        Parameters
        ----------
        tensors
            One (B, 1, H, W) float32 array on this GPU for each input, by
            ``__cuda_array_interface__``. They and ``out`` must live until the stream has passed.
        out
            As large, written.
        stream
            A stream of PyTorch, CuPy, PyCUDA or cuda-python, or a handle.

        Raises
        ------
        EngineError
            Wrong arrays, or a batch this engine must pad.
        """
        given = {name: DeviceArray.of(array, name) for name, array in tensors.items()}
        target = DeviceArray.of(out, OUTPUT_NAME, writable=True)
        self.require(given)
        shape = next(iter(given.values())).shape
        if target.shape != shape or target.dtype != np.float32:
            raise EngineError(
                f"{self.name}: {OUTPUT_NAME} is {target.dtype} {target.shape}, expected float32 "
                f"{shape}"
            )
        if self._padded(shape[0]) != shape[0]:
            raise EngineError(
                f"{self.name}: a batch of {shape[0]} is in no profile of this engine, and the "
                "caller's arrays cannot be padded",
                fix=RunTask("export", (("batch", f"1,{shape[0]},{shape[0]}"),), "for such batches"),
            )
        handle = stream_handle(stream)
        addresses = {name: array.address for name, array in given.items()}
        with self._alone():
            self._follow(handle, self._compute)
            for array in given.values():
                if array.stream is not None and array.stream != handle:
                    self._follow(array.stream, self._compute)
            self._enqueue({**addresses, OUTPUT_NAME: target.address}, shape, None)
            self._follow(self._compute, handle)

    def machine(self) -> Mapping[str, str]:
        """The GPU, its driver and CUDA."""
        gpu = self._cuda.gpus()[self._index]
        driver, runtime = self._cuda.versions()
        return {
            "gpu": gpu.name,
            "compute_capability": gpu.capability,
            "cuda_driver": driver,
            "cuda_runtime": runtime,
        }

    def memory_mib(self) -> tuple[int, int]:
        """(free, all) of the GPU's memory."""
        self._cuda.use(self._index)
        return self._cuda.memory_mib()

    def close(self) -> None:
        """Release buffers, graphs and streams."""
        if self._closed:
            return
        self._closed = True
        self._cuda.use(self._index)
        self._settle()
        self._release()
        for slot in self._slots:
            for event in slot.events.values():
                self._cuda.call("cudaEventDestroy", event)
        self._cuda.call("cudaEventDestroy", self._crossing)
        for stream in (self._upload, self._compute, self._download):
            self._cuda.call("cudaStreamDestroy", stream)

    def _submit(self, index: int, given: Mapping[str, Any]) -> _Slot:
        slot = self._slots[index]
        shape = next(iter(given.values())).shape
        padded = (self._padded(shape[0]), *shape[1:])
        size = math.prod(padded) * FLOAT32
        try:
            if slot.size < size:
                self._settle()
                self._forget(index)
                slot.reserve(size)
            events, cuda = slot.events, self._cuda
            cuda.record(events["upload begins"], self._upload)
            for name, array in given.items():
                self._send(slot, name, array, padded)
            cuda.record(events["upload ends"], self._upload)
            cuda.wait(self._compute, events["upload ends"])
            cuda.record(events["compute begins"], self._compute)
            addresses = {name: memory.address for name, memory in slot.device.items()}
            self._enqueue(addresses, padded, index)
            cuda.record(events["compute ends"], self._compute)
            cuda.wait(self._download, events["compute ends"])
            cuda.record(events["download begins"], self._download)
            result = slot.device[OUTPUT_NAME].address
            cuda.download(slot.pinned[OUTPUT_NAME].address, result, size, self._download)
            cuda.record(events["download ends"], self._download)
        except MemoryExhausted as error:
            raise MemoryExhausted(
                f"{self.name}: out of GPU memory with a batch of {shape[0]} slices "
                f"({error.problem.rstrip('.')})",
                fix=(
                    SetOption("batch", "a smaller number"),
                    f"Or free memory on {self.device}.",
                ),
            ) from error
        slot.given, slot.shape = shape[0], padded
        return slot

    def _send(self, slot: _Slot, name: str, array: Any, shape: tuple[int, ...]) -> None:
        target = slot.device[name].address
        if isinstance(array, DeviceArray):
            if array.stream is not None:
                self._follow(array.stream, self._upload)
            self._cuda.copy(target, array.address, array.nbytes, self._upload)
            if array.shape[0] == shape[0]:
                return
            # The slot's memory may hold anything beyond what was copied.
            rest = math.prod(shape) * FLOAT32 - array.nbytes
            self._cuda.call("cudaMemsetAsync", target + array.nbytes, 0, rest, self._upload)
            return
        view = slot.pinned[name].array(shape)
        view[: len(array)] = array
        view[len(array) :] = 0
        self._cuda.upload(target, slot.pinned[name].address, view.nbytes, self._upload)

    def _collect(self, slot: _Slot) -> Slices:
        self._cuda.call("cudaEventSynchronize", slot.events["download ends"])
        view = slot.pinned[OUTPUT_NAME].array(slot.shape)
        return view[: slot.given].copy()

    def _follow(self, first: Any, then: Any) -> None:
        """What comes in stream ``then`` waits for what is now in ``first``."""
        self._cuda.record(self._crossing, first)
        self._cuda.wait(then, self._crossing)

    def _settle(self) -> None:
        """Wait for everything in flight; an error there has been reported already."""
        for stream in (self._upload, self._compute, self._download):
            with contextlib.suppress(TLPError):
                self._cuda.call("cudaStreamSynchronize", stream)

    def _release(self) -> None:
        self._forget()
        for slot in self._slots:
            slot.free()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the engine, on this thread's current device."""
        if self._owner == threading.get_ident():
            raise EngineError(
                f"{self.name}: is still running batches; exhaust or close them before another run."
            )
        with self._lock:
            if self._closed:
                raise EngineError(f"{self.name}: is closed.")
            self._owner = threading.get_ident()
            try:
                self._cuda.use(self._index)
                yield
            finally:
                self._owner = None

    def _run(self, tensors: Mapping[str, Any]) -> Slices:
        (image,) = self.run_batches([tensors])
        return image
