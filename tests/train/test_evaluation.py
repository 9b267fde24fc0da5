"""The published protocol on cases, and what an evaluation keeps of them."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from tests.fakes.engine import TINY_NETWORK, FakeEngine
from tlp_runtime import Synthesizer, Volume
from tlp_runtime.errors import InputError, InputMissing
from tlp_runtime.geometry.crop import crop_slices
from tlp_runtime.io.datasets import find_cases
from tlp_runtime.io.nifti import read_volume
from tlp_runtime.spec.model import IntensitySpec, ModelSpec
from tlp_runtime.values.intensity import scale
from tlp_train.comparison import compare
from tlp_train.evaluating import evaluate, evaluation_slices, needed_arrays
from tlp_train.evaluation import SYNTHESIS, CaseMean, CaseMeans, CaseVoxels, Evaluation
from tlp_train.metrics import (
    GROUPS,
    LinearFit,
    to_unit64,
)
from tlp_train.tables import comparison_rows, evaluation_csv, evaluation_markdown, group_rows


@cache
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
    unit = to_unit64(target)
    np.testing.assert_array_equal(second.published(unit)[within], back[within])
    outside = ~second.held & (target == -1)
    assert (back[outside] > 0.01).all(), "the brain's darkest voxel"
    np.testing.assert_allclose(
        second.published(unit)[outside], first.truth.t1ce[outside], atol=1e-6
    )
    np.testing.assert_array_equal(first.published(unit), unit)


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
    cases = find_cases(phantom_dir, needed_arrays(spec))[:2]
    fewer = _evaluation(phantom_dir / cases[0].name, spec, "none")
    none, seg = (
        _with_cases(
            fewer,
            **{c.name: _evaluation(phantom_dir / c.name, spec, use).cases[c.name] for c in cases},
        )
        for use in ("none", "seg")
    )
    found = compare(none, seg)
    key = "core.psnr_db"
    means = [[e.cases[c.name].images[SYNTHESIS][key].mean for c in cases] for e in (none, seg)]
    assert found.differences[key].mean == pytest.approx(np.mean(means[1]) - np.mean(means[0]))
    assert [row[0] for row in comparison_rows(found)][:1] == ["slice.psnr_db"]
    assert found.pairs == tuple((case.name, case.name) for case in cases)
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
    unknown = _evaluation(phantom_dir / cases[0].name, spec, "none")
    with Synthesizer(FakeEngine(spec)) as synthesizer:
        marked = evaluate(synthesizer, cases, "none", model="m", data="d", training_voxels=known)
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
            synthesizer, cases[:1], "none", model="m", data="d", training_voxels=[segmentation]
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
