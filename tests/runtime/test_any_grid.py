"""Any orientation, spacing, obliqueness and field of view in; the same grid, in place, out."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support import TINY_NETWORK, FakeEngine
from tlp_runtime import Synthesizer, Volume
from tlp_runtime.crop import on_lattice
from tlp_runtime.errors import ContentError, GeometryError
from tlp_runtime.grid import Grid, difference
from tlp_runtime.io.nifti import read_volume
from tlp_runtime.placement import OVERLAP, Extent, place
from tlp_runtime.prepare import Prepared, prepare
from tlp_runtime.prompt import Prompt
from tlp_runtime.resample import resampled, resampled_inside
from tlp_runtime.spec import CropSpec, ModelSpec, SizeSpec

SMALL = ModelSpec(
    inputs=("t1",),
    network=TINY_NETWORK,
    crop=CropSpec(rows=(8, 88), columns=(8, 72), slices=(0, 4)),
)
DUAL = replace(SMALL, inputs=("t1", "t2"))
ORDERS = ["".join(codes) for axes in permutations(("LR", "AP", "IS")) for codes in product(*axes)]
SEMIAXES_MM = np.array([26.0, 34.0, 30.0])


def rotation(axis: np.ndarray, degrees: float) -> np.ndarray:
    """Rodrigues' formula."""
    x, y, z = axis / np.linalg.norm(axis)
    k = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.deg2rad(degrees)
    matrix: np.ndarray = np.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * k @ k
    return matrix


def scan(
    *,
    spacing: tuple[float, float, float] = (1, 1, 1),
    degrees: float = 0.0,
    axis: tuple[float, float, float] = (1, 2, 3),
    centre: tuple[float, float, float] = (0, 0, 0),
    orientation: str = "LPS",
    landmark: tuple[float, float, float] | None = None,
    name: str = "t1",
) -> Volume:
    """An ellipsoidal brain about ``centre`` (mm RAS), with a bright ball at a landmark."""
    columns = rotation(np.array(axis), degrees) @ np.diag([-1.0, -1.0, 1.0]) * spacing
    # Off its middle by a fraction of a voxel, as scans are.
    shape = [int(n) for n in np.ceil(2 * (SEMIAXES_MM + 12) / spacing)]
    affine = np.eye(4)
    affine[:3, :3] = columns
    affine[:3, 3] = np.array(centre) - columns @ ((np.array(shape) - 1) / 2 + 0.3)
    grid = Grid((shape[0], shape[1], shape[2]), affine).reoriented(orientation)
    points = grid.world(np.indices(grid.shape).reshape(3, -1).T)
    away = (points - centre) / SEMIAXES_MM
    values = np.where((away**2).sum(axis=1) < 1, 300.0, 0.0)
    values[values > 0] += 60 * np.cos(points[values > 0] @ np.array([0.11, 0.07, 0.09]))
    if landmark is not None:
        squared = ((points - landmark) ** 2).sum(axis=1)
        values += np.where(values > 0, 900 * np.exp(-squared / (2 * 4.0**2)), 0)
    data = values.reshape(grid.shape).astype(np.float32)
    header = nib.Nifti1Header()
    header.set_data_shape(grid.shape)
    header.set_zooms(grid.spacing_mm)
    header.set_sform(grid.affine, 1)
    header.set_qform(grid.affine, 1)
    header.set_xyzt_units("mm")
    return Volume(data, header.get_sform(), header, name=name)


def run(t1: Volume, spec: ModelSpec = SMALL, **options: object) -> Volume:
    with Synthesizer(FakeEngine(spec)) as synthesizer:
        return synthesizer.run({"t1": t1}, **options).volume  # type: ignore[arg-type]


@lru_cache
def straight() -> Volume:
    """The synthesis of the plain scan with a landmark."""
    return run(scan(landmark=(5, 6, 7)))


@lru_cache
def oblique() -> Prepared:
    """An oblique scan as the network sees it."""
    return prepare({"t1": scan(spacing=(1.1, 0.9, 3), degrees=17, landmark=(5, 6, 7))}, SMALL)


