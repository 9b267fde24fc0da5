"""Images and label maps on the grid of a placement."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlp_runtime.errors import GeometryError
from tlp_runtime.geometry.grid import difference
from tlp_runtime.geometry.placement import Placement, shared_part
from tlp_runtime.geometry.resample import resampled, resampled_labels
from tlp_runtime.geometry.volume import Volume


def as_it_is(placement: Placement, volume: Volume, reference: Volume) -> bool:
    """Whether the volume's voxels are those of the placement, which was laid on ``reference``."""
    return placement.offset is not None and difference(reference.grid, volume.grid) is None


def image_on(placement: Placement, volume: Volume, reference: Volume) -> NDArray[Any]:
    """An image as (Z, Y, X) slices of the placement: cut where its voxels are, else linear.

    Parameters
    ----------
    volume
        In the model's axis order, background 0.
    """
    if as_it_is(placement, volume, reference):
        return _cut(placement, volume)
    return resampled(volume, placement.grid).transpose(2, 1, 0)


def labels_on(placement: Placement, labels: Volume, reference: Volume) -> NDArray[Any]:
    """A label map in the model's axis order as (Z, Y, X) slices of the placement: nearest voxel."""
    if as_it_is(placement, labels, reference):
        return _cut(placement, labels)
    return resampled_labels(labels, placement.grid).transpose(2, 1, 0)


def require_overlap(held: NDArray[np.bool_], volume: Volume, reference: Volume) -> None:
    """Raise :class:`GeometryError` where no voxel of an image on the placement is ``held``."""
    if not held.any():
        raise GeometryError(
            f"{volume.name}: does not overlap the brain of {reference.name}. Do they share a "
            "world frame?",
            fix="Register one to the other first.",
        )


def _cut(placement: Placement, volume: Volume) -> NDArray[Any]:
    assert placement.offset is not None
    offset, data = placement.offset, volume.data
    here, there = shared_part(offset, placement.grid.shape, data.shape)
    if data[here].shape == placement.grid.shape:
        return data[here].transpose(2, 1, 0)
    padded = np.zeros(placement.grid.shape, data.dtype)
    padded[there] = data[here]
    return padded.transpose(2, 1, 0)
