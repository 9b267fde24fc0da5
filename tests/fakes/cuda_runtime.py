"""A CUDA runtime without a GPU: streams that run late, in any order that events allow.

What is put into a stream waits until something forces it, or until chance runs it early; either
shows an event that is missing. Memory is real memory of the host; copies outside what is allocated,
or of what was freed, fail.
"""

from __future__ import annotations

import ctypes
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray


class cudaError_t(IntEnum):
    cudaSuccess = 0
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorLaunchFailure = 719
    cudaErrorStreamCaptureUnsupported = 900


class cudaMemcpyKind(IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2
    cudaMemcpyDeviceToDevice = 3


class cudaStreamCaptureMode(IntEnum):
    cudaStreamCaptureModeThreadLocal = 1


@dataclass
class Event:
    """The newest place it was recorded at."""

    mark: dict[str, Any] = field(default_factory=lambda: {"done": True, "at": 0.0})


@dataclass
class Stream:
    """Work not yet done: (may it start, do it)."""

    work: deque[tuple[Callable[[], bool], Callable[[], None]]] = field(default_factory=deque)
    captured: list[Callable[[], None]] | None = None
    alive: bool = True


class FakeRuntime:
    """Stands in for ``cuda.bindings.runtime``: its names, and ``(status, value, ...)`` tuples.

    Attributes
    ----------
    budget
        Bytes of device memory there are.
    fails
        Statuses to answer with, by name of the call.
    eagerness
        The chance that work already put in runs at the next call.
    """

    cudaError_t = cudaError_t
    cudaMemcpyKind = cudaMemcpyKind
    cudaStreamCaptureMode = cudaStreamCaptureMode
    cudaStreamNonBlocking = 1
    cudaEventDefault = 0
    cudaEventDisableTiming = 2

    def __init__(self, *, seed: int = 0, gpus: int = 1, capability: tuple[int, int] = (8, 6)):
        self.random = random.Random(seed)
        self.budget = 2**31
        self.gpus, self.capability = gpus, capability
        self.gpu_name = "Fake RTX"
        self.fails: dict[str, IntEnum] = {}
        self.eagerness = 0.3
        self.calls: list[str] = []
        self.host: dict[int, NDArray[np.uint8]] = {}
        self.memory: dict[int, NDArray[np.uint8]] = {}
        self.streams: dict[int, Stream] = {}
        self.clock = 0.0
        self.graphs = 0
        self.captured_runs = 0

    def __getattribute__(self, name: str) -> Any:
        value = object.__getattribute__(self, name)
        if not name.startswith("cuda") or not callable(value) or isinstance(value, type):
            return value

        def call(*arguments: Any) -> tuple[Any, ...]:
            self.calls.append(name)
            if name in self.fails:
                if name == "cudaStreamEndCapture":  # a failed capture is over all the same
                    self._stream(arguments[0]).captured = None
                return (self.fails[name], None)
            self._chance()
            result = value(*arguments)
            return result if isinstance(result, tuple) else (cudaError_t.cudaSuccess, result)

        return call

    # What the toolkit calls.

    def cudaGetDeviceCount(self) -> Any:
        if not self.gpus:
            return (cudaError_t.cudaErrorInsufficientDriver, None)
        return self.gpus

    def cudaGetDeviceProperties(self, index: int) -> Any:
        return SimpleNamespace(
            name=self.gpu_name.encode() + b"\0\0",
            major=self.capability[0],
            minor=self.capability[1],
            totalGlobalMem=self.budget,
            uuid=SimpleNamespace(bytes=bytes(range(16))),
        )

    def cudaSetDevice(self, index: int) -> None:
        assert index < self.gpus

    def cudaDriverGetVersion(self) -> int:
        return 13020

    def cudaRuntimeGetVersion(self) -> int:
        return 13000

    def cudaGetLastError(self) -> None:
        return None

    def cudaGetErrorString(self, status: IntEnum) -> Any:
        return (cudaError_t.cudaSuccess, b"as the test asked")

    def cudaMemGetInfo(self) -> Any:
        return (cudaError_t.cudaSuccess, self.budget - self.used, self.budget)

    def cudaMalloc(self, size: int) -> Any:
        if self.used + size > self.budget:
            return (cudaError_t.cudaErrorMemoryAllocation, None)
        return self._allocate(self.memory, size)

    def cudaFree(self, address: int) -> None:
        self._finish()
        del self.memory[address]

    def cudaHostAlloc(self, size: int, flags: int) -> int:
        return self._allocate(self.host, size)

    def cudaFreeHost(self, address: int) -> None:
        self._finish()
        del self.host[address]

    def cudaStreamCreateWithFlags(self, flags: int) -> int:
        handle = 1000 + len(self.streams)
        self.streams[handle] = Stream()
        return handle

    def cudaStreamDestroy(self, handle: int) -> None:
        self._stream(handle).alive = False

    def cudaStreamSynchronize(self, handle: int) -> None:
        stream = self._stream(handle)
        self._until(lambda: not stream.work)

    def cudaEventCreateWithFlags(self, flags: int) -> Event:
        return Event()

    def cudaEventDestroy(self, event: Event) -> None:
        return None

    def cudaEventRecord(self, event: Event, handle: int) -> None:
        mark = {"done": False, "at": 0.0}
        event.mark = mark

        def reach() -> None:
            self.clock += 1.0
            mark.update(done=True, at=self.clock)

        self.put(handle, reach)

    def cudaStreamWaitEvent(self, handle: int, event: Event, flags: int) -> None:
        mark = event.mark
        self.put(handle, lambda: None, ready=lambda: bool(mark["done"]))

    def cudaEventSynchronize(self, event: Event) -> None:
        mark = event.mark
        self._until(lambda: bool(mark["done"]))

    def cudaEventElapsedTime(self, start: Event, end: Event) -> float:
        assert start.mark["done"]
        assert end.mark["done"]
        return float(end.mark["at"] - start.mark["at"])

    def cudaMemcpyAsync(
        self, target: int, source: int, size: int, kind: IntEnum, handle: int
    ) -> None:
        places = (self.memory, self.memory)
        if kind == cudaMemcpyKind.cudaMemcpyHostToDevice:
            places = (self.memory, self.host)
        elif kind == cudaMemcpyKind.cudaMemcpyDeviceToHost:
            places = (self.host, self.memory)

        def copy() -> None:
            self._bytes(places[0], target, size)[:] = self._bytes(places[1], source, size)

        self.put(handle, copy)

    def cudaMemsetAsync(self, target: int, value: int, size: int, handle: int) -> None:
        self.put(handle, lambda: self._bytes(self.memory, target, size).fill(value))

    def cudaStreamBeginCapture(self, handle: int, mode: Any) -> None:
        stream = self._stream(handle)
        assert stream.captured is None
        stream.captured = []

    def cudaStreamEndCapture(self, handle: int) -> Any:
        stream = self._stream(handle)
        captured, stream.captured = stream.captured, None
        return captured

    def cudaGraphInstantiate(self, graph: Any, flags: int) -> Any:
        self.graphs += 1
        return list(graph)

    def cudaGraphDestroy(self, graph: Any) -> None:
        return None

    def cudaGraphExecDestroy(self, graph: Any) -> None:
        self.graphs -= 1

    def cudaGraphLaunch(self, graph: Any, handle: int) -> None:
        self.captured_runs += 1
        for work in graph:
            self.put(handle, work)

    # What tests and other fakes use.

    @property
    def used(self) -> int:
        """Bytes of device memory in use."""
        return sum(block.nbytes for block in self.memory.values())

    def put(
        self, handle: int, work: Callable[[], None], ready: Callable[[], bool] = lambda: True
    ) -> None:
        """Append to a stream, or to what is being captured of it."""
        stream = self._stream(handle)
        if stream.captured is not None:
            stream.captured.append(work)
        else:
            stream.work.append((ready, work))

    def capturing(self, handle: int) -> bool:
        """Whether the stream records instead of running."""
        return self._stream(handle).captured is not None

    def floats(self, address: int, count: int) -> NDArray[np.float32]:
        """A view of device memory."""
        return self._bytes(self.memory, address, 4 * count).view(np.float32)

    def _stream(self, handle: int) -> Stream:
        stream = self.streams.setdefault(handle, Stream())
        assert stream.alive
        return stream

    def _allocate(self, place: dict[int, NDArray[np.uint8]], size: int) -> int:
        block: NDArray[np.uint8] = np.ctypeslib.as_array((ctypes.c_uint8 * size)())
        block[:] = 0xA5
        address = int(block.ctypes.data)
        place[address] = block
        return address

    def _bytes(
        self, place: dict[int, NDArray[np.uint8]], address: int, size: int
    ) -> NDArray[np.uint8]:
        for start, block in place.items():
            if start <= address and address + size <= start + block.nbytes:
                return block[address - start : address - start + size]
        raise AssertionError(f"{size} bytes at {address} are not allocated there")

    def _ready(self) -> list[Stream]:
        return [s for s in self.streams.values() if s.work and s.work[0][0]()]

    def _step(self) -> None:
        ready = self._ready()
        assert ready, "deadlock: nothing can run"
        _, work = self.random.choice(ready).work.popleft()
        work()

    def _until(self, done: Callable[[], bool]) -> None:
        while not done():
            self._step()

    def _finish(self) -> None:
        self._until(lambda: not any(stream.work for stream in self.streams.values()))

    def _chance(self) -> None:
        while self._ready() and self.random.random() < self.eagerness:
            self._step()
