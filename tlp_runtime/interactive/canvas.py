"""The synthesis on the grid that is shown, kept up to date slice by slice."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from tlp_runtime.errors import ModelMismatch
from tlp_runtime.geometry.placement import shared_part
from tlp_runtime.geometry.resample import FittedSplines
from tlp_runtime.geometry.volume import Volume
from tlp_runtime.synthesis.prepare import PreparedCase, splines_back

Image = Literal["plain", "synthesis"]
IMAGES: tuple[Image, ...] = ("plain", "synthesis")
"""The synthesis without a prompt, and with what was drawn."""

SHOWN = "RAS"
"""Axis order of everything that is shown: that of viewers, so that nothing is turned there."""

INTERPOLATING_SHARE = 0.2
"""Largest share of the time that interpolation of unfinished work may take."""

AT_ONCE = 8
"""Slices that are interpolated before somebody may ask for others."""


class Canvas(Protocol):
    """What became of the model's slices.

    Attributes
    ----------
    shown
        (I, J, K) float32 in [0, 1] in the axis order :data:`SHOWN`, 0 where nothing was run.
    """

    shown: dict[Image, NDArray[np.float32]]

    def put(self, image: Image, number: int, values: NDArray[np.float32]) -> None:
        """Take slice ``number`` of the placement: (Y, X) in [0, 1]."""

    def copy(self, number: int) -> None:
        """Let the synthesis be the plain one in a slice of the placement."""

    def settle(self, *, first: int, urgent: bool) -> dict[Image, Collection[int]]:
        """Bring ``shown`` up to date, as far as is quick; which of its slices (k) changed.

        Parameters
        ----------
        first
            The k that is looked at.
        urgent
            False: what takes long may be put off.
        """

    @property
    def behind(self) -> bool:
        """Whether there is more to settle."""

    @property
    def nbytes(self) -> int:
        """Memory it holds."""


def canvas(prepared: PreparedCase, reaches: NDArray[np.int_]) -> Canvas:
    """The one that suits how a case lies before the network.

    Parameters
    ----------
    reaches
        (Z, 2): first and last k that a slice of the placement shares voxels with.

    Raises
    ------
    ModelMismatch
        A model whose slices are not axial.
    """
    orientation = prepared.oriented.grid.orientation
    if orientation[2] != SHOWN[2]:
        raise ModelMismatch(
            f"the model's slices are of {orientation} axes; interactive cases take models of axial "
            "slices from the feet up, such as LPS."
        )
    kind = Interpolated if prepared.placement.offset is None else Exact
    return kind(prepared, reaches)


class Exact:
    """For scans whose voxels are the model's: slices are copied into place."""

    def __init__(self, prepared: PreparedCase, reaches: NDArray[np.int_]) -> None:
        offset = prepared.placement.offset
        assert offset is not None
        here, there = shared_part(offset, prepared.placement.grid.shape, prepared.oriented.shape)
        self._first, self._part = there[2].start, there[1::-1]
        self.shown, turned = _blank(prepared)
        self._views = {image: turned[image][here].transpose(2, 1, 0) for image in IMAGES}
        self._reaches = reaches
        self._changed: dict[Image, set[int]] = {image: set() for image in IMAGES}

    def put(self, image: Image, number: int, values: NDArray[np.float32]) -> None:
        self._views[image][number - self._first] = values[self._part]
        self._note(image, number)

    def copy(self, number: int) -> None:
        here = number - self._first
        self._views["synthesis"][here] = self._views["plain"][here]
        self._note("synthesis", number)

    @property
    def behind(self) -> bool:
        return False

    def settle(self, *, first: int, urgent: bool) -> dict[Image, Collection[int]]:
        changed: dict[Image, Collection[int]] = dict(self._changed)
        self._changed = {image: set() for image in IMAGES}
        return changed

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.shown.values())

    def _note(self, image: Image, number: int) -> None:
        first, last = self._reaches[number]
        self._changed[image].update(range(first, last + 1))


class Interpolated:
    """For other scans: splines are fitted again, and evaluated slice by slice, as for a file.

    The slice that is looked at comes first, then its neighbours; whatever turns out not to have
    changed is not reported.
    """

    def __init__(self, prepared: PreparedCase, reaches: NDArray[np.int_]) -> None:
        columns, rows, slices = prepared.placement.grid.shape
        self._splines = splines_back(prepared)
        self._slices = {image: np.zeros((slices, rows, columns), np.float32) for image in IMAGES}
        self.shown, self._views = _blank(prepared)
        self._stale: set[Image] = set()
        self._fitted: dict[Image, FittedSplines] = {}
        self._left: dict[Image, set[int]] = {image: set() for image in IMAGES}
        self._settled_at, self._took = 0.0, 0.0

    def put(self, image: Image, number: int, values: NDArray[np.float32]) -> None:
        self._slices[image][number] = values
        self._stale.add(image)

    def copy(self, number: int) -> None:
        self.put("synthesis", number, self._slices["plain"][number])

    @property
    def behind(self) -> bool:
        return bool(self._fitted)

    def settle(self, *, first: int, urgent: bool) -> dict[Image, Collection[int]]:
        began = time.perf_counter()
        if self._stale and (urgent or began - self._settled_at > self._took / INTERPOLATING_SHARE):
            for image in self._stale:
                self._fitted[image] = self._splines.fit(self._slices[image].transpose(2, 1, 0))
                self._left[image] = set(self._splines.slices)
            self._stale.clear()
            self._settled_at, self._took = began, 0.0
        changed: dict[Image, Collection[int]] = {
            image: self._evaluate(image, first) for image in list(self._fitted)
        }
        self._took += time.perf_counter() - began
        return changed

    @property
    def nbytes(self) -> int:
        arrays = (*self._slices.values(), *self.shown.values())
        return self._splines.nbytes + sum(array.nbytes for array in arrays)

    def _evaluate(self, image: Image, first: int) -> list[int]:
        """Some slices: the one that is looked at, else those next to it."""
        left = self._left[image]
        some = [first] if first in left else sorted(left, key=lambda k: abs(k - first))[:AT_ONCE]
        changed = []
        for k in some:
            values = self._splines.slice(self._fitted[image], k)
            if not np.array_equal(values, self._views[image][:, :, k]):
                self._views[image][:, :, k] = values
                changed.append(k)
            left.discard(k)
        if not left:
            del self._fitted[image]
        return changed


def _blank(
    prepared: PreparedCase,
) -> tuple[dict[Image, NDArray[np.float32]], dict[Image, NDArray[np.float32]]]:
    """Images of 0 in the axis order that is shown, and the same memory in the model's."""
    grid = prepared.reference.grid.reoriented(SHOWN)
    shown = {image: np.zeros(grid.shape, np.float32, order="F") for image in IMAGES}
    orientation = prepared.oriented.grid.orientation
    turned = {
        image: Volume(data, grid.affine).reoriented(orientation).data
        for image, data in shown.items()
    }
    return shown, turned
