"""Arrays that already lie on a GPU, whichever library made them, and streams of any library."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tlp_runtime.errors import EngineError


@dataclass(frozen=True)
class DeviceArray:
    """A C-contiguous array on a GPU, as ``__cuda_array_interface__`` describes it.

    Parameters
    ----------
    stream
        The producer's stream, which must be waited for; None if there is nothing to wait for.
    owner
        Kept alive as long as this is.
    """

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    stream: int | None
    owner: Any

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return int(np.prod(self.shape)) * self.dtype.itemsize

    @classmethod
    def of(cls, array: Any, name: str, *, writable: bool = False) -> DeviceArray:
        """Read ``array``'s interface (CuPy, PyTorch, PyCUDA, Numba, …).

        Raises
        ------
        EngineError
            It is not C-contiguous, or read-only where it is to be written.
        """
        interface = array.__cuda_array_interface__
        shape = tuple(int(side) for side in interface["shape"])
        dtype = np.dtype(interface["typestr"])
        strides = interface.get("strides")
        contiguous = tuple(
            int(np.prod(shape[axis + 1 :], dtype=np.int64)) * dtype.itemsize
            for axis in range(len(shape))
        )
        if strides is not None and tuple(strides) != contiguous:
            raise EngineError(
                f"{name}: the device array has strides {tuple(strides)}, expected C-contiguous "
                f"{contiguous}.",
                fix="Make it contiguous first.",
            )
        address, read_only = interface["data"]
        if writable and read_only:
            raise EngineError(f"{name}: the device array is read-only, expected a writable one.")
        return cls(int(address), shape, dtype, interface.get("stream"), array)


def is_device_array(array: object) -> bool:
    """Whether it describes itself as an array on a GPU."""
    return hasattr(array, "__cuda_array_interface__")


def stream_handle(stream: Any) -> int:
    """The CUDA handle of a stream of PyTorch, CuPy, PyCUDA, cuda-python, or of a plain number.

    Raises
    ------
    EngineError
        It is none of these.
    """
    protocol = getattr(stream, "__cuda_stream__", None)
    if protocol is not None:
        return int((protocol() if callable(protocol) else protocol)[1])
    for name in ("handle", "cuda_stream", "ptr"):
        if hasattr(stream, name):
            return int(getattr(stream, name))
    try:
        return int(stream)
    except (TypeError, ValueError) as error:
        raise EngineError(
            f"{type(stream).__name__} is no CUDA stream; expected one of PyTorch, CuPy, PyCUDA or "
            "cuda-python, or its handle as a number."
        ) from error
