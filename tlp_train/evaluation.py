"""What an evaluation found: of each case, of all of them, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tlp_runtime.errors import InputError, InputMissing, RunTask
from tlp_train.metrics import (
    COLUMNS,
    ENHANCING,
    NORMAL_QUANTILE,
    WEAK,
    Values,
)
from tlp_train.patients import CALLED, LEAST, Patients
from tlp_train.reference_rows import PUBLISHED
from tlp_train.statistics import CONFIDENCE, FEW_CASES, Statistic

SCHEMA = 4
SYNTHESIS = "synthesis"


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
