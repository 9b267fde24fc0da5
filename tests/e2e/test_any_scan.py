"""A real scan on a clinical, oblique grid against the same scan on the model's own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from skimage.metrics import structural_similarity

from tests.fakes.engine import FakeEngine
from tests.scans import rotation
from tlp_runtime import Synthesizer, Volume
from tlp_runtime.geometry.grid import Grid
from tlp_runtime.geometry.placement import Placement
from tlp_runtime.geometry.resample import InsideSplines, filled, resampled, resampled_labels
from tlp_runtime.io.nifti import read_volume
from tlp_runtime.spec.model import ModelSpec
from tlp_runtime.synthesis.request import Prompt, Request

LOSS = 0.03
"""SSIM that a synthesis may lose beyond what its T1 loses by the same two interpolations."""


def clinical_grid(scan: Volume) -> Grid:
    """0.8 x 0.8 mm in the plane, 3 mm slices, turned by 17 degrees, stored as PSR; holds all."""
    axes = rotation(np.array([1.0, 2.0, 3.0]), 17) @ np.array([[0, 0, 1], [-1, 0, 0], [0, 1, 0]])
    spacing = np.array([0.8, 3.0, 0.8])
    corners = scan.grid.corners_ras
    centre = corners.mean(axis=0)
    extent = 2 * np.abs((corners - centre) @ axes).max(axis=0)
    i, j, k = (int(n) for n in np.ceil(extent / spacing) + 1)
    affine = np.eye(4)
    affine[:3, :3] = axes * spacing
    affine[:3, 3] = centre - affine[:3, :3] @ ((np.array([i, j, k]) - 1) / 2)
    return Grid((i, j, k), affine)


def ssim_inside(a: np.ndarray, b: np.ndarray, inside: np.ndarray) -> float:
    """Mean SSIM over the brain of two images in [0, 1]."""
    box = ndimage.find_objects(inside.astype(np.uint8))[0]
    _, full = structural_similarity(
        a[box].astype(float), b[box].astype(float), data_range=1.0, full=True
    )
    return float(full[inside[box]].mean())


def there_and_back(scan: Volume, placement: Placement) -> np.ndarray:
    """A scan after the two interpolations of its synthesis, without a network between."""
    seen = resampled(scan, placement.grid)
    splines = InsideSplines(seen != 0, placement.grid, scan.grid, filled(scan.data != 0))
    return splines.whole(seen)


def losses(synthesizer: Synthesizer, case: Path) -> tuple[float, float]:
    """SSIM of the two syntheses, and of the T1 after the same two interpolations."""
    t1, seg = (read_volume(case / f"{case.name}_{kind}.nii.gz") for kind in ("t1", "seg"))
    grid = clinical_grid(t1)
    assert grid.orientation == "PSR"
    scanned = Volume(np.rint(resampled(t1, grid)).astype(np.int16), grid.affine, name="clinical")
    drawn = Volume(resampled_labels(seg, grid), grid.affine, name="drawn")
    original = synthesizer.run(Request(images={"t1": t1}, prompt=Prompt(seg)))
    assert original.prepared.placement.offset is not None, "not interpolated"
    made = synthesizer.run(Request(images={"t1": scanned}, prompt=Prompt(drawn)))
    placement = made.prepared.placement
    assert placement.offset is None
    assert made.volume.shape == scanned.shape
    np.testing.assert_array_equal(made.volume.affine, scanned.affine)
    inside = scanned.data > 0
    bare = Volume(original.volume.data * (t1.data != 0), t1.affine)
    top = float(scanned.data.max())
    return (
        ssim_inside(made.volume.data, resampled(bare, grid), inside),
        ssim_inside(there_and_back(scanned, placement) / top, scanned.data / top, inside),
    )


@pytest.mark.documents(
    "Grid",
    "a real case at 0.8 x 0.8 x 3 mm, turned by 17 degrees, PSR",
    "agrees with the original's synthesis: SSIM at most 0.03 below the T1's own",
)
def test_a_linear_engine_loses_no_more_than_the_t1_itself(real_cases: Path) -> None:
    with Synthesizer(FakeEngine(ModelSpec(inputs=("t1",)))) as synthesizer:
        synthesis, t1 = losses(synthesizer, real_cases / "BraTS2021_01478")
    assert t1 > 0.99
    assert synthesis > t1 - LOSS


@pytest.mark.proof
@pytest.mark.timeout(1800)
def test_a_trained_model_agrees_on_real_cases_on_a_clinical_grid(
    real_cases: Path, tmp_path: Path
) -> None:
    environment = {**os.environ, "TLP_HOME": os.fspath(tmp_path / "home")}
    tlp = Path(sys.executable).with_name("tlp")
    run = tmp_path / "run"
    training = ["train", "--intensity-percentiles", "0,99.5", "--out", os.fspath(run)]
    for words in (training, ["export", os.fspath(run), "--out", "model"]):
        subprocess.run([tlp, *words], env=environment, check=True, cwd=tmp_path)
    with Synthesizer.open(tmp_path / "model") as synthesizer:
        assert list(synthesizer.spec.intensity.percentiles or ()) == [0, 99.5]
        for case in ("BraTS2021_01478", "BraTS2021_01483"):
            synthesis, t1 = losses(synthesizer, real_cases / case)
            assert synthesis > t1 - LOSS, (case, synthesis, t1)
