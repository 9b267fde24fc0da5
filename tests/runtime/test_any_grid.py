"""Any orientation, spacing, obliqueness and field of view in; the same grid, in place, out."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fakes.engine import FakeEngine
from tests.scans import ORDERS, SMALL, peak, rotation, run, scan
from tlp_runtime import Synthesizer, Volume
from tlp_runtime.geometry.crop import on_lattice
from tlp_runtime.geometry.grid import Grid
from tlp_runtime.geometry.resample import InsideSplines, resampled
from tlp_runtime.synthesis.prepare import PreparedCase, prepare
from tlp_runtime.synthesis.request import Request


@lru_cache
def straight() -> Volume:
    """The synthesis of the plain scan with a landmark."""
    return run(scan(landmark=(5, 6, 7)))


@lru_cache
def oblique() -> PreparedCase:
    """An oblique scan as the network sees it."""
    return prepare(
        Request(images={"t1": scan(spacing=(1.1, 0.9, 3), degrees=17, landmark=(5, 6, 7))}), SMALL
    )


SPACINGS = st.floats(0.8, 3.0)
PLACES = st.floats(-60, 60)


@pytest.mark.documents(
    "Grid",
    "any spacing, obliqueness, axis order and offset (property test)",
    "interpolated there and back; a landmark stays within half a voxel, the header is the T1's",
)
@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    spacing=st.tuples(SPACINGS, SPACINGS, SPACINGS),
    degrees=st.floats(0, 40),
    axis=st.sampled_from([(1, 2, 3), (0, 0, 1), (1, 0, 0), (-1, 1, 0.2)]),
    centre=st.tuples(PLACES, PLACES, PLACES),
    orientation=st.sampled_from(ORDERS),
    away=st.tuples(st.floats(-9, 9), st.floats(-9, 9), st.floats(-9, 9)),
)
def test_a_landmark_keeps_its_place_in_the_world_and_the_header_its_fields(
    tmp_path: Path,
    spacing: tuple[float, float, float],
    degrees: float,
    axis: tuple[float, float, float],
    centre: tuple[float, float, float],
    orientation: str,
    away: tuple[float, float, float],
) -> None:
    landmark = tuple(c + a for c, a in zip(centre, away, strict=True))
    t1 = scan(
        spacing=spacing, degrees=degrees, axis=axis, centre=centre, orientation=orientation,
        landmark=landmark,  # type: ignore[arg-type]
    )  # fmt: skip
    with Synthesizer(FakeEngine(SMALL)) as synthesizer:
        result = synthesizer.run(Request(images={"t1": t1}))
    (true,) = t1.grid.voxels(np.array([landmark]))
    assert np.abs(peak(result.volume) - true).max() < 0.5, (peak(result.volume), true)
    result.save(tmp_path / "o.nii", overwrite=True)
    header = nib.load(tmp_path / "o.nii").header
    assert t1.header is not None
    for field in ("dim", "pixdim", "sform_code", "qform_code", "srow_x", "srow_y", "srow_z",
                  "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z",
                  "xyzt_units"):  # fmt: skip
        np.testing.assert_array_equal(header[field], t1.header[field], field)


@pytest.mark.documents(
    "Grid",
    "each of the 48 axis orders, 1 mm",
    "the same image, bit by bit, in the order of the file",
)
@pytest.mark.parametrize("orientation", ORDERS)
def test_all_48_axis_orders_give_the_same_image_exactly(orientation: str) -> None:
    t1 = scan(landmark=(5, 6, 7))
    turned = t1.reoriented(orientation)
    out = run(turned)
    assert out.shape == turned.shape
    np.testing.assert_array_equal(out.affine, turned.affine)
    np.testing.assert_array_equal(out.reoriented("LPS").data, straight().data)


@pytest.mark.documents(
    "Grid", "each of the 48 axis orders of an oblique scan", "the network sees the same, bit by bit"
)
@pytest.mark.parametrize("orientation", ORDERS)
def test_all_48_axis_orders_of_an_oblique_scan_give_the_same_image_exactly(
    orientation: str,
) -> None:
    t1 = scan(spacing=(1.1, 0.9, 3), degrees=17, landmark=(5, 6, 7))
    turned = replace(t1.reoriented(orientation), header=None)
    expected, prepared = oblique(), prepare(Request(images={"t1": turned}), SMALL)
    assert prepared.placement.offset is None
    np.testing.assert_array_equal(prepared.tensors["t1"], expected.tensors["t1"])
    np.testing.assert_array_equal(prepared.placement.grid.affine, expected.placement.grid.affine)


@pytest.mark.documents(
    "Grid",
    "1 mm, axes along the world's, in any order",
    "not interpolated: the network sees the file's voxels",
)
def test_a_scan_on_the_model_s_grid_is_used_voxel_by_voxel() -> None:
    t1 = scan()
    prepared = prepare(Request(images={"t1": t1}), SMALL)
    assert prepared.placement.offset is not None
    seen = prepared.tensors["t1"]
    scaled = np.sort(seen[seen > -1])
    own = t1.data[t1.data > 0].astype(np.float64) / float(t1.data.max()) * 2 - 1
    np.testing.assert_array_equal(scaled, np.sort(own.astype(np.float32)))


@pytest.mark.documents(
    "Grid",
    "1 mm, another matrix, or a brain outside the published crop",
    "the window is laid about the brain; voxels are padded or cut, not interpolated",
)
def test_a_brain_outside_the_published_crop_moves_the_window_not_the_voxels() -> None:
    t1 = scan(landmark=(5, 5, 5))
    assert prepare(Request(images={"t1": t1}), SMALL).placement.offset == (8, 8, 0), (
        "the published crop"
    )
    data = np.pad(t1.data, ((60, 0), (60, 0), (0, 0)))
    moved = Volume(data, _shifted(t1, -60), name="moved")
    placement = prepare(Request(images={"t1": moved}), SMALL).placement
    assert placement.offset is not None
    assert min(placement.offset[:2]) > 60, "the crop by index would have cut the brain"
    brain = t1.data > 0
    np.testing.assert_array_equal(run(moved).data[60:, 60:][brain], run(t1).data[brain])


def _shifted(volume: Volume, voxels: int) -> np.ndarray:
    affine = volume.affine.copy()
    affine[:3, 3] = volume.grid.world(np.array([[voxels, voxels, 0]]))[0]
    return affine


@pytest.mark.documents(
    "Grid",
    "a spacing or angle off by less than 0.1 mm at the far corner",
    "taken as the model's grid",
)
@pytest.mark.parametrize(
    ("change", "exact"),
    [
        ({}, True),
        ({"orientation": "SAR"}, True),
        ({"spacing": (1, 1, 1.0003)}, True),
        ({"spacing": (1, 1, 1.01)}, False),
        ({"degrees": 0.02}, True),
        ({"degrees": 0.5}, False),
        ({"spacing": (0.5, 0.5, 1)}, False),
    ],
)
def test_only_what_is_off_by_a_tenth_of_a_millimetre_is_interpolated(
    change: dict[str, object], exact: bool
) -> None:
    assert on_lattice(scan(**change).grid, SMALL.crop) is exact  # type: ignore[arg-type]


@pytest.mark.documents(
    "Grid",
    "the way back of an interpolated scan",
    "cubic splines of the brain's values alone; 0 outside the T1's brain",
)
def test_no_ringing_and_no_value_leaves_the_brain() -> None:
    t1 = scan(spacing=(0.8, 0.8, 3), degrees=17, landmark=(0, 0, 0))
    out = run(t1)
    assert not out.data[t1.data == 0].any()
    inside = out.data[t1.data > 0]
    plain = run(scan(landmark=(0, 0, 0)))
    low, high = plain.data[plain.data > 0].min(), plain.data.max()
    assert inside.min() > low - 0.05
    assert inside.max() < high + 0.05


def test_a_hole_in_the_brain_is_synthesized_too() -> None:
    t1 = scan(spacing=(1.2, 1.2, 1.2))
    data = t1.data.copy()
    middle = tuple(n // 2 for n in t1.shape)
    data[middle] = 0
    assert run(replace(t1, data=data)).data[middle] > 0


def test_interpolation_with_splines_neither_darkens_nor_rings_at_an_edge() -> None:
    grid = Grid((20, 20, 20), np.eye(4))
    inside = np.zeros(grid.shape, bool)
    inside[5:15, 5:15, 5:15] = True
    affine = np.eye(4) * 0.7
    affine[:3, 3], affine[3, 3] = 0.2, 1
    target = Grid((28, 28, 28), affine)
    mask = resampled(Volume(inside.astype(np.float32), grid.affine), target) > 0
    out = InsideSplines(inside, grid, target, mask).whole(inside.astype(np.float32))
    np.testing.assert_allclose(out[mask], 1, atol=1e-6)
    assert not out[~mask].any()


def test_a_header_s_rounding_changes_next_to_nothing() -> None:
    """A brain that fills whole voxels of the model to the bit, turned as by 1e-6 in a header."""
    t1 = scan(spacing=(3, 3, 6))
    turn = np.eye(4)
    turn[:3, :3] = rotation(np.array([1.0, 0, 0]), np.degrees(1e-6))
    exact, turned = (
        prepare(Request(images={"t1": replace(t1, affine=move @ t1.affine)}), SMALL)
        for move in (np.eye(4), turn)
    )
    assert exact.placement.grid.shape == turned.placement.grid.shape
    ours, theirs = turned.tensors["t1"], exact.tensors["t1"]
    # Half-way between two voxels of the surface, either may be the nearer one.
    brain = (ours > -1) & (theirs > -1)
    assert np.count_nonzero((ours > -1) != (theirs > -1)) < 0.02 * np.count_nonzero(brain)
    np.testing.assert_allclose(ours[brain], theirs[brain], atol=1e-3)
