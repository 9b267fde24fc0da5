"""The smallest box around what a mask marks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def box_of(marked: NDArray[np.bool_]) -> tuple[slice, ...]:
    """The smallest box that holds every marked voxel; an empty one where none is."""
    box = [slice(None)] * marked.ndim
    for axis in reversed(range(marked.ndim)):
        others = tuple(other for other in range(marked.ndim) if other != axis)
        along = np.atleast_1d(marked.any(axis=others))
        last = len(along) - int(along[::-1].argmax())
        box[axis] = slice(int(along.argmax()), last) if along.any() else slice(0, 0)
        marked = marked[tuple(box[axis] if a == axis else slice(None) for a in range(marked.ndim))]
    return tuple(box)


def widened(box: tuple[slice, ...], margin: int) -> tuple[slice, ...]:
    """A box with so many voxels more on every side, cut at the array's first ones."""
    return tuple(slice(max(0, span.start - margin), span.stop + margin) for span in box)
