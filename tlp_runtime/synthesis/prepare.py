"""A case on its way to the network and back: grids, crop, scale, prompt."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlp_runtime.errors import ContentError, GeometryError
from tlp_runtime.geometry.crop import require_model_grid
from tlp_runtime.geometry.grid import Grid, difference
from tlp_runtime.geometry.placement import Extent, Placement, place, published, shared_part
from tlp_runtime.geometry.resample import InsideSplines, filled, resampled, resampled_labels
from tlp_runtime.geometry.volume import Volume, require_same_grid
from tlp_runtime.spec.model import PROMPT_NAME, ModelSpec
from tlp_runtime.values import checks
from tlp_runtime.values import prompt as prompts
from tlp_runtime.values.intensity import background, limits, require_numbers, scale_between
from tlp_runtime.values.prompt import Prompt

logger = logging.getLogger(__name__)

ONE_GRID = "Both must lie on one grid: give --resample to bring it over by their world frame."


@dataclass(frozen=True)
class Prepared:
    """A case as the network sees it.

    Parameters
    ----------
    reference
        The volume whose grid the output takes: the T1, else the T2, as it was given.
    oriented
        The same in the model's axis order, background 0, nothing outside the brain mask.
    placement
        The model's grid about it.
    tensors
        (Z, Y, X) float32 on that grid for each of the model's inputs, prompt included.
    brain
        (Z,) whether a slice holds brain in any of the images, and is therefore run.
    inside
        (Z, Y, X) where the reference is brain, for what must be interpolated back; None else.
    """

    reference: Volume
    oriented: Volume
    placement: Placement
    tensors: Mapping[str, NDArray[np.float32]]
    brain: NDArray[np.bool_]
    inside: NDArray[np.bool_] | None = None


def prepare(
    images: Mapping[str, Volume],
    spec: ModelSpec,
    *,
    prompt: Prompt | None = None,
    brain_mask: Volume | None = None,
    resample: bool = False,
    all_slices: bool = False,
) -> Prepared:
    """Check one case and bring it to the network's grid, crop and scale.

    Parameters
    ----------
    brain_mask
        Voxels that are not 0 are brain, all others are taken as background.
    resample
        Bring images, mask and labels that lie on other grids than the first image over to it.
    all_slices
        Have every slice run, those without brain too.

    Raises
    ------
    GeometryError, ContentError, UsageError
        Grids that differ without ``resample`` or do not overlap; voxels or labels that cannot be
        used.
    """
    first = images[spec.inputs[0]]
    prompt = prompt or Prompt()
    for other in (*images.values(), brain_mask, prompt.labels):
        if other is not None and not resample:
            require_same_grid(first, other, ONE_GRID)
    cleaned = {name: _cleaned(volume, brain_mask, spec) for name, volume in images.items()}
    oriented = cleaned[spec.inputs[0]]
    for name, volume in cleaned.items():
        inside = volume.data != 0
        checks.check_extent(inside, volume.grid.spacing_mm, volume.name)
        checks.check_contrast(volume.data[::2, ::2, ::2][inside[::2, ::2, ::2]], name, volume.name)
    # Of the reference alone: what another image shows beyond it has no place in the output.
    brain = Extent.of(oriented.data != 0, oriented.grid, spec.crop)
    placement = place(oriented.grid, brain, spec, first.name)
    prepared = _on(placement, first, cleaned, prompt, spec, judge=True)
    return replace(prepared, brain=prepared.brain | all_slices)


def prepare_published(
    images: Mapping[str, Volume], spec: ModelSpec, *, prompt: Prompt | None = None
) -> Prepared:
    """As :func:`prepare`, by the published crop whatever lies outside it: for evaluation.

    Raises
    ------
    GeometryError, ContentError
        A scan that is not on the model's own grid, or grids that differ.
    """
    prompt = prompt or Prompt()
    reference = images[spec.inputs[0]]
    for volume in (*images.values(), prompt.labels):
        if volume is not None:
            require_same_grid(reference, volume)
    for volume in images.values():
        require_numbers(volume.data, volume.name)
    require_model_grid(reference, spec.crop)
    oriented = {name: _oriented(volume, spec) for name, volume in images.items()}
    placement = published(oriented[spec.inputs[0]].grid, spec.crop)
    return _on(placement, reference, oriented, prompt, spec, judge=False)


def restore(slices: NDArray[np.float32], prepared: Prepared) -> Volume:
    """Put (Z, Y, X) slices of the placement back on the reference's own grid; 0 elsewhere."""
    oriented, placement = prepared.oriented, prepared.placement
    if placement.offset is None:
        data = splines_back(prepared).whole(slices.transpose(2, 1, 0))
    else:
        data = np.zeros(oriented.shape, np.float32, order="F")
        here, there = shared_part(placement.offset, placement.grid.shape, oriented.shape)
        data[here] = slices.transpose(2, 1, 0)[there]
    return replace(oriented, data=data).restored_to(prepared.reference)


