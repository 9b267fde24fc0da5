"""Voxel values to network values and back, by the rule of the model's specification."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlp_runtime.errors import ContentError
from tlp_runtime.spec.model import IntensitySpec

_AT_ONCE = 4
"""Slices scaled at once: few enough to stay in a cache, enough that threads do not wait for each
other at every step."""


def require_numbers(data: NDArray[Any], name: str) -> None:
    """Raise :class:`ContentError` unless every voxel is one finite real number."""
    if not (np.issubdtype(data.dtype, np.number) or data.dtype == np.bool_) or np.iscomplexobj(
        data
    ):
        raise ContentError(
            f"{name}: its voxels are {data.dtype}, expected one real number each.",
            fix="Convert colour or complex data to a grey-scale magnitude image first.",
        )
    if not np.issubdtype(data.dtype, np.floating):
        return
    bad = int(data.size - np.count_nonzero(np.isfinite(data)))
    if bad:
        raise ContentError(
            f"{name}: {bad} of {data.size} voxels are NaN or infinite, expected finite values.",
            fix="Replace them (background is 0) and try again.",
        )


def background(data: NDArray[Any]) -> float:
    """The value around the head: that of the eight corners where they agree, else 0."""
    corners = np.unique(
        data[:: max(1, data.shape[0] - 1)][:, :: max(1, data.shape[1] - 1)][
            :, :, :: max(1, data.shape[2] - 1)
        ]
    )
    return float(corners[0]) if len(corners) == 1 else 0.0


def background_within(data: NDArray[Any], brain: NDArray[np.bool_]) -> float:
    """The value that is to be 0 where a mask says what is brain.

    What lies outside the mask is not looked at, since it may be padding that no scanner measured.
    Only a brain with negative values needs another level than 0: that around the head where it
    fits the brain's values, else their least.
    """
    least = float(data[brain].min())
    around = background(data)
    if least >= 0 or around == 0:
        return 0.0
    return around if 2 * least <= around < 0 else least


def limits(slices: NDArray[Any], spec: IntensitySpec, name: str) -> tuple[float, float]:
    """The two voxel values that become the ends of ``spec.range``.

    Parameters
    ----------
    slices
        The cropped slices of one whole volume, (Z, H, W), background 0.

    Raises
    ------
    ContentError
        An image that is zero or constant throughout.
    """
    if spec.percentiles is None:
        low, high = float(slices.min()), float(slices.max())
    else:
        held = slices[slices != 0].astype(np.float64)
        low, high = (
            (float(v) for v in np.percentile(held, spec.percentiles)) if held.size else (0.0, 0.0)
        )
    if low == high:
        what = "is zero everywhere" if low == 0 else f"has the one value {low:g} everywhere"
        raise ContentError(f"{name}: {what} inside the model's crop, expected a brain there.")
    return low, high


def scale_between(
    slices: NDArray[Any], between: tuple[float, float], spec: IntensitySpec
) -> NDArray[np.float32]:
    """Voxel values to ``spec.range``, given their :func:`limits`; beyond them clipped."""
    (low, high), (start, stop) = between, spec.range
    scaled = np.empty(slices.shape, np.float32)
    for first in range(0, len(slices), _AT_ONCE):
        values = slices[first : first + _AT_ONCE].astype(np.float64)
        if spec.percentiles is not None:
            np.clip(values, low, high, out=values)
        values -= low
        values /= high - low
        values *= stop - start
        values += start
        scaled[first : first + _AT_ONCE] = values
    return scaled


def scale(slices: NDArray[Any], spec: IntensitySpec, name: str) -> NDArray[np.float32]:
    """Scale the cropped slices of one whole volume, (Z, H, W), into ``spec.range``.

    Raises
    ------
    ContentError
        NaN or infinite voxels, or an image that is zero or constant throughout.
    """
    require_numbers(slices, name)
    return scale_between(slices, limits(slices, spec, name), spec)


def to_unit(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Network output in [-1, 1] to [0, 1]: (y + 1) / 2."""
    return ((values + np.float32(1)) / np.float32(2)).astype(np.float32, copy=False)
