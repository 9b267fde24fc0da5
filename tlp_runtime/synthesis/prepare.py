"""A case on its way to the network and back: grids, crop, scale, prompt."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlp_runtime.errors import ChooseAnother, ModelMismatch, SetOption
from tlp_runtime.geometry.crop import require_model_grid
from tlp_runtime.geometry.grid import Grid
from tlp_runtime.geometry.placement import Extent, Placement, place, published, shared_part
from tlp_runtime.geometry.resample import InsideSplines, filled
from tlp_runtime.geometry.volume import Volume, require_one_space, require_same_grid
from tlp_runtime.io.dicom.patient import patient_doubts
from tlp_runtime.spec.model import PROMPT_NAME, ModelSpec
from tlp_runtime.synthesis.clean import cleaned, in_model_axes
from tlp_runtime.synthesis.placed import as_it_is, image_on, labels_on, require_overlap
from tlp_runtime.synthesis.region import (
    Region,
    encoded,
    region_of,
    require_marked,
    with_shapes,
)
from tlp_runtime.synthesis.request import Request, read
from tlp_runtime.values import checks
from tlp_runtime.values.alignment import check_alignment
from tlp_runtime.values.intensity import (
    limits,
    require_numbers,
    scale_between,
)
from tlp_runtime.values.skull import check_skull
from tlp_runtime.warnings import (
    TLPWarning,
    Warn,
    WarningLog,
    require_no_doubt,
)

_ONE_GRID = SetOption("resample", purpose="to bring it over by the world frame of both")


@dataclass(frozen=True)
class PreparedCase:
    """A case as the network sees it, and how to undo that.

    Parameters
    ----------
    request
        What was asked, its files in memory.
    reference
        The volume whose grid the output takes: the T1, else the T2, as it was given.
    oriented
        The same in the model's axis order, background 0, nothing outside the brain mask.
    placement
        The model's grid around it.
    tensors
        (Z, Y, X) float32 on that grid for each of the model's inputs, prompt included.
    brain
        (Z,) whether a slice holds brain in any of the images, and is therefore run.
    inside
        (Z, Y, X) where the reference is brain, for what must be interpolated back; None otherwise.
    region
        What the prompt marks; None without a prompt.
    warnings
        About the scan, in the order in which they arose.
    seconds
        Wall time of ``read`` and ``prepare``.
    """

    request: Request
    reference: Volume
    oriented: Volume
    placement: Placement
    tensors: Mapping[str, NDArray[np.float32]]
    brain: NDArray[np.bool_]
    inside: NDArray[np.bool_] | None = None
    region: Region | None = None
    warnings: tuple[TLPWarning, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)


def prepare(request: Request, spec: ModelSpec, *, warn: Warn | None = None) -> PreparedCase:
    """Check one case and bring it to the network's grid, crop and scale.

    Parameters
    ----------
    request
        Its files are read if they were not.
    warn
        Called with each warning the moment it arises.

    Raises
    ------
    ModelMismatch
        Other modalities than the model takes, or a prompt where it takes none.
    InputError
        A missing or damaged file; grids that differ without ``resample`` or do not overlap;
        different frames of reference; voxels or labels that cannot be used; a prompt that marks
        nothing in the brain; a warning, where the request is strict.
    """
    require_modalities(request.images, spec)
    require_prompt_taken(request, spec)
    request = read(request)
    began = time.perf_counter()
    heard = WarningLog(warn)
    volumes, first = request.volumes, request.scans[spec.inputs[0]].volume
    for volume in volumes.values():
        for warning in volume.warnings:
            heard.add(warning)
    series = {name: scan.series for name, scan in request.scans.items() if scan.series is not None}
    for warning in patient_doubts(series):
        heard.add(warning)
    for other in volumes.values():
        accepted = request.ignore_frame_of_reference
        require_one_space(first, other, accepted=accepted, warn=heard.add)
        if not request.resample:
            require_same_grid(first, other, _ONE_GRID)
    mask = volumes.get("brain_mask")
    images = {name: cleaned(volumes[name], mask, spec, heard.add) for name in spec.inputs}
    _check(images, with_skull=mask is None, warn=heard.add)
    # Of the reference alone: what another image shows beyond it has no place in the output.
    reference = images[spec.inputs[0]]
    brain = Extent.of(reference.data != 0, reference.grid, spec.crop)
    placement = place(reference.grid, brain, spec, first.name, heard.add)
    labels, region = encoded(request, spec.prompt), None
    tensors, held, within = _on(placement, images, spec, warn=heard.add)
    tensors[PROMPT_NAME] = _prompted(labels, request, first, placement, spec)
    if request.prompt:
        inside = replace(reference, data=reference.data != 0).restored_to(first).data
        region = region_of(labels, request, first, inside, spec.prompt, heard.add)
        seen = bool(tensors[PROMPT_NAME].any())
        require_marked(region, labels, request, first.name, heard.add, seen=seen)
    if request.strict:
        require_no_doubt(heard)
    return PreparedCase(
        request=request,
        reference=first,
        oriented=reference,
        placement=placement,
        tensors=tensors,
        brain=held | request.all_slices,
        inside=within,
        region=region,
        warnings=tuple(heard),
        seconds={"read": request.read_s, "prepare": time.perf_counter() - began},
    )


def _check(images: Mapping[str, Volume], *, with_skull: bool, warn: Warn) -> None:
    """Warn of what is doubtful about images, by modality, the reference first.

    Parameters
    ----------
    with_skull
        Whether they may show the skull: no brain mask was given.
    """
    reference = next(iter(images.values()))
    for name, volume in images.items():
        inside = volume.data != 0
        checks.check_extent(inside, volume.grid.spacing_mm, volume.name, warn)
        sparse = volume.data[::2, ::2, ::2][inside[::2, ::2, ::2]]
        checks.check_contrast(sparse, name, volume.name, warn)
        if with_skull:
            check_skull(volume, warn)
        if volume is not reference:
            check_alignment(reference, volume, warn)


def prepare_published(
    request: Request,
    spec: ModelSpec,
    own: Mapping[str, NDArray[Any]] = MappingProxyType({}),
) -> PreparedCase:
    """As :func:`prepare`, by the published crop whatever lies outside it: for evaluation.

    Nothing is resampled and nothing is judged, so that there are no warnings.

    Parameters
    ----------
    own
        As of :class:`~tlp_runtime.synthesis.published.PublishedCase`, for a case that was brought
        to the grid before.

    Raises
    ------
    GeometryError, ContentError
        A scan that is not on the model's own grid, or grids that differ.
    """
    require_modalities(request.images, spec)
    request = read(request)
    began = time.perf_counter()
    volumes, reference = request.volumes, request.scans[spec.inputs[0]].volume
    for volume in volumes.values():
        require_same_grid(reference, volume)
    for name in spec.inputs:
        require_numbers(volumes[name].data, volumes[name].name)
    require_model_grid(reference, spec.crop)
    images = {name: in_model_axes(volumes[name], spec) for name in spec.inputs}
    placement = published(images[spec.inputs[0]].grid, spec.crop)
    tensors, held, within = _on(placement, images, spec, own=own, warn=None)
    labels = encoded(request, spec.prompt)
    tensors[PROMPT_NAME] = _prompted(labels, request, reference, placement, spec)
    return PreparedCase(
        request=request,
        reference=reference,
        oriented=images[spec.inputs[0]],
        placement=placement,
        tensors=tensors,
        brain=held,
        inside=within,
        seconds={"read": request.read_s, "prepare": time.perf_counter() - began},
    )


def require_modalities(given: Collection[str], spec: ModelSpec) -> None:
    """Raise :class:`ModelMismatch` unless the model's modalities are given and no other."""
    if set(given) != set(spec.inputs):
        raise ModelMismatch(
            f"this model takes {' and '.join(spec.inputs)}; got {' and '.join(given) or 'nothing'}."
        )