def splines_back(prepared: Prepared) -> InsideSplines:
    """What interpolates slices of an interpolated case back to its scan, in the model's axes."""
    oriented, placement = prepared.oriented, prepared.placement
    assert prepared.inside is not None
    inside = np.ascontiguousarray(prepared.inside.transpose(2, 1, 0))
    return InsideSplines(inside, placement.grid, oriented.grid, filled(oriented.data != 0))


def _oriented(volume: Volume, spec: ModelSpec) -> Volume:
    """The volume in the model's axis order.

    Its affine is rounded to a millionth of a millimetre, so that interpolation gives the same to
    the bit whatever the order the axes had.
    """
    turned = volume.reoriented(spec.crop.orientation)
    return replace(turned, affine=np.round(turned.affine, 6))


def _cleaned(volume: Volume, brain_mask: Volume | None, spec: ModelSpec) -> Volume:
    """In the model's axis order, voxels finite, background 0, and nothing outside the mask."""
    require_numbers(volume.data, volume.name)
    data = volume.data
    around = background(data)
    if around != 0:
        logger.warning("%s: its background is %g; taken as 0.", volume.name, around)
        data = data.astype(np.float64) - around
    if brain_mask is not None:
        require_numbers(brain_mask.data, brain_mask.name)
        mask = _mask_on(brain_mask, volume)
        if not mask.any():
            raise ContentError(
                f"{brain_mask.name}: marks nothing of {volume.name} as brain. Expected a mask that "
                "is not 0 in the brain."
            )
        data = np.where(mask, data, 0)
    if not data.any():
        raise ContentError(f"{volume.name}: is zero everywhere, expected an image of a brain.")
    return _oriented(replace(volume, data=data), spec)


def _mask_on(mask: Volume, volume: Volume) -> NDArray[np.bool_]:
    if difference(volume.grid, mask.grid) is None:
        return replace(mask, data=mask.data != 0).reoriented(volume.grid.orientation).data
    return resampled_labels(replace(mask, data=(mask.data != 0).astype(np.uint8)), volume.grid) > 0


def _on(
    placement: Placement,
    original: Volume,
    images: Mapping[str, Volume],
    prompt: Prompt,
    spec: ModelSpec,
    *,
    judge: bool,
) -> Prepared:
    """Bring images and prompt to the placement's grid and scale them."""
    reference = images[spec.inputs[0]]
    tensors: dict[str, NDArray[np.float32]] = {}
    brain = np.zeros(placement.grid.shape[2], dtype=np.bool_)
    inside = None
    for number, (name, volume) in enumerate(images.items()):
        slices = _brought(volume, reference, placement)
        held = slices != 0
        if not held.any():
            raise GeometryError(
                f"{volume.name}: does not overlap the brain of {reference.name}. Do they share a "
                "world frame? Register one to the other first."
            )
        # Of the scan's own voxels where it was interpolated: that must not move the level.
        own = slices if _as_it_is(volume, reference, placement) else volume.data
        between = limits(own, spec.intensity, volume.name)
        tensors[name] = scale_between(slices, between, spec.intensity)
        if spec.brightness and judge:
            found = checks.brightness(tensors[name][::2, ::2, ::2], held[::2, ::2, ::2])
            checks.check_brightness(found, spec.brightness[number], volume.name)
        brain |= held.any(axis=(1, 2))
        if placement.offset is None and volume is reference:
            inside = held
    tensors[PROMPT_NAME] = _prompted(prompt, original, placement, spec)
    return Prepared(original, reference, placement, tensors, brain, inside)


