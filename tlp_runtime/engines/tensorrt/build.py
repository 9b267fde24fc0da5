"""Building a serialized, strongly typed engine from an ONNX file; builds can be cancelled."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tlp_runtime.engines.options import EngineOptions, ProfileShapes
from tlp_runtime.engines.tensorrt.binding import TensorRT
from tlp_runtime.engines.tensorrt.layers import Layers, layers_of_log
from tlp_runtime.engines.tensorrt.names import (
    Builder,
    IBuilderConfig,
    IHostMemory,
    INetworkDefinition,
    IOptimizationProfile,
    OnnxParser,
)
from tlp_runtime.engines.tensorrt.run import open_plan
from tlp_runtime.errors import EngineError, MemoryExhausted


class BuildProgress(Protocol):
    """Follows a build, whose phases may lie within each other."""

    def start(self, phase: str, steps: int) -> None:
        """A phase begins."""

    def step(self, phase: str, done: int) -> None:
        """Some of its steps are done."""

    def finish(self, phase: str) -> None:
        """The phase ended."""


class NoProgress:
    """Progress that is not followed."""

    def start(self, phase: str, steps: int) -> None: ...
    def step(self, phase: str, done: int) -> None: ...
    def finish(self, phase: str) -> None: ...


@dataclass(frozen=True)
class BuildResult:
    """A serialized engine and what the builder reported.

    Parameters
    ----------
    layers_from
        Where ``layers`` was read: the engine itself, or the builder's log where no GPU can open it.
    timing_cache
        Cache for the next build; empty where the flavour has none.
    """

    plan: bytes
    log: tuple[str, ...]
    layers: Layers
    layers_from: str
    timing_cache: bytes


def build_plan(
    binding: TensorRT,
    onnx: Path,
    shapes: Sequence[Mapping[str, ProfileShapes]],
    options: EngineOptions,
    *,
    tf32: bool = False,
    timings: bytes = b"",
    progress: BuildProgress | None = None,
) -> BuildResult:
    """Build a strongly typed engine: the types are the graph's.

    A KeyboardInterrupt cancels the build at its next step and is raised again here.

    Parameters
    ----------
    shapes
        Shapes of every input, for each profile of ``options``.
    tf32
        Whether products of float32 may be rounded to TF32's ten bits, as TensorRT does by default.
    timings
        Enterprise: the cache of an earlier build.

    Raises
    ------
    EngineError
        The graph cannot be read or built; TensorRT's own words are in the message.
    MemoryExhausted
        The builder ran out of GPU memory.
    """
    trt, log = binding.trt, binding.log
    log.lines.clear()
    builder: Builder = trt.Builder(log)
    if builder is None:
        raise binding.error(f"{binding.product} has no builder on this machine")
    flag = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network: INetworkDefinition = builder.create_network(flag)
    parser: OnnxParser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(onnx)):
        errors = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
        raise EngineError(f"{binding.product} cannot read {onnx}: {errors}")
    config: IBuilderConfig = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    for inputs in shapes:
        profile: IOptimizationProfile = builder.create_optimization_profile()
        for name, (smallest, usual, largest) in inputs.items():
            profile.set_shape(name, smallest, usual, largest)
        config.add_optimization_profile(profile)
    if options.workspace_mib is not None:
        limit = options.workspace_mib * 2**20
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, limit)
    if options.level is not None:
        config.builder_optimization_level = options.level
    if not tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    binding.adapter.configure(config, options, timings)
    monitor = _monitor(trt, progress or NoProgress())
    config.progress_monitor = monitor
    with monitor.interruptible():
        memory: IHostMemory = builder.build_serialized_network(network, config)
    if memory is None:
        raise binding.error(f"{binding.product} did not build the engine")
    plan, log_lines = bytes(memory), tuple(log.lines)
    layers, source = _layers(binding, plan, log_lines)
    return BuildResult(plan, log_lines, layers, source, binding.adapter.timings(config))


def _layers(binding: TensorRT, plan: bytes, log: Sequence[str]) -> tuple[Layers, str]:
    """What the built engine computes in; a machine without a GPU cannot open it to look."""
    try:
        return open_plan(binding, plan).layers(), "engine"
    except (EngineError, MemoryExhausted):
        return layers_of_log(log), "build log"


def _monitor(trt: Any, progress: BuildProgress) -> Any:
    """A progress monitor that can cancel."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.cancelled = False
            self.error: Exception | None = None

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._tell(progress.start, phase_name, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._tell(progress.step, phase_name, step + 1)
            return not self.cancelled

        def phase_finish(self, phase_name: str) -> None:
            self._tell(progress.finish, phase_name)

        def _tell(self, what: Callable[..., None], *arguments: Any) -> None:
            try:
                what(*arguments)
            except Exception as error:  # must not cross TensorRT's frames
                self.error, self.cancelled = error, True

        @contextlib.contextmanager
        def interruptible(self) -> Iterator[None]:
            """Turn an interrupt into a cancellation, and into KeyboardInterrupt after it."""
            interrupted = False

            def interrupt(number: int, frame: Any) -> None:
                nonlocal interrupted
                interrupted = self.cancelled = True

            in_main = threading.current_thread() is threading.main_thread()
            before = signal.signal(signal.SIGINT, interrupt) if in_main else None
            try:
                yield
            finally:
                if in_main:
                    signal.signal(signal.SIGINT, before)
            if interrupted:
                raise KeyboardInterrupt
            if self.error is not None:
                raise self.error

    return Monitor()