def require_prompt_taken(request: Request, spec: ModelSpec) -> None:
    """Raise :class:`ModelMismatch` where a prompt is given to a model that takes none."""
    if request.prompt and not spec.network.prompt:
        raise ModelMismatch(
            "this model takes no prompt: it was trained without one",
            fix=("Leave the prompt out.", ChooseAnother("model", "model")),
        )


def brain_of(prepared: PreparedCase) -> NDArray[np.bool_]:
    """Where the reference shows brain, on its own grid."""
    oriented = prepared.oriented
    inside = replace(oriented, data=oriented.data != 0).restored_to(prepared.reference)
    return np.asarray(inside.data)


def restore(slices: NDArray[np.float32], prepared: PreparedCase) -> Volume:
    """Put (Z, Y, X) slices of the placement back on the reference's own grid; 0 elsewhere."""
    oriented, placement = prepared.oriented, prepared.placement
    if placement.offset is None:
        data = splines_back(prepared).whole(slices.transpose(2, 1, 0))
    else:
        data = np.zeros(oriented.shape, np.float32, order="F")
        here, there = shared_part(placement.offset, placement.grid.shape, oriented.shape)
        data[here] = slices.transpose(2, 1, 0)[there]
    return replace(oriented, data=data).restored_to(prepared.reference)


