"""T2, prompt and mask on grids of their own; backgrounds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.scans import DUAL, SMALL, peak, run, scan
from tlp_runtime import Volume
from tlp_runtime.errors import ContentError, GeometryError
from tlp_runtime.geometry.grid import difference
from tlp_runtime.synthesis.prepare import prepare
from tlp_runtime.synthesis.request import Prompt, Request


@pytest.mark.documents(
    "Grid", "T2, mask or prompt on another grid", "exit 3, naming shape, spacing, origin and angle"
)
def test_another_grid_is_refused_naming_shape_spacing_origin_and_angle() -> None:
    t2 = scan(spacing=(1, 1, 2), degrees=10, name="t2")
    with pytest.raises(GeometryError) as error:
        prepare(Request(images={"t1": scan(), "t2": t2}), DUAL)
    for word in ("t2: lies on another grid than t1", "shape 76 x 92 x 42 against 76 x 92 x 84",
                 "spacing 1 x 1 x 2 against 1 x 1 x 1", "origin (", "turned by 10.00 degrees",
                 "resample"):  # fmt: skip
        assert word in str(error.value)


@pytest.mark.documents(
    "Grid",
    "the same with `--resample`",
    "brought over by the world frame: images linearly, labels by the nearest voxel",
)
@pytest.mark.parametrize("spacing", [(1, 1, 1), (1.2, 0.9, 2)])
def test_resample_brings_t2_and_prompt_over_by_their_world_frame(
    spacing: tuple[float, float, float],
) -> None:
    t1 = scan(spacing=spacing, landmark=(6, -4, 8))
    t2 = scan(spacing=(0.9, 1.1, 1.4), degrees=12, landmark=(6, -4, 8), name="t2")
    roi = scan(spacing=(1, 2, 1), degrees=-8, landmark=(6, -4, 8), name="roi")
    labels = Volume((roi.data > 900).astype(np.uint8), roi.affine, name="roi")
    prepared = prepare(
        Request(images={"t1": t1, "t2": t2}, prompt=Prompt(labels), resample=True), DUAL
    )
    centres = []
    for tensor in prepared.tensors.values():
        part = np.clip(tensor - tensor.min() - 0.8 * np.ptp(tensor), 0, None).transpose(2, 1, 0)
        centres.append(prepared.placement.grid.world(peak(Volume(part, np.eye(4)))[None])[0])
    for centre in centres:
        np.testing.assert_allclose(centre, (6, -4, 8), atol=0.6)


@pytest.mark.documents("Grid", "a T2 that does not overlap the T1's brain", "exit 3")
@pytest.mark.documents("Grid", "a T2 that does not overlap the T1's brain", "exit 3")
@pytest.mark.documents(
    "Grid",
    "a prompt cut to a part of the T1's voxels",
    "exit 3; with `--resample` as the whole map",
)
def test_a_map_cut_to_its_region_is_put_back_by_resample_alone() -> None:
    t1, roi = scan(landmark=(5, 5, 5)), scan(landmark=(10, 5, 0))
    labels = Volume((roi.data > 1000).astype(np.uint8), roi.affine, name="roi")
    held = np.argwhere(labels.data)
    (a, b, c), (x, y, z) = held.min(axis=0), held.max(axis=0) + 1
    affine = labels.affine.copy()
    affine[:3, 3] = labels.grid.world(np.array([[a, b, c]]))[0]
    cut = Volume(labels.data[a:x, b:y, c:z], affine, name="cut").reoriented("SAR")
    whole = prepare(Request(images={"t1": t1}, prompt=Prompt(labels)), SMALL).tensors["prompt"]
    assert whole.any()
    with pytest.raises(GeometryError, match="cut: lies on another grid"):
        prepare(Request(images={"t1": t1}, prompt=Prompt(cut)), SMALL)
    brought = prepare(Request(images={"t1": t1}, prompt=Prompt(cut), resample=True), SMALL)
    np.testing.assert_array_equal(brought.tensors["prompt"], whole)


def test_a_t2_that_lies_elsewhere_is_refused_even_with_resample() -> None:
    t2 = scan(centre=(300, 0, 0), name="t2")
    with pytest.raises(GeometryError, match="t2: does not overlap the brain of t1"):
        prepare(Request(images={"t1": scan(), "t2": t2}, resample=True), DUAL)


@pytest.mark.documents("Grid", "a scan with skull and `--brain-mask`", "as the bare brain")
def test_a_brain_mask_takes_the_skull_away() -> None:
    bare = scan(landmark=(5, 5, 5))
    noise = np.random.default_rng(0).uniform(1, 300, bare.shape).astype(np.float32)
    head = replace(bare, data=np.where(bare.data > 0, bare.data, noise))
    mask = replace(bare, data=(bare.data > 0).astype(np.uint8), name="mask")
    np.testing.assert_array_equal(run(head, brain_mask=mask).data, run(bare).data)
    turned = mask.reoriented("SRA")
    np.testing.assert_array_equal(run(head, brain_mask=turned).data, run(bare).data)
    with pytest.raises(ContentError, match="marks nothing of t1 as brain"):
        run(head, brain_mask=replace(mask, data=mask.data * 0))
    elsewhere = scan(spacing=(2, 2, 2))
    with pytest.raises(GeometryError, match="resample"):
        run(head, brain_mask=elsewhere)
    out = run(head, brain_mask=replace(elsewhere, data=elsewhere.data > 0), resample=True)
    assert np.abs(out.data - run(bare).data)[mask.data > 0].mean() < 0.02


@pytest.mark.documents(
    "File",
    "negative values, a background that is not 0",
    "the corners' common value is taken as background, with a warning",
)
def test_a_background_that_is_not_zero_is_taken_as_zero() -> None:
    t1 = scan(landmark=(5, 5, 5))
    np.testing.assert_allclose(run(replace(t1, data=t1.data - 1000)).data, run(t1).data, atol=1e-6)
    shifted = Request(images={"t1": replace(t1, data=t1.data - 1000)})
    (warning,) = [one for one in prepare(shifted, SMALL).warnings if one.kind == "input"][:1]
    assert warning.code.name == "background-shifted"
    assert warning.numbers == {"background": -1000}


def test_the_angle_between_grids_is_independent_of_their_axis_orders() -> None:
    assert scan().grid.angle_to(scan(degrees=12, orientation="SAR").grid) == pytest.approx(12)
    assert difference(scan().grid, scan(orientation="PSR").grid) is None
