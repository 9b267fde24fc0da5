"""Two evaluations of the same cases, case by case."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tlp_runtime.errors import InputError
from tlp_train.evaluation import SYNTHESIS, Evaluation
from tlp_train.metrics import COLUMNS
from tlp_train.statistics import PairedDifference


@dataclass(frozen=True)
class Comparison:
    """Second minus first, for each metric that any case has under both."""

    first: Evaluation
    second: Evaluation
    differences: Mapping[str, PairedDifference]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""

        def origin(evaluation: Evaluation) -> dict[str, str]:
            return {key: getattr(evaluation, key) for key in ("model", "engine", "prompt", "data")}

        return {
            "first": origin(self.first),
            "second": origin(self.second),
            "cases": sorted(self.first.cases),
            "differences": {key: asdict(value) for key, value in self.differences.items()},
        }


def compare(first: Evaluation, second: Evaluation) -> Comparison:
    """Pair the cases of two evaluations.

    Raises
    ------
    InputError
        They are not of the same cases.
    """
    a, b = set(first.cases), set(second.cases)
    if a != b:
        raise InputError(
            "a paired comparison needs the same cases in both evaluations; only in the first: "
            f"{', '.join(sorted(a - b)) or 'none'}; only in the second: "
            f"{', '.join(sorted(b - a)) or 'none'}. Evaluate both models on one set."
        )
    differences = {}
    for column in COLUMNS:
        pairs = [
            (left[column.key].mean, right[column.key].mean)
            for left, right in (
                (first.cases[name][SYNTHESIS], second.cases[name][SYNTHESIS]) for name in sorted(a)
            )
            if column.key in left and column.key in right
        ]
        if pairs:
            lefts, rights = zip(*pairs, strict=True)
            differences[column.key] = PairedDifference.of(lefts, rights)
    return Comparison(first, second, differences)
