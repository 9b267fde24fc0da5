"""The published metrics, against an independent computation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from tests.support import TINY_NETWORK, FakeEngine
from tlp_runtime import Synthesizer
from tlp_runtime.io.nifti import read_volume
from tlp_runtime.spec import ModelSpec
from tlp_train.brats import find_cases
from tlp_train.evaluation import evaluate
from tlp_train.metrics import Statistic, region_metrics, slice_metrics, to_levels


def _ssim_map(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Wang et al. 2004 with a 7 x 7 uniform window and sample covariance, valid pixels only."""
    x, y = (sliding_window_view(v.astype(np.float64), (7, 7)) for v in (a, b))
    axes, n = (-2, -1), 49
    mx, my = x.mean(axes), y.mean(axes)
    vx, vy = x.var(axes) * n / (n - 1), y.var(axes) * n / (n - 1)
    cov = ((x * y).mean(axes) - mx * my) * n / (n - 1)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    result: np.ndarray = (
        (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    )
    return result


@pytest.fixture
def pair() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    reference = rng.integers(0, 256, (40, 32), np.uint8)
    return reference, np.clip(reference + rng.normal(0, 20, reference.shape), 0, 255).astype(
        np.uint8
    )


def test_slice_metrics_equal_their_formulas(pair: tuple[np.ndarray, np.ndarray]) -> None:
    reference, image = pair
    mse = np.square(reference.astype(float) - image).mean()
    metrics = slice_metrics(reference, image)
    assert metrics.psnr_db == pytest.approx(10 * np.log10(255**2 / mse))
    assert metrics.nmse == pytest.approx(mse / reference.astype(float).var())
    assert metrics.ssim == pytest.approx(_ssim_map(reference, image).mean())


def test_region_metrics_see_the_region_only(pair: tuple[np.ndarray, np.ndarray]) -> None:
    reference, image = pair
    region = np.zeros(reference.shape, bool)
    region[10:20, 8:18] = True
    inside, made = reference[region].astype(float), image[region].astype(float)
    metrics = region_metrics(reference, image, region)
    mse = np.square(inside - made).mean()
    assert metrics.psnr_db == pytest.approx(10 * np.log10(255**2 / mse))
    assert metrics.nmse == pytest.approx(mse / inside.var())
    assert metrics.ssim == pytest.approx(_ssim_map(reference, image)[7:17, 5:15].mean())
    far = image.copy()
    far[30:, :] = 0
    assert region_metrics(reference, far, region) == metrics


def test_identical_pairs_have_no_psnr_and_flat_references_no_nmse() -> None:
    flat = np.zeros((16, 16), np.uint8)
    metrics = slice_metrics(flat, flat)
    assert (metrics.psnr_db, metrics.ssim, metrics.nmse) == (None, 1.0, 0.0)
    assert slice_metrics(flat, flat + 5).nmse == 0


def test_levels_are_truncated_not_rounded() -> None:
    values = np.array([-1, 1, 0, 0.999], np.float32)
    assert to_levels(values).tolist() == [0, 255, 127, 254]


def test_statistics_leave_out_what_is_not_there() -> None:
    assert Statistic.of([1.0, None, 3.0]) == Statistic(2.0, 1.0, 2)
    assert Statistic.of([None]) == Statistic(None, None, 0)


def test_the_protocol_end_to_end_against_plain_numpy(phantom_case: Path) -> None:
    """Slices 27..126, the crop, both scalings and the mean over slices, written out again."""
    spec = ModelSpec(inputs=("t1",), network=TINY_NETWORK)
    cases = [c for c in find_cases(phantom_case.parent, ("t1",)) if c.name == phantom_case.name]
    arrays = {
        name: read_volume(cases[0].files[name])
        .data.astype(np.float64)
        .transpose(2, 1, 0)[:, 34:226, 40:200]
        for name in ("t1", "t1ce", "seg")
    }
    scaled = {
        name: ((v - v.min()) / (v.max() - v.min()) * 2 - 1).astype(np.float32)[27:127]
        for name, v in arrays.items()
        if name != "seg"
    }
    seg = arrays["seg"][27:127]
    for use in ("none", "seg"):
        prompt = np.where(seg == 2, 0.5, np.where(seg > 0, 1.0, 0)) * (use == "seg")
        made = np.clip(scaled["t1"] * 0.5 + prompt * 0.25, -1, 1).astype(np.float32)
        a, b = (((v.astype(float) + 1) / 2 * 255).astype(np.uint8) for v in (scaled["t1ce"], made))
        mse = np.square(a.astype(float) - b).mean(axis=(1, 2))
        expected = np.mean(10 * np.log10(255**2 / mse[mse > 0]))
        with Synthesizer(FakeEngine(spec), batch=7) as synthesizer:
            result = evaluate(synthesizer, cases, use)
        assert result.whole.psnr_db.mean == pytest.approx(expected)
        assert result.whole.ssim.count == 100
        core = np.isin(seg, (1, 3, 4))
        z = np.flatnonzero(core.any(axis=(1, 2)))
        inside = [np.square(a[i].astype(float) - b[i])[core[i]].mean() for i in z]
        assert result.tumour.psnr_db.count == len(z)
        assert result.tumour.psnr_db.mean == pytest.approx(
            np.mean([10 * np.log10(255**2 / m) for m in inside])
        )
    assert result.to_dict()["cases"][0]["name"] == phantom_case.name
