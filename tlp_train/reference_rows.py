"""Images that no network made: the first input, as it is or times one factor.

A model is worth what it adds to them. The factor is the best one, which needs the T1ce (an oracle),
or one that was learnt from the histograms of the training cases: all that a model without anatomy
can know of how bright a T1ce is next to the brightest of its own voxels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tlp_runtime.spec.model import IntensitySpec

Float = NDArray[np.float64]

PUBLISHED = IntensitySpec()
"""The scale of evaluations, whatever the model's: minimum and maximum of the cropped volume."""

LEVELS = (10.0, 25.0, 50.0, 75.0, 90.0, 99.0)
"""Percentiles of a brain's unit values: what is known of its histogram."""

PENALTIES = (0.1, 1.0, 10.0, 100.0)
FEW = 4
"""With fewer training cases than this the factor is their mean."""


@dataclass(frozen=True)
class Example:
    """What the histogram of one training case shows, and the factor that is best for it.

    Parameters
    ----------
    levels
        The :data:`LEVELS` of the brain's unit values in the published scale.
    """

    levels: tuple[float, ...]
    factor: float

    @classmethod
    def of(cls, unit: Float, t1ce: Float, inside: NDArray[np.bool_]) -> Example:
        """From unit values of an image and of its T1ce; ``inside`` is its brain."""
        return cls(levels(unit, inside), best_factor(unit, t1ce))


def best_factor(x: Float, y: Float) -> float:
    """The k for which ``k * x`` is nearest to ``y`` in the least-squares sense."""
    power = float(np.square(x).sum())
    return float((x * y).sum()) / power if power > 0 else 0.0


def levels(unit: Float, inside: NDArray[np.bool_]) -> tuple[float, ...]:
    """The :data:`LEVELS` of an image's unit values inside its brain; of all where there is none."""
    return tuple(float(v) for v in np.percentile(unit[inside] if inside.any() else unit, LEVELS))


def learn(examples: Sequence[Example]) -> tuple[float, ...]:
    """A factor from a histogram: ridge regression, its penalty chosen by leaving cases out in turn.

    Where no penalty predicts a case that was left out better than the mean of the others does, it
    is the mean.

    Returns
    -------
    The least and the greatest factor of the cases, beyond which none is predicted; the constant;
    and a slope for each of :data:`LEVELS`.
    """
    x, y = np.array([e.levels for e in examples]), np.array([e.factor for e in examples])
    mean, slopes = float(y.mean()), np.zeros(x.shape[1])
    if len(y) >= FEW:
        centre, spread = x.mean(axis=0), np.maximum(x.std(axis=0), 1e-6)
        z, count = (x - centre) / spread, len(y)
        least = float(np.square((y - mean) * count / (count - 1)).mean())
        for penalty in PENALTIES:
            solve = np.linalg.solve(z.T @ z + penalty * np.eye(z.shape[1]), z.T)
            hat = z @ solve + 1 / count
            error = float(np.square((y - hat @ y) / (1 - np.diag(hat))).mean())
            if error < least:
                least, slopes = error, solve @ (y - mean) / spread
        mean -= float(slopes @ centre)
    return (float(y.min()), float(y.max()), mean, *map(float, slopes))


def learnt_factor(learnt: Sequence[float], found: Sequence[float]) -> float:
    """The factor that :func:`learn`'s result predicts for a histogram's :data:`LEVELS`."""
    least, most, constant, *slopes = learnt
    predicted = constant + sum(a * b for a, b in zip(slopes, found, strict=True))
    return min(max(predicted, least), most)
