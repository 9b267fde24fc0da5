"""Images as the network's rules expect them: axes, background, nothing outside the brain mask."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tlp_runtime.errors import ContentError
from tlp_runtime.geometry.grid import difference
from tlp_runtime.geometry.resample import resampled_labels
from tlp_runtime.geometry.volume import Volume
from tlp_runtime.spec.model import ModelSpec
from tlp_runtime.values.intensity import background, background_within, require_numbers
from tlp_runtime.values.prompt import rounded
from tlp_runtime.warnings import BACKGROUND_SHIFTED, Warn


def in_model_axes(volume: Volume, spec: ModelSpec) -> Volume:
    """The volume in the model's axis order.

    Its affine is rounded to a millionth of a millimetre, so that interpolation gives the same to
    the bit whatever the order the axes had.
    """
    turned = volume.reoriented(spec.crop.orientation)
    return replace(turned, affine=np.round(turned.affine, 6))


def cleaned(volume: Volume, brain_mask: Volume | None, spec: ModelSpec, warn: Warn) -> Volume:
    """In the model's axis order, voxels finite, background 0, and nothing outside the mask."""
    require_numbers(volume.data, volume.name)
    data = volume.data
    mask = None
    if brain_mask is not None:
        require_numbers(brain_mask.data, brain_mask.name)
        mask = _mask_on(brain_mask, volume)
        if not mask.any():
            raise ContentError(
                f"{brain_mask.name}: marks nothing of {volume.name} as brain. Expected a mask that "
                "is not 0 in the brain."
            )
    around = background(data) if mask is None else background_within(data, mask)
    if around != 0:
        warn(
            BACKGROUND_SHIFTED.warning(
                f"{volume.name}: its background is {around:g}; taken as 0.", background=around
            )
        )
        data = data.astype(np.float64) - around
    if mask is not None:
        data = np.where(mask, data, 0)
    if not data.any():
        raise ContentError(f"{volume.name}: is zero everywhere, expected an image of a brain.")
    return in_model_axes(replace(volume, data=data), spec)


def _mask_on(mask: Volume, volume: Volume) -> NDArray[np.bool_]:
    inside = replace(mask, data=rounded(mask.data) != 0)
    if difference(volume.grid, mask.grid) is None:
        where: NDArray[np.bool_] = inside.reoriented(volume.grid.orientation).data
        return where
    return resampled_labels(replace(inside, data=inside.data.astype(np.uint8)), volume.grid) > 0
