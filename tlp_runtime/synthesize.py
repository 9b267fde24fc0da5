"""One case: volumes in, a synthetic T1ce volume out on the same grid."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from tlp_runtime import prompt as prompts
from tlp_runtime.engines.base import Engine, Slices
from tlp_runtime.engines.select import Choice, Opening, choose
from tlp_runtime.errors import ContentError, MemoryExhausted, ModelMismatch, UsageError
from tlp_runtime.grid import (
    crop_slices,
    require_model_grid,
    require_same_grid,
    uncrop_slices,
)
from tlp_runtime.intensity import require_finite, scale, to_unit
from tlp_runtime.io.nifti import read_volume, write_volume
from tlp_runtime.models import find_bundle
from tlp_runtime.spec import PROMPT_NAME, ModelSpec
from tlp_runtime.volume import Volume

logger = logging.getLogger(__name__)

Source = str | Path | Volume

DEFAULT_BATCH = 4
DESCRIPTION = "SYNTHETIC T1ce by TLP, not acquired, no contrast agent; not for diagnosis"


@dataclass(frozen=True)
class Prepared:
    """A case as the network sees it.

    Parameters
    ----------
    reference
        The volume whose grid the output takes: the T1, else the T2, as it was given.
    oriented
        The same in the model's axis order.
    tensors
        (Z, height, width) float32 for each of the model's inputs, prompt included.
    brain
        (Z,) whether a slice holds brain; only those are run.
    """

    reference: Volume
    oriented: Volume
    tensors: Mapping[str, NDArray[np.float32]]
    brain: NDArray[np.bool_]


@dataclass(frozen=True)
class Synthesis:
    """A synthesized case.

    Parameters
    ----------
    volume
        float32 in [0, 1] on the reference's grid; exactly 0 outside the crop and in slices
        without brain.
    slices_run
        How many slices the network ran.
    seconds
        Wall time of each stage: ``read``, ``prepare``, ``engine``, ``restore``, and ``write``
        once saved.
    batches
        (slices, seconds) of each engine run.
    """

    volume: Volume
    prepared: Prepared
    slices_run: int
    seconds: dict[str, float]
    batches: tuple[tuple[int, float], ...] = field(default=(), repr=False)

    def save(self, path: Path | str, *, overwrite: bool = False) -> None:
        """Write the volume as NIfTI; its ``descrip`` says that the image is synthetic.

        Raises
        ------
        OutputError
            The file exists, or cannot be written.
        """
        with _timed(self.seconds, "write"):
            write_volume(self.volume, path, description=DESCRIPTION, overwrite=overwrite)


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
        on_slices: Callable[[int, int], None] | None = None,
    ) -> Synthesis:
        """Synthesise one case.

        Parameters
        ----------
        images
            The model's modalities, each a NIfTI path or a volume, on one grid.
        prompt
            A label map on the same grid, in any axis order; None prompts nothing.
        prompt_labels
            What labels mean, if not as in BraTS: ``tumour=1,4``, ``oedema=2``.
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
        with _timed(seconds, "prepare"):
            prepared = prepare(volumes, labels, self.spec, prompt_labels)
        with _timed(seconds, "engine"):
            slices, batches = self._run_brain(prepared, on_slices)
        with _timed(seconds, "restore"):
            volume = restore(slices, prepared, self.spec)
        return Synthesis(volume, prepared, int(prepared.brain.sum()), seconds, tuple(batches))

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
        indices = np.flatnonzero(prepared.brain)
        chosen = {name: array[indices] for name, array in prepared.tensors.items()}
        slices = np.zeros_like(next(iter(prepared.tensors.values())))
        batches, done = [], 0
        for image, elapsed in self._batches(chosen):
            slices[indices[done : done + len(image)]] = to_unit(image)
            done += len(image)
            batches.append((len(image), elapsed))
            if on_slices is not None:
                on_slices(done, len(indices))
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


def prepare(
    volumes: Mapping[str, Volume],
    labels: Volume | None,
    spec: ModelSpec,
    prompt_labels: Sequence[str] = (),
) -> Prepared:
    """Check one case and bring it to the network's axes, crop and scale.

    Raises
    ------
    GeometryError, ContentError, UsageError
        Grids that differ or do not suit the model; voxels or labels that cannot be used.
    """
    reference = volumes[spec.inputs[0]]
    code = prompts.with_labels(spec.prompt, prompt_labels)
    tensors: dict[str, NDArray[np.float32]] = {}
    brain = np.zeros(0, dtype=np.bool_)
    oriented_reference = reference.reoriented(spec.crop.orientation)
    for name, volume in volumes.items():
        require_finite(volume.data, volume.name)
        if not volume.data.any():
            raise ContentError(f"{volume.name}: is zero everywhere, expected an image of a brain.")
        require_same_grid(reference, volume)
        oriented = volume.reoriented(spec.crop.orientation)
        require_model_grid(oriented, spec.crop)
        slices = crop_slices(oriented, spec.crop)
        tensors[name] = scale(slices, spec.intensity, volume.name)
        held = (slices != 0).any(axis=(1, 2))
        brain = held if not brain.size else brain | held
        _warn_outside_crop(oriented, slices)
    if labels is None:
        tensors[PROMPT_NAME] = np.zeros_like(tensors[spec.inputs[0]])
    else:
        require_same_grid(reference, labels)
        oriented = labels.reoriented(spec.crop.orientation)
        # Encoded whole, so that an unknown label outside the crop is refused too.
        encoded = replace(oriented, data=prompts.encode(oriented.data, code, labels.name))
        tensors[PROMPT_NAME] = np.ascontiguousarray(crop_slices(encoded, spec.crop))
        if labels.data.any() and not tensors[PROMPT_NAME].any():
            raise ContentError(
                f"{labels.name}: the prompt lies wholly outside the part of the image the model "
                "sees. Draw it on the brain."
            )
    return Prepared(reference, oriented_reference, tensors, brain)


def restore(slices: NDArray[np.float32], prepared: Prepared, spec: ModelSpec) -> Volume:
    """Put (Z, height, width) slices back on the reference's own grid; 0 outside the crop."""
    data = uncrop_slices(slices, prepared.oriented.shape, spec.crop)
    return replace(prepared.oriented, data=data).restored_to(prepared.reference)


def _volume(source: Source) -> Volume:
    return source if isinstance(source, Volume) else read_volume(source)


def _warn_outside_crop(oriented: Volume, slices: NDArray[np.generic]) -> None:
    total, inside = np.count_nonzero(oriented.data), np.count_nonzero(slices)
    if inside < total:
        logger.warning(
            "%s: %.1f %% of its non-zero voxels lie outside the model's crop and are left 0.",
            oriented.name,
            100 * (total - inside) / total,
        )


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - began
