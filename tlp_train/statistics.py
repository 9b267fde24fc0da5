"""Means, their uncertainty over cases and seeds, and the paired comparison of two models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import bootstrap, t, wilcoxon

FEW_CASES = 30
"""Up to so many cases intervals are Student's, beyond them SciPy's bootstrap."""

RESAMPLES = 9_999
CONFIDENCE = 0.95
SIGNIFICANT = 0.05
"""A p-value below it, with an interval that leaves out 0, is called a difference."""

Float = NDArray[np.float64]
Interval = tuple[float, float]

_SEED = 0
_TAIL = (1 - CONFIDENCE) / 2


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
        Of the mean at :data:`CONFIDENCE`, by :func:`interval`. None with fewer than two cases.
    """

    mean: float | None
    sd: float | None
    count: int
    cases: int
    interval: Interval | None

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
            float(every.mean()), float(every.std()), len(every), len(held), interval(sums, counts)
        )


def interval(sums: ArrayLike, counts: ArrayLike) -> Interval | None:
    """Confidence interval of a mean over values, from the sum and number of each case's values.

    Cases are the units: slices of one patient are not independent. Up to :data:`FEW_CASES` it is
    Student's interval of the ratio of totals (Cochran, Sampling Techniques, 1977, 6.19), which is
    the plain one where every case has one value; beyond, SciPy's bias-corrected and accelerated
    bootstrap over cases. None with fewer than two cases.
    """
    sums, counts = np.asarray(sums, np.float64), np.asarray(counts, np.float64)
    cases, mean = len(sums), float(sums.sum() / counts.sum())
    if cases < 2:
        return None
    residuals = sums - mean * counts
    error = float(np.sqrt(cases / (cases - 1) * np.square(residuals).sum()) / counts.sum())
    if cases <= FEW_CASES or error <= 1e-12 * abs(mean):  # the bootstrap of a constant is NaN
        half = float(t.ppf(1 - _TAIL, cases - 1)) * error
        return mean - half, mean + half
    found = bootstrap(
        (sums, counts), _ratio, paired=True, vectorized=True, n_resamples=RESAMPLES, batch=1000,
        confidence_level=CONFIDENCE, method="BCa", rng=np.random.default_rng(_SEED),
    ).confidence_interval  # fmt: skip
    return float(found.low), float(found.high)


def _ratio(sums: Float, counts: Float, axis: int = -1) -> Float:
    ratio: Float = sums.sum(axis=axis) / counts.sum(axis=axis)
    return ratio


@dataclass(frozen=True)
class PairedDifference:
    """Second minus first over the cases that both have a value for.

    Parameters
    ----------
    mean
        Mean difference of the cases' means.
    interval
        Its :func:`interval` over cases; None with fewer than two.
    p_value
        Two-sided Wilcoxon signed-rank test; 1 where no case differs. It cannot fall below
        2 / 2^cases: with five cases nothing is significant at 0.05.
    """

    first: float
    second: float
    mean: float
    interval: Interval | None
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
            interval(differences, np.ones(len(differences))),
            p_value,
            len(differences),
        )


@dataclass(frozen=True)
class SeededDifference:
    """Second minus first where both were trained several times and tested on the same cases.

    Parameters
    ----------
    mean
        Mean over seeds and cases.
    interval
        At :data:`CONFIDENCE`, for other seeds and other cases; None with fewer than two seeds of
        either, or two cases.
    seeds
        Of the first and of the second.
    """

    mean: float
    interval: Interval | None
    seeds: tuple[int, int]
    cases: int

    @classmethod
    def of(cls, first: ArrayLike, second: ArrayLike) -> SeededDifference:
        """From case means, (seeds, cases) of each; columns are the same cases.

        A hierarchical bootstrap draws seeds of each and cases of both, and gives the standard
        error. Deviations of the few seeds are scaled up, since a resample of n varies by n - 1
        (Davison and Hinkley, Bootstrap Methods, 1997, 2.8); the quantile is Student's with
        Satterthwaite's degrees of freedom.
        """
        a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
        mean, seeds, cases = float(b.mean() - a.mean()), (len(a), len(b)), a.shape[1]
        if min(*seeds, cases) < 2:
            return cls(mean, None, seeds, cases)
        rng = np.random.default_rng(_SEED)
        drawn_cases = rng.integers(cases, size=(RESAMPLES, cases))
        means = [_resampled(arm, drawn_cases, rng) for arm in (a, b)]
        error = float((means[1] - means[0]).std())
        half = float(t.ppf(1 - _TAIL, _degrees(a, b))) * error
        return cls(mean, (mean - half, mean + half), seeds, cases)


def _resampled(arm: Float, drawn_cases: NDArray[np.int64], rng: np.random.Generator) -> Float:
    """Means of resamples of an arm, (RESAMPLES,): of its seeds, and of the cases as drawn."""
    seeds, cases = arm.shape
    centre = arm.mean(axis=0)
    wide = centre + np.sqrt(seeds / (seeds - 1)) * (arm - centre)
    drawn_seeds = rng.integers(seeds, size=(len(drawn_cases), seeds))
    weights = (drawn_seeds[:, :, None] == np.arange(seeds)).mean(axis=1)
    counts = np.zeros((len(drawn_cases), cases))
    np.add.at(counts, (np.arange(len(drawn_cases))[:, None], drawn_cases), 1 / cases)
    resampled: Float = np.einsum("rs,sc,rc->r", weights, wide, counts, optimize=True)
    return resampled


def _degrees(a: Float, b: Float) -> float:
    """Satterthwaite's degrees of freedom of the seeds of both and the cases together."""
    parts = [
        (a.mean(axis=1).var(ddof=1) / len(a), len(a) - 1),
        (b.mean(axis=1).var(ddof=1) / len(b), len(b) - 1),
        ((b.mean(axis=0) - a.mean(axis=0)).var(ddof=1) / a.shape[1], a.shape[1] - 1),
    ]
    total = sum(variance for variance, _ in parts)
    if total == 0:
        return float(sum(degrees for _, degrees in parts))
    return float(total**2 / sum(variance**2 / degrees for variance, degrees in parts))
