"""One case: volumes in, a synthetic T1ce volume out on the same grid."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tlp_runtime.engines.base import Engine, Slices
from tlp_runtime.engines.select import Choice, Opening, choose
from tlp_runtime.errors import MemoryExhausted, ModelMismatch, UsageError
from tlp_runtime.intensity import to_unit
from tlp_runtime.io.atomic import require_writable, write_text
from tlp_runtime.io.nifti import read_volume, require_nifti_name, sidecar, write_volume
from tlp_runtime.models import find_bundle
from tlp_runtime.prepare import Prepared, prepare, restore
from tlp_runtime.prompt import Prompt
from tlp_runtime.provenance import DESCRIPTION, describe, in_short, now
from tlp_runtime.shapes import Shape
from tlp_runtime.spec import ModelSpec
from tlp_runtime.volume import Volume

logger = logging.getLogger(__name__)

Source = str | Path | Volume

DEFAULT_BATCH = 4


@dataclass(frozen=True)
class Synthesis:
    """A synthesized case.

    Parameters
    ----------
    volume
        float32 in [0, 1] on the reference's grid; exactly 0 outside the placement and in slices
        without brain, and outside the brain too if it was interpolated.
    slices
        (Z, Y, X) float32: the same on the model's grid, as ``prepared.placement`` lays it.
    slices_run
        How many slices the network ran, each in all windows of the placement.
    seconds
        Wall time of each stage: ``read``, ``prepare``, ``engine``, ``restore``, and ``write``
        once saved.
    batches
        (slices, seconds) of each engine run.
    record
        How it was made, as plain values: inputs and their hashes, model, engine, versions.
    """

    volume: Volume
    prepared: Prepared
    slices: NDArray[np.float32] = field(repr=False)
    slices_run: int
    seconds: dict[str, float]
    batches: tuple[tuple[int, float], ...] = field(default=(), repr=False)
    record: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def save(
        self,
        path: Path | str,
        *,
        overwrite: bool = False,
        command: str | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Write the volume as NIfTI and its provenance as JSON of the same stem beside it.

        The header's ``descrip`` says that the image is synthetic, a comment extension holds the
        provenance in short.

        Parameters
        ----------
        command
            The command line, for the record.
        extra
            Further keys of the JSON, before the others.

        Returns
        -------
        What the JSON holds.

        Raises
        ------
        OutputError
            A file exists, or cannot be written.
        """
        path = require_nifti_name(path)
        require_writable(sidecar(path), overwrite=overwrite)
        with self.timed("write"):
            write_volume(
                self.volume,
                path,
                description=DESCRIPTION,
                comment=in_short(self.record),
                overwrite=overwrite,
            )
        return self.save_record(path, overwrite=overwrite, command=command, extra=extra)

    def timed(self, stage: str) -> AbstractContextManager[None]:
        """Count what follows as a stage in ``seconds``."""
        return _timed(self.seconds, stage)

    def save_record(
        self,
        output: Path,
        *,
        overwrite: bool = False,
        command: str | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Write the provenance beside ``output``, and return it. Raises :class:`OutputError`."""
        record = {
            **(extra or {}),
            "output": str(output),
            **self.record,
            "slices": self.slices_run,
            "seconds": self.seconds,
            "command": command,
            "time": now(),
        }
        write_text(sidecar(output), json.dumps(record, indent=2) + "\n", overwrite=overwrite)
        return record


class Synthesizer:
    """A model in an engine, ready for any number of cases. A context manager.

    >>> with Synthesizer.open() as synthesizer:          # doctest: +SKIP
    ...     synthesizer.run({"t1": "a.nii.gz"}, prompt="roi.nii.gz").save("out.nii.gz")

    Parameters
    ----------
    engine
        An opened engine; :meth:`open` finds one.
    batch
        Slices a run of the engine. Halved, with a warning, when the device's memory runs out.
    """

    def __init__(self, engine: Engine, *, batch: int = DEFAULT_BATCH) -> None:
        if batch < 1:
            raise UsageError(f"--batch {batch}: expected at least 1.")
        self.engine = engine
        self.batch = batch

    @classmethod
    def open(
        cls,
        model: str | Path | None = None,
        *,
        inputs: Sequence[str] | None = None,
        engine: str = "auto",
        device: str = "auto",
        batch: int = DEFAULT_BATCH,
        opening: Opening | None = None,
    ) -> Self:
        """Load a model into an engine.

        Parameters
        ----------
        model
            A bundle's folder or a registered name; None takes the default or the newest that fits.
        inputs
            The modalities that will be given, to choose and check the model by.
        engine, device
            As ``--engine`` and ``--device``.
        opening
            CPU threads, and whether an engine may be built.

        Raises
        ------
        ModelError
            No such model, a damaged one, or one for other inputs.
        DeviceError
            The engine or device asked for cannot be used.
        """
        choice: Choice = choose(engine, device)
        bundle, _ = find_bundle(None if model is None else str(model), inputs)
        return cls(choice.open(bundle, opening), batch=batch)

    @property
    def spec(self) -> ModelSpec:
        """What the model means."""
        return self.engine.spec

    def run(
        self,
        images: Mapping[str, Source],
        *,
        prompt: Source | None = None,
        prompt_labels: Sequence[str] = (),
        shapes: Sequence[Shape] = (),
        brain_mask: Source | None = None,
        resample: bool = False,
        on_slices: Callable[[int, int], None] | None = None,
    ) -> Synthesis:
        """Synthesise one case.

        Parameters
        ----------
        images
            The model's modalities, each a NIfTI path or a volume. The first one's grid is the
            output's; any orientation, spacing and field of view.
        prompt
            A label map; None prompts nothing.
        prompt_labels
            What labels mean, if not as in BraTS: ``tumour=1,4``, ``oedema=2``.
        shapes
            Spheres and boxes to prompt with, besides the map or alone.
        brain_mask
            Not 0 where the brain is, for scans with skull.
        resample
            Bring images, mask and prompt that lie on other grids over to the first image's; False
            refuses them.
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
        seconds: dict[str, float] = {}
        if set(images) != set(self.spec.inputs):
            raise ModelMismatch(
                f"this model takes {', '.join(self.spec.inputs)}; got "
                f"{', '.join(images) or 'nothing'}."
            )
        with _timed(seconds, "read"):
            volumes = {name: _volume(images[name]) for name in self.spec.inputs}
            labels = None if prompt is None else _volume(prompt)
            mask = None if brain_mask is None else _volume(brain_mask)
        with _timed(seconds, "prepare"):
            prepared = prepare(
                volumes,
                self.spec,
                prompt=Prompt(labels, tuple(prompt_labels), tuple(shapes)),
                brain_mask=mask,
                resample=resample,
            )
        with _timed(seconds, "engine"):
            slices, batches = self._run_brain(prepared, on_slices)
        with _timed(seconds, "restore"):
            volume = restore(slices, prepared)
        run = int(prepared.brain.sum())
        record = describe(
            volumes,
            labels=labels,
            meaning=prompt_labels,
            shapes=[str(shape) for shape in shapes],
            brain_mask=mask,
            placement=prepared.placement,
            engine=self.engine,
        )
        return Synthesis(volume, prepared, slices, run, seconds, tuple(batches), record)

    def run_slices(self, tensors: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
        """Run prepared (N, height, width) slices; returns as many, in [-1, 1]."""
        parts = [image for image, _ in self._batches(tensors)]
        return np.concatenate(parts)

    def _batches(
        self, tensors: Mapping[str, NDArray[np.float32]]
    ) -> Iterator[tuple[NDArray[np.float32], float]]:
        """Each batch's slices and the seconds since the one before."""
        count, done = len(next(iter(tensors.values()))), 0
        while done < count:
            began = time.perf_counter()
            try:
                for image in self.engine.run_batches(self._feeds(tensors, done)):
                    ended = time.perf_counter()
                    done += len(image)
                    yield image[:, 0], ended - began
                    began = time.perf_counter()
            except MemoryExhausted as error:
                if self.batch == 1:
                    raise
                self.batch //= 2
                logger.warning("%s Going on with batches of %d.", error, self.batch)

    def _feeds(
        self, tensors: Mapping[str, NDArray[np.float32]], start: int
    ) -> Iterator[dict[str, Slices]]:
        count = len(next(iter(tensors.values())))
        for first in range(start, count, self.batch):
            yield {
                name: np.ascontiguousarray(tensors[name][first : first + self.batch, None])
                for name in self.spec.tensor_names
            }

    def _run_brain(
        self, prepared: Prepared, on_slices: Callable[[int, int], None] | None
    ) -> tuple[NDArray[np.float32], list[tuple[int, float]]]:
        """[0, 1] for every slice, 0 where none was run, and the time of each batch."""
        placement, indices = prepared.placement, np.flatnonzero(prepared.brain)
        height, width = placement.window
        slices = np.zeros_like(next(iter(prepared.tensors.values())))
        windows = len(placement.corners)
        weights = placement.weights if windows > 1 else None
        batches, done = [], 0
        for number, (top, left) in enumerate(placement.corners):
            part = (slice(None), slice(top, top + height), slice(left, left + width))
            chosen = {name: array[part][indices] for name, array in prepared.tensors.items()}
            first = done
            for image, elapsed in self._batches(chosen):
                where = indices[done - first : done - first + len(image)]
                if weights is None:
                    slices[where] = to_unit(image)
                else:
                    slices[part][where] += to_unit(image) * weights[number]
                done += len(image)
                batches.append((len(image), elapsed))
                if on_slices is not None:
                    on_slices(done, windows * len(indices))
        return slices, batches

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


def _volume(source: Source) -> Volume:
    return source if isinstance(source, Volume) else read_volume(source)


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - began
