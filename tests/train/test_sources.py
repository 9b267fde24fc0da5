"""Where cases are found: case folders, a BIDS dataset, a CSV table; and what is refused."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from tlp_cli.main import main

from tests.support import TinyModel
from tests.train.runs import new_run
from tlp_export.options import ExportOptions
from tlp_runtime.errors import InputError, InputMissing, SetOption, UsageError
from tlp_runtime.io.bids import DESCRIPTION_FILE
from tlp_runtime.io.datasets import find_cases
from tlp_runtime.warnings import COLUMNS_UNUSED, WarningLog
from tlp_train.resume import reopen
from tlp_train.runs import Run

ARRAYS = ("t1", "t1ce", "seg")


def _touch(root: Path, *files: str) -> None:
    for name in files:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def _table(folder: Path, *lines: str) -> Path:
    path = folder / "cäses.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_a_table_names_the_files_of_each_case_from_its_own_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    _touch(tmp_path, "a/one.nii.gz", "a/one ce.nii.gz", "one.nii", "b/two.nii.gz", "two_ce.nii.gz")
    _touch(elsewhere, "seg.nii.gz")
    table = _table(
        tmp_path,
        "case;t1;t2;T1ce;seg;site",
        f"two;b/two.nii.gz;;two_ce.nii.gz;{elsewhere / 'seg.nii.gz'};x",
        "one;a/one.nii.gz;lost.nii.gz;a/one ce.nii.gz;one.nii;y",
    )
    monkeypatch.chdir(tmp_path)
    heard = WarningLog()
    one, two = find_cases(Path(table.name), ARRAYS, warn=heard.add)
    assert (one.name, two.name) == ("one", "two")
    assert one.files == {
        "t1": tmp_path / "a/one.nii.gz",
        "t1ce": tmp_path / "a/one ce.nii.gz",
        "seg": tmp_path / "one.nii",
    }, "nobody asked for its t2, which is lost"
    assert two.files["seg"] == elsewhere / "seg.nii.gz"
    (warning,) = heard
    assert warning.code is COLUMNS_UNUSED
    assert warning.numbers == {"columns": "site"}


def test_a_segmentation_that_a_table_may_name_is_left_out_where_its_cell_is_empty(
    tmp_path: Path,
) -> None:
    _touch(tmp_path, "x.nii.gz")
    table = _table(tmp_path, "case,t1,seg", "a,x.nii.gz,", "b,x.nii.gz,x.nii.gz")
    assert [set(case.files) for case in find_cases(table, ("t1",), ("seg",))] == [
        {"t1"},
        {"t1", "seg"},
    ]
    table = _table(tmp_path, "case,t1", "a,x.nii.gz")
    assert [set(case.files) for case in find_cases(table, ("t1",), ("seg",))] == [{"t1"}]
    table = _table(tmp_path, "case,t1,seg", "a,x.nii.gz,lost.nii.gz")
    with pytest.raises(InputError, match=r"line 2, a: seg does not exist: .*lost\.nii\.gz"):
        find_cases(table, ("t1",), ("seg",))


def test_a_table_says_whose_visit_a_case_is(tmp_path: Path) -> None:
    _touch(tmp_path, "x.nii.gz")
    table = _table(tmp_path, "case,patient,t1", "a,p1,x.nii.gz", "b,p1,x.nii.gz", "c,,x.nii.gz")
    assert [case.patient for case in find_cases(table, ("t1",))] == ["p1", "p1", ""]


def test_every_case_of_a_table_that_lacks_a_file_is_named_with_its_line(tmp_path: Path) -> None:
    _touch(tmp_path, "x.nii.gz")
    (tmp_path / "folder").mkdir()
    table = _table(
        tmp_path,
        "case,t1,t1ce,seg",
        "good,x.nii.gz,x.nii.gz,x.nii.gz",
        "empty,x.nii.gz,,x.nii.gz",
        "",
        "lost,no.nii.gz,x.nii.gz,folder",
    )
    with pytest.raises(InputError) as error:
        find_cases(table, ARRAYS)
    said = str(error.value)
    assert "2 of 3 cases are not complete" in said
    assert "line 3, empty: t1ce is missing (its cell is empty)" in said
    assert f"line 5, lost: t1 does not exist: {tmp_path / 'no.nii.gz'}" in said
    assert f"seg does not exist: {tmp_path / 'folder'}" in said


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (("case,t1,t1ce", "a,x,x"), "expected the columns case, t1, t1ce, seg"),
        (("case,t1,t1c,seg", "a,x,x,x"), "'t1c' meant to be 't1ce'"),
        (("case,t1,t1ce,seg", "a,x,x,x", "A,x,x,x"), r"'a' \(line 2\) and 'A' \(line 3\)"),
        (("case,t1,t1ce,seg", "a/b,x,x,x"), r"'a/b' \(line 2\) cannot name a file"),
        (("case,t1,t1ce,seg", "a,x,x"), r"line 2 \('a'\) has 3 cells, expected 4"),
        (("case,t1,t1ce,seg",), "no case"),
    ],
)
def test_a_table_that_is_wrong_in_itself_is_refused(
    tmp_path: Path, lines: tuple[str, ...], said: str
) -> None:
    _touch(tmp_path, "x")
    with pytest.raises(InputError, match=said):
        find_cases(_table(tmp_path, *lines), ARRAYS)


def test_what_is_none_of_them_is_refused_with_what_is_understood(tmp_path: Path) -> None:
    understood = "Give a folder of case folders .* a BIDS dataset .* or a CSV table with the col"
    (tmp_path / "notes").mkdir()
    for data, why in ((tmp_path / "no", "is not a folder"), (tmp_path, "no case found")):
        with pytest.raises(InputMissing, match=f"{why}.*{understood}"):
            find_cases(data, ARRAYS)
    _touch(tmp_path / "case", "case_t1.nii.gz")
    with pytest.raises(InputMissing, match=r"lost: is not a folder, expected one with segm\w+\.$"):
        find_cases(tmp_path, ("t1",), segmentations=tmp_path / "lost")
    table = _table(tmp_path, "case,t1", "a,x")
    with pytest.raises(UsageError, match="a table names its segmentations itself"):
        find_cases(table, ("t1",), segmentations=tmp_path)


def test_segmentations_of_case_folders_may_lie_elsewhere(tmp_path: Path) -> None:
    for name in ("a", "b"):
        _touch(tmp_path / "images" / name, f"{name}_t1.nii.gz", f"{name}_seg.nii.gz")
    _touch(tmp_path / "drawn", "a_seg.nii.gz", "site/b/b_seg.nii.gz")
    cases = find_cases(tmp_path / "images", ("t1", "seg"), segmentations=tmp_path / "drawn")
    assert [case.files["seg"] for case in cases] == [
        tmp_path / "drawn/a_seg.nii.gz",
        tmp_path / "drawn/site/b/b_seg.nii.gz",
    ]
    (tmp_path / "drawn/a_seg.nii.gz").unlink()
    with pytest.raises(InputError, match="a: seg is missing"):
        find_cases(tmp_path / "images", ("t1", "seg"), segmentations=tmp_path / "drawn")


def _dataset(root: Path, *names: str) -> Path:
    """Empty files in the ``anat`` folders that their names say."""
    for name in names:
        levels = [part for part in name.split("_") if part.startswith(("sub-", "ses-"))]
        _touch(root, "/".join([*levels, "anat", name]))
    (root / DESCRIPTION_FILE).write_text(json.dumps({"Name": "x", "BIDSVersion": "1.10.0"}))
    return root


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Two sessions of one subject and one of another, segmentations in derivatives."""
    root = _dataset(
        tmp_path / "study",
        *(
            f"sub-01_ses-{session}_{image}.nii.gz"
            for session in (1, 2)
            for image in ("T1w", "ce-gadolinium_T1w", "T2w")
        ),
        "sub-02_T1w.nii.gz",
        "sub-02_ce-gd_run-2_T1w.nii.gz",
        "sub-02_ce-gd_desc-brain_T1w.nii.gz",
        "sub-02_T2w.nii.gz",
    )
    _dataset(
        root / "derivatives" / "drawn",
        "sub-01_ses-1_dseg.nii.gz",
        "sub-01_ses-2_label-lesion_mask.nii.gz",
        "sub-02_dseg.nii.gz",
        "sub-02_desc-brain_mask.nii.gz",
    )
    _dataset(root / "derivatives" / "masks", "sub-02_desc-brain_mask.nii.gz")
    (root / "derivatives" / "README").touch()
    return root


