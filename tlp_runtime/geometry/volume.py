"""A volume: a 3-D array and the affine that places it, always together."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform
from numpy.typing import NDArray

from tlp_runtime.errors import GeometryError, GivenFixes
from tlp_runtime.geometry.grid import Grid, difference, shape_text
from tlp_runtime.warnings import TLPWarning


@dataclass(frozen=True)
class Origin:
    """The file a volume was read from, or the folder of a DICOM series.

    Parameters
    ----------
    sha256
        Hash of the file; of a series, hash of its files' hashes in the order of their names.
    """

    path: str
    sha256: str


@dataclass(frozen=True)
class Volume:
    """A scalar image in space.

    Parameters
    ----------
    data
        (I, J, K) array in the order of its file.
    affine
        (4, 4) float64: voxel indices to RAS+ millimetres.
    header
        The NIfTI header the array was read with, so that an output on the same grid repeats its
        spatial fields to the bit; None for a volume that was reoriented or made in memory.
    name
        What to call it in messages, usually the file's path.
    origin
        Where it was read from; None for a volume made in memory.
    warnings
        What is doubtful about the file it was read from.

    Raises
    ------
    GeometryError
        The array is not 3-D, has an empty axis, or the affine does not span three dimensions.
    """

    data: NDArray[Any]
    affine: NDArray[np.float64]
    header: nib.Nifti1Header | None = field(default=None, repr=False, compare=False)
    name: str = "volume"
    origin: Origin | None = field(default=None, repr=False, compare=False)
    warnings: tuple[TLPWarning, ...] = field(default=(), repr=False, compare=False)

    def __post_init__(self) -> None:
        try:
            grid = Grid(self.data.shape, self.affine)
        except GeometryError as error:
            raise GeometryError(f"{self.name}: {error.problem}", fix=error.fixes) from None
        object.__setattr__(self, "affine", grid.affine)

    @property
    def grid(self) -> Grid:
        """Where its voxels lie."""
        return Grid(self.shape, self.affine)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(I, J, K)."""
        i, j, k = self.data.shape
        return i, j, k

    def reoriented(self, orientation: str) -> Volume:
        """The same volume with its axes permuted and flipped to ``orientation``; no resampling."""
        transform = ornt_transform(io_orientation(self.affine), axcodes2ornt(orientation))
        return Volume(
            data=apply_orientation(self.data, transform),
            affine=self.grid.reoriented(orientation).affine,
            name=self.name,
        )

    def restored_to(self, original: Volume) -> Volume:
        """Undo ``original.reoriented(...)``: this data on the original's axes, affine and header.

        ``self`` must be on the grid that the reorientation gave; its data may have changed.
        """
        transform = ornt_transform(io_orientation(self.affine), io_orientation(original.affine))
        data = apply_orientation(self.data, transform)
        if data.shape != original.shape:
            raise GeometryError(
                f"{self.name}: {shape_text(data.shape)} cannot be put back on the grid of "
                f"{original.name}, {shape_text(original.shape)}"
            )
        return Volume(
            data=np.asfortranarray(data),  # the order of a file's voxels
            affine=original.affine,
            header=original.header,
            name=self.name,
        )


def on_grid(volume: Volume, grid: Grid) -> Volume:
    """The same voxels on ``grid``, padded with 0 and cut, when they are voxels of it; else as is.

    For segmentations that leave out their empty slices. In other files a part of a grid may be a
    mistake, and is not taken for the whole.
    """
    turned = volume.reoriented(grid.orientation)
    offset = np.rint(grid.voxels(turned.affine[None, :3, 3]))[0].astype(int)
    there = Grid(turned.shape, grid.affine @ _translation(offset))
    if difference(there, turned.grid) is not None:
        return volume
    ends = np.minimum(offset + turned.shape, grid.shape)
    starts = np.maximum(offset, 0)
    data = np.zeros(grid.shape, turned.data.dtype)
    if (ends > starts).all():
        here = tuple(slice(a, b) for a, b in zip(starts, ends, strict=True))
        part = tuple(slice(a - o, b - o) for a, b, o in zip(starts, ends, offset, strict=True))
        data[here] = turned.data[part]
    return replace(volume, data=data, affine=grid.affine, header=None)


def _translation(offset: NDArray[np.int_]) -> NDArray[np.float64]:
    matrix = np.eye(4)
    matrix[:3, 3] = offset
    return matrix


def require_same_grid(
    reference: Volume, other: Volume, fix: GivenFixes = "Resample one to the grid of the other."
) -> None:
    """Raise unless both lie on one grid, whatever the order of their axes.

    Parameters
    ----------
    fix
        What the user can do.

    Raises
    ------
    GeometryError
        Naming shapes, spacings, origins and the angle between the axes.
    """
    differs = difference(reference.grid, other.grid)
    if differs is not None:
        raise GeometryError(
            f"{other.name}: lies on another grid than {reference.name}: {differs}", fix=fix
        )
