"""The CUDA runtime by ``cuda-bindings``: every status checked, every resource released.

Nothing here needs a driver to be imported; the first call finds out whether there is one.
"""

from __future__ import annotations

import ctypes
import importlib.util
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlp_runtime.errors import (
    Advice,
    ChooseAnother,
    DependencyMissing,
    DeviceError,
    DeviceUnavailable,
    EngineError,
    Install,
    MemoryExhausted,
    SetOption,
)

_NO_DRIVER = ("cudaErrorInsufficientDriver", "cudaErrorNoDevice", "cudaErrorStubLibrary")
_MEMORY = ("cudaErrorMemoryAllocation",)

CHECK_DRIVER = Advice("Check the driver with nvidia-smi.")
NEWER_DRIVER = Advice("Install a newer NVIDIA driver.")


@dataclass(frozen=True)
class Gpu:
    """A GPU that CUDA sees.

    Parameters
    ----------
    index
        CUDA's index, which ``CUDA_VISIBLE_DEVICES`` changes.
    compute_capability
        (major, minor).
    memory_mib
        All of its memory, free or not.
    uuid
        As ``nvidia-smi -L`` prints it.
    """

    index: int
    name: str
    compute_capability: tuple[int, int]
    memory_mib: int
    uuid: str

    @property
    def capability(self) -> str:
        """The compute capability as text, such as ``8.6``."""
        return ".".join(str(part) for part in self.compute_capability)


