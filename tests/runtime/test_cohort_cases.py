"""Which cases a table or a folder holds, and how a bad one is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cohorts import write_cases
from tlp_runtime.cohort.cases import find_cases, read_table
from tlp_runtime.errors import InputError, InputMissing, InputUnreadable


def table(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    path = folder / "cäses list.csv"
    path.write_bytes(text.encode(encoding))
    return path


def test_a_table_names_images_prompts_and_masks_from_its_own_folder(tmp_path: Path) -> None:
    path = table(
        tmp_path,
        "case,t1,t2,prompt,brain_mask\n"
        "one,scan é/a b.nii.gz,,roi.nii.gz,\n"
        '"two, 2",/abs/x.nii.gz,y.nii.gz,,m.nii.gz\n\n',
    )
    one, two = read_table(path)
    assert one.images == {"t1": tmp_path / "scan é/a b.nii.gz"}
    assert one.prompt == tmp_path / "roi.nii.gz"
    assert one.brain_mask is None
    assert one.output == "one_synth-t1ce.nii.gz"
    assert two.name == "two, 2"
    assert two.images == {"t1": Path("/abs/x.nii.gz"), "t2": tmp_path / "y.nii.gz"}
    assert two.brain_mask == tmp_path / "m.nii.gz"


@pytest.mark.parametrize(
    "text", ["case;t1\na;x.nii\n", "case\tt1\na\tx.nii\n", "Case , T1\na,x.nii"]
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_tables_of_other_programs_are_read(tmp_path: Path, text: str, encoding: str) -> None:
    (case,) = read_table(table(tmp_path, text, encoding))
    assert (case.name, case.images) == ("a", {"t1": tmp_path / "x.nii"})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("case,t1\n", "no case"),
        ("t1,prompt\na,b\n", "'t1', 'prompt'; expected 'case'"),
        ("case,prompt\na,b\n", "at least one of t1, t2"),
        ("case,t1,promt\na,b,c\n", "'promt' meant to be 'prompt'"),
        ("case,t1,t1\na,b,c\n", "t1 more than once"),
        ("case,t1\na,b,c\n", r"case 1 \('a'\) has 3 cells, expected 2"),
        ("case,t1\na,x\nA,y\n", "'a' and 'A'"),
        ("case,t1\na,x\nb,x\na,y\n", "must differ.*'a' and 'a'"),
        ("case,t1\n../a,x\n.b,y\n,z\n", r"'../a', '.b', '' cannot name a file"),
    ],
)
def test_a_bad_table_is_refused_whole(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        read_table(table(tmp_path, text))


def test_a_table_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputMissing, match="does not exist"):
        read_table(tmp_path / "no.csv")
    with pytest.raises(InputUnreadable, match="UTF-8"):
        read_table(table(tmp_path, "case,t1\nä,x\n", "latin-1"))


def test_columns_of_others_are_left_out_aloud(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (case,) = read_table(table(tmp_path, "case,t1,age,site\na,x,61,berlin\n"))
    assert case.images == {"t1": tmp_path / "x"}
    assert "not used: age, site" in caplog.text


def test_a_line_without_an_image_is_a_case_with_a_problem(tmp_path: Path) -> None:
    good, bad = read_table(table(tmp_path, "case,t1\na,x\nb,\n"))
    assert good.problem is None
    assert bad.problem == "its line names no image."


def test_case_folders_and_their_problems(tmp_path: Path) -> None:
    data = write_cases(tmp_path / "däta 1", 4)
    (data / "case-001" / "case-001_t1.nii.gz").unlink()
    (data / "case-002" / "copy_t1.nii.gz").write_bytes(b"")
    (data / "case-003" / "case-003_seg.nii.gz").unlink()
    (data / "notes").mkdir()
    whole, without, twice, unprompted = find_cases(data, prompts=True)
    assert whole.problem is None
    assert whole.prompt == data / "case-000" / "case-000_seg.nii.gz"
    assert "neither T1 nor T2" in str(without.problem)
    assert "several files for t1" in str(twice.problem)
    assert unprompted.prompt is None
    assert all(case.prompt is None for case in find_cases(data, prompts=False))
    with pytest.raises(InputMissing, match="no case found"):
        find_cases(data / "notes", prompts=True)
