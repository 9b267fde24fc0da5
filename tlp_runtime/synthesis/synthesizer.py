"""One case: volumes in, a synthetic T1ce volume out on the same grid."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from tlp_runtime.engines.base import Engine
from tlp_runtime.engines.select import Choice, Opening, choose
from tlp_runtime.errors import ModelMismatch
from tlp_runtime.geometry.volume import Volume
from tlp_runtime.io.scan import read_labels, read_scan
from tlp_runtime.models.choice import find_bundle
from tlp_runtime.spec.model import ModelSpec
from tlp_runtime.synthesis.batches import Batcher, Sheaf, Stack
from tlp_runtime.synthesis.prepare import Prepared, prepare, restore
from tlp_runtime.synthesis.provenance import describe
from tlp_runtime.synthesis.result import Synthesis, timed
from tlp_runtime.values.prompt import Prompt
from tlp_runtime.values.shapes import Shape

Source = str | Path | Volume

DEFAULT_BATCH = 4


@dataclass(frozen=True, kw_only=True)
class Request:
    """One case to synthesize.

    Parameters
    ----------
    images
        The model's modalities, each a volume, a NIfTI file, a folder with one DICOM series or a
        multi-frame file. The first one's grid is the output's; any orientation, spacing and field
        of view.
    prompt
        A label map, NIfTI or DICOM SEG; None prompts nothing.
    prompt_labels
        What labels mean, if not as in BraTS: ``tumour=1,4``, ``oedema=2``.
    shapes
        Spheres and boxes to prompt with, besides the map or alone.
    brain_mask
        Not 0 where the brain is, for scans with skull.
    resample
        Bring images, mask and prompt that lie on other grids over to the first image's; False
        refuses them.
    all_slices
        Run slices without brain too, which are 0 in the output otherwise.
    """

    images: Mapping[str, Source]
    prompt: Source | None = None
    prompt_labels: Sequence[str] = ()
    shapes: Sequence[Shape] = ()
    brain_mask: Source | None = None
    resample: bool = False
    all_slices: bool = False


@dataclass(frozen=True)
class Inputs:
    """A case whose files were read.

    Parameters
    ----------
    seconds
        Of the stages so far.
    """

    request: Request
    images: Mapping[str, Volume]
    labels: Volume | None
    brain_mask: Volume | None
    seconds: dict[str, float] = field(repr=False)


@dataclass(frozen=True)
class Ready:
    """A case that can be run."""

    inputs: Inputs
    prepared: Prepared
    seconds: dict[str, float] = field(repr=False)


def read(request: Request, spec: ModelSpec) -> Inputs:
    """Read a case's files.

    Raises
    ------
    InputError
        A missing or damaged image or prompt.
    ModelMismatch
        Other modalities than the model takes.
    """
    seconds: dict[str, float] = {}
    given = request.images
    if set(given) != set(spec.inputs):
        raise ModelMismatch(
            f"this model takes {', '.join(spec.inputs)}; got {', '.join(given) or 'nothing'}."
        )
    with timed(seconds, "read"):
        images = {name: _image(given[name]) for name in spec.inputs}
        reference, by_number = images[spec.inputs[0]], bool(request.prompt_labels)
        labels = _labels(request.prompt, reference, by_number=by_number)
        mask = _labels(request.brain_mask, reference, by_number=True)
    return Inputs(request, images, labels, mask, seconds)


def make_ready(inputs: Inputs, spec: ModelSpec) -> Ready:
    """Check a case and bring it to the network's grid, crop and scale.

    Raises
    ------
    InputError
        An image or prompt that is not suited.
    """
    request, seconds = inputs.request, dict(inputs.seconds)
    with timed(seconds, "prepare"):
        prepared = prepare(
            inputs.images,
            spec,
            prompt=Prompt(inputs.labels, tuple(request.prompt_labels), tuple(request.shapes)),
            brain_mask=inputs.brain_mask,
            resample=request.resample,
            all_slices=request.all_slices,
        )
    return Ready(inputs, prepared, seconds)


def finish(ready: Ready, stack: Stack, engine: Engine) -> Synthesis:
    """Put a case's slices back on the grid of its reference, and say how they were made."""
    inputs, prepared, seconds = ready.inputs, ready.prepared, dict(ready.seconds)
    request = inputs.request
    with timed(seconds, "restore"):
        volume = restore(stack.slices, prepared)
    record = describe(
        inputs.images,
        labels=inputs.labels,
        meaning=request.prompt_labels,
        shapes=[str(shape) for shape in request.shapes],
        brain_mask=inputs.brain_mask,
        all_slices=request.all_slices,
        placement=prepared.placement,
        engine=engine,
    )
    run = int(prepared.brain.sum())
    return Synthesis(volume, prepared, stack.slices, run, seconds, record=record)


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
        self.engine = engine
        self._batcher = Batcher(engine, batch)

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

    @property
    def batch(self) -> int:
        """Slices a run of the engine, as it is now."""
        return self._batcher.batch

    def run(
        self,
        images: Mapping[str, Source],
        *,
        prompt: Source | None = None,
        prompt_labels: Sequence[str] = (),
        shapes: Sequence[Shape] = (),
        brain_mask: Source | None = None,
        resample: bool = False,
        all_slices: bool = False,
        on_slices: Callable[[int, int], None] | None = None,
    ) -> Synthesis:
        """Synthesise one case.

        Parameters
        ----------
        images, prompt, prompt_labels, shapes, brain_mask, resample, all_slices
            As of :class:`Request`.
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
        request = Request(
            images=images,
            prompt=prompt,
            prompt_labels=prompt_labels,
            shapes=shapes,
            brain_mask=brain_mask,
            resample=resample,
            all_slices=all_slices,
        )
        ready = make_ready(read(request, self.spec), self.spec)
        stack, batches = Stack(ready.prepared), []
        with timed(ready.seconds, "engine"):
            for ran in self._batcher.run([stack]):
                batches.append((ran.count, ran.seconds))
                if on_slices is not None:
                    on_slices(stack.count - stack.left, stack.count)
        return replace(finish(ready, stack, self.engine), batches=tuple(batches))

    def run_slices(self, tensors: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
        """Run prepared (N, height, width) slices; returns as many, in [-1, 1]."""
        sheaf = Sheaf(tensors)
        for _ in self._batcher.run([sheaf]):
            pass
        return sheaf.images

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


def _image(source: Source) -> Volume:
    return source if isinstance(source, Volume) else read_scan(Path(source)).volume


def _labels(source: Source | None, scan: Volume, *, by_number: bool) -> Volume | None:
    if source is None or isinstance(source, Volume):
        return source
    return read_labels(Path(source), scan.grid, by_number=by_number)