class Cuda:
    """The CUDA runtime with its statuses turned into errors.

    Parameters
    ----------
    bindings
        ``cuda.bindings.runtime``, or a stand-in for it in tests.
    """

    def __init__(self, bindings: Any = None) -> None:
        self._rt = _bindings() if bindings is None else bindings

    def call(self, name: str, *arguments: Any) -> Any:
        """Call ``name`` and return its value, values, or None.

        Raises
        ------
        DeviceUnavailable
            There is no driver, or no GPU.
        MemoryExhausted
            The device, or the pinned memory of the host, ran out.
        EngineError
            Any other status; its name and CUDA's own words are in the message.
        """
        status, *values = getattr(self._rt, name)(*arguments)
        if int(status):
            self._rt.cudaGetLastError()  # so that the next call is not blamed for this one
            _, text = self._rt.cudaGetErrorString(status)
            said = text.decode() if isinstance(text, bytes) else str(text)
            message = f"{name}: {status.name} ({said})"
            if status.name in _NO_DRIVER:
                raise DeviceUnavailable(
                    f"CUDA finds no usable GPU: {message}.",
                    fix="Check the driver with nvidia-smi.",
                )
            if status.name in _MEMORY:
                raise MemoryExhausted(f"CUDA is out of memory: {message}.")
            raise EngineError(f"CUDA failed: {message}.")
        return values[0] if len(values) == 1 else tuple(values) or None

    def versions(self) -> tuple[str, str]:
        """CUDA versions of the driver (``0.0`` without one) and of the runtime library."""
        numbers = (self.call("cudaDriverGetVersion"), self.call("cudaRuntimeGetVersion"))
        driver, runtime = (f"{n // 1000}.{n % 1000 // 10}" for n in numbers)
        return driver, runtime

    def gpus(self) -> tuple[Gpu, ...]:
        """Every GPU that this process may use; none where there is no driver."""
        try:
            count = self.call("cudaGetDeviceCount")
        except DeviceUnavailable:
            return ()
        return tuple(self._gpu(index) for index in range(count))

    def driver_is_too_old(self) -> bool:
        """Whether the driver is of an older CUDA than the runtime library."""
        driver, runtime = self.versions()
        return 0 < int(driver.split(".")[0]) < int(runtime.split(".")[0])

    def no_gpu(self) -> DeviceUnavailable:
        """Why :meth:`gpus` is empty."""
        driver, runtime = self.versions()
        if self.driver_is_too_old():
            return DeviceUnavailable(
                f"the NVIDIA driver (CUDA {driver}) is too old for CUDA {runtime}",
                fix=NEWER_DRIVER,
            )
        return DeviceUnavailable("the NVIDIA driver shows no GPU", fix=CHECK_DRIVER)

    def _gpu(self, index: int) -> Gpu:
        properties = self.call("cudaGetDeviceProperties", index)
        name = properties.name.decode() if isinstance(properties.name, bytes) else properties.name
        raw = bytes(properties.uuid.bytes)[:16].hex()
        parts = (raw[:8], raw[8:12], raw[12:16], raw[16:20], raw[20:])
        return Gpu(
            index=index,
            name=name.rstrip("\0"),
            compute_capability=(int(properties.major), int(properties.minor)),
            memory_mib=int(properties.totalGlobalMem) // 2**20,
            uuid="GPU-" + "-".join(parts),
        )

    def use(self, index: int) -> None:
        """Make ``index`` the current device of this thread."""
        self.call("cudaSetDevice", index)

    def memory_mib(self) -> tuple[int, int]:
        """(free, all) of the current device, other processes counted."""
        free, total = self.call("cudaMemGetInfo")
        return int(free) // 2**20, int(total) // 2**20

    def stream(self) -> Any:
        """A stream that does not wait for the default one."""
        return self.call("cudaStreamCreateWithFlags", self._rt.cudaStreamNonBlocking)

    def event(self, *, timing: bool = False) -> Any:
        """An event; those that measure cost a little more."""
        flags = self._rt.cudaEventDefault if timing else self._rt.cudaEventDisableTiming
        return self.call("cudaEventCreateWithFlags", flags)

    def record(self, event: Any, stream: Any) -> None:
        """Record ``event`` in ``stream``."""
        self.call("cudaEventRecord", event, stream)

    def wait(self, stream: Any, event: Any) -> None:
        """What follows in ``stream`` starts after ``event``."""
        self.call("cudaStreamWaitEvent", stream, event, 0)

    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Device time between two recorded, finished events."""
        return float(self.call("cudaEventElapsedTime", start, end))

    def upload(self, target: int, source: int, size: int, stream: Any) -> None:
        """Copy ``size`` bytes from pinned host memory."""
        kind = self._rt.cudaMemcpyKind.cudaMemcpyHostToDevice
        self.call("cudaMemcpyAsync", target, source, size, kind, stream)

    def download(self, target: int, source: int, size: int, stream: Any) -> None:
        """Copy ``size`` bytes to pinned host memory."""
        kind = self._rt.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self.call("cudaMemcpyAsync", target, source, size, kind, stream)

    def copy(self, target: int, source: int, size: int, stream: Any) -> None:
        """Copy ``size`` bytes within the device."""
        kind = self._rt.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        self.call("cudaMemcpyAsync", target, source, size, kind, stream)

    def begin_capture(self, stream: Any) -> None:
        """Record what this thread puts into ``stream`` from here on, instead of running it."""
        mode = self._rt.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self.call("cudaStreamBeginCapture", stream, mode)

    def end_capture(self, stream: Any) -> Any:
        """The recorded work, ready to be launched."""
        graph = self.call("cudaStreamEndCapture", stream)
        try:
            return self.call("cudaGraphInstantiate", graph, 0)
        finally:
            self.call("cudaGraphDestroy", graph)


class _Memory:
    """A block that grows when more is asked for."""

    _allocate: tuple[Any, ...]
    _free: str

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self.address = 0
        self.size = 0

    def reserve(self, size: int) -> None:
        """Hold at least ``size`` bytes; address and content change if it must grow."""
        if size > self.size:
            self.free()
            name, *flags = self._allocate
            self.address = int(self._cuda.call(name, size, *flags))
            self.size = size

    def free(self) -> None:
        """Free the memory."""
        if self.address:
            address, self.address, self.size = self.address, 0, 0
            self._cuda.call(self._free, address)


class DeviceMemory(_Memory):
    """Memory of the current device."""

    _allocate = ("cudaMalloc",)
    _free = "cudaFree"


class PinnedMemory(_Memory):
    """Page-locked memory of the host, the only kind whose copies overlap with compute."""

    _allocate = ("cudaHostAlloc", 0)
    _free = "cudaFreeHost"

    def array(self, shape: Sequence[int]) -> NDArray[np.float32]:
        """A view as float32, not to be used after :meth:`free`."""
        count = math.prod(shape)
        if count * 4 > self.size:
            raise ValueError(f"{count * 4} bytes asked of {self.size}")
        buffer = (ctypes.c_float * count).from_address(self.address)
        flat: NDArray[np.float32] = np.ctypeslib.as_array(buffer)
        return flat.reshape(shape)


def require_gpu(cuda: Cuda, index: int) -> Gpu:
    """The GPU of that index. Raises :class:`DeviceUnavailable` naming those there are."""
    gpus = cuda.gpus()
    if index >= len(gpus):
        there = ", ".join(f"cuda:{gpu.index} ({gpu.name})" for gpu in gpus) or "none"
        raise DeviceUnavailable(
            f"the device cuda:{index} was asked for; CUDA sees {there}",
            fix=(CHECK_DRIVER, SetOption("device", "cpu", "to run without a GPU")),
        )
    return gpus[index]


def gpu_problem(index: int) -> DeviceError | MemoryExhausted | None:
    """Why the GPU of that index cannot be used by this process; None if it can."""
    try:
        cuda = Cuda()
        gpus = cuda.gpus()
        if not gpus:
            return cuda.no_gpu()
    except (DeviceError, MemoryExhausted) as error:
        return error
    if index < len(gpus):
        return None
    there = ", ".join(f"cuda:{gpu.index}" for gpu in gpus)
    return DeviceUnavailable(
        f"there is no cuda:{index}, only {there}", fix=ChooseAnother("device", "device")
    )


def _bindings() -> Any:
    if importlib.util.find_spec("cuda") is None or not importlib.util.find_spec("cuda.bindings"):
        raise DependencyMissing(
            "cuda-bindings is not installed, which is required to use a GPU",
            fix=Install(("cuda-bindings>=13",)),
        )
    from cuda.bindings import runtime

    return runtime
