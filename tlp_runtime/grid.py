"""Grids: are two the same, does one suit the model, and the crop the network sees."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlp_runtime.errors import GeometryError
from tlp_runtime.spec import CropSpec
from tlp_runtime.volume import Volume, shape_text

SAME_GRID_TOLERANCE_MM = 1e-3
SPACING_TOLERANCE_MM = 1e-3


def corners_ras(volume: Volume) -> NDArray[np.float64]:
    """The (8, 3) RAS+ millimetre coordinates of the corner voxels' centres."""
    indices = np.array(list(product(*((0, n - 1) for n in volume.shape))), dtype=np.float64)
    corners: NDArray[np.float64] = indices @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    return corners


def require_same_grid(reference: Volume, other: Volume) -> None:
    """Raise unless both lie on one grid, whatever the order of their axes.

    Two grids are the same when, in one axis order, their shapes are equal and their corners
    agree to 1e-3 mm.

    Raises
    ------
    GeometryError
        Naming both shapes, or the largest distance between corners.
    """
    a, b = reference.reoriented("LPS"), other.reoriented("LPS")
    if a.shape != b.shape:
        raise GeometryError(
            f"{other.name}: shape {shape_text(b.shape)} (as LPS), but {reference.name} has "
            f"{shape_text(a.shape)}. Both must lie on one grid: resample one onto the other."
        )
    apart = float(np.abs(corners_ras(a) - corners_ras(b)).max())
    if apart > SAME_GRID_TOLERANCE_MM:
        raise GeometryError(
            f"{other.name}: lies elsewhere than {reference.name}: corners up to {apart:.3g} mm "
            f"apart (spacing {_mm(b.spacing_mm)} against {_mm(a.spacing_mm)} mm). Both must lie "
            "on one grid: resample one onto the other."
        )


def require_model_grid(volume: Volume, crop: CropSpec) -> None:
    """Raise unless ``volume``, already in the crop's orientation, can be cropped unresampled.

    Raises
    ------
    GeometryError
        The spacing is not the model's, or the crop does not fit into the axial plane.
    """
    if any(
        abs(got - want) > SPACING_TOLERANCE_MM
        for got, want in zip(volume.spacing_mm, crop.spacing_mm, strict=True)
    ):
        raise GeometryError(
            f"{volume.name}: spacing {_mm(volume.spacing_mm)} mm, the model needs "
            f"{_mm(crop.spacing_mm)} mm. Resample the scan to the model's grid first."
        )
    columns, rows, _ = volume.shape
    if rows < crop.rows[1] or columns < crop.columns[1]:
        raise GeometryError(
            f"{volume.name}: axial slices of {columns} x {rows} voxels do not hold the model's "
            f"crop (columns {crop.columns[0]}..{crop.columns[1] - 1}, rows {crop.rows[0]}.."
            f"{crop.rows[1] - 1}). Pad or resample the scan to the BraTS grid, 240 x 240."
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


def _mm(spacing: tuple[float, float, float]) -> str:
    return " x ".join(f"{s:.4g}" for s in spacing)
