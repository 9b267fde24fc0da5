"""Interpolation between grids: images linearly, labels by the nearest voxel, syntheses by splines.

SciPy does the arithmetic; it is imported when needed, since a scan on the model's own grid is
never interpolated.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlp_runtime.grid import Grid
from tlp_runtime.volume import Volume


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


def resampled_inside(
    data: NDArray[np.float32],
    inside: NDArray[np.bool_],
    grid: Grid,
    target: Grid,
    mask: NDArray[np.bool_],
) -> NDArray[np.float32]:
    """An image of a brain on another grid: cubic splines of the brain's values alone.

    Values outside the brain are replaced by the nearest inside before the splines are fitted, so
    that its edge neither darkens nor rings; the result keeps to the range of the values that went
    in and is 0 outside ``mask``.

    Parameters
    ----------
    data, inside
        The image and where it is brain, both on ``grid``.
    mask
        Where ``target`` is brain.

    Returns
    -------
    float32 of ``target.shape``.
    """
    from scipy import ndimage

    out = np.zeros(target.shape, np.float32)
    box = ndimage.find_objects(mask.astype(np.uint8))
    if not box or not inside.any():
        return out
    part = box[0]
    nearest = ndimage.distance_transform_edt(~inside, return_distances=False, return_indices=True)
    extended = data[tuple(nearest)]
    affine = target.affine.copy()
    affine[:3, 3] = target.world(np.array([[s.start for s in part]]))[0]
    sub = Grid(mask[part].shape, affine)
    made = _sampled(extended, grid, sub, order=3, anywhere=True)
    np.clip(made, extended.min(), extended.max(), out=made)
    out[part] = np.where(mask[part], made, 0)
    return out


def filled(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A mask without holes: voxels of 0 inside a brain belong to it."""
    from scipy import ndimage

    holeless: NDArray[np.bool_] = ndimage.binary_fill_holes(mask)
    return holeless


def _sampled(
    data: NDArray[Any], source: Grid, target: Grid, *, order: int, anywhere: bool = False
) -> NDArray[Any]:
    """``data`` at the voxels of ``target``; 0 beyond half a voxel outside it, unless anywhere."""
    from scipy import ndimage

    move = np.linalg.inv(source.affine) @ target.affine
    moved = ndimage.affine_transform(
        data, move[:3, :3], move[:3, 3], target.shape, order=order, mode="nearest"
    )
    if not anywhere:
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
