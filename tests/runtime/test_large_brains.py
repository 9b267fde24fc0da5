"""Brains larger than the crop: one larger window, or several without a seam."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.fakes.engine import FakeEngine
from tests.scans import SMALL, scan
from tlp_runtime import Synthesizer, Volume
from tlp_runtime.geometry.placement import OVERLAP, Extent, place
from tlp_runtime.spec.model import SizeSpec
from tlp_runtime.synthesis.prepare import prepare
from tlp_runtime.synthesis.request import Request
from tlp_runtime.warnings import LARGER_THAN_CROP, WarningLog


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
def test_a_large_brain_takes_one_larger_window_where_the_model_allows() -> None:
    spec = replace(SMALL, sizes=SizeSpec(smallest=(80, 64), largest=(160, 160)))
    t1 = _wide()
    t1 = replace(t1, affine=t1.affine @ np.diag([1, 1, 0.25, 1]))
    prepared = prepare(Request(images={"t1": t1}), spec)
    placement = prepared.placement
    assert placement.window == (136, 104)
    assert placement.corners == ((0, 0),)
    (warning,) = [one for one in prepared.warnings if one.code is LARGER_THAN_CROP]
    assert (
        "its brain is 136 x 104 voxels of the model's grid, the crop holds 80 x 64" in warning.text
    )
    assert "one window of 136 x 104" in warning.text
    assert warning.numbers == {"rows": 136, "columns": 104, "windows": 1}


@pytest.mark.documents(
    "Large brain",
    "larger than the crop, a model of one size",
    "reported; overlapping windows, blended smoothly",
)
def test_a_large_brain_is_run_in_windows_that_leave_no_seam() -> None:
    t1 = _wide()
    t1 = replace(t1, affine=t1.affine @ np.diag([1, 1, 0.25, 1]))
    with Synthesizer(FakeEngine(SMALL)) as synthesizer:
        result = synthesizer.run(Request(images={"t1": t1}))
    placement = result.prepared.placement
    assert len(placement.corners) == 3 * 3
    (warning,) = [one for one in result.warnings if one.code is LARGER_THAN_CROP]
    assert "9 overlapping windows per slice" in warning.text
    expected = t1.data / t1.data.max()
    held = t1.data > 0
    np.testing.assert_allclose(
        result.volume.data[held], (expected[held] * 2 - 1) * 0.25 + 0.5, atol=1e-5
    )


@pytest.mark.parametrize("rows", [81, 100, 137, 200])
def test_the_windows_weights_sum_to_one_and_fall_smoothly(rows: int) -> None:
    half = np.array([40.0, rows / 2, 20.0])
    placement = place(scan(degrees=5).grid, Extent(-half, half), SMALL, "x", WarningLog().add)
    weights = placement.weights
    height, width = placement.window
    total = np.zeros((placement.grid.shape[1], placement.grid.shape[0]))
    for weight, (top, left) in zip(weights, placement.corners, strict=True):
        total[top : top + height, left : left + width] += weight
    np.testing.assert_allclose(total, 1, atol=1e-6)
    assert np.abs(np.diff(weights, axis=1)).max() < 3 / OVERLAP
    for edge in (weights[1][0], weights[1][:, 0]):
        assert placement.corners[1] == (0, 0) or edge.min() < 0.01