def test_a_bids_dataset_gives_a_case_for_each_plain_t1w(study: Path) -> None:
    cases = find_cases(study, ("t1", "t2", "t1ce", "seg"))
    found = {case.name: {name: path.name for name, path in case.files.items()} for case in cases}
    assert found == {
        "sub-01_ses-1": {
            "t1": "sub-01_ses-1_T1w.nii.gz",
            "t2": "sub-01_ses-1_T2w.nii.gz",
            "t1ce": "sub-01_ses-1_ce-gadolinium_T1w.nii.gz",
            "seg": "sub-01_ses-1_dseg.nii.gz",
        },
        "sub-01_ses-2": {
            "t1": "sub-01_ses-2_T1w.nii.gz",
            "t2": "sub-01_ses-2_T2w.nii.gz",
            "t1ce": "sub-01_ses-2_ce-gadolinium_T1w.nii.gz",
            "seg": "sub-01_ses-2_label-lesion_mask.nii.gz",
        },
        "sub-02": {
            "t1": "sub-02_T1w.nii.gz",
            "t2": "sub-02_T2w.nii.gz",
            "t1ce": "sub-02_ce-gd_run-2_T1w.nii.gz",
            "seg": "sub-02_dseg.nii.gz",
        },
    }


def test_of_several_derivatives_with_segmentations_one_must_be_named(study: Path) -> None:
    other = _dataset(study / "derivatives" / "model", "sub-02_dseg.nii.gz")
    with pytest.raises(InputError, match=r"2 datasets have segmentations.*drawn, model") as error:
        find_cases(study, ARRAYS)
    assert error.value.fixes == (SetOption("segmentations", "FOLDER"),)
    cases = find_cases(study, ARRAYS, segmentations=study / "derivatives" / "drawn")
    assert all("drawn" in case.files["seg"].parts for case in cases)
    with pytest.raises(InputError, match=r"sub-01_ses-1: seg is missing \(none in .*model\)"):
        find_cases(study, ARRAYS, segmentations=other)
    assert len(find_cases(study, ("t1", "t1ce"))) == 3, "without segmentations none is to be named"


