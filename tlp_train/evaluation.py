"""A model against real T1ce images: the published protocol (section IV of the paper) and more."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlp_runtime.errors import InputError, InputMissing, RunTask
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
from tlp_train.metrics import (
    COLUMNS,
    ENHANCING,
    NORMAL_QUANTILE,
    WEAK,
    Float,
    LinearFit,
    Truth,
    Values,
    all_metrics,
    to_unit64,
)
from tlp_train.patients import CALLED, LEAST, Patients
from tlp_train.prompt_uses import PromptUse, prompted
from tlp_train.reference_rows import PUBLISHED, best_factor, learnt_factor, levels
from tlp_train.statistics import CONFIDENCE, FEW_CASES, Statistic

SCHEMA = 3
SYNTHESIS = "synthesis"


def needed_arrays(spec: ModelSpec, use: PromptUse = "seg") -> tuple[str, ...]:
    """What a case must have: the inputs, the T1 that enhancement is measured from, the T1ce.

    Without a prompt a case needs no segmentation; its measures of tumours are left out then.
    """
    images = (*spec.inputs, "t1", OUTPUT_NAME)
    return tuple(dict.fromkeys(images if use == "none" else (*images, "seg")))


@dataclass(frozen=True)
class CaseVoxels:
    """What a case was measured on, as hashes of whole volumes.

    Parameters
    ----------
    truth
        Of the T1ce.
    inputs
        Hashes of the model's and the metrics' other volumes, by array.
    """

    truth: str
    inputs: Mapping[str, str]


@dataclass(frozen=True)
class CaseResult:
    """One case: for each image (the synthesis and the reference rows) its metrics' values.

    Parameters
    ----------
    correlation
        Of T1 and T1ce over normal brain; None where one is constant.
    brought
        Whether it was brought to the model's grid.
    """

    name: str
    images: Mapping[str, Values]
    voxels: CaseVoxels
    correlation: float | None = None
    brought: bool = False


@dataclass(frozen=True)
class CaseMean:
    """One metric of one image of one case."""

    mean: float
    count: int


@dataclass(frozen=True)
class CaseMeans:
    """One case of an evaluation.

    Parameters
    ----------
    images
        Image, then metric key, to the mean.
    seen
        Whether the model was trained or chosen on this case; None where its bundle does not say.
    correlation
        Of T1 and T1ce over normal brain; None where one is constant.
    brought
        Whether it was brought to the model's grid.
    """

    images: Mapping[str, Mapping[str, CaseMean]]
    voxels: CaseVoxels
    seen: bool | None = None
    correlation: float | None = None
    brought: bool = False


@dataclass(frozen=True)
class Evaluation:
    """All cases of one model under one use of the prompt.

    Parameters
    ----------
    model, engine, prompt, data
        What was evaluated, on what.
    images
        ``synthesis`` first, then the reference rows.
    summary
        Image, then metric key, to its statistic over all cases.
    cases
        By name.
    patients
        By image, over the cases with a core; none where no label tells enhancement apart.
    """

    model: str
    engine: str
    prompt: str
    data: str
    images: tuple[str, ...]
    summary: Mapping[str, Mapping[str, Statistic]]
    cases: Mapping[str, CaseMeans]
    patients: Mapping[str, Patients] = field(default_factory=dict)

    @property
    def seen(self) -> tuple[str, ...]:
        """The cases that the model was trained or chosen on."""
        return tuple(name for name, case in self.cases.items() if case.seen)

    @property
    def brought(self) -> tuple[str, ...]:
        """The cases that were brought to the model's grid."""
        return tuple(name for name, case in self.cases.items() if case.brought)

    @property
    def weak(self) -> tuple[str, ...]:
        """The cases with a core whose T1 and T1ce correlate weakly over normal brain."""
        return tuple(
            name
            for name, case in self.cases.items()
            if (case.correlation is None or case.correlation < WEAK)
            and "enhancement.mae" in case.images[SYNTHESIS]
        )

    @classmethod
    def of(
        cls, results: Sequence[CaseResult], training_voxels: Collection[str] = (), **origin: str
    ) -> Evaluation:
        """Summarise case results, at least one.

        Parameters
        ----------
        training_voxels
            Hashes of the volumes the model was trained and chosen on; empty if they are not known.
        """
        known = frozenset(training_voxels)
        images = tuple(results[0].images)
        summary = {
            image: {
                column.key: Statistic.of([r.images[image].get(column.key, ()) for r in results])
                for column in COLUMNS
            }
            for image in images
        }
        cases = {
            result.name: CaseMeans(
                {
                    image: {
                        key: CaseMean(float(np.mean(held)), len(held))
                        for key, held in values.items()
                    }
                    for image, values in result.images.items()
                },
                result.voxels,
                _was_seen(result.voxels, known) if known else None,
                result.correlation,
                result.brought,
            )
            for result in results
        }
        patients = {image: _patients([r.images[image] for r in results]) for image in images}
        return cls(
            **origin,
            images=images,
            summary=summary,
            cases=cases,
            patients={image: found for image, found in patients.items() if found is not None},
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "schema": SCHEMA,
            "model": self.model,
            "engine": self.engine,
            "prompt": self.prompt,
            "data": self.data,
            "method": {
                "confidence": CONFIDENCE,
                "interval": f"Student's t up to {FEW_CASES} cases, then BCa bootstrap of cases",
                "enhancing_above": ENHANCING,
                "enhancement_fit": "ratio of medians over normal brain",
                "weak_below": WEAK,
                "enhancing_voxel_above_quantile_of_normal_brain": NORMAL_QUANTILE,
                "called_enhancing_above_share_of_core": CALLED,
                "patients_at_least_of_each": LEAST,
                "truth_intensity": asdict(PUBLISHED),
            },
            "images": list(self.images),
            "summary": {
                image: {key: asdict(statistic) for key, statistic in row.items()}
                for image, row in self.summary.items()
            },
            "cases": {name: asdict(case) for name, case in self.cases.items()},
            "patients": {image: asdict(found) for image, found in self.patients.items()},
        }

    @classmethod
    def read(cls, path: Path) -> Evaluation:
        """Read what ``tlp evaluate --json`` wrote.

        Raises
        ------
        InputMissing, InputError
            No such file, or not an evaluation of this version.
        """
        if not path.is_file():
            raise InputMissing(
                f"{path}: no such file, expected an evaluation as JSON",
                fix=RunTask("evaluate", (("json", str(path)),), "to make one"),
            )
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if data["schema"] != SCHEMA:
                raise InputError(
                    f"{path}: is an evaluation of format {data['schema']}, expected {SCHEMA}",
                    fix=RunTask("evaluate", purpose="again"),
                )
            return cls(
                **{key: str(data[key]) for key in ("model", "engine", "prompt", "data")},
                images=tuple(data["images"]),
                summary={
                    image: {key: _statistic(value) for key, value in row.items()}
                    for image, row in data["summary"].items()
                },
                cases={name: _case(value) for name, value in data["cases"].items()},
                patients={image: Patients(**value) for image, value in data["patients"].items()},
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path}: is not an evaluation as JSON ({error!r}).") from error


