"""A model against real T1ce images: the published protocol (section IV of the paper) and more."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlp_runtime.errors import InputError, ModelMismatch, SetOption
from tlp_runtime.geometry.crop import crop_slices
from tlp_runtime.geometry.volume import Volume
from tlp_runtime.io.case_files import CaseFiles
from tlp_runtime.io.nifti import read_volume
from tlp_runtime.spec.model import OUTPUT_NAME, PROMPT_NAME, ModelSpec
from tlp_runtime.synthesis.prepare import prepare_published
from tlp_runtime.synthesis.published import on_published_grid
from tlp_runtime.synthesis.request import Prompt, Request
from tlp_runtime.synthesis.synthesizer import Synthesizer
from tlp_runtime.values.intensity import background, limits, require_numbers, scale
from tlp_runtime.values.prompt import ENHANCING as ENHANCING_LABELS
from tlp_runtime.values.prompt import (
    NO_LABELS,
    Labels,
    encode,
    require_one_scheme,
    require_region,
    rounded,
    with_labels,
)
from tlp_train.evaluation import SYNTHESIS, CaseResult, CaseVoxels, Evaluation
from tlp_train.metrics import (
    Float,
    LinearFit,
    Mask,
    Truth,
    all_metrics,
    to_unit64,
)
from tlp_train.prompt_uses import PromptUse, prompted
from tlp_train.reference_rows import PUBLISHED, best_factor, learnt_factor, levels


def needed_arrays(spec: ModelSpec, use: PromptUse = "seg") -> tuple[str, ...]:
    """What a case must have: the inputs, the T1 that enhancement is measured from, the T1ce.

    Without a prompt a case needs no segmentation; its measures of tumours are left out then.
    """
    images = (*spec.inputs, "t1", OUTPUT_NAME)
    return tuple(dict.fromkeys(images if use == "none" else (*images, "seg")))


def evaluate(
    synthesizer: Synthesizer,
    cases: Sequence[CaseFiles],
    prompt: PromptUse,
    *,
    model: str,
    data: str,
    training_voxels: Collection[str] = (),
    learnt: Sequence[float] | None = None,
    labels: Labels = NO_LABELS,
    on_case: Callable[[str], None] | None = None,
) -> Evaluation:
    """Run every case's published slices and compare them with its T1ce.

    Parameters
    ----------
    cases
        At least one, with :func:`needed_arrays`, and with ``seg`` where it is there.
    prompt
        What the model is told, as :func:`~tlp_train.prompt_uses.prompted` makes it.
    model, data
        For the record.
    training_voxels
        Hashes of the volumes the model was trained and chosen on; empty if they are not known.
    learnt
        What :func:`~tlp_train.reference_rows.learn` made of its training cases; without it there is
        no such row.
    labels
        What labels of segmentations mean, if not as the model's.

    Raises
    ------
    ModelMismatch
        The model takes no prompt, and is to be told one.
    InputError
        A case that cannot be read or does not suit the model.
    UnknownLabels
        Labels without a meaning, or that schemes read differently.
    """
    require_prompt_use(synthesizer.spec, prompt)
    code = with_labels(synthesizer.spec.prompt, labels)
    found: set[int] = set()
    for case in cases:
        if "seg" in case.files:
            drawn = read_volume(case.files["seg"])
            encode(drawn.data, code, drawn.name)
            found.update(np.unique(rounded(drawn.data)).astype(int).tolist())
    require_one_scheme(found, data, code)
    results = []
    for case in cases:
        results.append(_evaluate_case(synthesizer, case, prompt, learnt, labels))
        if on_case is not None:
            on_case(case.name)
    return Evaluation.of(
        results, training_voxels,
        model=model, engine=synthesizer.engine.name, prompt=prompt, data=data,
    )  # fmt: skip


def require_prompt_use(spec: ModelSpec, use: PromptUse) -> None:
    """Raise :class:`ModelMismatch` where a model that takes no prompt is to be told one."""
    if use != "none" and not spec.network.prompt:
        raise ModelMismatch(
            f"prompt {use}: this model takes no prompt; it was trained without one",
            fix=SetOption("prompt", "none"),
        )


def read_case(case: CaseFiles, spec: ModelSpec) -> dict[str, Volume]:
    """The volumes of a case that :func:`evaluation_slices` takes, by array."""
    wanted = (name for name in needed_arrays(spec) if name != "seg" or name in case.files)
    return {name: read_volume(case.files[name]) for name in wanted}


@dataclass(frozen=True)
class EvaluationSlices:
    """The published slices of a case, (Z, H, W); all with brain of one brought to the grid.

    Parameters
    ----------
    truth
        In the published scale, whatever the model's is.
    tensors
        The network's, in its own scale.
    given
        Unit values of the first input in the published scale.
    levels
        What its histogram shows, as in training.
    rescaling
        From a synthesis's unit values to the published scale of the true T1ce; for a model of that
        scale nothing is changed, unless the T1ce was interpolated.
    held
        Where the first input shows something.
    floor
        What the background of the true T1ce is in the published scale.
    brought
        Whether the case was brought to the model's grid.
    """

    truth: Truth
    tensors: Mapping[str, NDArray[np.float32]]
    given: Float
    levels: tuple[float, ...]
    rescaling: LinearFit
    held: Mask
    floor: float
    brought: bool = False

    def published(self, unit: Float, z: int | slice = slice(None)) -> Float:
        """A synthesis's unit values in the published scale; of slice ``z`` alone, or of all.

        A rule by percentiles has the brain's darkest voxel and the background around it at its low
        end. Where the input shows nothing, that end is the background.
        """
        values: Float = np.where(
            self.held[z], self.rescaling(unit), self.floor + self.rescaling.gain * unit
        )
        return values


def evaluation_slices(
    volumes: Mapping[str, Volume],
    spec: ModelSpec,
    use: PromptUse,
    name: str,
    labels: Labels = NO_LABELS,
) -> EvaluationSlices:
    """What a synthesis of a case is made from and held against; ``name`` is the case's."""
    case = on_published_grid(volumes, spec, name)
    volumes, published = case.volumes, slice(*case.slices)
    images = {array: volumes[array] for array in spec.inputs}
    prompt = Prompt(volumes.get("seg"), labels)
    prepared = prepare_published(Request(images=images, prompt=prompt), spec, case.own)

    raw = {array: _cropped(volumes[array], spec) for array in needed_arrays(spec, "none")}

    def unit(array: str) -> Float:
        return to_unit64(scale(raw[array], PUBLISHED, volumes[array].name)[published])

    tensors = {name: array[published] for name, array in prepared.tensors.items()}
    exact = tensors[PROMPT_NAME]
    if "seg" in volumes:
        require_region(exact, raw[spec.inputs[0]][published] != 0, volumes["seg"].name)
    tensors[PROMPT_NAME] = prompted(exact, use, spec.prompt, name)
    around = background(volumes[OUTPUT_NAME].data)
    marks = ENHANCING_LABELS.get(with_labels(spec.prompt, labels).scheme)
    enhancing = None
    if "seg" in volumes and marks is not None:
        drawn = _cropped(volumes["seg"], spec)[published]
        enhancing = np.isin(rounded(drawn), marks)
    truth = Truth(
        t1ce=unit(OUTPUT_NAME),
        t1=unit("t1"),
        brain=raw[OUTPUT_NAME][published] != around,
        core=exact == spec.prompt.tumour_value,
        oedema=exact == spec.prompt.oedema_value,
        enhancing=enhancing,
        voxel_ml=prepared.reference.grid.voxel_ml,
        prompted=tensors[PROMPT_NAME] == spec.prompt.tumour_value,
    )
    own = case.own.get(OUTPUT_NAME, raw[OUTPUT_NAME])
    low, high = limits(raw[OUTPUT_NAME], PUBLISHED, volumes[OUTPUT_NAME].name)
    floor = (around - low) / (high - low)
    rescaling = _rescaling(raw[OUTPUT_NAME], own, spec, volumes[OUTPUT_NAME].name)
    first = spec.inputs[0]
    given = unit(first)
    held = raw[first][published] != background(volumes[first].data)
    thinned = (slice(None, None, 2),) * 3
    shown = levels(given[thinned], held[thinned])
    return EvaluationSlices(truth, tensors, given, shown, rescaling, held, floor, case.brought)


