"""Interpolation between grids: images linearly, labels by the nearest voxel, syntheses by splines.

SciPy does the arithmetic; it is imported when needed, since a scan on the model's own grid is
never interpolated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlp_runtime.geometry.grid import Grid
from tlp_runtime.geometry.volume import Volume

_SPLINE_PAD = 12
"""Voxels by which an image is continued at its edges before splines are fitted, as SciPy does."""


def resampled(volume: Volume, grid: Grid) -> NDArray[np.float32]:
    """An image of a brain on another grid: linear in the brain's values alone, 0 outside it.

    Voxels of 0 are background: they pull no value at the brain's edge towards 0, and a voxel of
    ``grid`` belongs to the brain where at least half of what it is made from does. Along axes whose
    voxels are finer than the target's the image is smoothed first (a Gaussian of half the excess of
    the ratio of spacings over 1), so that nothing is aliased.

    Returns
    -------
    float32 of ``grid.shape``.
    """
    from scipy import ndimage

    data = volume.data.astype(np.float32)
    share = (volume.data != 0).astype(np.float32)
    sigmas = _smoothing(volume.grid, grid)
    if any(sigma > 0.1 for sigma in sigmas):
        data, share = (ndimage.gaussian_filter(x, sigmas, mode="constant") for x in (data, share))
    values = _sampled(data, volume.grid, grid, order=1)
    weight = _sampled(share, volume.grid, grid, order=1)
    inside = weight >= 0.5
    values[~inside] = 0
    np.divide(values, weight, out=values, where=inside)
    return values


def resampled_labels(volume: Volume, grid: Grid) -> NDArray[Any]:
    """A label map on another grid: each voxel takes the nearest label; 0 outside the map."""
    return _sampled(volume.data, volume.grid, grid, order=0)


class InsideSplines:
    """Cubic splines of a brain's values alone, evaluated on another grid slice by slice.

    Values outside the brain are replaced by the nearest inside before the splines are fitted, so
    that its edge neither darkens nor rings; the result keeps to the range of the values that went
    in and is 0 outside ``mask``. A slice is the same to the bit whichever others are evaluated.

    Parameters
    ----------
    inside
        Where the images that will be fitted are brain, on ``grid``.
    mask
        Where ``target`` is brain.
    """

    def __init__(
        self, inside: NDArray[np.bool_], grid: Grid, target: Grid, mask: NDArray[np.bool_]
    ) -> None:
        from scipy import ndimage

        self._mask = mask
        self._move = np.linalg.inv(grid.affine) @ target.affine
        box = ndimage.find_objects(mask.astype(np.uint8)) if inside.any() else []
        self._box: tuple[slice, ...] | None = box[0] if box else None
        self._nearest: NDArray[np.intp] | None = None
        if self._box is not None:
            nearest = ndimage.distance_transform_edt(
                ~inside, return_distances=False, return_indices=True
            )
            self._nearest = np.ravel_multi_index(tuple(nearest), inside.shape).astype(np.int32)

    @property
    def nbytes(self) -> int:
        """Memory it holds."""
        return self._mask.nbytes + (0 if self._nearest is None else self._nearest.nbytes)

    @property
    def slices(self) -> range:
        """Slices of the target, along its last axis, that hold brain."""
        return range(0) if self._box is None else range(self._box[2].start, self._box[2].stop)

    def fit(self, data: NDArray[np.float32]) -> FittedSplines:
        """Fit an image on ``grid``."""
        from scipy import ndimage

        if self._nearest is None:
            return FittedSplines(np.zeros((1, 1, 1)), 0, 0)
        extended = data.reshape(-1)[self._nearest]
        padded = np.pad(extended, _SPLINE_PAD, mode="edge")
        coefficients = ndimage.spline_filter(padded, 3, output=np.float64, mode="nearest")
        return FittedSplines(coefficients, float(extended.min()), float(extended.max()))

    def slice(self, fitted: FittedSplines, k: int) -> NDArray[np.float32]:
        """(I, J): slice ``k`` of the target."""
        from scipy import ndimage

        out = np.zeros(self._mask.shape[:2], np.float32)
        if k not in self.slices:
            return out
        assert self._box is not None
        rows, columns, _ = self._box
        turn = self._move[:3, :3]
        corner = turn @ (rows.start, columns.start, k) + self._move[:3, 3] + _SPLINE_PAD
        shape = (rows.stop - rows.start, columns.stop - columns.start, 1)
        made = ndimage.affine_transform(
            fitted.coefficients, turn, corner, shape,
            order=3, mode="nearest", prefilter=False, output=np.float32,
        )[:, :, 0]  # fmt: skip
        np.clip(made, fitted.low, fitted.high, out=made)
        out[rows, columns] = np.where(self._mask[rows, columns, k], made, 0)
        return out

    def whole(self, data: NDArray[np.float32]) -> NDArray[np.float32]:
        """An image on ``grid`` brought to the target: all slices, first axis fastest."""
        out = np.zeros(self._mask.shape, np.float32, order="F")
        fitted = self.fit(data)
        for k in self.slices:
            out[:, :, k] = self.slice(fitted, k)
        return out


@dataclass(frozen=True)
class FittedSplines:
    """An image's spline coefficients, and the range it keeps to."""

    coefficients: NDArray[np.float64]
    low: float
    high: float


def filled(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A mask without holes: voxels of 0 inside a brain belong to it."""
    from scipy import ndimage

    holeless: NDArray[np.bool_] = ndimage.binary_fill_holes(mask)
    return holeless


def _sampled(data: NDArray[Any], source: Grid, target: Grid, *, order: int) -> NDArray[Any]:
    """``data`` at the voxels of ``target``; 0 beyond half a voxel outside it."""
    from scipy import ndimage

    move = np.linalg.inv(source.affine) @ target.affine
    moved = ndimage.affine_transform(
        data, move[:3, :3], move[:3, 3], target.shape, order=order, mode="nearest"
    )
    moved[~_covered(move, source.shape, target.shape)] = 0
    return np.asarray(moved)


def _covered(
    move: NDArray[np.float64], source: tuple[int, ...], target: tuple[int, ...]
) -> NDArray[np.bool_]:
    """Which voxels of the target lie in the source's field of view, its voxels' full extent."""
    covered = np.ones(target, dtype=np.bool_)
    i, j, k = np.ogrid[: target[0], : target[1], : target[2]]
    for axis, count in enumerate(source):
        a, b, c = move[axis, :3]
        index = a * i + b * j + c * k + move[axis, 3]
        covered &= (index >= -0.5 - 1e-6) & (index <= count - 0.5 + 1e-6)
    return covered


def _smoothing(source: Grid, target: Grid) -> tuple[float, ...]:
    """Standard deviations, in the source's voxels, along its axes."""
    directions = np.abs(source.directions.T @ target.directions)
    coarse = directions @ np.array(target.spacing_mm) / directions.sum(axis=1)
    return tuple(
        max(0.0, (wanted / own - 1) / 2)
        for wanted, own in zip(coarse, source.spacing_mm, strict=True)
    )
