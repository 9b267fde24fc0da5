"""Prompts drawn by numbers."""

from __future__ import annotations

import numpy as np
import pytest

from tests.scans import SMALL, scan
from tlp_runtime.errors import ContentError, UsageError
from tlp_runtime.geometry.grid import Grid
from tlp_runtime.synthesis.prepare import prepare
from tlp_runtime.synthesis.request import Prompt, Request
from tlp_runtime.values.shapes import Box, Shape, Sphere

GRID = scan(spacing=(0.8, 1.1, 2), degrees=17, orientation="PSR").grid


def world(grid: Grid, mask: np.ndarray) -> np.ndarray:
    points: np.ndarray = grid.world(np.argwhere(mask))
    return points


@pytest.mark.documents("Prompt", "`--prompt-sphere` in RAS, LPS or voxels", "the same ball")
def test_a_sphere_is_the_same_place_in_all_three_frames() -> None:
    voxel = GRID.voxels(np.array([[4.0, -6.0, 9.0]]))[0]
    numbers = ",".join(f"{v:.9f}" for v in voxel)
    masks = [
        Sphere.parse(text).drawn(GRID, GRID)
        for text in ("4,-6,9,11", "ras:4,-6,9,11", "lps:-4,6,9,11", f"voxel:{numbers},11")
    ]
    for mask in masks[1:]:
        np.testing.assert_array_equal(mask, masks[0])
    away = np.linalg.norm(world(GRID, masks[0]) - (4, -6, 9), axis=1)
    assert away.max() <= 11
    volume = masks[0].sum() * np.prod(GRID.spacing_mm)
    assert volume == pytest.approx(4 / 3 * np.pi * 11**3, rel=0.03)


@pytest.mark.documents(
    "Prompt", "`--prompt-box voxel:…`", "indices of the T1's file, both corners included"
)
def test_a_box_in_voxels_holds_both_corners_and_is_read_on_the_scan_s_own_grid() -> None:
    box = Box.parse("voxel:10,20,7,14,22,5")
    mask = box.drawn(GRID, GRID)
    expected = np.zeros(GRID.shape, bool)
    expected[10:15, 20:23, 5:8] = True
    np.testing.assert_array_equal(mask, expected)
    fine = Grid((400, 400, 400), np.diag([0.25, 0.25, 0.25, 1]) + np.eye(4)[:, [3]] * 0)
    fine.affine[:3, 3] = GRID.world(np.array([[12, 21, 6]]))[0] - 50
    drawn = box.drawn(fine, GRID)
    assert drawn.sum() * 0.25**3 == pytest.approx(5 * 3 * 3 * np.prod(GRID.spacing_mm), rel=0.05)


def test_a_box_in_the_world_lies_along_its_axes() -> None:
    for text in ("-5,-6,-7,5,6,7", "lps:5,6,7,-5,-6,-7"):
        mask = Box.parse(text).drawn(GRID, GRID)
        points = world(GRID, mask)
        assert np.abs(points).max(axis=0) == pytest.approx((5, 6, 7), abs=1.5)
        assert (np.abs(points) <= (5, 6, 7)).all()


@pytest.mark.parametrize("text", ["oedema:voxel:1,2,3,4", "voxel:oedema:1,2,3,4"])
def test_prefixes_come_in_any_order(text: str) -> None:
    assert Sphere.parse(text) == Sphere((1, 2, 3, 4), "voxel", "oedema")


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (Sphere, "1,2,3"), (Sphere, "1,2,3,x"), (Sphere, "1,2,3,0"), (Sphere, "1,2,3,-4"),
        (Sphere, "mni:1,2,3,4"), (Sphere, "1,2,3,nan"), (Box, "1,2,3,4"), (Sphere, ""),
    ],
)  # fmt: skip
def test_other_forms_are_refused_by_name(kind: type[Shape], text: str) -> None:
    with pytest.raises(UsageError, match=kind.__name__.lower()):
        kind.parse(text)


@pytest.mark.documents("Prompt", "shapes that overlap", "tumour overwrites oedema")
def test_tumour_overwrites_oedema_whichever_comes_first() -> None:
    shapes = (Sphere.parse("0,0,0,8"), Sphere.parse("oedema:0,0,0,14"))
    for order in (shapes, shapes[::-1]):
        prepared = prepare(Request(images={"t1": scan()}, prompt=Prompt(shapes=order)), SMALL)
        tensor = prepared.tensors["prompt"]
        assert set(np.unique(tensor)) == {0, 0.5, 1}
        assert (tensor == 1).sum() == pytest.approx(4 / 3 * np.pi * 8**3, rel=0.05)
        assert (tensor > 0).sum() == pytest.approx(4 / 3 * np.pi * 14**3, rel=0.05)


def test_shapes_add_to_a_drawn_map() -> None:
    t1 = scan()
    labels = scan(landmark=(10, 0, 0))
    region = type(labels)((labels.data > 1000).astype(np.uint8), labels.affine)
    shapes = (Sphere.parse("-12,0,0,6"),)
    images = {"t1": t1}
    tensor = prepare(Request(images=images, prompt=Prompt(region, shapes=shapes)), SMALL).tensors[
        "prompt"
    ]
    alone = prepare(Request(images=images, prompt=Prompt(region)), SMALL).tensors["prompt"]
    ball = prepare(Request(images=images, prompt=Prompt(shapes=shapes)), SMALL).tensors["prompt"]
    assert alone.any()
    np.testing.assert_array_equal(tensor, np.maximum(alone, ball))


@pytest.mark.documents("Prompt", "a shape outside the image", "exit 3")
def test_a_shape_outside_the_image_is_refused() -> None:
    far = Prompt(shapes=(Sphere.parse("500,0,0,5"),))
    with pytest.raises(
        ContentError, match="the prompt's shapes: the prompt lies wholly outside t1"
    ):
        prepare(Request(images={"t1": scan()}, prompt=far), SMALL)