def _rescaling(t1ce: NDArray[Any], own: NDArray[Any], spec: ModelSpec, name: str) -> LinearFit:
    """From the scale that a model was trained to give, of the scan's ``own`` voxels."""
    if spec.intensity == PUBLISHED and own is t1ce:
        return LinearFit(1.0, 0.0)
    low, high = limits(t1ce, PUBLISHED, name)
    model_low, model_high = limits(own, spec.intensity, name)
    return LinearFit((model_high - model_low) / (high - low), (model_low - low) / (high - low))


def _evaluate_case(
    synthesizer: Synthesizer,
    case: CaseFiles,
    use: PromptUse,
    learnt: Sequence[float] | None,
    labels: Labels,
) -> CaseResult:
    spec = synthesizer.spec
    volumes = read_case(case, spec)
    slices = evaluation_slices(volumes, spec, use, case.name, labels)
    truth, given, first = slices.truth, slices.given, spec.inputs[0]
    images: dict[str, Float] = {
        SYNTHESIS: slices.published(to_unit64(synthesizer.run_slices(slices.tensors))),
        f"{first} copied": given,
    }
    if learnt is not None:
        images[f"{first} x learnt factor"] = given * learnt_factor(learnt, slices.levels)
    images[f"{first} x best factor (oracle)"] = given * best_factor(given, truth.t1ce)
    hashes = {name: volume.voxels_sha256() for name, volume in volumes.items()}
    return CaseResult(
        case.name,
        {name: all_metrics(truth, image) for name, image in images.items()},
        CaseVoxels(hashes.pop(OUTPUT_NAME), hashes),
        truth.correlation,
        slices.brought,
    )


def _cropped(volume: Volume, spec: ModelSpec) -> NDArray[Any]:
    """Raw voxels of the crop, (Z, H, W), finite."""
    require_numbers(volume.data, volume.name)
    return crop_slices(volume.reoriented(spec.crop.orientation), spec.crop)


def select_cases(
    cases: Sequence[CaseFiles], wanted: Iterable[str], source: Path, data: Path
) -> list[CaseFiles]:
    """The cases of those names.

    Raises
    ------
    InputError
        None is wanted, or some are not there; every one is named.
    """
    wanted = list(wanted)
    found = {case.name: case for case in cases}
    absent = [name for name in wanted if name not in found]
    if absent or not wanted:
        raise InputError(
            f"{source}: its test part has {len(wanted)} cases, of which {len(absent)} are not in "
            f"{data}: {', '.join(absent)}"
        )
    return [found[name] for name in wanted]
