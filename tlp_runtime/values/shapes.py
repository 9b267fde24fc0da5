"""Prompts drawn by numbers: spheres and boxes in world or voxel coordinates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from tlp_runtime.errors import UsageError
from tlp_runtime.geometry.grid import Grid
from tlp_runtime.options import alternatives

Kind = Literal["tumour", "oedema"]
Frame = Literal["ras", "lps", "voxel"]

_LPS = np.array([-1.0, -1.0, 1.0])


@dataclass(frozen=True)
class Shape:
    """A region without a segmentation tool.

    Parameters
    ----------
    numbers
        Coordinates in ``frame``: of the centre and the radius in millimetres, or of two opposite
        corners.
    frame
        ``ras``: world millimetres of NIfTI and its viewers; ``lps``: those of DICOM; ``voxel``:
        indices into the first image's file, from 0, whole numbers at the centres of voxels.
    kind
        What the region is.

    Raises
    ------
    UsageError
        Numbers of another count, or that are not finite; a shape without volume.
    """

    numbers: tuple[float, ...]
    frame: Frame = "ras"
    kind: Kind = "tumour"

    form: ClassVar[str] = ""
    count: ClassVar[int] = 0

    def __post_init__(self) -> None:
        if len(self.numbers) != self.count or not np.isfinite(self.numbers).all():
            raise UsageError(f"{self._word} {self.numbers}: expected {self.form}.")
        if self.frame not in get_args(Frame) or self.kind not in get_args(Kind):
            raise UsageError(
                f"{self._word} of kind {self.kind!r} in the frame {self.frame!r}: expected "
                f"{alternatives(get_args(Kind))} in {alternatives(get_args(Frame))}."
            )

    def __str__(self) -> str:
        numbers = ",".join(f"{number:g}" for number in self.numbers)
        return f"{self._word} {self.kind}:{self.frame}:{numbers}"

    @property
    def _word(self) -> str:
        return type(self).__name__.lower()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``[tumour:|oedema:][ras:|lps:|voxel:]NUMBERS``.

        Raises
        ------
        UsageError
            Another form, or a shape without volume.
        """
        *words, numbers = (part.strip() for part in text.split(":"))
        given: dict[str, Any] = {}
        try:
            values = tuple(float(number) for number in numbers.split(","))
            for word in words:
                (name,) = (
                    name
                    for name, known in (("kind", get_args(Kind)), ("frame", get_args(Frame)))
                    if word in known and name not in given
                )
                given[name] = word
        except ValueError:
            values = ()
        if len(values) != cls.count or not np.isfinite(values).all():
            raise UsageError(
                f"{cls.__name__.lower()} {text!r}: expected {cls.form}, before it tumour: or "
                "oedema:, and ras: (world mm, the default), lps: (DICOM's mm) or voxel: (indices)."
            )
        return cls(values, **given)

    def drawn(self, grid: Grid, reference: Grid) -> NDArray[np.bool_]:
        """Which voxels of ``grid`` have their centre in the shape.

        Parameters
        ----------
        reference
            The grid that ``voxel`` coordinates are of.
        """
        raise NotImplementedError


class Sphere(Shape):
    """A ball; its radius is in millimetres in every frame."""

    form = "X,Y,Z,RADIUS_MM"
    count = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.numbers[3] <= 0:
            raise UsageError(f"sphere {self.numbers}: the radius is not positive.")

    def drawn(self, grid: Grid, reference: Grid) -> NDArray[np.bool_]:
        centre = np.array([self.numbers[:3]])
        if self.frame == "voxel":
            centre = reference.world(centre)
        elif self.frame == "lps":
            centre = centre * _LPS
        in_world = zip(_coordinates(grid.affine, grid.shape), centre[0], strict=True)
        squared = sum((x - c) ** 2 for x, c in in_world)
        return np.asarray(squared <= self.numbers[3] ** 2)


class Box(Shape):
    """The box between two opposite corners, along the axes of its frame, both corners included."""

    form = "X1,Y1,Z1,X2,Y2,Z2"
    count = 6

    def drawn(self, grid: Grid, reference: Grid) -> NDArray[np.bool_]:
        inside = np.ones(grid.shape, dtype=np.bool_)
        half = 0.5 if self.frame == "voxel" else 0.0  # a voxel is a box, not a point
        affine = grid.affine
        if self.frame == "voxel":
            affine = np.linalg.inv(reference.affine) @ affine
        elif self.frame == "lps":
            affine = np.diag([*_LPS, 1.0]) @ affine
        for axis, x in enumerate(_coordinates(affine, grid.shape)):
            a, b = sorted((self.numbers[axis], self.numbers[axis + 3]))
            inside &= (x >= a - half) & (x <= b + half)
        return inside


def _coordinates(
    affine: NDArray[np.float64], shape: tuple[int, int, int]
) -> tuple[NDArray[np.float64], ...]:
    """Where an affine puts every voxel of a grid, one array per axis."""
    i, j, k = np.ogrid[: shape[0], : shape[1], : shape[2]]
    return tuple(a * i + b * j + c * k + d for a, b, c, d in affine[:3])
