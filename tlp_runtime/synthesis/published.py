"""Cases on a grid from which the published crop is cut: as training and evaluation see them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlp_runtime.errors import GeometryError
from tlp_runtime.geometry.crop import is_published
from tlp_runtime.geometry.grid import shape_text, spacing_text
from tlp_runtime.geometry.placement import Extent, Placement, place
from tlp_runtime.geometry.volume import Volume, require_same_grid
from tlp_runtime.spec.model import CropSpec, ModelSpec
from tlp_runtime.synthesis.clean import cleaned, in_model_axes
from tlp_runtime.synthesis.placed import image_on, labels_on, require_overlap
from tlp_runtime.warnings import TLPWarning, WarningLog

logger = logging.getLogger(__name__)

SEGMENTATION = "seg"
"""The array of a case that is a label map."""


@dataclass(frozen=True)
class PublishedCase:
    """The volumes of a case, of which the published crop is what the network sees.

    Parameters
    ----------
    volumes
        By array: as they were given where they lie on the model's grid, else brought to it.
    slices
        First slice that training and evaluation use, and the one after the last.
    own
        Of images that were interpolated: the scan's own voxels, background 0, which intensity
        limits are taken from, as inference does.
    brought
        Whether the case lay on another grid.
    """

    volumes: Mapping[str, Volume]
    slices: tuple[int, int]
    own: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    brought: bool = False


def on_published_grid(volumes: Mapping[str, Volume], spec: ModelSpec, name: str) -> PublishedCase:
    """Bring a case to the model's grid, unless it lies there as BraTS cases do.

    A case that does is left as it is, and its slices are the published ones. Any other is
    placed as inference places it, by the brain of the model's first input, and images and
    segmentation come to that placement by the same interpolation; its slices are all from the first
    to the last that holds brain of that input.

    Parameters
    ----------
    volumes
        By array, the model's first input among them; ``seg`` is a label map.
    name
        The case, for the log.

    Raises
    ------
    GeometryError
        Volumes on different grids, or a brain larger than the crop.
    ContentError
        Of a case that must be brought: voxels that are no numbers, an image that is zero
        everywhere.
    """
    first = volumes[spec.inputs[0]]
    for volume in volumes.values():
        require_same_grid(
            first, volume, "Register the images of a case, and resample them to one grid, first."
        )
    if is_published(first.grid, spec.crop):
        return PublishedCase(volumes, spec.crop.slices)

    def tell(warning: TLPWarning) -> None:
        logger.warning("%s: %s", name, warning)

    images = {
        array: cleaned(volume, None, spec, tell)
        for array, volume in volumes.items()
        if array != SEGMENTATION
    }
    reference = images[spec.inputs[0]]
    brain = Extent.of(reference.data != 0, reference.grid, spec.crop)
    placement = _placed(reference, brain, spec)
    brought: dict[str, Volume] = {}
    for array, volume in volumes.items():
        if array in images:
            slices = image_on(placement, images[array], reference)
            require_overlap(slices != 0, volume, first)
        else:
            slices = labels_on(placement, in_model_axes(volume, spec), reference)
        brought[array] = _embedded(slices, placement, spec.crop, volume.name)
    held = np.flatnonzero((brought[spec.inputs[0]].data != 0).any(axis=(0, 1)))
    interpolated = placement.offset is None
    logger.info(
        "%s: %s voxels of %s mm, %s to the model's grid",
        name,
        shape_text(first.shape),
        spacing_text(first.grid.spacing_mm),
        "interpolated" if interpolated else "cut or padded",
    )
    return PublishedCase(
        brought,
        (int(held[0]), int(held[-1]) + 1),
        {array: image.data for array, image in images.items()} if interpolated else {},
        brought=True,
    )


def _placed(reference: Volume, brain: Extent, spec: ModelSpec) -> Placement:
    """The placement of a brain that the crop holds."""
    heard = WarningLog()
    placement = place(reference.grid, brain, spec, reference.name, heard.add)
    for warning in heard:
        raise GeometryError(
            f"{reference.name}: its brain is {warning.numbers['rows']} x "
            f"{warning.numbers['columns']} voxels of the model's grid; training and evaluation "
            f"need one that the crop holds, {spec.crop.height} x {spec.crop.width}",
            fix="Strip the skull if it shows one; else leave the case out.",
        )
    return placement


def _embedded(slices: NDArray[Any], placement: Placement, crop: CropSpec, name: str) -> Volume:
    """Slices of a placement as a volume from which the published crop cuts them."""
    left, top = crop.columns[0], crop.rows[0]
    data = np.zeros((crop.columns[1], crop.rows[1], len(slices)), slices.dtype, order="F")
    data[left:, top:] = slices.transpose(2, 1, 0)
    affine = placement.grid.affine.copy()
    affine[:3, 3] = placement.grid.world(np.array([[-left, -top, 0]]))[0]
    return Volume(data, affine, name=name)
