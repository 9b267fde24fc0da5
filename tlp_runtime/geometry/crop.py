"""The published crop: which part of a volume on the model's own grid the network sees."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlp_runtime.errors import GeometryError
from tlp_runtime.geometry.grid import Grid, spacing_text
from tlp_runtime.geometry.volume import Volume
from tlp_runtime.spec.model import CropSpec

MATRIX = (240, 240, 155)
"""Voxels of a BraTS volume, which the published indices are of."""

ON_GRID_TOLERANCE_MM = 0.1
"""A grid is the model's where none of its voxels is further than this from its place there."""


def on_lattice(grid: Grid, crop: CropSpec) -> bool:
    """Whether the grid's voxels can be used as they are: spacing and axes are the model's.

    Axes may be in any order; a voxel at the far corner may be a tenth of a millimetre off.
    """
    oriented = grid.reoriented(crop.orientation)
    ideal = oriented.affine.copy()
    ideal[:3, :3] = axes_ras(crop) * crop.spacing_mm
    return bool(
        np.abs(oriented.corners_ras - Grid(oriented.shape, ideal).corners_ras).max()
        <= ON_GRID_TOLERANCE_MM
    )


def is_published(grid: Grid, crop: CropSpec) -> bool:
    """Whether the published crop and slices, which are indices, mean on a grid what they mean.

    In another matrix, even of the same voxels, the head lies elsewhere.
    """
    return grid.reoriented(crop.orientation).shape == MATRIX and on_lattice(grid, crop)


def axes_ras(crop: CropSpec) -> NDArray[np.float64]:
    """(3, 3): the unit vectors of the model's axes in RAS, in columns."""
    axes = np.zeros((3, 3))
    for column, code in enumerate(crop.orientation):
        row = next(i for i, pair in enumerate(("LR", "PA", "IS")) if code in pair)
        axes[row, column] = 1.0 if code in "RAS" else -1.0
    return axes


def require_model_grid(volume: Volume, crop: CropSpec) -> None:
    """Raise unless the published crop can be cut from ``volume`` as it is (training, evaluation).

    Raises
    ------
    GeometryError
        Spacing or axes are not the model's, or the crop does not fit into the axial plane.
    """
    grid = volume.grid.reoriented(crop.orientation)
    if not on_lattice(grid, crop):
        raise GeometryError(
            f"{volume.name}: spacing {spacing_text(grid.spacing_mm)} mm, axes turned by "
            f"{grid.angle_to(_ideal(crop)):.2f} degrees; expected the model's grid, "
            f"{spacing_text(crop.spacing_mm)} mm and axes along the world's.",
            fix="Resample it first.",
        )
    columns, rows, _ = grid.shape
    if rows < crop.rows[1] or columns < crop.columns[1]:
        raise GeometryError(
            f"{volume.name}: axial slices of {columns} x {rows} voxels do not hold the model's "
            f"crop (columns {crop.columns[0]}..{crop.columns[1] - 1}, rows "
            f"{crop.rows[0]}..{crop.rows[1] - 1}).",
            fix="Pad or resample it to the BraTS grid, 240 x 240.",
        )


def crop_slices(volume: Volume, crop: CropSpec) -> NDArray[Any]:
    """The in-plane crop of every axial slice: a (Z, height, width) view."""
    rows, columns = slice(*crop.rows), slice(*crop.columns)
    return volume.data.transpose(2, 1, 0)[:, rows, columns]


def uncrop_slices(
    slices: NDArray[np.float32], shape: tuple[int, int, int], crop: CropSpec
) -> NDArray[np.float32]:
    """Put (Z, height, width) slices back where :func:`crop_slices` took them; 0 elsewhere."""
    data = np.zeros(shape[::-1], dtype=np.float32)
    data[:, slice(*crop.rows), slice(*crop.columns)] = slices
    return data.transpose(2, 1, 0)


def _ideal(crop: CropSpec) -> Grid:
    affine = np.eye(4)
    affine[:3, :3] = axes_ras(crop) * crop.spacing_mm
    return Grid((1, 1, 1), affine)
