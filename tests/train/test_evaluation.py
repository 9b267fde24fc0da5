"""Every metric of an evaluation, against an independent computation."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from scipy.ndimage import uniform_filter

from benchmarks.enhancement import hallucination
from tests.fakes.engine import TINY_NETWORK, FakeEngine
from tlp_runtime import Synthesizer, Volume
from tlp_runtime.errors import InputError, InputMissing
from tlp_runtime.geometry.crop import crop_slices
from tlp_runtime.io.datasets import find_cases
from tlp_runtime.io.nifti import read_volume
from tlp_runtime.spec.model import IntensitySpec, ModelSpec
from tlp_runtime.values.intensity import scale
from tlp_train.comparison import compare
from tlp_train.evaluation import (
    SYNTHESIS,
    CaseMean,
    CaseMeans,
    CaseVoxels,
    Evaluation,
    evaluate,
    evaluation_slices,
    needed_arrays,
)
from tlp_train.metrics import (
    COLUMNS,
    ENHANCING,
    GROUPS,
    LinearFit,
    Truth,
    all_metrics,
    fitted_metrics,
    published_metrics,
    to_levels,
    to_unit64,
)
from tlp_train.patients import Patients
from tlp_train.reference_rows import best_factor
from tlp_train.tables import comparison_rows, evaluation_csv, evaluation_markdown, group_rows


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
    marked = replace(truth, enhancing=truth.core)
    assert set(all_metrics(marked, image)) == {column.key for column in COLUMNS}


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


def _evaluation(case: Path, spec: ModelSpec, use: str, model: str = "fake") -> Evaluation:
    cases = [c for c in find_cases(case.parent, needed_arrays(spec)) if c.name == case.name]
    with Synthesizer(FakeEngine(spec), batch=7) as synthesizer:
        return evaluate(synthesizer, cases, use, model=model, data="phantom")  # type: ignore[arg-type]


@pytest.mark.parametrize("use", ["none", "seg", "mirrored"])
def test_the_protocol_end_to_end_against_plain_numpy(phantom_case: Path, use: str) -> None:
    """Slices 27..126, the crop, both scalings and the mean over slices, written out again."""
    spec = ModelSpec(inputs=("t1",), network=TINY_NETWORK)
    arrays = {
        name: read_volume(phantom_case / f"{phantom_case.name}_{name}.nii.gz")
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
    prompt = np.where(seg == 2, 0.5, np.where(seg > 0, 1.0, 0))
    prompt = {"none": 0 * prompt, "seg": prompt, "mirrored": prompt[:, :, ::-1]}[use]
    made = np.clip(scaled["t1"] * 0.5 + prompt * 0.25, -1, 1).astype(np.float32)
    t1 = (scaled["t1"].astype(float) + 1) / 2
    t1ce = (scaled["t1ce"].astype(float) + 1) / 2
    factor = (t1 * t1ce).sum() / (t1 * t1).sum()
    images = {
        SYNTHESIS: (made.astype(float) + 1) / 2,
        "t1 copied": t1,
        "t1 x best factor (oracle)": np.minimum(factor * t1, 1),
    }
    result = _evaluation(phantom_case, spec, use)
    assert list(result.images) == list(images)
    core = np.isin(seg, (1, 3, 4))
    a = (t1ce * 255).astype(np.uint8).astype(float)
    for name, image in images.items():
        b = (image * 255).astype(np.uint8).astype(float)
        mse = np.square(a - b).mean(axis=(1, 2))
        whole = result.summary[name]["slice.psnr_db"]
        assert whole.mean == pytest.approx(np.mean(10 * np.log10(255**2 / mse[mse > 0])))
        assert result.summary[name]["slice.ssim"].count == 100
        z = np.flatnonzero(core.any(axis=(1, 2)))
        inside = [np.square(a[i] - b[i])[core[i]].mean() for i in z]
        region = result.summary[name]["core.psnr_db"]
        assert region.count == len(z)
        assert region.mean == pytest.approx(np.mean([10 * np.log10(255**2 / m) for m in inside]))


def _volumes(case: Path) -> dict[str, Volume]:
    return {n: read_volume(case / f"{case.name}_{n}.nii.gz") for n in ("t1", "t1ce", "seg")}


def test_the_truth_is_of_the_published_scale_whatever_the_models(phantom_case: Path) -> None:
    volumes = _volumes(phantom_case)
    published = ModelSpec(inputs=("t1",), network=TINY_NETWORK)
    rule = IntensitySpec(rule="percentile-crop", percentiles=(0.5, 99))
    own = replace(published, intensity=rule)
    first, second = (evaluation_slices(volumes, spec, "none", "x") for spec in (published, own))
    for name in ("t1", "t1ce", "brain", "core", "oedema"):
        np.testing.assert_array_equal(getattr(first.truth, name), getattr(second.truth, name))
    np.testing.assert_array_equal(first.given, second.given)
    assert not np.array_equal(first.tensors["t1"], second.tensors["t1"]), "the network's is its own"
    # What the model was trained to give comes back to the truth, but for what its rule clips.
    target = scale(
        crop_slices(volumes["t1ce"].reoriented(own.crop.orientation), own.crop), rule, "t1ce"
    )[slice(*own.crop.slices)]
    back = second.rescaling(to_unit64(target))
    within = (target > -1) & (target < 1)
    np.testing.assert_allclose(back[within], first.truth.t1ce[within], atol=1e-6)
    assert first.rescaling == LinearFit(1, 0)


@pytest.mark.parametrize("level", [0.0, -7.0])
def test_one_dark_voxel_does_not_make_the_background_brain(
    phantom_case: Path, level: float
) -> None:
    spec = ModelSpec(inputs=("t1",), network=TINY_NETWORK)
    volumes = _volumes(phantom_case)
    before = evaluation_slices(volumes, spec, "none", "x").truth.brain
    data = volumes["t1ce"].data.astype(np.float32) + np.float32(level)
    data[120, 120, 70] = level - 3
    volumes["t1ce"] = replace(volumes["t1ce"], data=data)
    np.testing.assert_array_equal(evaluation_slices(volumes, spec, "none", "x").truth.brain, before)


def test_a_t2_model_is_measured_from_the_t1_too(phantom_case: Path) -> None:
    """Enhancement must mean the same for every model."""
    t1, t2 = (
        _evaluation(phantom_case, ModelSpec(inputs=(name,), network=TINY_NETWORK), "none")
        for name in ("t1", "t2")
    )
    assert list(t2.images) == [SYNTHESIS, "t2 copied", "t2 x best factor (oracle)"]
    assert "enhancement.correlation" in t2.cases[phantom_case.name].images["t2 copied"]
    assert "enhancement.correlation" not in t1.cases[phantom_case.name].images["t1 copied"]


def test_a_case_without_a_segmentation_has_the_measures_of_images(
    phantom_case: Path, tmp_path: Path
) -> None:
    spec = ModelSpec(inputs=("t1",), network=TINY_NETWORK)
    bare = tmp_path / "data" / phantom_case.name
    bare.mkdir(parents=True)
    for name in ("t1", "t1ce"):
        shutil.copy(phantom_case / f"{phantom_case.name}_{name}.nii.gz", bare)
    cases = find_cases(bare.parent, needed_arrays(spec, "none"), ("seg",))
    with Synthesizer(FakeEngine(spec)) as synthesizer:
        result = evaluate(synthesizer, cases, "none", model="m", data="d")
    found = result.cases[phantom_case.name]
    whole = _evaluation(phantom_case, spec, "none").cases[phantom_case.name]
    keys = {key for key in whole.images[SYNTHESIS] if key.startswith(("slice", "brain", "volume"))}
    assert keys
    assert dict(found.images[SYNTHESIS]) == {key: whole.images[SYNTHESIS][key] for key in keys}
    assert set(found.voxels.inputs) == {"t1"}
    with pytest.raises(InputError, match="seg is missing"):
        find_cases(bare.parent, needed_arrays(spec, "fuzzy"))


def test_slices_that_flicker_are_seen_through_the_plane(truth: Truth) -> None:
    rng = np.random.default_rng(3)
    noise = 0.02 * rng.standard_normal(truth.t1ce.shape)
    even, odd = (
        fitted_metrics(truth, truth.t1ce + more)["brain.through_plane"][0]
        for more in (noise, noise + 0.05 * (np.arange(12) % 2)[:, None, None])
    )
    assert even == pytest.approx(1, abs=0.05), "noise has no direction"
    assert odd > 1.5


def test_an_evaluation_survives_json_and_tables_hold_every_value(
    phantom_case: Path, tmp_path: Path
) -> None:
    result = _evaluation(phantom_case, ModelSpec(inputs=("t1",), network=TINY_NETWORK), "seg")
    path = tmp_path / "a.json"
    path.write_text(json.dumps(result.to_dict()), encoding="utf-8")
    assert Evaluation.read(path) == result
    rows = list(csv.DictReader(evaluation_csv(result).splitlines()))
    assert [row["image"] for row in rows] == list(result.images)
    mean = result.cases[phantom_case.name].images[SYNTHESIS]["enhancement.mae"].mean
    assert float(rows[0]["enhancement.mae"]) == pytest.approx(mean, rel=1e-8)
    text = evaluation_markdown(result)
    assert all(f"## {group.title}" in text for group in GROUPS)
    assert f"{mean:.3f}" in text


def test_cases_whose_t1_tells_little_of_the_t1ce_are_listed_apart(phantom_case: Path) -> None:
    spec = ModelSpec(inputs=("t1",), network=TINY_NETWORK)
    result = _evaluation(phantom_case, spec, "none")
    (case,) = result.cases.values()
    assert case.correlation is not None
    assert case.correlation > 0.7
    assert not result.weak
    assert "Apart" not in evaluation_markdown(result)
    weak = replace(result, cases={phantom_case.name: replace(case, correlation=0.31)})
    assert weak.weak == (phantom_case.name,)
    assert f"| {phantom_case.name} | 0.31 |" in evaluation_markdown(weak)
    assert "less than 0.5" in evaluation_markdown(weak)


def test_comparison_pairs_the_cases(phantom_dir: Path) -> None:
    spec = ModelSpec(inputs=("t1",), network=TINY_NETWORK)
    cases = find_cases(phantom_dir, needed_arrays(spec))
    with Synthesizer(FakeEngine(spec)) as synthesizer:
        none, seg = (
            evaluate(synthesizer, cases[:2], use, model=use, data="phantom")
            for use in ("none", "seg")
        )
        fewer = evaluate(synthesizer, cases[:1], "none", model="m", data="phantom")
    found = compare(none, seg)
    key = "core.psnr_db"
    means = [[e.cases[c.name].images[SYNTHESIS][key].mean for c in cases[:2]] for e in (none, seg)]
    assert found.differences[key].mean == pytest.approx(np.mean(means[1]) - np.mean(means[0]))
    assert [row[0] for row in comparison_rows(found)][:1] == ["slice.psnr_db"]
    assert found.pairs == tuple((case.name, case.name) for case in cases[:2])
    with pytest.raises(InputError, match=cases[1].name):
        compare(none, fewer)


def _with_cases(evaluation: Evaluation, **cases: CaseMeans) -> Evaluation:
    return replace(evaluation, cases=cases)


def test_cases_are_paired_by_their_t1ce_and_not_by_their_names(phantom_case: Path) -> None:
    result = _evaluation(phantom_case, ModelSpec(inputs=("t1",), network=TINY_NETWORK), "none")
    (case,) = result.cases.values()
    renamed = _with_cases(result, other=case)
    assert compare(result, renamed).pairs == ((phantom_case.name, "other"),)
    stranger = replace(case, voxels=replace(case.voxels, truth="0" * 64))
    with pytest.raises(InputError, match="a: the same name, another T1ce"):
        compare(_with_cases(result, a=case), _with_cases(result, a=stranger))
    with pytest.raises(InputError, match="the same T1ce twice, as a and b"):
        compare(_with_cases(result, a=case, b=case), result)


def test_inputs_that_differ_are_reported(phantom_case: Path) -> None:
    result = _evaluation(phantom_case, ModelSpec(inputs=("t1",), network=TINY_NETWORK), "none")
    (case,) = result.cases.values()
    inputs = {**case.voxels.inputs, "t1": "0" * 64}
    moved = _with_cases(result, a=replace(case, voxels=replace(case.voxels, inputs=inputs)))
    found = compare(_with_cases(result, a=case), moved)
    assert found.inputs_differ == {"a": ("t1",)}
    assert found.to_dict()["inputs_differ"] == {"a": ["t1"]}
    assert compare(result, result).inputs_differ == {}


def _compared(first: list[float], second: list[float], key: str) -> list[str]:
    """The row of a comparison of two evaluations with these means."""

    def evaluation(means: list[float]) -> Evaluation:
        cases = {
            str(i): CaseMeans({SYNTHESIS: {key: CaseMean(mean, 1)}}, CaseVoxels(f"{i:064}", {}))
            for i, mean in enumerate(means)
        }
        return Evaluation("m", "e", "none", "d", (SYNTHESIS,), {}, cases)

    (row,) = comparison_rows(compare(evaluation(first), evaluation(second)))
    return row


def test_where_0_is_best_the_value_nearer_to_it_is_better() -> None:
    far, near = [-0.015 - i / 1e5 for i in range(8)], [-0.012 - i / 1e5 for i in range(8)]
    row = _compared(far, near, "mirror.false_enhancement")
    assert (row[0], row[-1]) == ("|mirror.false_enhancement|", "second")
    assert _compared(near, far, "mirror.false_enhancement")[-1] == "first"
    signs = _compared([0.01 + i / 1e5 for i in range(8)], near, "mirror.false_enhancement")
    assert signs[-1] == "first"
    assert (
        _compared([20.0 + i for i in range(8)], [21.5 + i for i in range(8)], "slice.psnr_db")[-1]
        == "second"
    )


def test_no_winner_is_named_where_chance_may_have_made_it() -> None:
    three = _compared([20.0, 21.0, 22.0], [21.0, 22.5, 23.25], "slice.psnr_db")
    assert (three[6], three[-1]) == ("0.25", "")
    five = _compared([20.0, 21, 22, 23, 24], [21.0, 22.5, 23.25, 24.1, 25.2], "slice.psnr_db")
    assert five[-1] == ""


def test_cases_that_the_model_was_trained_on_are_marked(phantom_dir: Path) -> None:
    spec = ModelSpec(inputs=("t1",), network=TINY_NETWORK)
    cases = find_cases(phantom_dir, needed_arrays(spec))[:2]
    known = [read_volume(cases[0].files["t1ce"]).voxels_sha256(), "0" * 64]
    with Synthesizer(FakeEngine(spec)) as synthesizer:
        marked, unknown = (
            evaluate(synthesizer, cases, "none", model="m", data="d", training_voxels=hashes)
            for hashes in (known, ())
        )
    assert marked.seen == (cases[0].name,)
    assert marked.cases[cases[1].name].seen is False
    assert {case.seen for case in unknown.cases.values()} == {None}
    assert unknown.seen == ()
    assert group_rows(marked, GROUPS[0])[0][0] == "synthesis *"
    assert group_rows(unknown, GROUPS[0])[0][0] == "synthesis"
    assert "trained or chosen on 1 of these 2 cases" in evaluation_markdown(marked)
    assert "trained or chosen" not in evaluation_markdown(unknown)
    rows = list(csv.DictReader(evaluation_csv(marked).splitlines()))
    assert {row["case"]: row["seen_in_training"] for row in rows} == {
        cases[0].name: "yes",
        cases[1].name: "no",
    }
    segmentation = read_volume(cases[0].files["seg"]).voxels_sha256()
    with Synthesizer(FakeEngine(spec)) as synthesizer:
        empty = evaluate(
            synthesizer, cases, "none", model="m", data="d", training_voxels=[segmentation]
        )
    assert empty.seen == (), "equal segmentations, empty ones say, are not equal cases"


def test_the_hash_of_voxels_is_of_values_and_not_of_files(tmp_path: Path) -> None:
    data = np.random.default_rng(0).integers(0, 900, (4, 5, 6)).astype(np.int16)
    volume = Volume(data, np.diag([-1.0, -1, 1, 1]))
    turned = volume.reoriented("RAS")
    assert turned.data.shape == volume.data.shape
    moved = Volume(data.astype(np.float64), volume.affine + np.eye(4)[:, 3:] @ [[0, 0, 0, 3.0]])
    assert volume.voxels_sha256() == turned.voxels_sha256() == moved.voxels_sha256()
    other = data.copy()
    other[0, 0, 0] += 1
    assert Volume(other, volume.affine).voxels_sha256() != volume.voxels_sha256()
    reshaped = Volume(data.reshape(5, 4, 6), volume.affine)
    assert reshaped.voxels_sha256() != volume.voxels_sha256()


def test_files_that_are_no_evaluation(tmp_path: Path) -> None:
    with pytest.raises(InputMissing):
        Evaluation.read(tmp_path / "none.json")
    for text in ("[]", "{", '{"schema": 9}', '{"schema": 1, "model": "m"}'):
        path = tmp_path / "bad.json"
        path.write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match="evaluat"):
            Evaluation.read(path)
