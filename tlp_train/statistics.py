"""Means, their uncertainty over cases, and the paired comparison of two models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import wilcoxon

RESAMPLES = 10_000
CONFIDENCE = 0.95
SIGNIFICANT = 0.05
"""A p-value below it, with an interval that leaves out 0, is called a difference."""

_SEED = 0


@dataclass(frozen=True)
class Statistic:
    """A metric over a set of cases.

    Parameters
    ----------
    mean, sd
        Over all values of all cases; the standard deviation is the population's. None over none.
    count
        Values.
    cases
        Cases that have any.
    interval
        Percentile bootstrap interval of the mean at :data:`CONFIDENCE`, resampling cases: slices
        of one patient are not independent. None with fewer than two cases.
    """

    mean: float | None
    sd: float | None
    count: int
    cases: int
    interval: tuple[float, float] | None

    @classmethod
    def of(cls, values: Sequence[Sequence[float]]) -> Statistic:
        """Over the values of each case, one or many a case."""
        held = [case for case in values if len(case)]
        if not held:
            return cls(None, None, 0, 0, None)
        every = np.concatenate([np.asarray(case, np.float64) for case in held])
        sums = np.array([sum(case) for case in held])
        counts = np.array([len(case) for case in held], np.float64)
        return cls(
            float(every.mean()), float(every.std()), len(every), len(held), _interval(sums, counts)
        )


def _interval(sums: np.ndarray, counts: np.ndarray) -> tuple[float, float] | None:
    """Of the ratio of totals, since cases may hold different numbers of values."""
    if len(sums) < 2:
        return None
    drawn = np.random.default_rng(_SEED).integers(len(sums), size=(RESAMPLES, len(sums)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, (tail, 1 - tail))
    return float(low), float(high)


@dataclass(frozen=True)
class PairedDifference:
    """Second minus first over the cases that both have a value for.

    Parameters
    ----------
    mean
        Mean difference of the cases' means.
    interval
        Its bootstrap interval over cases; None with fewer than two.
    p_value
        Two-sided Wilcoxon signed-rank test; 1 where no case differs. It cannot fall below
        2 / 2^cases: with five cases nothing is significant at 0.05.
    """

    first: float
    second: float
    mean: float
    interval: tuple[float, float] | None
    p_value: float
    cases: int

    @property
    def sign(self) -> int:
        """1 or -1 where the second is larger or smaller, 0 where chance may have done that."""
        if self.interval is None or self.p_value >= SIGNIFICANT:
            return 0
        low, high = self.interval
        return int(low > 0) - int(high < 0)

    @classmethod
    def of(cls, first: ArrayLike, second: ArrayLike) -> PairedDifference:
        """From paired case means, at least one."""
        a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
        differences = b - a
        p_value = float(wilcoxon(differences).pvalue) if differences.any() else 1.0
        return cls(
            float(a.mean()),
            float(b.mean()),
            float(differences.mean()),
            _interval(differences, np.ones(len(differences))),
            p_value,
            len(differences),
        )
