"""Two scans of one patient lie on each other, and show no skull; or a warning says so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from tests.scans import DUAL, SMALL, rotation, scan
from tlp_runtime import Volume
from tlp_runtime.errors import InputDoubtful
from tlp_runtime.geometry.resample import resampled
from tlp_runtime.io.datasets import find_cases
from tlp_runtime.io.nifti import read_volume
from tlp_runtime.synthesis.prepare import prepare
from tlp_runtime.synthesis.request import Request
from tlp_runtime.values.alignment import AGREEMENT, DISPLACEMENT_MM, alignment, check_alignment
from tlp_runtime.values.skull import SHARE, check_skull, skull_share
from tlp_runtime.warnings import TLPWarning, WarningLog

SPACING_MM = 3.0


def phantom(contrast: str, seed: int = 0) -> Volume:
    """A brain of 1300 ml with structures of its own; what is bright depends on the contrast."""
    random = np.random.default_rng(seed)
    shape = (56, 68, 56)
    indices = np.indices(shape).reshape(3, -1).T
    away = (indices - np.array(shape) / 2) * SPACING_MM / (62, 78, 64)
    brain = ((away**2).sum(axis=1) < 1).reshape(shape)
    noise = ndimage.gaussian_filter(random.normal(size=shape), 2.2)
    tissue = np.digitize(noise, np.quantile(noise[brain], (0.25, 0.6)))
    values = {"t1": (70.0, 100.0, 140.0), "t2": (220.0, 110.0, 80.0)}[contrast]
    data = np.where(brain, np.array(values)[tissue], 0)
    affine = np.diag([SPACING_MM, SPACING_MM, SPACING_MM, 1.0])
    affine[:3, 3] = -np.array(shape) * SPACING_MM / 2
    return Volume(data.astype(np.float32), affine, name=contrast)


def moved(
    volume: Volume, *, mm: tuple[float, float, float] = (0, 0, 0), degrees: float = 0
) -> Volume:
    move = np.eye(4)
    move[:3, :3] = rotation(np.array([1.0, 2.0, 3.0]), degrees)
    move[:3, 3] = mm
    return replace(volume, affine=move @ volume.affine)


def warned(first: Volume, second: Volume) -> list[TLPWarning]:
    log = WarningLog()
    check_alignment(first, second, log.add)
    return list(log)


def test_two_contrasts_of_one_head_are_aligned() -> None:
    t1, t2 = phantom("t1"), phantom("t2")
    found = alignment(t1, t2)
    assert found is not None
    assert found.displacement_mm < 1
    assert found.agreement > 0.8
    assert warned(t1, t2) == []


@pytest.mark.documents(
    "Grid",
    "a T2 that does not lie on the T1, by its edges: moved or turned by 5 mm or degrees and more",
    "a warning with shift and angle",
)
@pytest.mark.parametrize(
    ("change", "shift_mm", "degrees"),
    [
        ({"mm": (0, 0, 5)}, 5, 0),
        ({"mm": (10, 0, 0)}, 10, 0),
        ({"degrees": 10}, 0, 10),
        ({"degrees": 14, "mm": (3, 0, 0)}, 3, 14),
    ],
)
def test_a_scan_that_was_moved_is_warned_of_by_how_much(
    change: dict[str, float], shift_mm: float, degrees: float
) -> None:
    (warning,) = warned(phantom("t1"), moved(phantom("t2"), **change))  # type: ignore[arg-type]
    assert warning.code.name == "not-aligned"
    assert warning.numbers["shift_mm"] == pytest.approx(shift_mm, abs=1)
    assert warning.numbers["rotation_degrees"] == pytest.approx(degrees, abs=1)
    assert "Register one to the other" in str(warning)


@pytest.mark.documents("Grid", "a T2 of another head, or mirrored", "a warning")
def test_another_head_is_warned_of_though_the_brains_have_one_shape() -> None:
    (warning,) = warned(phantom("t1"), phantom("t2", seed=1))
    assert "Are they of one patient" in str(warning)
    t2 = phantom("t2")
    (warning,) = warned(phantom("t1"), replace(t2, data=t2.data[::-1]))
    assert warning.code.name == "not-aligned"


def test_a_mask_that_both_share_hides_nothing() -> None:
    t1, t2 = phantom("t1"), phantom("t2")
    inside = ndimage.binary_erosion(t1.data != 0, iterations=6)
    shifted = replace(t2, data=np.roll(t2.data, 4, axis=1))
    masked = [replace(v, data=np.where(inside, v.data, 0)) for v in (t1, t2, shifted)]
    assert warned(masked[0], masked[1]) == []
    (warning,) = warned(masked[0], masked[2])
    assert warning.numbers["displacement_mm"] == pytest.approx(12, abs=1)


def test_too_little_brain_is_not_judged() -> None:
    assert alignment(scan(), scan(landmark=(0, 0, 0), name="t2")) is None


def test_the_case_is_warned_of_before_the_network_runs_and_strict_refuses() -> None:
    t1, t2 = phantom("t1"), moved(phantom("t2"), degrees=14)
    request = Request(images={"t1": t1, "t2": t2}, resample=True)
    codes = [warning.code.name for warning in prepare(request, DUAL).warnings]
    assert "not-aligned" in codes
    with pytest.raises(InputDoubtful, match=r"not-aligned"):
        prepare(replace(request, strict=True), DUAL)


def test_seven_real_pairs_raise_no_alarm_and_moved_ones_do(real_cases: Path) -> None:
    for number, case in enumerate(find_cases(real_cases, ("t1", "t2"))):
        t1, t2 = read_volume(case.files["t1"]), read_volume(case.files["t2"])
        found = alignment(t1, t2)
        assert found is not None
        assert found.displacement_mm < 0.8 * DISPLACEMENT_MM, case.name
        assert found.agreement > 1.15 * AGREEMENT, case.name
        assert max(skull_share(t1), skull_share(t2)) < 0.3 * SHARE, case.name
        if number < 2:  # benchmarks/alignment.py moves all of them, in more ways
            assert warned(t1, moved(t2, degrees=10)), case.name
            assert warned(t1, moved(t2, mm=(0, 10, 0))), case.name


def with_skull(
    brain: Volume, *, skull_mm: float = 6, scalp_mm: float = 6, air: float = 0
) -> Volume:
    """The brain in fluid, bone and scalp, perhaps with noise in the air."""
    wide = np.pad(brain.data, 8)
    affine = brain.affine.copy()
    affine[:3, 3] -= 8 * np.array(brain.grid.spacing_mm)
    fluid = 300.0 if brain.name == "t2" else 30.0
    depth = ndimage.distance_transform_edt(wide == 0, sampling=brain.grid.spacing_mm)
    random = np.random.default_rng(0)
    around = np.abs(random.normal(0, air, wide.shape)) if air else np.zeros(wide.shape)
    layers = np.select(
        [
            depth == 0,
            depth <= 3,
            depth <= 3 + skull_mm,
            depth <= 3 + skull_mm + scalp_mm,
        ],
        [wide, np.full(wide.shape, fluid), np.full(wide.shape, 10.0), np.full(wide.shape, 160.0)],
        around,
    )
    return Volume(layers.astype(np.float32), affine, name=brain.name)


@pytest.mark.documents(
    "File",
    "a head with its skull, of any size, whether the air is 0 or noise",
    "a warning before the run; `--strict` refuses; none with a brain mask",
)
@pytest.mark.parametrize("contrast", ["t1", "t2"])
@pytest.mark.parametrize("air", [0, 6])
def test_a_head_with_its_skull_is_warned_of(contrast: str, air: float) -> None:
    brain = phantom(contrast)
    head = with_skull(brain, air=air)
    assert skull_share(brain) < 0.2 * SHARE
    assert skull_share(head) > 4 * SHARE
    log = WarningLog()
    check_skull(head, log.add)
    (warning,) = log
    assert warning.code.name == "skull"
    assert "Set brain_mask" in str(warning)


def test_a_small_head_of_thick_slices_is_warned_of_too() -> None:
    brain = phantom("t1")
    small = replace(brain, affine=brain.affine @ np.diag([0.75, 0.75, 0.75, 1]))
    head = with_skull(small, skull_mm=5, scalp_mm=4)
    assert np.count_nonzero(head.data) * (0.75 * SPACING_MM) ** 3 / 1000 < 2200
    grid = replace(head.grid, shape=(*head.shape[:2], head.shape[2] // 2))
    grid = replace(grid, affine=head.affine @ np.diag([1, 1, 2, 1]))
    thick = Volume(resampled(head, grid), grid.affine, name="t1")
    assert skull_share(head) > 2 * SHARE
    assert skull_share(thick) > 2 * SHARE


def test_a_brain_mask_leaves_nothing_to_warn_of() -> None:
    head = with_skull(phantom("t1"))
    mask = np.pad(phantom("t1").data, 8) != 0
    given = Volume(mask.astype(np.uint8), head.affine, name="mask")
    case = prepare(Request(images={"t1": head}, brain_mask=given), SMALL)
    assert "skull" not in [warning.code.name for warning in case.warnings]
    with pytest.raises(InputDoubtful, match="skull"):
        prepare(Request(images={"t1": head}, strict=True), SMALL)
