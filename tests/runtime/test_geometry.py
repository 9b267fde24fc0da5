"""Volumes and grids: what was reoriented or cropped comes back exactly."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest

from tlp_runtime.errors import GeometryError
from tlp_runtime.geometry.crop import crop_slices, require_model_grid, uncrop_slices
from tlp_runtime.geometry.volume import Volume, require_same_grid
from tlp_runtime.spec.model import CropSpec

BRATS_AFFINE = np.array([[-1, 0, 0, 0], [0, -1, 0, 239], [0, 0, 1, 0], [0, 0, 0, 1.0]])


def _volume(shape: tuple[int, int, int] = (5, 6, 7)) -> Volume:
    return Volume(np.arange(np.prod(shape)).reshape(shape), BRATS_AFFINE)


ORIENTATIONS = [
    "".join(codes) for axes in permutations(("LR", "AP", "IS")) for codes in product(*axes)
]


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_every_axis_order_is_undone_exactly(orientation: str) -> None:
    volume = _volume()
    turned = volume.reoriented(orientation)
    assert turned.grid.orientation == orientation
    back = turned.restored_to(volume)
    np.testing.assert_array_equal(back.data, volume.data)
    np.testing.assert_array_equal(back.affine, volume.affine)


@pytest.mark.parametrize("orientation", ["RAS", "PSR", "LIA"])
def test_a_voxel_keeps_its_place_in_the_world(orientation: str) -> None:
    volume = _volume()
    turned = volume.reoriented(orientation)
    value = volume.data[1, 4, 2]
    (index,) = np.argwhere(turned.data == value)
    np.testing.assert_allclose(
        turned.affine @ [*index, 1], volume.affine @ [1, 4, 2, 1], atol=1e-12
    )


def test_an_oblique_volume_is_undone_exactly() -> None:
    angle = np.deg2rad(20)
    affine = np.eye(4)
    affine[:3, :3] = [
        [np.cos(angle), -np.sin(angle), 0],
        [np.sin(angle), np.cos(angle), 0],
        [0, 0, 3],
    ]
    volume = Volume(np.random.default_rng(0).normal(size=(4, 5, 6)), affine)
    back = volume.reoriented("LPS").restored_to(volume)
    np.testing.assert_array_equal(back.data, volume.data)


def test_another_grid_cannot_be_restored() -> None:
    with pytest.raises(GeometryError, match="cannot be put back"):
        _volume((5, 6, 8)).reoriented("RAS").restored_to(_volume())


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 4, 2), (4, 0, 4)])
def test_only_three_dimensions_make_a_volume(shape: tuple[int, ...]) -> None:
    with pytest.raises(GeometryError, match="expected one 3-D volume"):
        Volume(np.zeros(shape), np.eye(4))


@pytest.mark.parametrize("affine", [np.zeros((4, 4)), np.full((4, 4), np.nan), np.eye(3)])
def test_an_affine_must_span_space(affine: np.ndarray) -> None:
    with pytest.raises(GeometryError, match="affine"):
        Volume(np.zeros((2, 2, 2)), affine)


def test_the_same_grid_in_another_axis_order_is_the_same() -> None:
    require_same_grid(_volume(), _volume().reoriented("SAR"))


@pytest.mark.documents(
    "Grid",
    "T2, mask or prompt whose corners lie within 10 micrometres of the T1's",
    "the same grid: used voxel by voxel",
)
@pytest.mark.parametrize("direction", [(1, 0, 0), (0, -0.6, 0.8), (0.6, 0.48, 0.64)])
def test_grids_are_the_same_when_their_corners_agree_within_ten_micrometres(
    direction: tuple[float, float, float],
) -> None:
    near, far = BRATS_AFFINE.copy(), BRATS_AFFINE.copy()
    near[:3, 3] += 0.009 * np.array(direction)
    far[:3, 3] += 0.011 * np.array(direction)
    for orientation in ("LPS", "SAR"):
        require_same_grid(_volume(), Volume(_volume().data, near).reoriented(orientation))
        with pytest.raises(GeometryError, match=r"corners up to 0\.011 mm apart"):
            require_same_grid(_volume(), Volume(_volume().data, far).reoriented(orientation))


def test_a_spacing_error_shows_at_the_far_corner() -> None:
    affine = BRATS_AFFINE.copy()
    affine[2, 2] = 1.001
    require_same_grid(_volume((5, 6, 8)), Volume(_volume((5, 6, 8)).data, affine))
    affine[2, 2] = 1.002
    with pytest.raises(GeometryError, match="corners up to"):
        require_same_grid(_volume(), Volume(_volume().data, affine))


def test_shapes_are_compared_in_one_axis_order() -> None:
    with pytest.raises(GeometryError, match="5 x 6 x 8"):
        require_same_grid(_volume(), _volume((5, 6, 8)))


def test_the_model_grid_needs_its_spacing() -> None:
    volume = Volume(np.zeros((240, 240, 4), np.int16), BRATS_AFFINE @ np.diag([1, 1, 2, 1]))
    with pytest.raises(GeometryError, match=r"1 x 1 x 2 mm.*the model's grid, 1 x 1 x 1 mm"):
        require_model_grid(volume, CropSpec())


def test_the_model_grid_must_hold_the_crop() -> None:
    with pytest.raises(GeometryError, match="do not hold the model's crop"):
        require_model_grid(Volume(np.zeros((240, 225, 4)), BRATS_AFFINE), CropSpec())
    require_model_grid(Volume(np.zeros((200, 226, 4)), BRATS_AFFINE), CropSpec())


def test_crop_and_uncrop_are_inverse_and_leave_zero_outside() -> None:
    crop = CropSpec()
    data = np.random.default_rng(0).normal(size=(240, 240, 5)).astype(np.float32)
    slices = crop_slices(Volume(data, BRATS_AFFINE), crop)
    assert slices.shape == (5, 192, 160)
    assert slices[3, 10, 20] == data[40 + 20, 34 + 10, 3]
    back = uncrop_slices(slices, (240, 240, 5), crop)
    np.testing.assert_array_equal(back[40:200, 34:226], data[40:200, 34:226])
    back[40:200, 34:226] = 0
    assert not back.any()
