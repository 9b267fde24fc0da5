"""What an interactive case takes and gives: boxes of its mask, updates, the state of a slice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tlp_runtime.errors import ContentError, GeometryError, TLPError
from tlp_runtime.geometry.grid import Grid, shape_text
from tlp_runtime.interactive.canvas import IMAGES, Image
from tlp_runtime.interactive.queue import Ticket

TUMOUR, OEDEMA = 1, 2
"""Values of the mask; 0 is no prompt."""


@dataclass(frozen=True)
class MaskBox:
    """A part of the shown grid: its first voxel, and how many along each axis."""

    start: tuple[int, int, int]
    shape: tuple[int, int, int]

    @property
    def slices(self) -> tuple[slice, ...]:
        """To index an array of the grid with."""
        return tuple(slice(a, a + n) for a, n in zip(self.start, self.shape, strict=True))

    def require_on(self, grid: Grid) -> None:
        """Raise :class:`GeometryError` unless the box lies wholly on ``grid``."""
        ends = np.add(self.start, self.shape)
        if min(self.start) < 0 or min(self.shape) < 1 or (ends > grid.shape).any():
            raise GeometryError(
                f"a box of {shape_text(self.shape)} voxels at {self.start} is not on the grid of "
                f"the image, {shape_text(grid.shape)}."
            )

    def require(self, labels: NDArray[np.uint8], grid: Grid) -> None:
        """Raise unless the box lies on ``grid`` and ``labels`` are its values.

        Raises
        ------
        GeometryError
            A box that is not wholly on the grid, or labels of another shape.
        ContentError
            Values other than 0, 1 and 2.
        """
        self.require_on(grid)
        if labels.shape != self.shape:
            raise GeometryError(
                f"labels are {shape_text(labels.shape)}, their box {shape_text(self.shape)}."
            )
        if labels.max() > OEDEMA:
            raise ContentError(
                f"the mask holds {labels.max()}; expected 0, {TUMOUR} tumour or {OEDEMA} oedema."
            )


@dataclass(frozen=True)
class Update:
    """What changed.

    Parameters
    ----------
    serial
        To ask from the next time.
    groups
        Which images, and in which slices (k): the same values for all images of a group.
    left
        Images of slices still to be run.
    running
        Whether any of them is queued.
    more
        Whether there is more to take at once, without waiting for the engine.
    error
        Why some are not; None else.
    seconds
        ``prompt`` of the last stroke; ``queue`` and ``engine`` of its first slice, once one ran;
        ``restore`` of this update.
    """

    serial: int
    groups: tuple[tuple[tuple[Image, ...], tuple[int, ...]], ...]
    left: int
    running: bool
    more: bool
    error: TLPError | None
    seconds: Mapping[str, float]


@dataclass
class SliceState:
    """One slice of the placement that is run.

    Attributes
    ----------
    labels
        (Y, X) uint8: the mask as the network sees it.
    done
        Images that are up to date.
    tickets
        Tickets of images under way.
    """

    labels: NDArray[np.uint8]
    done: set[Image] = field(default_factory=set)
    tickets: dict[Image, Ticket] = field(default_factory=dict)

    @property
    def prompted(self) -> bool:
        return bool(self.labels.any())

    @property
    def wanted(self) -> list[Image]:
        """Images that are not up to date; without a prompt the synthesis is the plain one."""
        images: tuple[Image, ...] = IMAGES if self.prompted else ("plain",)
        return [image for image in images if image not in self.done]

    def drop(self, image: Image) -> None:
        """Do without what is under way."""
        ticket = self.tickets.pop(image, None)
        if ticket is not None:
            ticket.cancelled = True
