"""Where the network looks at a scan: its own grid around the brain, and the windows in it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import ceil

import numpy as np
from numpy.typing import NDArray

from tlp_runtime.geometry.crop import axes_ras, on_lattice
from tlp_runtime.geometry.grid import SAME_GRID_TOLERANCE_MM, Grid
from tlp_runtime.spec.model import CropSpec, ModelSpec
from tlp_runtime.warnings import LARGER_THAN_CROP, Warn

OVERLAP = 32
"""Voxels that neighbouring windows share at least."""


@dataclass(frozen=True)
class Placement:
    """The part of a case that the network sees.

    Parameters
    ----------
    grid
        The part of the world that is run: axes and spacing of the model, shape (X, Y, Z). Its
        slices are (Z, Y, X) arrays.
    offset
        Voxel (x, y, z) of the scan, in the model's axis order, at which ``grid`` begins, when the
        scan's own voxels are used as they are; None when the scan is interpolated.
    window
        (height, width) of what the network is given at once.
    corners
        (row, column) of each window in a slice of ``grid``.
    """

    grid: Grid
    offset: tuple[int, int, int] | None
    window: tuple[int, int]
    corners: tuple[tuple[int, int], ...]

    @cached_property
    def weights(self) -> NDArray[np.float32]:
        """(windows, height, width): each window's share of the result, summing to 1 everywhere."""
        height, width = self.window
        columns, rows, _ = self.grid.shape
        raw = np.stack(
            [
                np.outer(
                    _ramp(height, top > 0, top + height < rows),
                    _ramp(width, left > 0, left + width < columns),
                )
                for top, left in self.corners
            ]
        )
        total = np.zeros((rows, columns))
        for weight, (top, left) in zip(raw, self.corners, strict=True):
            total[top : top + height, left : left + width] += weight
        for weight, (top, left) in zip(raw, self.corners, strict=True):
            weight /= total[top : top + height, left : left + width]
        return raw.astype(np.float32)


@dataclass(frozen=True)
class Extent:
    """The box of a brain along the model's axes, in millimetres, edges of voxels included."""

    low: NDArray[np.float64]
    high: NDArray[np.float64]

    @classmethod
    def of(cls, inside: NDArray[np.bool_], grid: Grid, crop: CropSpec) -> Extent:
        """The extent of the voxels in ``inside``; of the whole grid when there is none."""
        points = grid.world(_outermost(inside)) if inside.any() else grid.corners_ras
        along = points @ axes_ras(crop)
        half = np.abs(grid.affine[:3, :3].T @ axes_ras(crop)).sum(axis=0) / 2
        return cls(along.min(axis=0) - half, along.max(axis=0) + half)


def published(grid: Grid, crop: CropSpec) -> Placement:
    """The published crop by index, of a grid that is the model's own."""
    columns, rows, slices = crop.columns, crop.rows, grid.reoriented(crop.orientation).shape[2]
    offset = (columns[0], rows[0], 0)
    return Placement(
        _shifted(grid.reoriented(crop.orientation), offset, (crop.width, crop.height, slices)),
        offset,
        (crop.height, crop.width),
        ((0, 0),),
    )