def peak(volume: Volume) -> np.ndarray:
    """Voxel indices of the bright ball's centre of mass."""
    weight = np.clip(volume.data - 0.75 * volume.data.max(), 0, None)
    indices = np.indices(volume.shape).reshape(3, -1)
    centre: np.ndarray = indices @ weight.ravel() / weight.sum()
    return centre


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
        result = synthesizer.run({"t1": t1})
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
    expected, prepared = oblique(), prepare({"t1": turned}, SMALL)
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
    prepared = prepare({"t1": t1}, SMALL)
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
    assert prepare({"t1": t1}, SMALL).placement.offset == (8, 8, 0), "the published crop"
    data = np.pad(t1.data, ((60, 0), (60, 0), (0, 0)))
    moved = Volume(data, _shifted(t1, -60), name="moved")
    placement = prepare({"t1": moved}, SMALL).placement
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
    out = resampled_inside(inside.astype(np.float32), inside, grid, target, mask)
    np.testing.assert_allclose(out[mask], 1, atol=1e-6)
    assert not out[~mask].any()


# --- several grids ---------------------------------------------------------------------------


@pytest.mark.documents(
    "Grid", "T2, mask or prompt on another grid", "exit 3, naming shape, spacing, origin and angle"
)
def test_another_grid_is_refused_naming_shape_spacing_origin_and_angle() -> None:
    t2 = scan(spacing=(1, 1, 2), degrees=10, name="t2")
    with pytest.raises(GeometryError) as error:
        prepare({"t1": scan(), "t2": t2}, DUAL)
    for word in ("t2: lies on another grid than t1", "shape 76 x 92 x 42 against 76 x 92 x 84",
                 "spacing 1 x 1 x 2 against 1 x 1 x 1", "origin (", "turned by 10.00 degrees",
                 "--resample"):  # fmt: skip
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
    prepared = prepare({"t1": t1, "t2": t2}, DUAL, prompt=Prompt(labels), resample=True)
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
    whole = prepare({"t1": t1}, SMALL, prompt=Prompt(labels)).tensors["prompt"]
    assert whole.any()
    with pytest.raises(GeometryError, match="cut: lies on another grid"):
        prepare({"t1": t1}, SMALL, prompt=Prompt(cut))
    brought = prepare({"t1": t1}, SMALL, prompt=Prompt(cut), resample=True)
    np.testing.assert_array_equal(brought.tensors["prompt"], whole)


def test_a_t2_that_lies_elsewhere_is_refused_even_with_resample() -> None:
    t2 = scan(centre=(300, 0, 0), name="t2")
    with pytest.raises(GeometryError, match="t2: does not overlap the brain of t1"):
        prepare({"t1": scan(), "t2": t2}, DUAL, resample=True)


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
    with pytest.raises(GeometryError, match="--resample"):
        run(head, brain_mask=elsewhere)
    out = run(head, brain_mask=replace(elsewhere, data=elsewhere.data > 0), resample=True)
    assert np.abs(out.data - run(bare).data)[mask.data > 0].mean() < 0.02


@pytest.mark.documents(
    "File",
    "negative values, a background that is not 0",
    "the corners' common value is taken as background, with a warning",
)
def test_a_background_that_is_not_zero_is_taken_as_zero(caplog: pytest.LogCaptureFixture) -> None:
    t1 = scan(landmark=(5, 5, 5))
    np.testing.assert_allclose(run(replace(t1, data=t1.data - 1000)).data, run(t1).data, atol=1e-6)
    assert "background is -1000; taken as 0" in caplog.text


# --- brains larger than the crop -------------------------------------------------------------


def _wide() -> Volume:
    """1 mm, but a brain of 104 x 136 voxels: the crop holds 64 x 80."""
    t1 = scan(spacing=(0.5, 0.5, 0.5))
    affine = np.diag([2.0, 2.0, 8.0, 1.0])
    return Volume(t1.data[:, :, ::4].copy(), t1.affine @ affine, name="wide")


@pytest.mark.documents(
    "Large brain",
    "larger than the crop, the model takes other sizes",
    "reported; one larger window",
)
def test_a_large_brain_takes_one_larger_window_where_the_model_allows(
    caplog: pytest.LogCaptureFixture,
) -> None:
    spec = replace(SMALL, sizes=SizeSpec(smallest=(80, 64), largest=(160, 160)))
    t1 = _wide()
    t1 = replace(t1, affine=t1.affine @ np.diag([1, 1, 0.25, 1]))
    placement = prepare({"t1": t1}, spec).placement
    assert placement.window == (136, 104)
    assert placement.corners == ((0, 0),)
    assert (
        "its brain is 136 x 104 voxels of the model's grid, the crop holds 80 x 64" in caplog.text
    )
    assert "one window of 136 x 104" in caplog.text


