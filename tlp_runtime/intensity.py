"""Voxel values to network values and back, by the published rule."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlp_runtime.errors import ContentError
from tlp_runtime.spec import IntensitySpec


def require_finite(data: NDArray[Any], name: str) -> None:
    """Raise :class:`ContentError` when any voxel is NaN or infinite."""
    if not np.issubdtype(data.dtype, np.floating):
        return
    bad = int(data.size - np.count_nonzero(np.isfinite(data)))
    if bad:
        raise ContentError(
            f"{name}: {bad} of {data.size} voxels are NaN or infinite, expected finite values. "
            "Replace them (background is 0) and try again."
        )


def scale(slices: NDArray[Any], spec: IntensitySpec, name: str) -> NDArray[np.float32]:
    """Scale the cropped slices of one whole volume, (Z, H, W), into ``spec.range``.

    The minimum and maximum are taken over all the slices given, in float64; the result is
    float32.

    Raises
    ------
    ContentError
        NaN or infinite voxels, or an image that is zero or constant throughout.
    """
    require_finite(slices, name)
    values = slices.astype(np.float64)
    low, high = float(values.min()), float(values.max())
    if low == high:
        what = "is zero everywhere" if low == 0 else f"has the one value {low:g} everywhere"
        raise ContentError(f"{name}: {what} inside the model's crop, expected a brain there.")
    start, stop = spec.range
    scaled: NDArray[np.float64] = (values - low) / (high - low) * (stop - start) + start
    return scaled.astype(np.float32)


def to_unit(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Network output in [-1, 1] to [0, 1]: (y + 1) / 2."""
    return ((values + np.float32(1)) / np.float32(2)).astype(np.float32, copy=False)
