"""Every metric, against an independent computation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from scipy.ndimage import uniform_filter

from benchmarks.enhancement import hallucination
from tlp_train.metrics import (
    COLUMNS,
    ENHANCING,
    Truth,
    all_metrics,
    enhancement_metrics,
    fitted_metrics,
    published_metrics,
    to_levels,
    to_unit64,
)
from tlp_train.patients import Patients
from tlp_train.reference_rows import best_factor


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
def truth() -> Truth:
    """Three slices of a smooth head with a core (none in the last slice) in oedema."""
    rng = np.random.default_rng(0)
    z, y, x = np.meshgrid(np.arange(12), np.arange(40), np.arange(32), indexing="ij")
    brain = (y - 20) ** 2 / 18**2 + (x - 16) ** 2 / 14**2 < 1
    core = ((y - 18) ** 2 + (x - 10) ** 2 < 16) & (z < 9)
    oedema = ((y - 18) ** 2 + (x - 10) ** 2 < 36) & (z < 10) & ~core & brain
    t1 = np.where(brain, 1.0, 0.0) * (0.3 + 0.02 * rng.standard_normal(z.shape) + 0.004 * y)
    t1ce = brain * (0.7 * t1 + 0.05 + 0.2 * core * rng.uniform(0, 1, z.shape))
    return Truth(t1ce=t1ce, t1=t1, brain=t1ce > 0, core=core, oedema=oedema)


@pytest.fixture
def image(truth: Truth) -> np.ndarray:
    """A synthesis: another level and contrast, part of the uptake, noise."""
    rng = np.random.default_rng(1)
    made = 1.4 * truth.t1 + 0.02 + 0.3 * truth.core + 0.01 * rng.standard_normal(truth.t1.shape)
    return np.asarray(np.clip(made, 0, 1))


def _fit(x: np.ndarray, y: np.ndarray, where: np.ndarray) -> np.ndarray:
    gain, offset = np.polyfit(x[where], y[where], 1)
    return np.asarray(gain * x + offset)


def test_published_metrics_equal_their_formulas(truth: Truth, image: np.ndarray) -> None:
    values = published_metrics(truth, image)
    reference, made = (
        np.floor(v * 255).astype(np.uint8).astype(float) for v in (truth.t1ce, image)
    )
    squares = np.square(reference - made)
    assert values["slice.psnr_db"] == pytest.approx(
        10 * np.log10(255**2 / squares.mean(axis=(1, 2)))
    )
    assert values["slice.nmse"] == pytest.approx(
        squares.mean(axis=(1, 2)) / reference.var(axis=(1, 2))
    )
    maps = [_ssim_map(a, b) for a, b in zip(reference, made, strict=True)]
    assert values["slice.ssim"] == pytest.approx([m.mean() for m in maps])
    for name, mask, held in (("core", truth.core, 9), ("oedema", truth.oedema, 10)):
        slices = range(held)
        assert values[f"{name}.psnr_db"] == pytest.approx(
            [10 * np.log10(255**2 / squares[z][mask[z]].mean()) for z in slices]
        )
        assert values[f"{name}.nmse"] == pytest.approx(
            [squares[z][mask[z]].mean() / reference[z][mask[z]].var() for z in slices]
        )
        assert values[f"{name}.ssim"] == pytest.approx(
            [maps[z][mask[z][3:-3, 3:-3]].mean() for z in slices]
        )


def test_identical_slices_have_no_psnr_and_flat_references_no_nmse(truth: Truth) -> None:
    flat = np.zeros_like(truth.t1ce)
    values = published_metrics(replace(truth, t1ce=flat), flat)
    assert "slice.psnr_db" not in values
    assert "core.psnr_db" not in values
    assert values["slice.ssim"] == [1.0] * 12
    assert values["slice.nmse"] == [0.0] * 12


def test_volume_metrics_equal_their_formulas(truth: Truth, image: np.ndarray) -> None:
    values = all_metrics(truth, image)
    mse = np.square(truth.t1ce - image).mean()
    assert values["volume.psnr_db"] == pytest.approx([-10 * np.log10(mse)])
    assert values["volume.nmse"] == pytest.approx([mse / truth.t1ce.var()])
    assert values["volume.mae"] == pytest.approx([np.abs(truth.t1ce - image).mean()])
    x, y = truth.t1ce, image
    mx, my = uniform_filter(x, 7), uniform_filter(y, 7)
    n = 343 / 342
    vx, vy = (n * (uniform_filter(v * v, 7) - m * m) for v, m in ((x, mx), (y, my)))
    cov = n * (uniform_filter(x * y, 7) - mx * my)
    ssim = (2 * mx * my + 1e-4) * (2 * cov + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))
    assert values["volume.ssim"] == pytest.approx([ssim[3:-3, 3:-3, 3:-3].mean()], abs=1e-5)


def test_brain_metrics_do_not_depend_on_level_and_contrast(truth: Truth, image: np.ndarray) -> None:
    values = all_metrics(truth, image)
    fitted = _fit(image, truth.t1ce, truth.brain)
    mse = np.square(truth.t1ce - fitted)[truth.brain].mean()
    assert values["brain.psnr_db"] == pytest.approx([-10 * np.log10(mse)])
    inner = [
        _ssim_map(a * 255, b * 255)[mask[3:-3, 3:-3]]
        for a, b, mask in zip(truth.t1ce, fitted * truth.brain, truth.brain, strict=True)
    ]
    assert values["brain.ssim"] == pytest.approx([np.concatenate(inner).mean()], abs=2e-3)
    other = all_metrics(truth, 0.5 * image + 0.2)
    for key in ("brain.psnr_db", "brain.ssim"):
        assert other[key] == pytest.approx(values[key])
    darker = all_metrics(truth, 0.5 * image)
    for key in ("enhancement.mae", "enhancement.dice", "mirror.false_enhancement"):
        assert darker[key] == pytest.approx(values[key])
    assert other["slice.psnr_db"] != pytest.approx(values["slice.psnr_db"])


def test_enhancement_metrics_equal_their_formulas(truth: Truth, image: np.ndarray) -> None:
    values = all_metrics(truth, image)
    normal = truth.brain & ~(truth.core | truth.oedema)
    level = np.median(truth.t1ce[normal])
    plain, fitted = (level / np.median(v[normal]) * v for v in (truth.t1, image))
    true, made = ((v - plain)[truth.core] / level for v in (truth.t1ce, fitted))
    assert values["enhancement.mae"] == pytest.approx([np.mean(np.abs(true - made))])
    assert values["enhancement.correlation"] == pytest.approx([np.corrcoef(true, made)[0, 1]])
    a, b = set(np.flatnonzero(true > ENHANCING)), set(np.flatnonzero(made > ENHANCING))
    assert a
    assert b
    assert values["enhancement.dice"] == pytest.approx([2 * len(a & b) / (len(a) + len(b))])
    mse = np.square(truth.t1ce - fitted)[truth.core].mean()
    assert values["enhancement.psnr_db"] == pytest.approx([-10 * np.log10(mse)])
    mirrored = np.flip(truth.core, axis=2) & normal
    assert values["mirror.false_enhancement"] == pytest.approx(
        [((fitted - truth.t1ce)[mirrored] / level).mean()]
    )


def test_a_perfect_synthesis_and_a_copied_t1(truth: Truth) -> None:
    perfect = all_metrics(truth, truth.t1ce)
    assert perfect["enhancement.mae"] == pytest.approx([0], abs=1e-9)
    assert perfect["enhancement.correlation"] == pytest.approx([1])
    assert perfect["enhancement.dice"] == [1.0]
    assert perfect["mirror.false_enhancement"] == pytest.approx([0], abs=1e-9)
    copied = all_metrics(truth, truth.t1)
    assert copied["enhancement.dice"] == [0.0]
    assert "enhancement.correlation" not in copied, "a T1 shows no enhancement that could vary"


def test_an_invented_blob_is_measured_in_full_however_little_t1_and_t1ce_correlate(
    truth: Truth,
) -> None:
    """A least-squares fit shrinks it by their correlation, and so hides what a model invents."""
    rng = np.random.default_rng(5)
    noisy = np.where(
        truth.brain, np.clip(truth.t1 + 0.1 * rng.standard_normal(truth.t1.shape), 0, 1), 0
    )
    noisy_truth = replace(truth, t1=noisy)
    assert noisy_truth.correlation is not None
    assert noisy_truth.correlation < 0.5
    seen = hallucination(noisy_truth)
    assert seen is not None
    assert seen["ratio of medians"] == pytest.approx(0.5, abs=0.05)
    assert seen["least squares"] < 0.3


def test_volumes_at_patient_level_have_a_threshold_of_the_cases_own(
    truth: Truth, image: np.ndarray
) -> None:
    marked = replace(truth, enhancing=truth.core & (np.arange(12) < 4)[:, None, None], voxel_ml=0.5)
    values = all_metrics(marked, image)
    normal = truth.normal
    level = np.median(truth.t1ce[normal])
    plain, fitted = (level / np.median(v[normal]) * v for v in (truth.t1, image))
    above = np.quantile((truth.t1ce - plain)[normal], 0.99)
    made = ((fitted - plain > above) & truth.core).sum()
    assert values["patient.core_ml"] == [0.5 * truth.core.sum()]
    assert values["patient.labelled_ml"] == [0.5 * (truth.core[:4]).sum()]
    assert values["patient.made_ml"] == pytest.approx([0.5 * made])
    assert all_metrics(marked, truth.t1)["patient.made_ml"] == [0.0], "a T1 enhances nowhere"


def test_patients_are_counted_with_and_without_enhancement() -> None:
    labelled = [5.0] * 10 + [0.0] * 10
    made = [5.0, 4, 3, 3, 3, 3, 3, 3, 0.4, 0.2] + [0.1] * 8 + [3.5, 0.6]
    found = Patients.of(labelled, made, [10.0] * 20)
    assert (found.enhancing, found.others) == (10, 10)
    assert found.sensitivity == pytest.approx(0.8), "above a twentieth of the core"
    assert found.specificity == pytest.approx(0.8)
    pairs = [(a > b) + 0.5 * (a == b) for a in made[:10] for b in made[10:]]
    assert found.auc == pytest.approx(np.mean(pairs))
    assert found.r_squared == pytest.approx(np.corrcoef(labelled, made)[0, 1] ** 2)


@pytest.mark.parametrize("counts", [(9, 20), (20, 9), (0, 30)])
def test_few_patients_give_no_figure(counts: tuple[int, int]) -> None:
    labelled = [1.0] * counts[0] + [0.0] * counts[1]
    found = Patients.of(labelled, labelled, [2.0] * len(labelled))
    assert found == Patients(*counts, None, None, None, None)


def test_an_image_without_signal_enhances_nowhere(truth: Truth) -> None:
    black = all_metrics(truth, np.zeros_like(truth.t1))
    assert all(np.isfinite(value).all() for value in map(np.array, black.values()))
    assert black["enhancement.dice"] == [0.0]


def test_cases_without_a_label_have_no_metric_of_it(truth: Truth, image: np.ndarray) -> None:
    bare = replace(truth, core=np.zeros_like(truth.core), oedema=np.zeros_like(truth.oedema))
    keys = set(all_metrics(bare, image))
    assert not [key for key in keys if key.startswith(("core", "oedema", "enhancement", "mirror"))]
    assert {"slice.psnr_db", "brain.psnr_db", "volume.ssim"} <= keys


def test_every_metric_has_a_column(truth: Truth, image: np.ndarray) -> None:
    marked = replace(truth, enhancing=truth.core, prompted=truth.core[:, :, ::-1])
    assert set(all_metrics(marked, image)) == {column.key for column in COLUMNS}


def test_false_enhancement_is_measured_where_the_prompt_is_wrong(truth: Truth) -> None:
    level = np.median(truth.t1ce[truth.normal])
    told = truth.core.copy()
    told[:, 24:30, 18:22] = True
    wrong = told & truth.brain & ~truth.core
    assert wrong.any()
    assert (told & truth.core).any()
    image = truth.t1ce + 0.4 * level * wrong
    key = "prompt.false_enhancement"
    found = enhancement_metrics(replace(truth, prompted=told), image)[key]
    assert found == pytest.approx([0.4], abs=0.02)
    for prompted in (None, np.zeros_like(told), truth.core):
        assert key not in enhancement_metrics(replace(truth, prompted=prompted), image)


def test_best_factor_is_the_least_squares_one(truth: Truth, image: np.ndarray) -> None:
    factor = best_factor(image, truth.t1ce)
    errors = [
        np.square(truth.t1ce - k * image).sum() for k in (factor - 1e-3, factor, factor + 1e-3)
    ]
    assert errors[1] == min(errors)
    assert best_factor(np.zeros(3), np.ones(3)) == 0.0


def test_levels_truncate_as_published() -> None:
    values = np.array([-1, 1, 0, 2.02 / 255 - 1, 1.98 / 255 - 1], np.float32)
    assert to_levels(to_unit64(values)).tolist() == [0, 255, 127, 1, 0]


def test_slices_that_flicker_are_seen_through_the_plane(truth: Truth) -> None:
    rng = np.random.default_rng(3)
    noise = 0.02 * rng.standard_normal(truth.t1ce.shape)
    even, odd = (
        fitted_metrics(truth, truth.t1ce + more)["brain.through_plane"][0]
        for more in (noise, noise + 0.05 * (np.arange(12) % 2)[:, None, None])
    )
    assert even == pytest.approx(1, abs=0.05), "noise has no direction"
    assert odd > 1.5
