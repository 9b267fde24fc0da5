"""One case: volumes in, a synthetic T1ce volume out on the same grid."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from tlp_runtime.engines.base import Engine, Opening
from tlp_runtime.engines.choice import EngineChoice
from tlp_runtime.engines.select import choose
from tlp_runtime.models.choice import find_bundle
from tlp_runtime.spec.model import ModelSpec
from tlp_runtime.synthesis.batches import Batcher, SliceWork, works_of
from tlp_runtime.synthesis.prepare import PreparedCase, prepare
from tlp_runtime.synthesis.request import Request
from tlp_runtime.synthesis.result import Synthesis
from tlp_runtime.warnings import TLPWarning, Warn

if TYPE_CHECKING:
    from tlp_runtime.engines.tensorrt.build import BuildProgress


class Synthesizer:
    """A model in an engine, ready for any number of cases. A context manager.

    >>> with Synthesizer.open() as synthesizer:          # doctest: +SKIP
    ...     request = Request(images={"t1": "a.nii.gz"}, prompt=Prompt("roi.nii.gz"))
    ...     synthesizer.run(request).save("out.nii.gz")

    Parameters
    ----------
    engine
        An opened engine; :meth:`open` finds one.
    batch
        Slices per run of the engine. Halved, with a warning, when the device's memory runs out.
    """

    def __init__(self, engine: Engine, *, batch: int = EngineChoice.batch) -> None:
        self.engine = engine
        self._batcher = Batcher(engine, batch)

    @classmethod
    def open(
        cls,
        model: str | Path | None = None,
        *,
        inputs: Sequence[str] | None = None,
        choice: EngineChoice | None = None,
        progress: BuildProgress | None = None,
        warn: Warn | None = None,
    ) -> Self:
        """Load a model into an engine.

        Parameters
        ----------
        model
            A bundle's folder or a registered name; None takes the default.
        inputs
            The modalities that will be given, to choose and check the model by.
        choice
            The engine, its device, batch and threads; None takes the defaults.
        progress
            Follows the build of a TensorRT engine.
        warn
            Called with each operational warning the moment it arises.

        Raises
        ------
        ModelError
            No such model, a damaged one, or one for other inputs.
        DeviceError
            The engine or device asked for cannot be used.
        """
        choice = choice or EngineChoice()
        bundle, _ = find_bundle(None if model is None else str(model), inputs)
        selected = choose(choice.engine, choice.device, bundle)
        engine = selected.open(bundle, Opening(choice, progress, warn))
        return cls(engine, batch=choice.batch)

    @property
    def spec(self) -> ModelSpec:
        """What the model means."""
        return self.engine.spec

    @property
    def batch(self) -> int:
        """Slices per run of the engine, as it is now."""
        return self._batcher.batch

    def run(
        self, request: Request, *, on_slices: Callable[[int, int], None] | None = None
    ) -> Synthesis:
        """Synthesize one case.

        Parameters
        ----------
        on_slices
            Called with (slices done, slices in all).

        Raises
        ------
        InputError
            A missing, damaged or unsuited image or prompt.
        ModelMismatch
            Other modalities than the model takes.
        EngineError, MemoryExhausted
            The network could not be run.
        """
        return self.synthesize(self.prepare(request), on_slices=on_slices)

    def prepare(self, request: Request, *, warn: Warn | None = None) -> PreparedCase:
        """Read and check a case: :func:`~tlp_runtime.synthesis.prepare.prepare` for this model."""
        return prepare(request, self.spec, warn=warn)

    def synthesize(
        self, prepared: PreparedCase, *, on_slices: Callable[[int, int], None] | None = None
    ) -> Synthesis:
        """Run a prepared case.

        Parameters
        ----------
        on_slices
            Called with (slices done, slices in all).

        Raises
        ------
        EngineError, MemoryExhausted
            The network could not be run.
        """
        works, batches = works_of(prepared), []
        total = sum(work.count for work in works)
        warnings: list[TLPWarning] = []
        began = time.perf_counter()
        for ran in self._batcher.run(works):
            batches.append((ran.count, ran.seconds))
            warnings += ran.warnings
            if on_slices is not None:
                on_slices(total - sum(work.left for work in works), total)
        return Synthesis.of(
            prepared,
            works,
            self.engine,
            engine_s=time.perf_counter() - began,
            batches=batches,
            warnings=warnings,
        )

    def run_slices(self, tensors: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
        """Run prepared (N, height, width) slices; returns as many, in [-1, 1]."""
        work = SliceWork(tensors, unit=False)
        for _ in self._batcher.run([work]):
            pass
        return work.images

    def close(self) -> None:
        """Release the engine."""
        self.engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
