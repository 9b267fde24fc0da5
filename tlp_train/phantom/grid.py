"""The BraTS grid, and the box inside it in which the phantom is built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from tlp_runtime.geometry.crop import MATRIX
from tlp_train.phantom.fields import Float, Shape3

Voxel = TypeVar("Voxel", np.int16, np.uint8, np.float32)

VOLUME_SHAPE: Shape3 = MATRIX
"""Voxels of a BraTS 2021 volume along x (to the left), y (to the back), z (up): LPS."""

BOX_ORIGIN: Shape3 = (44, 38, 0)
"""First voxel of the working box; the box keeps the brain clear of the training crop's edge."""

BOX_SHAPE: Shape3 = (152, 184, 148)

CENTRE_VOXEL: Shape3 = (118, 130, 0)
"""Voxel at the origin of head coordinates: mid-sagittal, mid-coronal, lowest slice."""


def brats_affine() -> NDArray[np.float64]:
    """Voxel to RAS world transform (mm) of every BraTS 2021 volume, 4 x 4."""
    return np.array(
        [[-1.0, 0.0, 0.0, 0.0], [0.0, -1.0, 0.0, 239.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
    )


def box_slices() -> tuple[slice, slice, slice]:
    """Index of the working box in a whole volume."""
    x, y, z = (
        slice(first, first + size) for first, size in zip(BOX_ORIGIN, BOX_SHAPE, strict=True)
    )
    return x, y, z


def on_brats_grid(box: NDArray[Voxel]) -> NDArray[Voxel]:
    """A whole volume of zeros with the working box put in its place."""
    volume = np.zeros(VOLUME_SHAPE, dtype=box.dtype)
    volume[box_slices()] = box
    return volume


@dataclass(frozen=True)
class Points:
    """Head coordinates of a set of points: x to the left, y to the back, z up, in mm.

    The origin is on the mid-sagittal plane, half way between front and back, in the lowest
    slice. The three arrays broadcast against each other.
    """

    x: Float
    y: Float
    z: Float

    def stack(self) -> Float:
        """The coordinates as one (3, ...) array."""
        return np.stack(np.broadcast_arrays(self.x, self.y, self.z)).astype(np.float32)


def half_grid() -> Points:
    """Head coordinates of every second voxel of the box, each (nx, ny, nz)."""
    axes = [
        np.arange(0, size, 2, dtype=np.float32) + np.float32(first - centre)
        for first, size, centre in zip(BOX_ORIGIN, BOX_SHAPE, CENTRE_VOXEL, strict=True)
    ]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    return Points(x, y, z)


def to_box_voxel(head_mm: NDArray[np.floating]) -> NDArray[np.floating]:
    """Head coordinates in mm, (..., 3), as fractional voxel indices of the box."""
    offset = np.subtract(CENTRE_VOXEL, BOX_ORIGIN)
    return np.asarray(head_mm + offset, dtype=np.float32)
