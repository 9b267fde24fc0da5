"""How often intervals cover the mean, and how often chance is called a claim: by simulation.

    python -m benchmarks.coverage

Case means are drawn from distributions with a known mean; the table says how often the interval at
95 % holds it. For claims over seeds, two models are drawn that differ in nothing but their seeds.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from tlp_runtime.files.markdown import markdown_table
from tlp_train.statistics import Interval, SeededDifference, interval

CASES = (3, 5, 10, 20, 40)
BELOW = 0.05
"""False positives that are allowed."""

Draw = Callable[[np.random.Generator, int], np.ndarray]
Rule = Callable[[ArrayLike, ArrayLike], Interval | None]

DISTRIBUTIONS: dict[str, tuple[Draw, float]] = {
    "normal": (lambda rng, n: rng.normal(28, 3, n), 28.0),
    "skewed (gamma 4)": (lambda rng, n: rng.gamma(4, 0.05, n), 0.2),
    "heavy tails (t 3)": (lambda rng, n: rng.standard_t(3, n), 0.0),
    "two clusters": (lambda rng, n: rng.normal(np.where(rng.random(n) < 0.3, 0, 1), 0.1), 0.7),
}
"""Case means as metrics give them, and their true mean."""


def percentile(sums: ArrayLike, counts: ArrayLike) -> Interval:
    """The plain percentile bootstrap, for comparison: too narrow with few cases."""
    sums, counts = np.asarray(sums), np.asarray(counts)
    drawn = np.random.default_rng(0).integers(len(sums), size=(2000, len(sums)))
    low, high = np.quantile(sums[drawn].sum(1) / counts[drawn].sum(1), (0.025, 0.975))
    return float(low), float(high)


def coverage(name: str, cases: int, rule: Rule, *, repeats: int) -> float:
    """The share of intervals that hold the true mean."""
    draw, mean = DISTRIBUTIONS[name]
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(repeats):
        found = rule(draw(rng, cases), np.ones(cases))
        held += found is not None and found[0] <= mean <= found[1]
    return held / repeats


def false_positives(seeds: int, cases: int, seeds_matter: float, *, repeats: int) -> float:
    """How often the interval of a difference lies on one side of 0 where there is none.

    Parameters
    ----------
    seeds_matter
        Standard deviation of a seed's effect on all cases, in standard errors over cases.
    """
    rng = np.random.default_rng(2)
    wrong = 0
    for _ in range(repeats):
        difficulty = rng.normal(0, 2, cases)
        arms = [
            difficulty
            + rng.normal(0, seeds_matter / np.sqrt(cases), (seeds, 1))
            + rng.normal(0, 0.5, cases)
            + rng.normal(0, 0.5, (seeds, cases))
            for _ in range(2)
        ]
        found = SeededDifference.of(*arms).interval
        wrong += found is not None and (found[0] > 0 or found[1] < 0)
    return wrong / repeats


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=2000)
    parser.add_argument("--claims", type=int, default=500, help="repeats of claims over seeds")
    options = parser.parse_args()

    rules: dict[str, Rule] = {"ours": interval, "percentile bootstrap": percentile}
    rows = [
        [name, title, *(f"{coverage(name, n, rule, repeats=options.repeats):.1%}" for n in CASES)]
        for name in DISTRIBUTIONS
        for title, rule in rules.items()
    ]
    print(markdown_table(["case means", "interval", *(f"{n} cases" for n in CASES)], rows))
    claims = [
        [str(seeds), str(cases)]
        + [
            f"{false_positives(seeds, cases, matter, repeats=options.claims):.1%}"
            for matter in (0.0, 1.0, 3.0)
        ]
        for seeds in (2, 3, 5)
        for cases in (6, 20)
    ]
    head = ["seeds", "cases", *(f"seeds matter {m}" for m in (0, 1, 3))]
    print("\nChance called a difference, both directions together:\n")
    print(markdown_table(head, claims))


if __name__ == "__main__":
    main()
