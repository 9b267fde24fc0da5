"""What every engine is: opened from a bundle, run on named arrays, closed."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from tlp_runtime.engines.choice import EngineChoice
from tlp_runtime.engines.processor import processor
from tlp_runtime.errors import DeviceError, EngineError, MemoryExhausted
from tlp_runtime.models.bundle import Bundle
from tlp_runtime.spec.model import ModelSpec
from tlp_runtime.warnings import Warn, WarningLog

if TYPE_CHECKING:
    from tlp_runtime.engines.tensorrt.build import BuildProgress

Slices = NDArray[np.float32]


@dataclass(frozen=True)
class Opening:
    """How an engine is to be opened.

    Parameters
    ----------
    choice
        Its threads, and whether an engine may be built; engine and device are settled.
    progress
        Follows a build.
    warn
        Called with each operational warning the moment it arises.
    """

    choice: EngineChoice = field(default_factory=EngineChoice)
    progress: BuildProgress | None = None
    warn: Warn | None = None


@dataclass(frozen=True)
class RunTime:
    """Duration of one run in seconds.

    Parameters
    ----------
    total_s
        From the call to the answer, on the host's clock.
    upload_s, compute_s, download_s
        Times of the device alone, by its own events; None where engine and host are one.
    """

    total_s: float
    upload_s: float | None = None
    compute_s: float | None = None
    download_s: float | None = None


def warnings_of(opening: Opening | None) -> WarningLog:
    """An empty log that passes each warning to the listener of ``opening``."""
    return WarningLog(None if opening is None else opening.warn)


class Engine(ABC):
    """A network ready to run. A context manager.

    A subclass is one kind of engine; :func:`tlp_runtime.engines.registry.register` makes it known
    to the command line, the doctor, the benchmarks and the automatic choice.

    Attributes
    ----------
    name
        What tables, JSON and users call it, such as ``ort-cpu``.
    on_gpu
        Whether it runs on an NVIDIA GPU; else it runs on the CPU.
    automatic
        Whether it may be chosen where no engine is named.
    builds
        Whether it needs an engine file that may have to be built first.
    device
        ``cpu`` or ``cuda:<index>``: where it really runs.
    library
        The library and its version.
    concurrent
        Whether runs called from several threads proceed side by side; else they take turns.
    opening
        Seconds spent before the first run: ``open``, and ``build`` if an engine had to be built.
    variant
        What else decides what it computes, such as that it was loaded from a cache.
    warnings
        Operational warnings so far, those of the bundle included.
    """

    name: ClassVar[str]
    on_gpu: ClassVar[bool] = False
    automatic: ClassVar[bool] = False
    builds: ClassVar[bool] = False
    device: str
    library: str
    concurrent: bool = True
    variant: str = ""
    accepts: tuple[Any, ...] = (np.ndarray,)

    def __init__(self, bundle: Bundle, warnings: WarningLog | None = None) -> None:
        self.bundle = bundle
        self.opening: dict[str, float] = {}
        self.warnings = WarningLog() if warnings is None else warnings
        for warning in bundle.warnings:
            self.warnings.add(warning)

    @classmethod
    def unavailable(cls, index: int = 0) -> DeviceError | MemoryExhausted | None:
        """Why it cannot run on this machine, as a problem with its fixes; None if it can.

        Parameters
        ----------
        index
            The GPU; without meaning for engines on the CPU.
        """
        return None

    @classmethod
    def unsuited(cls, bundle: Bundle) -> EngineError | None:
        """Why it does not run this model, though it may run others here; None if it does."""
        return None

    @classmethod
    def prefers(cls, bundle: Bundle) -> bool:
        """Whether it is to be chosen for this model before those registered earlier."""
        return False

    @classmethod
    def open(cls, bundle: Bundle, *, index: int = 0, opening: Opening | None = None) -> Self:
        """Load ``bundle``.

        Parameters
        ----------
        index
            The GPU; without meaning for engines on the CPU.

        Raises
        ------
        DeviceError, MemoryExhausted, ModelDamaged
            It cannot be loaded.
        """
        return cls(bundle, warnings_of(opening))

    @property
    def spec(self) -> ModelSpec:
        """What the network means."""
        return self.bundle.spec

    def run(self, tensors: Mapping[str, Any]) -> Slices:
        """Synthesize a batch.

        Parameters
        ----------
        tensors
            One (B, 1, H, W) float32 array for each of ``spec.tensor_names``; B is free, H and W
            are the crop's, or others that ``spec.takes``. Engines on a GPU take arrays with
            ``__cuda_array_interface__`` too.

        Returns
        -------
        (B, 1, H, W) float32 in [-1, 1], on the host.

        Raises
        ------
        EngineError
            Wrong names, shapes or types, or a failure inside the engine.
        MemoryExhausted
            The device ran out of memory.
        """
        (image,) = self.run_batches([tensors])
        return image

    def run_batches(self, batches: Iterable[Mapping[str, Any]]) -> Iterator[Slices]:
        """Run one batch after another; engines on a GPU copy while they compute.

        As :meth:`run`, for each, in their order.
        """
        for tensors in batches:
            self.require(tensors)
            yield self._run(tensors)

    def timed(self, tensors: Mapping[str, Any]) -> RunTime:
        """Run once, and measure it."""
        began = time.perf_counter()
        self.run(tensors)
        return RunTime(time.perf_counter() - began)

    def machine(self) -> Mapping[str, str]:
        """The device, its driver and all else of the machine that decides what it computes."""
        return processor()

    def memory_mib(self) -> tuple[int, int] | None:
        """(free, all) of the device's own memory; None on a CPU."""
        return None

    def require(self, tensors: Mapping[str, Any]) -> None:
        """Raise :class:`EngineError` unless names, shapes and types are the network's."""
        expected = self.spec.tensor_names
        if set(tensors) != set(expected):
            raise EngineError(
                f"{self.name}: got tensors {sorted(tensors)}, expected {sorted(expected)}"
            )
        crop, sizes = self.spec.crop, self.spec.sizes
        for name, array in tensors.items():
            if not isinstance(array, self.accepts):
                raise EngineError(
                    f"{self.name}: {name} is a {type(array).__name__}, expected a NumPy array on "
                    "the host."
                )
            if (
                array.dtype != np.float32
                or array.ndim != 4
                or array.shape[1] != 1
                or not self.spec.takes(*array.shape[2:])
            ):
                raise EngineError(
                    f"{self.name}: {name} is {array.dtype} {array.shape}, expected float32 "
                    f"(B, 1, {crop.height}, {crop.width})"
                    + ("" if sizes is None else f", or from {sizes.smallest} to {sizes.largest}")
                )
        shapes = {name: array.shape for name, array in tensors.items()}
        if len(set(shapes.values())) != 1 or not next(iter(shapes.values()))[0]:
            raise EngineError(f"{self.name}: batches are empty, or shapes differ: {shapes}")

    @abstractmethod
    def _run(self, tensors: Mapping[str, Slices]) -> Slices: ...

    @abstractmethod
    def close(self) -> None:
        """Release what it holds; it cannot run afterwards."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