def _patients(rows: Sequence[Values]) -> Patients | None:
    keys = [f"patient.{name}_ml" for name in ("labelled", "made", "core")]
    held = [[row[key][0] for key in keys] for row in rows if keys[0] in row]
    return Patients.of(*zip(*held, strict=True)) if held else None


def _case(data: Mapping[str, Any]) -> CaseMeans:
    images = {
        image: {key: CaseMean(**value) for key, value in row.items()}
        for image, row in data["images"].items()
    }
    return CaseMeans(
        images, CaseVoxels(**data["voxels"]), data["seen"], data["correlation"],
        data.get("brought", False),
    )  # fmt: skip


def _was_seen(voxels: CaseVoxels, known: Collection[str]) -> bool:
    images = (value for name, value in voxels.inputs.items() if name != "seg")
    return voxels.truth in known or any(value in known for value in images)


def _statistic(data: Mapping[str, Any]) -> Statistic:
    interval = data["interval"]
    return Statistic(**{**data, "interval": None if interval is None else tuple(interval)})


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
    InputError
        A case that cannot be read or does not suit the model.
    UnknownLabels
        Labels without a meaning, or that schemes read differently.
    """
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
    brought
        Whether the case was brought to the model's grid.
    """

    truth: Truth
    tensors: Mapping[str, NDArray[np.float32]]
    given: Float
    levels: tuple[float, ...]
    rescaling: LinearFit
    brought: bool = False


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
    )
    own = case.own.get(OUTPUT_NAME, raw[OUTPUT_NAME])
    rescaling = _rescaling(raw[OUTPUT_NAME], own, spec, volumes[OUTPUT_NAME].name)
    first = spec.inputs[0]
    given = unit(first)
    held = raw[first][published] != background(volumes[first].data)
    thinned = (slice(None, None, 2),) * 3
    shown = levels(given[thinned], held[thinned])
    return EvaluationSlices(truth, tensors, given, shown, rescaling, case.brought)


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
        SYNTHESIS: slices.rescaling(to_unit64(synthesizer.run_slices(slices.tensors))),
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