def test_a_bids_dataset_without_segmentations(study: Path) -> None:
    (study / "derivatives").rename(study / "code")
    with pytest.raises(InputMissing, match="no dataset in its derivatives folder") as error:
        find_cases(study, ARRAYS)
    assert error.value.fixes == (SetOption("segmentations", "FOLDER"),)
    assert all("seg" not in case.files for case in find_cases(study, ("t1",), ("seg",)))


def test_bids_scans_without_one_t1ce_are_named(study: Path) -> None:
    _dataset(study, "sub-01_ses-1_ce-other_T1w.nii.gz")
    (study / "sub-01/ses-2/anat/sub-01_ses-2_ce-gadolinium_T1w.nii.gz").unlink()
    _dataset(study, "sub-02_acq-a_T1w.nii.gz", "sub-02_acq-b_T1w.nii.gz")
    only = study / "sub-02/anat/sub-02_ce-gd_run-2_T1w.nii.gz"
    only.rename(only.with_name("sub-02_acq-a_ce-gd_T1w.nii.gz"))
    _dataset(study / "derivatives" / "drawn", "sub-02_acq-a_dseg.nii.gz")
    with pytest.raises(InputError) as error:
        find_cases(study, ARRAYS)
    said = str(error.value)
    assert (
        "sub-01_ses-1: t1ce is missing (several contrast-enhanced T1w images have its entities "
        "(sub-01_ses-1_ce-gadolinium_T1w.nii.gz, sub-01_ses-1_ce-other_T1w.nii.gz))" in said
    )
    assert "sub-01_ses-2: t1ce is missing (none in its session)" in said
    assert (
        "sub-02_acq-b: t1ce is missing (sub-02_acq-a_ce-gd_T1w.nii.gz belongs to the T1w with "
        "acq-a)" in said
    )
    assert "  sub-02_acq-a:" not in said


