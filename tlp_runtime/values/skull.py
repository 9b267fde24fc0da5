"""Whether a scan shows a head with its skull, by the layers that rays meet on the way in.

In a bare brain a ray from outside meets brain at once. In a head it meets scalp, then skull, which
is dark in every MR contrast, and then brain.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tlp_runtime.errors import SetOption
from tlp_runtime.geometry.grid import Grid
from tlp_runtime.geometry.resample import filled
from tlp_runtime.geometry.volume import Volume
from tlp_runtime.warnings import SKULL, Warn

SHARE = 0.15
"""Share of rays that meet a skull from which a scan is a head. Seven BraTS cases have 0.02 at most,
the phantom 0.03, heads made of the cases by adding skull and scalp 0.7 to 1."""

_STEP_MM = 2.0
_RAYS = 1000
_DEEP_MM = 25.0
"""What lies deeper in a head is brain."""
_SCALP_MM = 12
_DEPTH_MM = 30
"""How deep a scalp, and a skull, begin at most."""
_TISSUE, _DARK = 0.6, 0.5
"""Of the brain's median: what a scalp and a brain have at least, what a skull has at most."""
_THICK_MM = 3
_FARTHEST_MM = 160
_LEAST_DEEP = 200
_NOISE = 0.15
"""Of the brightest values: what is less is air."""
_SPECK = 0.03
"""Share of a head below which a part of it is left out."""


def check_skull(volume: Volume, warn: Warn) -> None:
    """Warn when a scan shows a head with its skull.

    Parameters
    ----------
    volume
        Background 0; no brain mask was given for it.
    """
    share = skull_share(volume)
    if share > SHARE:
        warn(
            SKULL.warning(
                f"{volume.name}: shows a head with its skull: {100 * share:.0f} % of the lines "
                "into it pass a bright layer and a dark one before they reach the brain; the model "
                "expects a skull-stripped scan.",
                fix=SetOption("brain_mask", purpose="to take the skull away"),
                share=round(share, 3),
            )
        )


def skull_share(volume: Volume) -> float:
    """Share of rays from above that pass a scalp and a skull; 0 where there is too little head."""
    from scipy import ndimage

    stride = [max(1, round(_STEP_MM / spacing)) for spacing in volume.grid.spacing_mm]
    data = volume.data[:: stride[0], :: stride[1], :: stride[2]].astype(np.float32)
    grid = Grid(data.shape, volume.affine @ np.diag([*stride, 1]))
    head = _head(data)
    depth = ndimage.distance_transform_edt(head, sampling=grid.spacing_mm)
    deep = depth > _DEEP_MM
    if np.count_nonzero(deep) < _LEAST_DEEP:
        return 0.0
    centre = grid.world(np.argwhere(deep)).mean(axis=0)
    along = np.arange(_FARTHEST_MM)  # mm
    points = centre + _directions()[:, None, :] * along[:, None]
    places = grid.voxels(points.reshape(-1, 3)).T
    level = float(np.median(data[deep]))
    values = ndimage.map_coordinates(data, places, order=1).reshape(points.shape[:2]) / level
    inside = ndimage.map_coordinates(head.astype(np.uint8), places, order=0)
    return _share_of_rays(values, inside.reshape(points.shape[:2]) > 0)


def _head(data: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Where a head is, air in it included."""
    from scipy import ndimage

    positive = data[data > 0]
    if not positive.size:
        return np.zeros(data.shape, np.bool_)
    tissue = data > _NOISE * np.percentile(positive, 98)
    parts, _ = ndimage.label(tissue)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return filled(np.isin(parts, np.flatnonzero(sizes > _SPECK * sizes.sum())))


def _share_of_rays(values: NDArray[np.float32], inside: NDArray[np.bool_]) -> float:
    """Of rays (number, mm from the centre), those that meet scalp, skull and brain from outside."""
    met = rays = 0
    for profile, held in zip(values, inside, strict=True):
        within = np.flatnonzero(held)
        if not within.size or within[-1] >= len(profile) - 2:
            continue  # the head is cut here
        rays += 1
        inwards = profile[: within[-1] + 1][::-1]
        scalp = np.flatnonzero(inwards[:_SCALP_MM] >= _TISSUE)
        if not scalp.size:
            continue
        skull = scalp[0] + np.flatnonzero(inwards[scalp[0] : _DEPTH_MM] < _DARK)
        met += skull.size >= _THICK_MM and bool((inwards[skull[0] :] >= _TISSUE).any())
    return met / rays if rays else 0.0


def _directions() -> NDArray[np.float64]:
    """(n, 3) unit vectors spread evenly over the upper half of a sphere, RAS."""
    index = np.arange(_RAYS) + 0.5
    height = index / _RAYS
    angle = np.pi * (1 + 5**0.5) * index
    radius = np.sqrt(1 - height**2)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), height], axis=1)
