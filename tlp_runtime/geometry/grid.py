"""Grids: where a volume's voxels lie, and how two grids differ."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Self

import nibabel as nib
import numpy as np
from nibabel.orientations import (
    axcodes2ornt,
    inv_ornt_aff,
    io_orientation,
    ornt_transform,
)
from numpy.typing import NDArray

from tlp_runtime.errors import GeometryError

SAME_GRID_TOLERANCE_MM = 1e-2
"""Distance up to which the corners of two grids are the same place: 10 micrometres."""


@dataclass(frozen=True, eq=False)
class Grid:
    """Shape and affine of a volume, without its voxels.

    Parameters
    ----------
    shape
        (I, J, K), none of them 0.
    affine
        (4, 4) float64: voxel indices to RAS+ millimetres.

    Raises
    ------
    GeometryError
        Not three axes, an empty one, or an affine that does not span three dimensions.
    """

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]

    def __post_init__(self) -> None:
        if len(self.shape) != 3 or 0 in self.shape:
            raise GeometryError(
                f"shape {shape_text(self.shape)}, expected one 3-D volume.",
                fix="Extract a single volume first.",
            )
        affine = np.asarray(self.affine, dtype=np.float64)
        if (
            affine.shape != (4, 4)
            or not np.isfinite(affine).all()
            or abs(np.linalg.det(affine[:3, :3])) < 1e-9
        ):
            raise GeometryError(
                f"its affine does not place voxels in space:\n{affine}",
                fix="Repair the sform or qform of the file.",
            )
        object.__setattr__(self, "affine", affine)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel sizes along I, J, K."""
        x, y, z = (float(v) for v in np.linalg.norm(self.affine[:3, :3], axis=0))
        return x, y, z

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000

    @property
    def orientation(self) -> str:
        """Axis codes such as ``LPS``: the direction each axis increases towards."""
        return "".join(nib.aff2axcodes(self.affine))

    @property
    def directions(self) -> NDArray[np.float64]:
        """(3, 3): the nearest rotation (or reflection) to the axes' unit vectors, in columns."""
        u, _, vt = np.linalg.svd(self.affine[:3, :3] / self.spacing_mm)
        nearest: NDArray[np.float64] = u @ vt
        return nearest

    def world(self, indices: NDArray[np.floating] | NDArray[np.integer]) -> NDArray[np.float64]:
        """(N, 3) voxel indices to RAS+ millimetres."""
        points: NDArray[np.float64] = indices @ self.affine[:3, :3].T + self.affine[:3, 3]
        return points

    def voxels(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """(N, 3) RAS+ millimetres to voxel indices, not rounded."""
        inverse = np.linalg.inv(self.affine)
        indices: NDArray[np.float64] = points @ inverse[:3, :3].T + inverse[:3, 3]
        return indices

    @property
    def corners_ras(self) -> NDArray[np.float64]:
        """The (8, 3) RAS+ millimetre coordinates of the corner voxels' centres."""
        return self.world(np.array(list(product(*((0, n - 1) for n in self.shape)))))

    def reoriented(self, orientation: str) -> Self:
        """The same voxels with axes permuted and flipped to ``orientation``."""
        transform = ornt_transform(io_orientation(self.affine), axcodes2ornt(orientation))
        shape = [0, 0, 0]
        for axis, (target, _) in enumerate(transform):
            shape[int(target)] = self.shape[axis]
        return type(self)(
            (shape[0], shape[1], shape[2]), self.affine @ inv_ornt_aff(transform, self.shape)
        )

    def angle_to(self, other: Grid) -> float:
        """Degrees between the two systems of axes, both in one axis order."""
        a, b = self.reoriented("LPS").directions, other.reoriented("LPS").directions
        cosine = (np.trace(a.T @ b) - 1) / 2
        return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def difference(a: Grid, b: Grid) -> str | None:
    """How ``b`` differs from ``a``: shape, spacing, origin and angle; None when they are the same.

    Two grids are the same when, in one axis order, their shapes are equal and their corners lie
    within ``SAME_GRID_TOLERANCE_MM`` of each other.
    """
    first, second = a.reoriented("LPS"), b.reoriented("LPS")
    apart = _apart(first, second)
    if apart <= SAME_GRID_TOLERANCE_MM:
        return None
    parts = [
        f"shape {shape_text(second.shape)} against {shape_text(first.shape)} (as LPS)",
        f"spacing {spacing_text(second.spacing_mm)} against {spacing_text(first.spacing_mm)} mm",
        f"origin ({_point(second)}) against ({_point(first)}) mm RAS",
        f"axes turned by {a.angle_to(b):.2f} degrees",
    ]
    if np.isfinite(apart):
        parts.append(f"corners up to {apart:.3g} mm apart")
    return ", ".join(parts)


def _apart(a: Grid, b: Grid) -> float:
    """Largest distance in mm between the same corner of two grids; infinite for other shapes."""
    if a.shape != b.shape:
        return np.inf
    return float(np.linalg.norm(a.corners_ras - b.corners_ras, axis=1).max())


def shape_text(shape: tuple[int, ...]) -> str:
    """``240 x 240 x 155``, as messages write shapes."""
    return " x ".join(str(n) for n in shape)


def spacing_text(spacing: tuple[float, ...]) -> str:
    """``1 x 1 x 3``, as messages write voxel sizes."""
    return " x ".join(f"{s:.6g}" for s in spacing)


def _point(grid: Grid) -> str:
    return ", ".join(f"{value:.4f}" for value in grid.affine[:3, 3])