def _brought(volume: Volume, reference: Volume, placement: Placement) -> NDArray[Any]:
    """An image as (Z, Y, X) slices of the placement: cut where its voxels are, else linear."""
    if not _as_it_is(volume, reference, placement):
        return resampled(volume, placement.grid).transpose(2, 1, 0)
    assert placement.offset is not None
    offset, data = placement.offset, volume.data
    here, there = shared_part(offset, placement.grid.shape, data.shape)
    if data[here].shape == placement.grid.shape:
        return data[here].transpose(2, 1, 0)
    padded = np.zeros(placement.grid.shape, data.dtype)
    padded[there] = data[here]
    return padded.transpose(2, 1, 0)


def _as_it_is(volume: Volume, reference: Volume, placement: Placement) -> bool:
    """Whether the volume's voxels are those of the placement."""
    return placement.offset is not None and difference(reference.grid, volume.grid) is None


def _prompted(
    prompt: Prompt, reference: Volume, placement: Placement, spec: ModelSpec
) -> NDArray[np.float32]:
    """The prompt's values as (Z, Y, X) slices of the placement."""
    columns, rows, slices = placement.grid.shape
    values = np.zeros((slices, rows, columns), np.float32)
    marked = False
    if prompt.labels is not None:
        labels = prompt.labels
        code = prompts.with_labels(spec.prompt, prompt.meaning)
        # Encoded whole, so that an unknown label outside the crop is refused too.
        encoded = replace(labels, data=prompts.encode(labels.data, code, labels.name))
        marked = bool(encoded.data.any())
        if _as_it_is(labels, reference, placement):
            values = _brought(_oriented(encoded, spec), reference, placement)
        else:
            values = resampled_labels(_oriented(encoded, spec), placement.grid).transpose(2, 1, 0)
    for shape in prompt.shapes:
        drawn = shape.drawn(placement.grid, reference.grid).transpose(2, 1, 0)
        marked = True
        value = spec.prompt.tumour_value if shape.kind == "tumour" else spec.prompt.oedema_value
        # Tumour overwrites oedema, whichever was given first.
        values = np.where(drawn & (values != spec.prompt.tumour_value), np.float32(value), values)
    if marked and not values.any():
        name = prompt.labels.name if prompt.labels is not None else "the prompt's shapes"
        low, high = (f(placement.grid.corners_ras, axis=0) for f in (np.min, np.max))
        spans = ", ".join(
            f"{axis} {a:.0f} to {b:.0f}" for axis, a, b in zip("xyz", low, high, strict=True)
        )
        raise ContentError(
            f"{name}: the prompt lies wholly outside the part of the image the model sees ({spans} "
            "mm RAS). Draw it on the brain."
        )
    return np.ascontiguousarray(values)


def label_sources(grid: Grid, prepared: Prepared, spec: ModelSpec) -> NDArray[np.int32]:
    """Where each voxel of the placement takes its label from, of a map on the reference's voxels.

    Prompting by ``labels.ravel(order="F")[sources - 1]`` gives what :func:`prepare` gives of the
    map, for any part of the placement alone.

    Parameters
    ----------
    grid
        The map's: the reference's own, in any axis order.

    Returns
    -------
    (Z, Y, X): 1 + the number of the map's voxel, first axis fastest; 0 where there is none.
    """
    count = int(np.prod(grid.shape))
    numbers = np.arange(1, count + 1, dtype=np.int32).reshape(grid.shape, order="F")
    oriented = _oriented(Volume(numbers, grid.affine, name="labels"), spec)
    placement = prepared.placement
    if placement.offset is None:
        taken = resampled_labels(oriented, placement.grid).transpose(2, 1, 0)
    else:
        taken = _brought(oriented, prepared.oriented, placement)
    return np.ascontiguousarray(taken)
