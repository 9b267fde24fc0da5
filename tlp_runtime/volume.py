"""A volume: a 3-D array and the affine that places it, always together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.orientations import (
    apply_orientation,
    axcodes2ornt,
    inv_ornt_aff,
    io_orientation,
    ornt_transform,
)
from numpy.typing import NDArray

from tlp_runtime.errors import GeometryError


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

    Raises
    ------
    GeometryError
        The array is not 3-D, has an empty axis, or the affine does not span three dimensions.
    """

    data: NDArray[Any]
    affine: NDArray[np.float64]
    header: nib.Nifti1Header | None = field(default=None, repr=False, compare=False)
    name: str = "volume"

    def __post_init__(self) -> None:
        if self.data.ndim != 3 or 0 in self.data.shape:
            raise GeometryError(
                f"{self.name}: shape {shape_text(self.data.shape)}, expected one 3-D volume. "
                "Extract a single volume first."
            )
        affine = np.asarray(self.affine, dtype=np.float64)
        if (
            affine.shape != (4, 4)
            or not np.isfinite(affine).all()
            or abs(np.linalg.det(affine[:3, :3])) < 1e-9
        ):
            raise GeometryError(
                f"{self.name}: its affine does not place voxels in space:\n{affine}\n"
                "Repair the sform or qform of the file."
            )
        object.__setattr__(self, "affine", affine)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(I, J, K)."""
        i, j, k = self.data.shape
        return i, j, k

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel sizes along I, J, K."""
        x, y, z = (float(v) for v in np.linalg.norm(self.affine[:3, :3], axis=0))
        return x, y, z

    @property
    def orientation(self) -> str:
        """Axis codes such as ``LPS``: the direction each axis increases towards."""
        return "".join(nib.aff2axcodes(self.affine))

    def reoriented(self, orientation: str) -> Volume:
        """The same volume with its axes permuted and flipped to ``orientation``; no resampling."""
        transform = ornt_transform(io_orientation(self.affine), axcodes2ornt(orientation))
        return Volume(
            data=apply_orientation(self.data, transform),
            affine=self.affine @ inv_ornt_aff(transform, self.shape),
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
            data=np.ascontiguousarray(data),
            affine=original.affine,
            header=original.header,
            name=self.name,
        )


def shape_text(shape: tuple[int, ...]) -> str:
    """``240 x 240 x 155``, as messages write shapes."""
    return " x ".join(str(n) for n in shape)
