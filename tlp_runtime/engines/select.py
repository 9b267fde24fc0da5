"""Which engine runs, where, and why. What was asked for is what runs, or an error says why not."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tlp_runtime.bundle import Bundle
from tlp_runtime.engines.base import Engine
from tlp_runtime.engines.onnx import OnnxEngine, require_onnxruntime
from tlp_runtime.errors import DeviceUnavailable, UsageError

ENGINES = ("auto", "ort-cpu", "ort-cuda")
"""What can be asked for in this version; ``ort-trt``, ``trt`` and ``trt-rtx`` are to come."""


@dataclass(frozen=True)
class Choice:
    """An engine that was chosen.

    Parameters
    ----------
    cuda_index
        None for the CPU.
    reason
        Why, as one phrase.
    """

    name: str
    cuda_index: int | None
    reason: str

    def open(self, bundle: Bundle, *, threads: int | None = None) -> Engine:
        """Load ``bundle`` into it."""
        return OnnxEngine(bundle, cuda_index=self.cuda_index, threads=threads)


def choose(engine: str = "auto", device: str = "auto") -> Choice:
    """Settle engine and device before anything is loaded.

    Raises
    ------
    UsageError
        Unknown names, or an engine and a device that exclude each other.
    DependencyMissing, DependencyConflict
        No ONNX Runtime, or two.
    DeviceUnavailable
        A GPU was asked for and there is none.
    """
    if engine not in ENGINES:
        raise UsageError(f"--engine {engine}: expected one of {', '.join(ENGINES)}.")
    index = _cuda_index(device)
    if (engine == "ort-cpu" and index is not None) or (engine == "ort-cuda" and device == "cpu"):
        raise UsageError(f"--engine {engine} does not run on --device {device}.")
    library = require_onnxruntime()
    wants_gpu = engine == "ort-cuda" or index is not None
    missing = _no_cuda(library)
    if wants_gpu and missing:
        raise DeviceUnavailable(
            f"a CUDA GPU was asked for, but {missing}. Run with --device cpu, or auto."
        )
    if wants_gpu:
        return Choice("ort-cuda", index or 0, "as asked")
    if engine == "ort-cpu" or device == "cpu":
        return Choice("ort-cpu", None, "as asked")
    if missing:
        return Choice("ort-cpu", None, f"since {missing}")
    return Choice("ort-cuda", 0, "since a GPU is there")


def _cuda_index(device: str) -> int | None:
    match = re.fullmatch(r"auto|cpu|cuda(?::(\d+))?", device)
    if match is None:
        raise UsageError(f"--device {device}: expected auto, cpu, cuda or cuda:INDEX.")
    return int(match[1] or 0) if device.startswith("cuda") else None


def _no_cuda(library: str) -> str | None:
    """Why no GPU can be used; None when one can."""
    import onnxruntime as ort

    if "CUDAExecutionProvider" not in ort.get_available_providers():
        return f"{library} has no CUDA support (pip install 'tlp-mri[gpu]' has)"
    if not _driver_sees_gpu():
        return "the NVIDIA driver shows no GPU (see nvidia-smi)"
    return None


def _driver_sees_gpu() -> bool:
    """Ask the CUDA driver itself, without any CUDA library of Python's."""
    import ctypes
    import sys

    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(name)
    except OSError:
        return False
    count = ctypes.c_int(0)
    return (
        driver.cuInit(0) == 0
        and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
        and bool(count.value)
    )
