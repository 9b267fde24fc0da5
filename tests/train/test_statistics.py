"""Intervals cover what they say, and chance is rarely called a difference: by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t

from benchmarks.coverage import BELOW, coverage, false_positives
from tlp_train.statistics import FEW_CASES, PairedDifference, SeededDifference, Statistic, interval


def test_statistics_over_slices_and_their_interval_over_cases() -> None:
    statistic = Statistic.of([[1.0, 3.0], [], [5.0]])
    assert (statistic.mean, statistic.count, statistic.cases) == (3.0, 3, 2)
    assert statistic.sd == pytest.approx(np.sqrt(8 / 3))
    assert statistic.interval is not None
    # The ratio of totals: 9 / 3; residuals 4 - 3 * 2 and 5 - 3.
    half = 12.706 * np.sqrt(2 * (2**2 + 2**2)) / 3
    assert statistic.interval == pytest.approx((3 - half, 3 + half), rel=1e-4)
    assert Statistic.of([[], []]) == Statistic(None, None, 0, 0, None)
    assert Statistic.of([[1.0, 2.0]]).interval is None
    rng = np.random.default_rng(0)
    many = Statistic.of([[v] for v in rng.normal(7, 2, 400)])
    assert many.interval is not None
    # 1.96 standard errors each side of the mean.
    assert many.interval[1] - many.interval[0] == pytest.approx(2 * 1.96 * 2 / 20, rel=0.1)


def test_paired_differences() -> None:
    found = PairedDifference.of([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [2.0, 4.0, 6.0, 8.0, 10.0, 12.0])
    assert found.mean == pytest.approx(3.5)
    assert found.p_value == pytest.approx(2 / 2**6), "exact: every sign is the same"
    assert found.interval is not None
    assert found.interval[0] > 0
    same = PairedDifference.of([1.0, 2.0], [1.0, 2.0])
    assert (same.mean, same.p_value) == (0.0, 1.0)
    assert PairedDifference.of([1.0], [2.0]).interval is None


@pytest.mark.parametrize("cases", [2, 5, FEW_CASES])
def test_up_to_thirty_cases_the_interval_is_students(cases: int) -> None:
    values = np.random.default_rng(cases).normal(3, 2, cases)
    half = t.ppf(0.975, cases - 1) * values.std(ddof=1) / np.sqrt(cases)
    expected = (values.mean() - half, values.mean() + half)
    assert interval(values, np.ones(cases)) == pytest.approx(expected)
    # A case counts by its values, so ten slices of the same value are as one.
    assert interval(10 * values, np.full(cases, 10)) == pytest.approx(expected)


def test_a_constant_has_an_interval_without_width() -> None:
    for cases in (2, FEW_CASES + 10):
        assert interval(np.full(cases, 0.7), np.ones(cases)) == pytest.approx((0.7, 0.7))


@pytest.mark.parametrize("cases", [3, 5, 10, 20, 40])
def test_intervals_cover_the_mean_as_often_as_they_say(cases: int) -> None:
    """The percentile bootstrap covers 70, 81 and 88 % at 3, 5 and 10 cases."""
    assert coverage("normal", cases, interval, repeats=400 if cases > FEW_CASES else 2000) >= 0.92


def test_differences_over_seeds_need_seeds_and_cases() -> None:
    a = np.random.default_rng(0).normal(0, 1, (3, 8))
    assert SeededDifference.of(a[:1], a).interval is None
    assert SeededDifference.of(a[:, :1], a[:, :1]).interval is None
    found = SeededDifference.of(a, a + 10)
    assert found.interval is not None
    assert found.mean == pytest.approx(10)
    assert 0 < found.interval[0] < 10 < found.interval[1]
    assert (found.seeds, found.cases) == ((3, 3), 8)
    assert SeededDifference.of(np.zeros((2, 4)), np.ones((2, 4))).interval == pytest.approx((1, 1))


@pytest.mark.parametrize("seeds_matter", [0.0, 1.0, 3.0])
def test_chance_is_rarely_called_a_claim(seeds_matter: float) -> None:
    """Two arms that differ in nothing but their seeds, three each, on 20 cases."""
    assert false_positives(3, 20, seeds_matter, repeats=300) <= BELOW + 0.02
