"""Two evaluations of the same cases, case by case."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tlp_runtime.errors import InputError
from tlp_train.evaluation import SYNTHESIS, Evaluation
from tlp_train.metrics import COLUMNS
from tlp_train.statistics import PairedDifference


@dataclass(frozen=True)
class Comparison:
    """Second minus first, for each metric that any case has under both.

    Parameters
    ----------
    pairs
        Names of the cases in the first and in the second, paired by the voxels of their T1ce.
    inputs_differ
        Arrays other than the T1ce whose voxels differ, by the case's name in the first.
    """

    first: Evaluation
    second: Evaluation
    pairs: tuple[tuple[str, str], ...]
    inputs_differ: Mapping[str, tuple[str, ...]]
    differences: Mapping[str, PairedDifference]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""

        def origin(evaluation: Evaluation) -> dict[str, str]:
            return {key: getattr(evaluation, key) for key in ("model", "engine", "prompt", "data")}

        return {
            "first": origin(self.first),
            "second": origin(self.second),
            "cases": [list(pair) for pair in self.pairs],
            "inputs_differ": {name: list(arrays) for name, arrays in self.inputs_differ.items()},
            "differences": {key: asdict(value) for key, value in self.differences.items()},
        }


def compare(first: Evaluation, second: Evaluation) -> Comparison:
    """Pair the cases of two evaluations by the voxels of their T1ce, whatever their names.

    Raises
    ------
    InputError
        They are not of the same cases, or one has the same T1ce twice.
    """
    pairs = _pairs(first, second)
    differ = {}
    for left, right in pairs:
        ours, theirs = (
            evaluation.cases[name].voxels.inputs
            for evaluation, name in ((first, left), (second, right))
        )
        arrays = tuple(name for name in ours if name in theirs and ours[name] != theirs[name])
        if arrays:
            differ[left] = arrays
    differences = {}
    for column in COLUMNS:
        values = [
            (one[column.key].mean, other[column.key].mean)
            for one, other in (
                (first.cases[left].images[SYNTHESIS], second.cases[right].images[SYNTHESIS])
                for left, right in pairs
            )
            if column.key in one and column.key in other
        ]
        if values:
            lefts, rights = np.array(values).T
            if column.better == "zero":
                lefts, rights = abs(lefts), abs(rights)
            differences[column.key] = PairedDifference.of(lefts, rights)
    return Comparison(first, second, pairs, differ, differences)


def _pairs(first: Evaluation, second: Evaluation) -> tuple[tuple[str, str], ...]:
    """Names of the same case in both, in the order of the first's names."""
    left, right = (_by_truth(evaluation) for evaluation in (first, second))
    if left.keys() != right.keys():
        alone = [
            sorted(a[t] for t in a.keys() - b.keys()) for a, b in ((left, right), (right, left))
        ]
        both = set(alone[0]) & set(alone[1])
        same = f" ({', '.join(sorted(both))}: the same name, another T1ce)" if both else ""
        raise InputError(
            "a paired comparison needs the same cases in both evaluations; only in the first: "
            f"{', '.join(alone[0]) or 'none'}; only in the second: "
            f"{', '.join(alone[1]) or 'none'}{same}. Evaluate both models on one set."
        )
    return tuple(sorted((name, right[truth]) for truth, name in left.items()))


def _by_truth(evaluation: Evaluation) -> dict[str, str]:
    names: dict[str, str] = {}
    for name, case in evaluation.cases.items():
        other = names.setdefault(case.voxels.truth, name)
        if other != name:
            raise InputError(
                f"an evaluation of {evaluation.model} has the same T1ce twice, as {other} and "
                f"{name}; a case counts once. Evaluate without one of them."
            )
    return names
