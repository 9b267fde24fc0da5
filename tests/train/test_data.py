"""BraTS folders, splits, the cache and the samples drawn from it."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.fakes.engine import TINY_NETWORK
from tlp_runtime.errors import InputError, InputMissing, OutputError, UsageError
from tlp_runtime.io.datasets import find_cases
from tlp_runtime.io.nifti import read_volume
from tlp_runtime.spec.model import ModelSpec
from tlp_train import cache, split
from tlp_train.cache import open_cases
from tlp_train.data import EpochSampler, SampleId, SliceDataset
from tlp_train.fpg import FuzzyPrompt

SPEC = ModelSpec(inputs=("t1",), network=TINY_NETWORK)
ARRAYS = ("t1", "t1ce", "seg")


@pytest.fixture
def data(phantom_dir: Path, tmp_path: Path) -> Path:
    """Two cases that a test may damage."""
    folder = tmp_path / "data"
    folder.mkdir()
    for case in sorted(phantom_dir.iterdir())[:2]:
        shutil.copytree(case, folder / case.name)
    return folder


def _rename_2023(folder: Path) -> None:
    for case in list(folder.iterdir()):
        number = case.name[-5:]
        for file in list(case.iterdir()):
            kind = file.name.split("_")[-1].removesuffix(".nii.gz")
            ending = {"t1": "-t1n", "t2": "-t2w", "t1ce": "-t1c", "seg": "-SEG"}[kind]
            file.rename(case / f"BraTS-GLI-{number}-000{ending}.nii.gz")
        case.rename(folder / f"BraTS-GLI-{number}-000")


def test_both_brats_layouts_are_read(data: Path) -> None:
    old = find_cases(data, ARRAYS, ("t2",))
    assert [set(case.files) for case in old] == [{"t1", "t2", "t1ce", "seg"}] * 2
    assert {name for case in find_cases(data, ARRAYS) for name in case.files} == {*ARRAYS}
    _rename_2023(data)
    new = find_cases(data, ARRAYS)
    assert [case.name for case in new] == ["BraTS-GLI-90000-000", "BraTS-GLI-90001-000"]
    assert new[0].files["t1"].name.endswith("-t1n.nii.gz")
    assert new[0].files["seg"].name.endswith("-SEG.nii.gz")


def _touch(root: Path, *files: str) -> None:
    for name in files:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_layouts_of_other_data_sets_are_found(tmp_path: Path) -> None:
    """BraTS 2018 in folders of grades; UCSF-PDGM; UPENN-GBM with its segmentations elsewhere."""
    brats, ucsf, upenn = (tmp_path / name for name in ("brats", "ucsf", "upenn"))
    for grade, brats_case in (("HGG", "Brats18_2013_10_1"), ("LGG", "Brats18_TCIA01_131_1")):
        _touch(
            brats / grade / brats_case,
            *(f"{brats_case}_{e}.nii.gz" for e in ("t1", "t2", "t1ce", "seg", "flair")),
        )
    assert [case.name for case in find_cases(brats, ("t1", "t1ce", "seg"))] == [
        "Brats18_2013_10_1", "Brats18_TCIA01_131_1",
    ]  # fmt: skip

    endings = ("T1", "T1_bias", "T1c", "T1c_bias", "T2", "FLAIR", "brain_segmentation",
               "tumor_segmentation")  # fmt: skip
    _touch(ucsf / "UCSF-PDGM-0004_nifti", *(f"UCSF-PDGM-0004_{e}.nii.gz" for e in endings))
    (case,) = find_cases(ucsf, ("t1", "t2", "t1ce", "seg"))
    assert {name: path.name for name, path in case.files.items()} == {
        "t1": "UCSF-PDGM-0004_T1.nii.gz",
        "t2": "UCSF-PDGM-0004_T2.nii.gz",
        "t1ce": "UCSF-PDGM-0004_T1c.nii.gz",
        "seg": "UCSF-PDGM-0004_tumor_segmentation.nii.gz",
    }
    assert split.patient_of(case.name) == "UCSF-PDGM-0004"

    for name in ("UPENN-GBM-00001_11", "UPENN-GBM-00002_11"):
        images = upenn / "images_structural" / name
        _touch(images, *(f"{name}_{ending}.nii.gz" for ending in ("T1", "T1GD", "T2", "FLAIR")))
        _touch(upenn / "automated_segm", f"{name}_automated_approx_segm.nii.gz")
    _touch(upenn / "images_segm", "UPENN-GBM-00002_11_segm.nii.gz")
    found = find_cases(upenn, ("t1", "t1ce", "seg"))
    assert [case.files["seg"].name for case in found] == [
        "UPENN-GBM-00001_11_automated_approx_segm.nii.gz",
        "UPENN-GBM-00002_11_segm.nii.gz",
    ]


def test_two_cases_of_one_name_are_refused(tmp_path: Path) -> None:
    for grade in ("HGG", "LGG"):
        _touch(tmp_path / grade / "case", "case_t1.nii.gz")
    with pytest.raises(InputError, match="two folders are called case"):
        find_cases(tmp_path, ("t1",))


def test_what_lies_too_deep_or_in_a_case_is_no_case(tmp_path: Path) -> None:
    _touch(tmp_path / "a" / "b" / "c" / "d", "d_t1.nii.gz")
    with pytest.raises(InputMissing, match="no case found"):
        find_cases(tmp_path, ("t1",))
    _touch(tmp_path / "case", "case_t1.nii.gz", "old/case_t1.nii.gz")
    assert [case.name for case in find_cases(tmp_path, ("t1",))] == ["case"]


def test_every_incomplete_case_is_named_with_what_it_lacks(data: Path) -> None:
    first, second = sorted(data.iterdir())
    (first / f"{first.name}_t1.nii.gz").unlink()
    shutil.copy(second / f"{second.name}_seg.nii.gz", second / "other_seg.nii.gz")
    with pytest.raises(InputError) as error:
        find_cases(data, ARRAYS)
    assert f"{first.name}: t1 is missing" in str(error.value)
    assert f"{second.name}: seg has 2 files" in str(error.value)


def test_an_array_that_nobody_asked_for_may_be_damaged(data: Path, tmp_path: Path) -> None:
    first, second = sorted(data.iterdir())
    (first / f"{first.name}_t2.nii.gz").write_bytes(b"damaged")
    shutil.copy(second / f"{second.name}_t2.nii.gz", second / "other_t2.nii.gz")
    opened = open_cases(find_cases(data, ARRAYS), SPEC, tmp_path / "cache")
    assert len(opened) == 2
    with pytest.raises(InputError, match="t2 has 2 files"):
        find_cases(data, (*ARRAYS, "t2"))


def test_a_case_cached_with_more_arrays_serves_a_model_of_fewer(
    phantom_dir: Path, tmp_path: Path
) -> None:
    case = find_cases(phantom_dir, (*ARRAYS, "t2"))[:1]
    both = ModelSpec(inputs=("t1", "t2"))
    (opened,) = open_cases(case, both, tmp_path / "cache")
    made = (tmp_path / "cache" / case[0].name).stat().st_mtime_ns
    (fewer,) = open_cases(find_cases(phantom_dir, ARRAYS)[:1], SPEC, tmp_path / "cache")
    assert (tmp_path / "cache" / case[0].name).stat().st_mtime_ns == made
    assert set(fewer.arrays) == {*ARRAYS}
    assert set(opened.arrays) == {*ARRAYS, "t2"}
    assert set(opened.voxels) == {*ARRAYS, "t2"}
    assert dict(fewer.voxels) == {name: opened.voxels[name] for name in ARRAYS}


def test_a_folder_without_cases(tmp_path: Path) -> None:
    with pytest.raises(InputMissing, match="is not a folder"):
        find_cases(tmp_path / "no", ARRAYS)
    (tmp_path / "notes").mkdir()
    with pytest.raises(InputMissing, match="no case found"):
        find_cases(tmp_path, ARRAYS)


def test_a_list_is_taken_in_its_order(tmp_path: Path) -> None:
    names = [f"BraTS2021_{n:05d}" for n in (7, 3, 12, 9)]
    file = tmp_path / "list.txt"
    file.write_text("00012\nBraTS2021_00003\n\n00007\n00009\n")
    parts = split.from_list(file, names, (2, 1, 1))
    assert parts.train == ("BraTS2021_00012", "BraTS2021_00003")
    assert (parts.validation, parts.test) == (("BraTS2021_00007",), ("BraTS2021_00009",))


def test_lists_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    names = ["BraTS2021_00001", "BraTS2021_00002", "BraTS2021_00003"]
    file = tmp_path / "list.txt"
    file.write_text("00001\n00002\n00009\n")
    with pytest.raises(InputError, match=r"00009 \(no folders\)"):
        split.from_list(file, names, (1, 1, 1))
    with pytest.raises(UsageError, match="850,20,130 need 1000"):
        split.from_list(file, names, None)
    file.write_text("00001\n00002\n00001\n")
    with pytest.raises(InputError, match="BraTS2021_00001 would be used twice"):
        split.from_list(file, names, (1, 1, 1))
    with pytest.raises(InputMissing, match="cannot be read"):
        split.from_list(tmp_path / "no.txt", names, (1, 1, 1))


def test_a_seeded_split_is_repeatable_and_disjoint() -> None:
    names = [f"c{n}" for n in range(100)]
    parts = split.seeded(names, 3)
    assert parts == split.seeded(list(reversed(names)), 3)
    assert parts != split.seeded(names, 4)
    assert (len(parts.train), len(parts.validation), len(parts.test)) == (85, 2, 13)
    assert sorted(parts.train + parts.validation + parts.test) == sorted(names)


def test_visits_of_a_patient_are_in_one_part() -> None:
    names = [
        f"BraTS-GLI-{p:05d}-{v}" for p in range(40) for v in ("000", "100", "101")[: 1 + p % 3]
    ]
    for seed in range(30):
        parts = split.seeded(names, seed)
        sides = [{split.patient_of(n) for n in part} for part in vars(parts).values()]
        assert not sides[0] & sides[1] | sides[0] & sides[2] | sides[1] & sides[2]
        assert sorted(parts.train + parts.validation + parts.test) == sorted(names)
        assert len(parts.test) in range(10, 13)


@pytest.mark.parametrize(
    ("visits", "patient"),
    [
        (("BraTS-GLI-00005-000", "BraTS-GLI-00005-101"), "BraTS-GLI-00005"),
        (("BraTS-MEN-RT-0001-1", "BraTS-MEN-RT-0001-2"), "BraTS-MEN-RT-0001"),
        (("UPENN-GBM-00017_11", "UPENN-GBM-00017_21"), "UPENN-GBM-00017"),
        (("UCSF-PDGM-0433", "UCSF-PDGM-0433_FU003d"), "UCSF-PDGM-0433"),
        (("sub-01_ses-pre", "sub-01_ses-post", "sub-01_run-2", "sub-01"), "sub-01"),
        (("Brats18_TCIA01_131_1",), "Brats18_TCIA01_131"),
        (("BraTS2021_00005",), "BraTS2021_00005"),
    ],
)
def test_visits_are_told_by_their_names(visits: tuple[str, ...], patient: str) -> None:
    assert {split.patient_of(name) for name in visits} == {patient}


def test_patients_that_are_given_count_more_than_names(tmp_path: Path) -> None:
    names = [f"scan-{n}" for n in range(20)]
    patients = {name: f"p{n // 2}" for n, name in enumerate(names)} | {"scan-0": ""}
    for seed in range(20):
        parts = split.SplitOptions().parts(names, seed, patients)
        sides = [{patients[n] or n for n in part} for part in vars(parts).values()]
        assert not sides[0] & sides[1] | sides[0] & sides[2] | sides[1] & sides[2]
    (tmp_path / "list.txt").write_text("\n".join(names))
    together = split.SplitOptions(split=tmp_path / "list.txt", split_sizes=(10, 4, 6))
    assert len(together.parts(names, 0, patients).train) == 10
    crossing = split.SplitOptions(split=tmp_path / "list.txt", split_sizes=(9, 5, 6))
    with pytest.raises(InputError, match=r"p4 \(train and validation\)"):
        crossing.parts(names, 0, patients)


def test_names_without_visits_are_shared_out_as_ever() -> None:
    """Runs of earlier versions are repeated by their seed."""
    parts = split.seeded([f"BraTS2021_{n:05d}" for n in range(12)], 3)
    assert [name[-2:] for part in vars(parts).values() for name in part] == [
        "01",
        "07",
        "10",
        "00",
        "06",
        "11",
        "04",
        "05",
        "02",
        "08",
        "09",
        "03",
    ]


def test_a_list_that_puts_a_patient_in_two_parts_is_refused(tmp_path: Path) -> None:
    names = ["BraTS-GLI-00001-000", "BraTS-GLI-00002-000", "BraTS-GLI-00001-101"]
    listed = tmp_path / "list.txt"
    listed.write_text("\n".join(names), encoding="utf-8")
    with pytest.raises(InputError, match=r"BraTS-GLI-00001 \(test and train\)"):
        split.from_list(listed, names, (1, 1, 1))
    listed.write_text("\n".join(sorted(names)), encoding="utf-8")
    assert split.from_list(listed, names, (2, 1, 0)).validation == ("BraTS-GLI-00002-000",)


def test_too_few_cases_make_no_split() -> None:
    with pytest.raises(InputError, match="at least one each"):
        split.seeded(["only"], 0)


def test_cached_slices_are_the_published_arrays(real_cases: Path, tmp_path: Path) -> None:
    from tests.support import DATA_DIR

    with (DATA_DIR / "published_arrays.csv").open(newline="") as handle:
        rows = {(row["case"], row["array"]): row for row in csv.DictReader(handle)}
    case = find_cases(real_cases, ("t1", "t2", "t1ce", "seg"))[0]
    (cached,) = open_cases([case], ModelSpec(inputs=("t1", "t2")), tmp_path)
    every = slice(None)
    arrays = {name: cached.image(name, every) for name in ("t1", "t2", "t1ce")}
    arrays["prompt"] = cached.prompt(every, SPEC.prompt)
    for name, array in arrays.items():
        row = rows[case.name, name]
        assert hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest() == row["sha256"]
    assert cached.limits["t1ce"] == (0, 15956)


def test_a_case_is_decoded_once(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = find_cases(data, ARRAYS)
    first = open_cases(cases, SPEC, tmp_path / "cache")
    monkeypatch.setattr(cache, "_decode", lambda *a: pytest.fail("decoded twice"))
    second = open_cases(cases, SPEC, tmp_path / "cache")
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a.image("t1", 50), b.image("t1", 50))
        assert isinstance(b.arrays["t1"], np.memmap)


@pytest.mark.parametrize("damage", ["cut array", "no array", "half record"])
def test_a_half_written_cache_is_made_anew(data: Path, tmp_path: Path, damage: str) -> None:
    cases = find_cases(data, ARRAYS)[:1]
    (good,) = open_cases(cases, SPEC, tmp_path / "cache")
    expected = good.image("t1", slice(None))
    folder = tmp_path / "cache" / cases[0].name
    if damage == "half record":
        (folder / "case.json").write_text((folder / "case.json").read_text()[:40])
    elif damage == "no array":
        (folder / "t1.npy").unlink()
    else:
        (folder / "t1.npy").write_bytes((folder / "t1.npy").read_bytes()[:-1000])
    (again,) = open_cases(cases, SPEC, tmp_path / "cache")
    np.testing.assert_array_equal(again.image("t1", slice(None)), expected)
    assert json.loads((folder / "case.json").read_text())["format"] == cache.FORMAT
    assert os.listdir(tmp_path / "cache") == [cases[0].name]


@pytest.mark.parametrize("foreign", ["notes.txt", "t1.npy"])
def test_a_folder_with_somebody_s_files_never_becomes_a_cached_case(
    data: Path, tmp_path: Path, foreign: str
) -> None:
    cases = find_cases(data, ARRAYS)[:1]
    theirs = tmp_path / "cache" / cases[0].name / foreign
    theirs.parent.mkdir(parents=True)
    theirs.write_text("mine")
    with pytest.raises(OutputError, match=f"holds {foreign}, which this toolkit did not write"):
        open_cases(cases, SPEC, tmp_path / "cache")
    with pytest.raises(OutputError, match="did not write"):  # the data set as its own cache
        open_cases(cases, SPEC, data)
    assert theirs.read_text() == "mine"
    assert all(file.is_file() for file in cases[0].files.values())


def test_a_changed_source_is_decoded_again(data: Path, tmp_path: Path) -> None:
    cases = find_cases(data, ARRAYS)[:1]
    open_cases(cases, SPEC, tmp_path / "cache")
    path = cases[0].files["t1"]
    image = nib.load(path)
    doubled = np.asanyarray(image.dataobj)[::-1].copy()
    nib.save(nib.Nifti1Image(doubled, image.affine, image.header), path)
    (again,) = open_cases(cases, SPEC, tmp_path / "cache")
    np.testing.assert_array_equal(
        again.arrays["t1"], doubled.transpose(2, 1, 0)[27:127, 34:226, 40:200]
    )


def test_unusable_cases_are_all_reported_before_anything_is_cached(
    data: Path, tmp_path: Path
) -> None:
    first, second = find_cases(data, ARRAYS)
    cut = first.files["t1"]
    cut.write_bytes(cut.read_bytes()[:2000])
    volume = read_volume(second.files["seg"])
    shifted = volume.affine + np.eye(4)[[0]].T * [0, 0, 0, 3]
    nib.save(nib.Nifti1Image(volume.data, shifted), second.files["seg"])
    with pytest.raises(InputError) as error:
        open_cases([first, second], SPEC, tmp_path / "cache")
    assert "2 of 2 cases cannot be used" in str(error.value)
    assert "damaged or cut short" in str(error.value)
    assert "lies on another grid" in str(error.value)
    assert os.listdir(tmp_path / "cache") == []


def test_an_item_is_the_same_in_every_process_and_epoch_changes_it(
    phantom_dir: Path, tmp_path: Path
) -> None:
    cases = open_cases(find_cases(phantom_dir, ARRAYS), SPEC, tmp_path / "cache")

    def dataset(seed: int = 0) -> SliceDataset:
        return SliceDataset(cases, SPEC, fuzzy=FuzzyPrompt(drop=0), seed=seed)

    assert len(dataset()) == 400
    index = int(dataset().tumour_slices()[3])
    item = dataset()[SampleId(0, index)]
    assert {name: tuple(tensor.shape) for name, tensor in item.items()} == {
        "t1": (1, 192, 160), "t1ce": (1, 192, 160), "prompt": (1, 192, 160)
    }  # fmt: skip
    assert (item["prompt"] == dataset()[SampleId(0, index)]["prompt"]).all()
    assert (item["prompt"] != dataset()[SampleId(1, index)]["prompt"]).any()
    assert (item["prompt"] != dataset(seed=1)[SampleId(0, index)]["prompt"]).any()
    assert (item["t1"] == dataset()[SampleId(1, index)]["t1"]).all()


def test_without_fpg_the_exact_segmentation_is_never_dropped(
    phantom_dir: Path, tmp_path: Path
) -> None:
    cases = open_cases(find_cases(phantom_dir, ARRAYS), SPEC, tmp_path / "cache")
    dataset = SliceDataset(cases, SPEC, fuzzy=None, seed=0)
    for index in dataset.tumour_slices()[::20]:
        case, position = dataset.locate(int(index))
        item = dataset[SampleId(0, int(index))]
        np.testing.assert_array_equal(item["prompt"][0], case.prompt(position, SPEC.prompt))


def test_the_sampler_shuffles_by_epoch_and_resumes_within_one() -> None:
    whole = EpochSampler(50, seed=1, batch=4, epoch=3, limit=20)
    order = list(whole)
    assert len(set(order)) == len(order) == len(whole) == 20
    assert all(sample.epoch == 3 for sample in order)
    resumed = EpochSampler(50, seed=1, batch=4, epoch=3, skip=2, limit=20)
    resumed.set_epoch(3)
    assert list(resumed) == order[8:]
    resumed.set_epoch(4)
    assert len(list(resumed)) == 20
    assert [s.position for s in resumed] != [s.position for s in order]


@pytest.mark.parametrize("skip", [0, 2])
def test_several_processes_see_together_what_one_sees(skip: int) -> None:
    """Batch by batch, and none sees a slice of another."""
    one = list(EpochSampler(47, seed=1, batch=6, epoch=2, skip=skip))
    shares = [
        list(EpochSampler(47, seed=1, batch=2, epoch=2, skip=skip, rank=rank, world=3))
        for rank in range(3)
    ]
    assert len(one) == 42 - 6 * skip, "what does not fill a batch of all is left out"
    for number in range(len(one) // 6):
        together = [sample for share in shares for sample in share[2 * number : 2 * number + 2]]
        assert together == one[6 * number : 6 * number + 6]


def test_favoured_slices_get_their_share() -> None:
    favoured = np.arange(10)
    drawn = [
        sample.position < 10
        for epoch in range(20)
        for sample in EpochSampler(
            1000, seed=0, epoch=epoch, limit=100, favoured=favoured, share=0.5
        )
    ]
    assert 0.46 < np.mean(drawn) < 0.56