def place(grid: Grid, brain: Extent, spec: ModelSpec, name: str, warn: Warn) -> Placement:
    """Lay the model's grid and windows around a brain.

    A scan whose voxels are the model's is used voxel by voxel: by the published crop where the
    brain lies inside it, else by a window centred on the brain. Any other scan is to be
    interpolated. A brain larger than the crop raises a warning and gets one larger window if the
    model takes it, else several that overlap.

    Parameters
    ----------
    grid
        The scan's own.
    brain
        Its box along the model's axes.
    name
        The scan, for the warning.
    warn
        Called when the brain is larger than the crop.
    """
    crop = spec.crop
    spacing = np.array(crop.spacing_mm)
    exact = on_lattice(grid, crop)
    oriented = grid.reoriented(crop.orientation)
    if exact:
        start = axes_ras(crop).T @ oriented.affine[:3, 3]  # the first voxel's centre
        first = np.rint((brain.low - start) / spacing + 0.5).astype(int)
        last = np.rint((brain.high - start) / spacing - 0.5).astype(int)
        if _inside_published(first, last, oriented.shape, crop):
            return published(grid, crop)
        size = last - first + 1
    else:
        # Less than this is rounding of a header, which must not add a slice.
        length_mm = brain.high - brain.low - SAME_GRID_TOLERANCE_MM
        size = np.ceil(length_mm / spacing).astype(int)
    window, corners, extent = _windows(int(size[1]), int(size[0]), spec, name, warn)
    height, width = extent
    if exact:
        left, top = (
            int(first[axis] - (reach - size[axis]) // 2)
            for axis, reach in ((0, width), (1, height))
        )
        offset = (left, top, 0)
        shape = (width, height, oriented.shape[2])
        return Placement(_shifted(oriented, offset, shape), offset, window, corners)
    shape = (width, height, int(size[2]))
    centre = (brain.low + brain.high) / 2
    affine = np.eye(4)
    affine[:3, :3] = axes_ras(crop) * spacing
    affine[:3, 3] = axes_ras(crop) @ (centre - spacing * (np.array(shape) - 1) / 2)
    return Placement(Grid(shape, affine), None, window, corners)


def shared_part(
    offset: tuple[int, int, int], shape: tuple[int, ...], whole: tuple[int, ...]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """The part that a box at ``offset`` shares with the whole: in the whole, and in the box."""
    here, there = [], []
    for start, count, limit in zip(offset, shape, whole, strict=True):
        low, high = max(start, 0), min(start + count, limit)
        here.append(slice(low, high))
        there.append(slice(low - start, high - start))
    return tuple(here), tuple(there)


def _windows(
    rows: int, columns: int, spec: ModelSpec, name: str, warn: Warn
) -> tuple[tuple[int, int], tuple[tuple[int, int], ...], tuple[int, int]]:
    """Size of a window, their corners, and the (height, width) they cover together."""
    crop = (spec.crop.height, spec.crop.width)
    if rows <= crop[0] and columns <= crop[1]:
        return crop, ((0, 0),), crop
    step = spec.network.multiple
    larger = (
        max(crop[0], ceil(rows / step) * step),
        max(crop[1], ceil(columns / step) * step),
    )

    def report(what: str, windows: int) -> None:
        warn(
            LARGER_THAN_CROP.warning(
                f"{name}: its brain is {rows} x {columns} voxels of the model's grid, the crop "
                f"holds {crop[0]} x {crop[1]}: run in {what}.",
                rows=rows,
                columns=columns,
                windows=windows,
            )
        )

    if spec.takes(*larger):
        report(f"one window of {larger[0]} x {larger[1]}", 1)
        return larger, ((0, 0),), larger
    tops, height = _spread(rows, crop[0])
    lefts, width = _spread(columns, crop[1])
    corners = tuple((top, left) for top in tops for left in lefts)
    report(f"{len(corners)} overlapping windows per slice", len(corners))
    return crop, corners, (height, width)


def _spread(length: int, window: int) -> tuple[list[int], int]:
    """Starts of evenly spread windows over ``length``, and the length they cover."""
    if length <= window:
        return [0], window
    count = ceil((length - OVERLAP) / (window - OVERLAP))
    return [round(i * (length - window) / (count - 1)) for i in range(count)], length


def _ramp(length: int, before: bool, after: bool) -> NDArray[np.float64]:
    """1, falling smoothly over the overlap towards a neighbouring window."""
    ramp = np.ones(length)
    fall = np.sin(np.pi / 2 * (np.arange(OVERLAP) + 0.5) / OVERLAP) ** 2
    if before:
        ramp[:OVERLAP] = fall
    if after:
        ramp[-OVERLAP:] = fall[::-1]
    return ramp


def _inside_published(
    first: NDArray[np.int_], last: NDArray[np.int_], shape: tuple[int, ...], crop: CropSpec
) -> bool:
    fits = shape[0] >= crop.columns[1] and shape[1] >= crop.rows[1]
    return fits and all(
        start <= a and b < stop
        for (start, stop), a, b in zip((crop.columns, crop.rows), first, last, strict=False)
    )


def _shifted(grid: Grid, offset: tuple[int, int, int], shape: tuple[int, int, int]) -> Grid:
    affine = grid.affine.copy()
    affine[:3, 3] = grid.world(np.array([offset]))[0]
    return Grid(shape, affine)


def _outermost(inside: NDArray[np.bool_]) -> NDArray[np.int_]:
    """Indices of the first and last voxel of the mask on each line: they hold every extreme."""
    i, j = np.nonzero(inside.any(axis=2))
    lines = inside[i, j]
    first = lines.argmax(axis=1)
    last = inside.shape[2] - 1 - lines[:, ::-1].argmax(axis=1)
    return np.concatenate([np.stack([i, j, first], axis=1), np.stack([i, j, last], axis=1)])