def splines_back(prepared: PreparedCase) -> InsideSplines:
    """The splines that bring slices of an interpolated case back to its scan."""
    oriented, placement = prepared.oriented, prepared.placement
    assert prepared.inside is not None
    inside = np.ascontiguousarray(prepared.inside.transpose(2, 1, 0))
    return InsideSplines(inside, placement.grid, oriented.grid, filled(oriented.data != 0))


def _on(
    placement: Placement,
    images: Mapping[str, Volume],
    spec: ModelSpec,
    *,
    own: Mapping[str, NDArray[Any]] = MappingProxyType({}),
    warn: Warn | None,
) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.bool_], NDArray[np.bool_] | None]:
    """Bring images to the placement's grid and scale them.

    Parameters
    ----------
    own
        Of images that were interpolated before, the voxels their limits are taken from.

    Returns
    -------
    tensors, brain, inside
        As of :class:`PreparedCase`.
    """
    reference = images[spec.inputs[0]]
    tensors: dict[str, NDArray[np.float32]] = {}
    brain = np.zeros(placement.grid.shape[2], dtype=np.bool_)
    inside = None
    for number, (name, volume) in enumerate(images.items()):
        slices = image_on(placement, volume, reference)
        held = slices != 0
        require_overlap(held, volume, reference)
        # Of the scan's own voxels where it was interpolated: that must not move the level.
        measured = slices if as_it_is(placement, volume, reference) else volume.data
        between = limits(own.get(name, measured), spec.intensity, volume.name)
        tensors[name] = scale_between(slices, between, spec.intensity)
        if spec.brightness and warn is not None:
            found = checks.brightness(tensors[name][::2, ::2, ::2], held[::2, ::2, ::2])
            checks.check_brightness(found, spec.brightness[number], volume.name, warn)
        brain |= held.any(axis=(1, 2))
        if placement.offset is None and volume is reference:
            inside = held
    return tensors, brain, inside


def _prompted(
    labels: Volume | None,
    request: Request,
    reference: Volume,
    placement: Placement,
    spec: ModelSpec,
) -> NDArray[np.float32]:
    """The prompt's values as (Z, Y, X) slices of the placement."""
    columns, rows, slices = placement.grid.shape
    values = np.zeros((slices, rows, columns), np.float32)
    if labels is not None:
        values = labels_on(placement, in_model_axes(labels, spec), reference)
    drawn = with_shapes(
        values.transpose(2, 1, 0), request, placement.grid, reference.grid, spec.prompt
    )
    return np.ascontiguousarray(drawn.transpose(2, 1, 0))


def label_sources(grid: Grid, prepared: PreparedCase, spec: ModelSpec) -> NDArray[np.int32]:
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
    oriented = in_model_axes(Volume(numbers, grid.affine, name="labels"), spec)
    placement = prepared.placement
    return np.ascontiguousarray(labels_on(placement, oriented, prepared.oriented))