@pytest.mark.documents(
    "Large brain",
    "larger than the crop, a model of one size",
    "reported; overlapping windows, blended smoothly",
)
def test_a_large_brain_is_run_in_windows_that_leave_no_seam(
    caplog: pytest.LogCaptureFixture,
) -> None:
    t1 = _wide()
    t1 = replace(t1, affine=t1.affine @ np.diag([1, 1, 0.25, 1]))
    with Synthesizer(FakeEngine(SMALL)) as synthesizer:
        result = synthesizer.run({"t1": t1})
    placement = result.prepared.placement
    assert len(placement.corners) == 3 * 3
    assert "9 overlapping windows a slice" in caplog.text
    expected = t1.data / t1.data.max()
    held = t1.data > 0
    np.testing.assert_allclose(
        result.volume.data[held], (expected[held] * 2 - 1) * 0.25 + 0.5, atol=1e-5
    )


@pytest.mark.parametrize("rows", [81, 100, 137, 200])
def test_the_windows_weights_sum_to_one_and_fall_smoothly(rows: int) -> None:
    half = np.array([40.0, rows / 2, 20.0])
    placement = place(scan(degrees=5).grid, Extent(-half, half), SMALL, "x")
    weights = placement.weights
    height, width = placement.window
    total = np.zeros((placement.grid.shape[1], placement.grid.shape[0]))
    for weight, (top, left) in zip(weights, placement.corners, strict=True):
        total[top : top + height, left : left + width] += weight
    np.testing.assert_allclose(total, 1, atol=1e-6)
    assert np.abs(np.diff(weights, axis=1)).max() < 3 / OVERLAP
    for edge in (weights[1][0], weights[1][:, 0]):
        assert placement.corners[1] == (0, 0) or edge.min() < 0.01


# --- files -----------------------------------------------------------------------------------


@pytest.mark.documents(
    "File", "uint8, int16, float32, float64; little and big endian", "the same image"
)
@pytest.mark.parametrize("dtype", ["uint8", "<i2", ">i2", ">f4", "float64"])
def test_every_voxel_type_and_byte_order_gives_the_same_image(tmp_path: Path, dtype: str) -> None:
    t1 = scan(landmark=(5, 5, 5))
    whole = np.rint(t1.data / t1.data.max() * 250)
    assert t1.header is not None
    header = t1.header.as_byteswapped(">" if dtype.startswith(">") else "<")
    header.set_data_dtype(dtype)
    image = nib.Nifti1Image(whole.astype(dtype), None, header)
    nib.save(image, tmp_path / "a.nii.gz")
    volume = read_volume(tmp_path / "a.nii.gz")
    assert volume.data.dtype.isnative
    with Synthesizer(FakeEngine(SMALL)) as synthesizer:
        result = synthesizer.run({"t1": volume})
    np.testing.assert_array_equal(result.volume.data, run(replace(t1, data=whole)).data)
    result.save(tmp_path / "o.nii.gz")
    np.testing.assert_array_equal(read_volume(tmp_path / "o.nii.gz").data, result.volume.data)


@pytest.mark.documents(
    "File", "trailing axes of length 1", "dropped, and there again in the output"
)
def test_trailing_axes_of_length_one_come_back(tmp_path: Path) -> None:
    t1 = scan(landmark=(5, 5, 5))
    image = nib.Nifti1Image(t1.data[..., None], t1.affine)
    nib.save(image, tmp_path / "a.nii.gz")
    with Synthesizer(FakeEngine(SMALL)) as synthesizer:
        result = synthesizer.run({"t1": tmp_path / "a.nii.gz"})
    result.save(tmp_path / "o.nii.gz")
    assert nib.load(tmp_path / "o.nii.gz").shape == (*t1.shape, 1)
    np.testing.assert_array_equal(result.volume.data, run(t1).data)


def test_the_angle_between_grids_is_independent_of_their_axis_orders() -> None:
    assert scan().grid.angle_to(scan(degrees=12, orientation="SAR").grid) == pytest.approx(12)
    assert difference(scan().grid, scan(orientation="PSR").grid) is None
