"""What enterprise TensorRT and TensorRT-RTX do differently, and the options of a build."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from tlp_runtime.engines.tensorrt.names import (
    IBuilderConfig,
    IRuntimeCache,
    IRuntimeConfig,
    ITimingCache,
    Runtime,
)
from tlp_runtime.errors import EngineError

FlavourName = Literal["trt", "trt-rtx"]
FLAVOURS: tuple[FlavourName, ...] = get_args(FlavourName)

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class BuildRequest:
    """What the builder is asked for. Options a flavour does not know are refused, not dropped.

    Parameters
    ----------
    profiles
        Optimisation profiles: for each input its smallest, usual and largest shape.
    workspace_mib
        Limit of temporary GPU memory; None leaves TensorRT's own (all of it).
    level
        Builder optimisation level, 0 to 5; None leaves TensorRT's own (3).
    targets
        TensorRT-RTX: compute capabilities such as ``8.6``; none builds for all it supports.
    hardware
        Enterprise: ``none``, ``same-cc`` (any GPU of this compute capability), ``ampere+``.
    version_compatible
        Enterprise: the engine may be opened by later versions of the same major.
    timing_cache
        Enterprise: timings of earlier builds.
    """

    profiles: Sequence[Mapping[str, tuple[Shape, Shape, Shape]]]
    workspace_mib: int | None = None
    level: int | None = None
    targets: Sequence[str] = ()
    hardware: str = "none"
    version_compatible: bool = False
    timing_cache: bytes = b""


class Own(ABC):
    """What a flavour does in its own way."""

    captures_itself: bool
    uses_version_compatible: bool

    def __init__(self, module: Any) -> None:
        self._trt = module

    @abstractmethod
    def configure(self, config: IBuilderConfig, request: BuildRequest) -> None:
        """Set the flavour's own builder options."""

    @abstractmethod
    def timings(self, config: IBuilderConfig) -> bytes:
        """The timing cache after a build."""

    @abstractmethod
    def refusal(self, runtime: Runtime, plan: bytes) -> str:
        """Why the engine cannot be opened here; empty if that is only known by opening it."""

    @abstractmethod
    def prepare_runtime(self, config: IRuntimeConfig, cache: bytes) -> Any:
        """Set the flavour's own run options; returns its kernel cache."""

    @abstractmethod
    def kernels(self, cache: Any) -> bytes:
        """The kernel cache, serialized."""


class Enterprise(Own):
    """TensorRT 10.16 and 11.x."""

    captures_itself = False
    uses_version_compatible = True

    def configure(self, config: IBuilderConfig, request: BuildRequest) -> None:
        trt = self._trt
        if request.targets:
            raise EngineError(
                f"compute capabilities {', '.join(request.targets)}: enterprise TensorRT builds "
                "for the GPU it runs on. Use --hardware-compatible, or TensorRT-RTX."
            )
        level = {
            "none": trt.HardwareCompatibilityLevel.NONE,
            "same-cc": trt.HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY,
            "ampere+": trt.HardwareCompatibilityLevel.AMPERE_PLUS,
        }[request.hardware]
        config.hardware_compatibility_level = level
        if request.version_compatible:
            config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        cache: ITimingCache = config.create_timing_cache(request.timing_cache)
        if cache is None:  # of another version or GPU
            cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)

    def timings(self, config: IBuilderConfig) -> bytes:
        cache: ITimingCache = config.get_timing_cache()
        return b"" if cache is None else bytes(cache.serialize())

    def refusal(self, runtime: Runtime, plan: bytes) -> str:
        return ""

    def prepare_runtime(self, config: IRuntimeConfig, cache: bytes) -> Any:
        return None

    def kernels(self, cache: Any) -> bytes:
        return b""


class Rtx(Own):
    """TensorRT-RTX 1.7."""

    captures_itself = True
    uses_version_compatible = False

    def configure(self, config: IBuilderConfig, request: BuildRequest) -> None:
        trt = self._trt
        if request.hardware != "none" or request.version_compatible:
            raise EngineError(
                "hardware-compatible and version-compatible engines are of enterprise TensorRT; "
                "for TensorRT-RTX name --target compute capabilities, or none for all."
            )
        if not request.targets:
            return
        known = {
            f"{int(item) // 10}.{int(item) % 10}": item
            for item in trt.ComputeCapability.__members__.values()
            if item.name.startswith("SM")
        } | {"current": trt.ComputeCapability.CURRENT}
        unknown = [target for target in request.targets if target not in known]
        if unknown or ("current" in request.targets and len(request.targets) > 1):
            raise EngineError(
                f"compute capabilities {', '.join(request.targets)}: TensorRT-RTX builds for "
                f"{', '.join(sorted(known))} (current alone)."
            )
        config.num_compute_capabilities = len(request.targets)
        for index, target in enumerate(request.targets):
            config.set_compute_capability(known[target], index)

    def timings(self, config: IBuilderConfig) -> bytes:
        return b""

    def refusal(self, runtime: Runtime, plan: bytes) -> str:
        trt = self._trt
        validity, _ = runtime.get_engine_validity(plan[: runtime.engine_header_size])
        if validity == trt.EngineValidity.INVALID:
            return "its header says that it is not for this GPU, driver or version"
        return ""

    def prepare_runtime(self, config: IRuntimeConfig, cache: bytes) -> Any:
        trt = self._trt
        config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        kernels: IRuntimeCache = config.create_runtime_cache()
        if cache:
            kernels.deserialize(cache)  # refused by itself when it is another machine's
        config.set_runtime_cache(kernels)
        return kernels

    def kernels(self, cache: Any) -> bytes:
        kernels: IRuntimeCache = cache
        return bytes(kernels.serialize())
