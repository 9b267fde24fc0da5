"""A volume: a 3-D array and the affine that places it, always together."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform
from numpy.typing import NDArray

from tlp_runtime.errors import GeometryError, GivenFixes, SetOption
from tlp_runtime.geometry.grid import Grid, difference, shape_text
from tlp_runtime.warnings import FRAMES_DIFFER, TLPWarning, Warn


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
    frame_of_reference
        UID of the DICOM frame of reference; None where the file names none.
    coded
        Of labels: 1 is tumour and 2 is oedema by codes in the file, whatever a model's labels are.

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
    frame_of_reference: str | None = field(default=None, repr=False, compare=False)
    coded: bool = field(default=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        try:
            grid = Grid(self.data.shape, self.affine)
        except GeometryError as error:
            raise GeometryError(f"{self.name}: {error.problem}", fix=error.fixes) from None
        object.__setattr__(self, "affine", grid.affine)

    def voxels_sha256(self) -> str:
        """Hexadecimal SHA-256 of its shape and values, whatever file, type or axis order has them.

        Values are compared as float32; where the volume lies does not count.
        """
        data = np.asarray(self.reoriented("LPS").data, "<f4") + np.float32(0)  # -0 becomes 0
        content = hashlib.sha256(repr(data.shape).encode())
        content.update(np.ascontiguousarray(data).data)
        return content.hexdigest()

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


def require_one_space(
    reference: Volume, other: Volume, *, accepted: bool, warn: Warn | None = None
) -> None:
    """Refuse a volume of another frame of reference, whose place does not compare.

    Parameters
    ----------
    accepted
        Take both for one space all the same.
    warn
        Called then.

    Raises
    ------
    GeometryError
        It is not accepted.
    """
    frames = {reference.frame_of_reference, other.frame_of_reference} - {None}
    if len(frames) < 2:
        return
    problem = (
        f"{other.name}: lies in another frame of reference than {reference.name} "
        f"({other.frame_of_reference} against {reference.frame_of_reference}), so that their "
        "positions do not compare"
    )
    if not accepted:
        share = "if they share one space all the same"
        raise GeometryError(
            problem,
            fix=(
                "Register one to the other first.",
                SetOption("ignore_frame_of_reference", purpose=share),
            ),
        )
    if warn is not None:
        warn(FRAMES_DIFFER.warning(f"{problem}; taken as one space."))


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