def test_a_bids_name_that_is_not_allowed_and_an_ambiguous_segmentation_are_named(
    study: Path,
) -> None:
    _touch(study, "sub-03/anat/sub-03_run-x_T1w.nii.gz")
    _dataset(study / "derivatives" / "drawn", "sub-02_roi.nii.gz")
    with pytest.raises(InputError) as error:
        find_cases(study, ("t1", "t1ce"), ("seg",))
    said = str(error.value)
    assert "sub-03_run-x: sub-03_run-x_T1w.nii.gz: BIDS does not allow its name" in said
    assert "2 files could be the prompt or segmentation of sub-02" in said


def test_a_run_remembers_where_its_segmentations_lie(tmp_path: Path, phantom_dir: Path) -> None:
    made = new_run(tmp_path / "run", phantom_dir)
    assert made.segmentations is None
    data, drawn = tmp_path / "data", tmp_path / "data" / "derivatives" / "drawn"
    replace(made, data=data, segmentations=drawn).mark("interrupted")
    run = Run.open(made.folder)
    assert (run.data, run.segmentations) == (data, drawn)
    moved = reopen(made.folder, {"data": tmp_path / "moved"}).run
    assert moved.segmentations == tmp_path / "moved" / "derivatives" / "drawn"
    elsewhere = reopen(made.folder, {"segmentations": tmp_path / "x"})
    assert elsewhere.run.segmentations == tmp_path / "x"
    assert elsewhere.changes == {"segmentations": f"{drawn} -> {tmp_path / 'x'}"}


def test_a_run_of_an_older_version_has_no_segmentations_elsewhere(
    tmp_path: Path, phantom_dir: Path
) -> None:
    run = new_run(tmp_path / "run", phantom_dir)
    record = json.loads((run.folder / "run.json").read_text())
    del record["segmentations"]
    record["schema"] = {"major": 1, "minor": 0}
    (run.folder / "run.json").write_text(json.dumps(record))
    assert asdict(Run.open(run.folder)) == asdict(run)


def test_segmentations_for_no_data_are_refused(
    tiny: TinyModel, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--segmentations", "x"]) == 2
    assert "no images for them. Use --data DIR" in " ".join(capsys.readouterr().err.split())
    assert main(["verify", str(tiny.bundle.path), "--segmentations", "x"]) == 2
    with pytest.raises(UsageError, match="segmentations: only for int8"):
        ExportOptions(segmentations=Path("x"))


def test_a_table_is_trained_on_and_resumed_from(
    tmp_path: Path, phantom_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        f"{name},{phantom_dir / name / name}_t1.nii.gz,{phantom_dir / name / name}_t1ce.nii.gz,"
        f"{phantom_dir / name / name}_seg.nii.gz,x"
        for name in sorted(path.name for path in phantom_dir.iterdir())
    ]
    table = _table(tmp_path, "case,t1,t1ce,seg,site", *rows)
    run = tmp_path / "run"
    told = ["--preset", "demo", "--max-time", "0.001"]
    assert main(["train", "--data", str(table), "--out", str(run), *told]) == 0
    assert "columns that are not used: site" in capsys.readouterr().err
    assert Run.open(run).data == table
    assert main(["train", "--resume", str(run), "--max-time", "0.001"]) == 0
    assert Run.open(run).status == "unfinished"
    table.unlink()
    assert main(["train", "--resume", str(run)]) == 3
