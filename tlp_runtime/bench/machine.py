"""Machine and versions, which every figure needs; memory; energy."""

from __future__ import annotations

import importlib.util
import os
import platform
import sys
from importlib.metadata import version
from typing import Any

from tlp_runtime.engines.cuda import Cuda, Gpu
from tlp_runtime.engines.processor import processor
from tlp_runtime.errors import TLPError


def environment(library: str) -> dict[str, str]:
    """The machine and the versions, which every figure needs."""
    return {
        "cpu": processor()["cpu"],
        "cores": str(os.cpu_count()),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "engine_library": library,
        "numpy": version("numpy"),
        "nibabel": version("nibabel"),
    }


def peak_memory_mib() -> float | None:
    """Largest resident set of this process so far; None on Windows."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 if sys.platform != "darwin" else 1024**2)


def gpu_environment(gpu: Gpu) -> dict[str, str]:
    """The GPU, its driver and CUDA."""
    found = {"gpu": gpu.name, "gpu_memory_mib": str(gpu.memory_mib)}
    found["compute_capability"] = gpu.capability
    found["cuda_driver"], found["cuda_runtime"] = Cuda().versions()
    nvml = Nvml.open(gpu)
    if nvml is not None:
        found["driver"] = nvml.driver()
    return found


def visible_gpu(index: int | None) -> Gpu | None:
    """The GPU of that index; None on a CPU."""
    if index is None:
        return None
    try:
        return Cuda().gpus()[index]
    except (TLPError, IndexError):
        return None


class Nvml:
    """NVIDIA's management library for one GPU: driver version and energy.

    Parameters
    ----------
    library
        ``pynvml``.
    handle
        Handle of the GPU.
    """

    def __init__(self, library: Any, handle: Any) -> None:
        self._nvml, self._handle = library, handle

    @classmethod
    def open(cls, gpu: Gpu) -> Nvml | None:
        """None where nvidia-ml-py is not installed or does not know the GPU."""
        if importlib.util.find_spec("pynvml") is None:
            return None
        import pynvml

        try:
            pynvml.nvmlInit()
            return cls(pynvml, pynvml.nvmlDeviceGetHandleByUUID(gpu.uuid))
        except pynvml.NVMLError:
            return None

    def driver(self) -> str:
        """The driver's version."""
        said = self._nvml.nvmlSystemGetDriverVersion()
        return said if isinstance(said, str) else str(said.decode())

    def energy_mj(self) -> float | None:
        """Energy since the driver was loaded, millijoules; None on GPUs without a counter."""
        try:
            return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle))
        except self._nvml.NVMLError:
            return None
