"""Image metrics of the published protocol, slice by slice, and the same inside a region."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

DATA_RANGE = 255

Levels = NDArray[np.uint8]
Mask = NDArray[np.bool_]


def to_levels(values: NDArray[np.float32]) -> Levels:
    """[-1, 1] to 0..255: (x + 1) / 2 * 255, truncated, as published."""
    levels: Levels = ((values.astype(np.float64) + 1) / 2 * DATA_RANGE).astype(np.uint8)
    return levels


@dataclass(frozen=True)
class SliceMetrics:
    """One slice. ``psnr_db`` is None for an identical pair, which has none."""

    psnr_db: float | None
    ssim: float
    nmse: float


def slice_metrics(reference: Levels, image: Levels) -> SliceMetrics:
    """Of two whole (H, W) slices.

    PSNR and SSIM are scikit-image's with its defaults (7 x 7 uniform window); NMSE is the mean
    squared error over the reference's variance, 0 where that is 0.
    """
    identical = bool((reference == image).all())
    return SliceMetrics(
        None
        if identical
        else float(peak_signal_noise_ratio(reference, image, data_range=DATA_RANGE)),
        float(structural_similarity(reference, image, data_range=DATA_RANGE)),
        _nmse(reference, image),
    )


def region_metrics(reference: Levels, image: Levels, region: Mask) -> SliceMetrics:
    """The same over the pixels of a non-empty region; SSIM is its map's mean there."""
    inside, made = reference[region].astype(np.float64), image[region].astype(np.float64)
    mse = float(np.square(inside - made).mean())
    _, ssim_map = structural_similarity(reference, image, data_range=DATA_RANGE, full=True)
    return SliceMetrics(
        None if mse == 0 else float(10 * np.log10(DATA_RANGE**2 / mse)),
        float(ssim_map[region].mean()),
        _nmse(inside, made),
    )


def _nmse(reference: NDArray[Any], image: NDArray[Any]) -> float:
    reference, image = reference.astype(np.float64), image.astype(np.float64)
    variance = float(reference.var())
    return float(np.square(reference - image).mean()) / variance if variance > 0 else 0.0


@dataclass(frozen=True)
class Statistic:
    """Mean and population standard deviation over ``count`` slices; None over none."""

    mean: float | None
    sd: float | None
    count: int

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Statistic:
        """Over the values that are there."""
        there = [value for value in values if value is not None]
        if not there:
            return cls(None, None, 0)
        return cls(float(np.mean(there)), float(np.std(there)), len(there))


@dataclass(frozen=True)
class Summary:
    """The three published columns."""

    psnr_db: Statistic
    ssim: Statistic
    nmse: Statistic

    @classmethod
    def of(cls, metrics: Iterable[SliceMetrics]) -> Summary:
        """Over slices."""
        rows = list(metrics)
        return cls(
            Statistic.of(row.psnr_db for row in rows),
            Statistic.of(row.ssim for row in rows),
            Statistic.of(row.nmse for row in rows),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)
