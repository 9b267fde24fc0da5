"""Cases on another grid than the model's: brought to it as inference does, or refused."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import nibabel as nib
import numpy as np
import pytest
from tlp_cli.main import main

from tests.assets import tiny_config
from tests.fakes.engine import TINY_NETWORK, FakeEngine
from tests.scans import SMALL, scan
from tests.support import TinyModel
from tlp_export.slices import real_slices
from tlp_runtime import Synthesizer, Volume
from tlp_runtime.errors import ContentError, GeometryError, InputError, SetOption
from tlp_runtime.geometry.crop import crop_slices
from tlp_runtime.geometry.grid import Grid
from tlp_runtime.geometry.resample import resampled, resampled_labels
from tlp_runtime.io.bids import DESCRIPTION_FILE
from tlp_runtime.io.case_files import CaseFiles
from tlp_runtime.io.nifti import read_volume
from tlp_runtime.spec.model import IntensitySpec, ModelSpec
from tlp_runtime.synthesis.prepare import prepare
from tlp_runtime.synthesis.published import on_published_grid
from tlp_runtime.synthesis.request import Prompt, Request
from tlp_train import cache
from tlp_train.cache import open_cases
from tlp_train.evaluating import evaluate, evaluation_slices, read_case
from tlp_train.evaluation import SYNTHESIS, Evaluation
from tlp_train.runs import Run
from tlp_train.split import Split
from tlp_train.trainer import fit

SPEC = ModelSpec(inputs=("t1",), network=TINY_NETWORK)
PERCENTILES = IntensitySpec(rule="percentile-crop", percentiles=(0.5, 99.0))
ARRAYS = ("t1", "t1ce", "seg")


def _saved(folder: Path, volumes: Mapping[str, Volume]) -> CaseFiles:
    """Volumes as a case in BraTS layout."""
    folder.mkdir(parents=True)
    files = {}
    for name, volume in volumes.items():
        files[name] = folder / f"{folder.name}_{name}.nii.gz"
        nib.save(nib.Nifti1Image(volume.data, volume.affine), files[name])
    return CaseFiles(folder.name, files)


def _read(case: Path) -> dict[str, Volume]:
    return {name: read_volume(case / f"{case.name}_{name}.nii.gz") for name in ARRAYS}


def _finer(volumes: Mapping[str, Volume], spacing_mm: float) -> dict[str, Volume]:
    """The field about the brain at another spacing, axes in the order RAS."""
    inside = np.argwhere(volumes["t1"].data != 0)
    corners = volumes["t1"].grid.world(np.array([inside.min(axis=0) - 4, inside.max(axis=0) + 4]))
    low, high = corners.min(axis=0), corners.max(axis=0)
    affine = np.diag([spacing_mm] * 3 + [1.0])
    affine[:3, 3] = low + 0.31
    x, y, z = (int(n) for n in (high - low) / spacing_mm)
    grid = Grid((x, y, z), affine)
    return {
        name: Volume(
            (resampled_labels if name == "seg" else resampled)(volume, grid), affine, name=name
        )
        for name, volume in volumes.items()
    }


@pytest.fixture(scope="module")
def finer(phantom_case: Path, tmp_path_factory: pytest.TempPathFactory) -> CaseFiles:
    """The phantom case at 0.9 mm, in another axis order and field of view."""
    volumes = _finer(_read(phantom_case), 0.9)
    return _saved(tmp_path_factory.mktemp("finer") / "finer", volumes)


@pytest.mark.parametrize("intensity", [IntensitySpec(), PERCENTILES])
def test_what_is_trained_on_is_what_inference_sees_to_the_bit(
    finer: CaseFiles,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    intensity: IntensitySpec,
) -> None:
    spec = replace(SPEC, intensity=intensity)
    with caplog.at_level(logging.INFO, "tlp_runtime"):
        (cached,) = open_cases([finer], spec, tmp_path)
    request = Request(images={"t1": finer.files["t1"]}, prompt=Prompt(finer.files["seg"]))
    seen = prepare(request, spec)
    assert seen.placement.offset is None
    held = np.flatnonzero(seen.brain)
    assert (cached.first_slice, len(cached)) == (held[0], held[-1] + 1 - held[0])
    used = slice(held[0], held[-1] + 1)
    every = slice(None)
    np.testing.assert_array_equal(cached.image("t1", every), seen.tensors["t1"][used])
    np.testing.assert_array_equal(cached.prompt(every, spec.prompt), seen.tensors["prompt"][used])
    volumes = {name: read_volume(path) for name, path in finer.files.items()}
    evaluated = evaluation_slices(volumes, spec, "seg", "finer").tensors
    for name in ("t1", "prompt"):
        np.testing.assert_array_equal(evaluated[name], seen.tensors[name][used])
    assert cached.brought
    assert "finer: " in caplog.text
    assert "0.9 x 0.9 x 0.9 mm, interpolated to the model's grid" in caplog.text
    again = open_cases([finer], spec, tmp_path)[0]
    assert (again.brought, again.first_slice) == (True, cached.first_slice)
    assert cached.voxels["t1"] == read_volume(finer.files["t1"]).voxels_sha256()


def _files(case: Path) -> CaseFiles:
    return CaseFiles(case.name, {n: case / f"{case.name}_{n}.nii.gz" for n in ARRAYS})


def _evaluated(case: CaseFiles) -> Evaluation:
    with Synthesizer(FakeEngine(SPEC)) as synthesizer:
        return evaluate(synthesizer, [case], "seg", model="m", data="d")


def test_an_interpolated_case_measures_as_the_one_it_was_made_of(
    finer: CaseFiles, phantom_case: Path
) -> None:
    brought, original = _evaluated(finer), _evaluated(_files(phantom_case))
    assert (brought.brought, original.brought) == (("finer",), ())
    for key, bound in (
        ("patient.core_ml", 0.03),
        ("patient.labelled_ml", 0.1),
        ("enhancement.mae", 0.15),
        ("enhancement.correlation", 0.1),
    ):
        found, expected = (one.summary[SYNTHESIS][key].mean for one in (brought, original))
        assert found == pytest.approx(expected, rel=bound), key
    record = json.loads(json.dumps(brought.to_dict()))["cases"]["finer"]
    assert record["brought"] is True
    assert record["voxels"]["truth"] == read_volume(finer.files["t1ce"]).voxels_sha256()


@pytest.mark.parametrize("intensity", [IntensitySpec(), PERCENTILES])
def test_the_truth_spans_the_published_scale_on_the_model_s_grid(
    finer: CaseFiles, phantom_case: Path, intensity: IntensitySpec
) -> None:
    spec = replace(SPEC, intensity=intensity)
    volumes = {name: read_volume(path) for name, path in finer.files.items()}
    found = evaluation_slices(volumes, spec, "seg", "finer")
    assert (found.truth.t1ce.min(), found.truth.t1ce.max()) == (0, 1)
    assert found.truth.voxel_ml == pytest.approx(0.001)
    original = _read(phantom_case)
    for mask, name in (
        (found.truth.brain, "t1ce"),
        (found.truth.core | found.truth.oedema, "seg"),
    ):
        assert mask.sum() == pytest.approx(np.count_nonzero(original[name].data), rel=0.02)
    # What the network is trained to give, in the scale of the scan's own voxels, is the truth.
    brought = on_published_grid(volumes, spec, "finer")
    slices = crop_slices(brought.volumes["t1ce"], spec.crop)[slice(*brought.slices)]
    own = volumes["t1ce"].data
    low, high = float(own.min()), float(own.max())
    if intensity.percentiles is not None:
        low, high = (float(v) for v in np.percentile(own[own != 0], intensity.percentiles))
    target = (slices.astype(np.float64) - low) / (high - low)
    np.testing.assert_allclose(found.rescaling(target), found.truth.t1ce, atol=1e-6)
    assert (found.rescaling.gain, found.rescaling.offset) != (1, 0)


def test_a_case_of_the_model_s_voxels_in_another_matrix_is_cut_and_not_interpolated(
    phantom_case: Path, tmp_path: Path
) -> None:
    """Too few slices for the published ones; then a plane that does not hold the crop."""
    original = _read(phantom_case)
    few = {name: _part(volume, np.s_[:, :, 20:120]) for name, volume in original.items()}
    for volume in few.values():
        volume.data[:, :, :3] = volume.data[:, :, 98:] = 0
    (cached,) = open_cases([_saved(tmp_path / "few", few)], SPEC, tmp_path / "cache")
    assert (cached.brought, cached.first_slice, len(cached)) == (True, 3, 95)
    for name, volume in original.items():
        published = volume.data.transpose(2, 1, 0)[23:118, 34:226, 40:200]
        np.testing.assert_array_equal(cached.arrays[name], published)
    low, high = cached.limits["t1ce"]
    assert (low, high) == (0.0, float(few["t1ce"].data.max())), "of the crop, as published"

    turned = {n: _part(v, np.s_[35:205, 30:230, :]).reoriented("RAS") for n, v in original.items()}
    narrow = _saved(tmp_path / "narrow", turned)
    (other,) = open_cases([narrow], SPEC, tmp_path / "cache")
    assert other.arrays["t1"].shape[1:] == (192, 160)
    for name, volume in original.items():
        inside = other.arrays[name][other.arrays[name] != 0]
        assert inside.sum() == volume.data[volume.data != 0].sum(), "the window holds all of it"


def test_a_larger_matrix_of_the_model_s_voxels_is_not_cut_by_the_published_indices(
    phantom_case: Path, tmp_path: Path
) -> None:
    """256 x 256 x 256 voxels hold the published indices, where they mean another place."""
    original = _read(phantom_case)
    larger = {}
    for name, volume in original.items():
        data = np.zeros((256, 256, 256), volume.data.dtype)
        data[:240, 16:, 90:245] = volume.data
        affine = volume.affine.copy()
        affine[:3, 3] = volume.grid.world(np.array([[0, -16, -90]]))[0]
        larger[name] = Volume(data, affine, name=volume.name)
    case = _saved(tmp_path / "larger", larger)
    (cached,) = open_cases([case], SPEC, tmp_path / "cache")
    assert cached.brought
    for name, volume in original.items():
        inside = cached.arrays[name][cached.arrays[name] != 0]
        assert inside.sum() == volume.data[volume.data != 0].sum(), "all of the brain is there"


@pytest.mark.parametrize("use", ["none", "seg"])
def test_tissues_are_no_tumour(
    phantom_case: Path, tmp_path: Path, use: Literal["none", "seg"]
) -> None:
    """As fMRIPrep leaves them in derivatives: grey matter 1, white matter 2, fluid 3."""
    volumes = _read(phantom_case)
    t1 = volumes["t1"].data
    tissues = np.digitize(t1, [1, 400, 700]).astype(np.uint8)
    case = _saved(tmp_path / "case", {**volumes, "seg": replace(volumes["seg"], data=tissues)})
    with pytest.raises(InputError, match="of the brain, expected a tumour"):
        open_cases([case], SPEC, tmp_path / "cache")
    with pytest.raises(ContentError, match="Is it a segmentation of tissues") as error:
        evaluation_slices(read_case(case, SPEC), SPEC, use, "x")
    assert SetOption("segmentations", "the folder of the tumours' segmentations") in (
        error.value.fixes
    )


def _part(volume: Volume, box: tuple[slice, ...]) -> Volume:
    affine = volume.affine.copy()
    affine[:3, 3] = volume.grid.world(np.array([[one.start or 0 for one in box]]))[0]
    return Volume(volume.data[box].copy(), affine, name=volume.name)


def test_a_case_on_the_published_grid_is_left_as_it_is(phantom_case: Path, tmp_path: Path) -> None:
    volumes = _read(phantom_case)
    found = on_published_grid(volumes, SPEC, "x")
    assert (found.brought, found.slices, dict(found.own)) == (False, (27, 127), {})
    assert all(found.volumes[name] is volume for name, volume in volumes.items())
    (cached,) = open_cases([_files(phantom_case)], SPEC, tmp_path)
    assert (cached.brought, cached.first_slice) == (False, 27)
    for name, volume in volumes.items():
        expected = volume.data.transpose(2, 1, 0)[27:127, 34:226, 40:200]
        assert cached.arrays[name].dtype == volume.data.dtype
        np.testing.assert_array_equal(cached.arrays[name], expected)
    record = json.loads((tmp_path / phantom_case.name / cache.RECORD).read_text())
    assert "brought" not in record


def _small(folder: Path, **changes: object) -> CaseFiles:
    """An ellipsoidal brain of a small model at 1.3 mm, oblique."""
    t1 = scan(spacing=(1.3, 1.1, 1.7), degrees=9, orientation="PIR", **changes)  # type: ignore[arg-type]
    seg = Volume((t1.data > 340).astype(np.uint8), t1.affine)
    return _saved(folder, {"t1": t1, "t2": t1, "t1ce": replace(t1, data=t1.data * 2), "seg": seg})


def test_oblique_cases_with_a_background_come_to_the_grid_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain = _small(tmp_path / "plain")
    level = read_volume(plain.files["t1"])
    shifted = tmp_path / "shifted_t1.nii.gz"
    nib.save(nib.Nifti1Image(level.data - 7, level.affine), shifted)
    other = CaseFiles("shifted", {**plain.files, "t1": shifted})
    first, second = open_cases([plain, other], SMALL, tmp_path / "cache")
    np.testing.assert_allclose(second.arrays["t1"], first.arrays["t1"], atol=1e-3)
    assert "its background is -7; taken as 0" in caplog.text


def test_a_cached_case_is_placed_by_the_model_s_first_input(tmp_path: Path) -> None:
    case = _small(tmp_path / "data" / "a")
    t2 = read_volume(case.files["t2"])
    heights = t2.grid.world(np.indices(t2.shape).reshape(3, -1).T)[:, 2].reshape(t2.shape)
    lower = np.where(heights < 5, t2.data, 0)
    nib.save(nib.Nifti1Image(lower, t2.affine), case.files["t2"])
    both = replace(SMALL, inputs=("t1", "t2"))
    (dual,) = open_cases([case], both, tmp_path / "cache")
    fewer = {name: path for name, path in case.files.items() if name != "t2"}
    (of_t1,) = open_cases([CaseFiles("a", fewer)], SMALL, tmp_path / "cache")
    assert len(of_t1) == len(dual)
    of_t2 = {name: path for name, path in case.files.items() if name != "t1"}
    spec = replace(SMALL, inputs=("t2",))
    (placed,) = open_cases([CaseFiles("a", of_t2)], spec, tmp_path / "cache")
    assert len(placed) < len(dual)
    assert placed.arrays["t2"].any(axis=(1, 2)).all()


def test_what_cannot_be_brought_is_refused(tmp_path: Path, phantom_case: Path) -> None:
    case = _small(tmp_path / "a")
    other = Volume(scan().data, scan().affine, name="other")
    volumes = {name: read_volume(path) for name, path in case.files.items()}
    with pytest.raises(GeometryError, match=r"other: lies on another grid.*Register the im"):
        on_published_grid({**volumes, "t1ce": other}, SMALL, "a")
    with pytest.raises(ContentError, match="is zero everywhere"):
        on_published_grid({**volumes, "t1ce": _nothing(volumes["t1"])}, SMALL, "a")
    wider = np.diag([1.5, 1.5, 1.0, 1.0])
    large = _finer(_read(phantom_case), 1.5)
    large = {name: replace(one, affine=one.affine @ wider) for name, one in large.items()}
    saved = _saved(tmp_path / "large", large)
    said = r"large_t1.nii.gz: its brain is \d+ x \d+ voxels of the model's.*192 x 160.*Strip the"
    with pytest.raises(InputError, match=said):
        open_cases([saved], SPEC, tmp_path / "cache")
    with pytest.raises(GeometryError, match=said):
        _evaluated(saved)


def _nothing(volume: Volume) -> Volume:
    return replace(volume, data=np.zeros(volume.shape))


def test_an_image_that_shows_nothing_where_the_brain_is_is_refused(tmp_path: Path) -> None:
    volumes = {n: read_volume(p) for n, p in _small(tmp_path / "a").files.items()}
    corner = np.zeros(volumes["t1"].shape, np.float32)
    corner[:3, :3, :3] = 1
    volumes["t1ce"] = replace(volumes["t1ce"], data=corner)
    with pytest.raises(GeometryError, match="does not overlap the brain of"):
        on_published_grid(volumes, SMALL, "a")


def test_a_model_trains_on_cases_of_other_grids_with_segmentations_elsewhere(
    tmp_path: Path,
) -> None:
    drawn = tmp_path / "drawn"
    drawn.mkdir()
    for name in ("a", "b"):
        seg = _small(tmp_path / "data" / name).files["seg"]
        seg.rename(drawn / seg.name)
    config = replace(tiny_config(), spec=SMALL, batch_size=2)
    split = Split(("a",), ("b",), ())
    data = tmp_path / "data"
    run = Run.create(tmp_path / "run", config, data, split, segmentations=drawn)
    heard: list[list[str]] = []
    fit(run, tmp_path / "cache", progress=False, on_brought=heard.append)
    assert Run.open(run.folder).status == "finished"
    assert heard == [["a", "b"]]


def test_a_graph_is_checked_and_calibrated_on_cases_of_other_grids(tmp_path: Path) -> None:
    case = _small(tmp_path / "a")
    slices = real_slices(case, SMALL, 3)
    (cached,) = open_cases([case], SMALL, tmp_path / "cache")
    every = cached.image("t1", slice(None))
    for image in slices["t1"]:
        assert any(np.array_equal(image[0], one) for one in every)
    assert slices["prompt"].any(axis=(1, 2, 3)).all()


def test_a_bids_study_of_another_grid_is_evaluated(
    finer: CaseFiles,
    tiny: TinyModel,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    study, drawn = tmp_path / "study", tmp_path / "study" / "derivatives" / "drawn"
    for folder in (study, drawn):
        (folder / "sub-01" / "anat").mkdir(parents=True)
    for root, array, name in (
        (study, "t1", "T1w"), (study, "t1ce", "ce-gd_T1w"), (drawn, "seg", "dseg"),
    ):  # fmt: skip
        (root / "sub-01" / "anat" / f"sub-01_{name}.nii.gz").symlink_to(finer.files[array])
    (study / DESCRIPTION_FILE).write_text("{}")
    told = ["evaluate", "--data", str(study), "--model", str(tiny.bundle.path), "--prompt", "seg"]
    record = tmp_path / "a.json"
    assert main([*told, "--json", str(record)]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert f"segmentations: {drawn} (the only ones in the derivatives of the dataset)" in said
    assert "brought to the model's grid: 1 cases (sub-01)" in said
    assert json.loads(record.read_text())["cases"]["sub-01"]["brought"] is True
    assert main([*told, "--segmentations", str(tmp_path / "no")]) == 3
