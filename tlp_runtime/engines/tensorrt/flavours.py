"""What enterprise TensorRT and TensorRT-RTX do differently."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal, get_args

from tlp_runtime.engines.options import EngineOptions
from tlp_runtime.engines.tensorrt.names import (
    IBuilderConfig,
    IRuntimeCache,
    IRuntimeConfig,
    ITimingCache,
    Runtime,
)
from tlp_runtime.errors import EngineError, SetOption

FlavourName = Literal["trt", "trt-rtx"]
FLAVOURS: tuple[FlavourName, ...] = get_args(FlavourName)


class FlavourAdapter(ABC):
    """What a flavour does differently."""

    captures_itself: bool
    uses_version_compatible: bool

    def __init__(self, module: Any) -> None:
        self._trt = module

    @abstractmethod
    def configure(self, config: IBuilderConfig, options: EngineOptions, timings: bytes) -> None:
        """Set the flavour's own builder options.

        Options it does not know are refused, not dropped; ``timings`` is an earlier build's cache.
        """

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


class Enterprise(FlavourAdapter):
    """TensorRT 10.16 and 11.x."""

    captures_itself = False
    uses_version_compatible = True

    def configure(self, config: IBuilderConfig, options: EngineOptions, timings: bytes) -> None:
        trt = self._trt
        if options.targets:
            raise EngineError(
                f"compute capabilities {', '.join(options.targets)}: enterprise TensorRT builds "
                "for the GPU it runs on",
                fix=(
                    SetOption("hardware", "same-cc", "for all GPUs of this capability"),
                    SetOption("engine", "trt-rtx", "to build with TensorRT-RTX"),
                ),
            )
        level = {
            "none": trt.HardwareCompatibilityLevel.NONE,
            "same-cc": trt.HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY,
            "ampere+": trt.HardwareCompatibilityLevel.AMPERE_PLUS,
        }[options.hardware]
        config.hardware_compatibility_level = level
        if options.version_compatible:
            config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        cache: ITimingCache = config.create_timing_cache(timings)
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


class Rtx(FlavourAdapter):
    """TensorRT-RTX 1.7."""

    captures_itself = True
    uses_version_compatible = False

    def configure(self, config: IBuilderConfig, options: EngineOptions, timings: bytes) -> None:
        trt = self._trt
        if options.hardware != "none" or options.version_compatible:
            raise EngineError(
                "hardware- and version-compatible engines exist for enterprise TensorRT only",
                fix=SetOption("target", "compute capabilities", "or leave it out to build for all"),
            )
        if not options.targets:
            return
        known = {
            f"{int(item) // 10}.{int(item) % 10}": item
            for item in trt.ComputeCapability.__members__.values()
            if item.name.startswith("SM")
        } | {"current": trt.ComputeCapability.CURRENT}
        unknown = [target for target in options.targets if target not in known]
        if unknown or ("current" in options.targets and len(options.targets) > 1):
            raise EngineError(
                f"compute capabilities {', '.join(options.targets)}: TensorRT-RTX builds for "
                f"{', '.join(sorted(known))} (current alone)."
            )
        config.num_compute_capabilities = len(options.targets)
        for index, target in enumerate(options.targets):
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
