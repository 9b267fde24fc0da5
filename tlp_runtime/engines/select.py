"""Which engine runs, where, and why. What was asked for is what runs, or an error says why not."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tlp_runtime.engines.base import Engine
from tlp_runtime.engines.cuda import Cuda
from tlp_runtime.engines.onnx import OnnxEngine, require_onnxruntime
from tlp_runtime.engines.onnx_cuda import PROVIDERS, OnnxDeviceEngine, OrtName
from tlp_runtime.engines.tensorrt.binding import installed, load
from tlp_runtime.engines.tensorrt.build import BuildProgress
from tlp_runtime.engines.tensorrt.flavours import FlavourName
from tlp_runtime.engines.trt import TensorRTEngine
from tlp_runtime.errors import (
    DependencyMissing,
    DeviceError,
    DeviceUnavailable,
    MemoryExhausted,
    UsageError,
)
from tlp_runtime.models.bundle import Bundle

NAMES = ("trt", "trt-rtx", "ort-trt", "ort-cuda", "ort-cpu")
"""Every engine."""

PREFERRED = ("trt", "trt-rtx", "ort-cuda")
"""What ``auto`` tries before the CPU, in this order; ``ort-trt`` builds its engines anew for every
machine inside of ONNX Runtime and is taken only when named."""

RTX_CAPABILITIES = ((7, 5), (8, 0), (8, 6), (8, 9), (12, 0), (12, 1))
"""GPUs that TensorRT-RTX 1.7 names; no Hopper (9.0) and no data-centre Blackwell (10.x)."""


@dataclass(frozen=True)
class Opening:
    """How an engine is to be opened.

    Parameters
    ----------
    threads
        CPU threads of ``ort-cpu``; None takes one a core.
    build
        Whether a TensorRT engine may be built where none fits.
    progress
        Told of a build.
    """

    threads: int | None = None
    build: bool = True
    progress: BuildProgress | None = None


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

    def open(self, bundle: Bundle, opening: Opening | None = None) -> Engine:
        """Load ``bundle`` into it.

        Raises
        ------
        DeviceError
            It cannot be used; another is never taken in its place.
        """
        opening = opening or Opening()
        index = self.cuda_index or 0
        if self.name == "ort-cpu":
            return OnnxEngine(bundle, threads=opening.threads)
        if self.name in PROVIDERS:
            provider: OrtName = "ort-trt" if self.name == "ort-trt" else "ort-cuda"
            return OnnxDeviceEngine(bundle, name=provider, cuda_index=index)
        return TensorRTEngine(
            bundle,
            flavour="trt" if self.name == "trt" else "trt-rtx",
            cuda_index=index,
            build=opening.build,
            progress=opening.progress,
        )


def choose(engine: str = "auto", device: str = "auto") -> Choice:
    """Settle engine and device before anything is loaded.

    ``auto`` takes the first of :data:`PREFERRED` that can run here, else the CPU.

    Raises
    ------
    UsageError
        Unknown names, or an engine and a device that exclude each other.
    DependencyMissing, DependencyConflict
        A library is not installed, or two are that exclude each other.
    DeviceUnavailable
        A GPU was asked for and there is none.
    """
    if engine not in ("auto", *NAMES):
        raise UsageError(f"--engine {engine}: expected auto or one of {', '.join(NAMES)}.")
    index = _cuda_index(device)
    if (engine == "ort-cpu" and index is not None) or (
        engine not in ("auto", "ort-cpu") and device == "cpu"
    ):
        raise UsageError(f"--engine {engine} does not run on --device {device}.")
    if engine == "ort-cpu" or device == "cpu":
        require_onnxruntime()
        return Choice("ort-cpu", None, "as asked")
    wanted = index or 0
    if engine != "auto":
        why = missing(engine, wanted)
        if why is not None:
            kind = DependencyMissing if "pip install" in why else DeviceUnavailable
            raise kind(f"--engine {engine} on cuda:{wanted} was asked for, but {why}.")
        return Choice(engine, wanted, "as asked")
    reasons: dict[str, str] = {}
    for name in PREFERRED:
        why = missing(name, wanted)
        if why is None:
            before = "".join(f"; not {other}: {reason}" for other, reason in reasons.items())
            return Choice(name, wanted, f"the fastest that can run here{before}")
        reasons[name] = why
    if index is not None:
        listed = "; ".join(f"{name}: {why}" for name, why in reasons.items())
        raise DeviceUnavailable(
            f"--device {device} was asked for, but no engine can use it. {listed}. "
            "Run with --device cpu, or auto."
        )
    require_onnxruntime()
    return Choice("ort-cpu", None, f"no GPU engine can run: {reasons['ort-cuda']}")


def missing(engine: str, index: int = 0) -> str | None:
    """Why ``engine`` cannot run on that GPU, with the line that mends it; None if it can."""
    return _MISSING[engine](index)


def _no_trt(index: int) -> str | None:
    if "trt" not in installed():
        return "TensorRT is not installed (pip install 'tlp-mri[trt]')"
    return _no_gpu(index) or _unsound("trt")


def _no_rtx(index: int) -> str | None:
    if "trt-rtx" not in installed():
        return "TensorRT-RTX is not installed (pip install 'tlp-mri[trt-rtx]')"
    why = _no_gpu(index) or _unsound("trt-rtx")
    if why is not None:
        return why
    gpu = Cuda().gpus()[index]
    if gpu.compute_capability not in RTX_CAPABILITIES:
        return (
            f"TensorRT-RTX does not support {gpu.name} (compute capability {gpu.capability}); "
            "enterprise TensorRT does"
        )
    return None


def _unsound(flavour: FlavourName) -> str | None:
    """Why an installed TensorRT cannot be loaded, or is of a version that is not known."""
    try:
        load(flavour)
    except DeviceError as error:
        return str(error)
    return None


def _no_ort_cpu(index: int) -> str | None:
    try:
        require_onnxruntime()
    except DependencyMissing as error:
        return str(error).rstrip(".")
    return None


def _no_ort_gpu(engine: str, index: int) -> str | None:
    try:
        library = require_onnxruntime()
    except DependencyMissing:
        return "ONNX Runtime is not installed (pip install 'tlp-mri[gpu]')"
    try:
        import onnxruntime as ort
    except Exception as error:
        return f"{library} cannot be imported ({error})"
    provider = PROVIDERS["ort-trt" if engine == "ort-trt" else "ort-cuda"]
    if provider not in ort.get_available_providers():
        return (
            f"{library} has no CUDA support (pip uninstall -y onnxruntime, then "
            "pip install 'tlp-mri[gpu]')"
        )
    return _no_gpu(index)


def _no_gpu(index: int) -> str | None:
    try:
        cuda = Cuda()
        gpus = cuda.gpus()
        if not gpus:
            return cuda.why_none()
    except (DeviceError, MemoryExhausted) as error:
        return str(error).rstrip(".")
    if index < len(gpus):
        return None
    return f"there is no cuda:{index}, only {', '.join(f'cuda:{gpu.index}' for gpu in gpus)}"


_MISSING: Mapping[str, Callable[[int], str | None]] = {
    "trt": _no_trt,
    "trt-rtx": _no_rtx,
    "ort-trt": lambda index: _no_ort_gpu("ort-trt", index),
    "ort-cuda": lambda index: _no_ort_gpu("ort-cuda", index),
    "ort-cpu": _no_ort_cpu,
}


def _cuda_index(device: str) -> int | None:
    match = re.fullmatch(r"auto|cpu|cuda(?::(\d+))?", device)
    if match is None:
        raise UsageError(f"--device {device}: expected auto, cpu, cuda or cuda:INDEX.")
    return int(match[1] or 0) if device.startswith("cuda") else None
