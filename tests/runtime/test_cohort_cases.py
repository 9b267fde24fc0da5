"""Which cases a table or a folder holds, and how a bad one is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cohorts import write_cases
from tlp_runtime.cohort.cases import folder_cases, read_table
from tlp_runtime.errors import InputError, InputMissing, InputUnreadable
from tlp_runtime.io.datasets import find_cases
from tlp_runtime.synthesis.request import Prompt, Request
from tlp_runtime.warnings import COLUMNS_UNUSED, WarningLog


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
    assert one.asked == Request(
        images={"t1": tmp_path / "scan é/a b.nii.gz"}, prompt=Prompt(tmp_path / "roi.nii.gz")
    )
    assert one.output == "one_synth-t1ce.nii.gz"
    assert two.name == "two, 2"
    assert two.asked == Request(
        images={"t1": Path("/abs/x.nii.gz"), "t2": tmp_path / "y.nii.gz"},
        brain_mask=tmp_path / "m.nii.gz",
    )


@pytest.mark.parametrize(
    "text",
    [
        "case;t1\na;x.nii\n",
        "case\tt1\na\tx.nii\n",
        "Case , T1\na,x.nii",
        "\r\ncase,t1\r\n\r\na,x.nii\r\n,\r\n",
        "case,t1\ra,x.nii\r",
        'case,t1\n"a" , "x.nii"\n'.replace(', "', ',"'),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_tables_of_other_programs_are_read(tmp_path: Path, text: str, encoding: str) -> None:
    (case,) = read_table(table(tmp_path, text, encoding))
    assert (case.name, case.asked) == ("a", Request(images={"t1": tmp_path / "x.nii"}))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("case,t1\n", "no case"),
        ("t1,prompt\na,b\n", "'t1', 'prompt'; expected 'case'"),
        ("case,prompt\na,b\n", "at least one of t1, t2"),
        ("case,t1,promt\na,b,c\n", "'promt' meant to be 'prompt'"),
        ("case,t1,t1\na,b,c\n", "t1 more than once"),
        ("case,t1\na,b,c\n", r"line 2 \('a'\) has 3 cells, expected 2.* hold a comma into quot"),
        ("case,t1\n\na,x\n\nb\n", r"line 5 \('b'\) has 1 cell, expected 2"),
        ("case,t1\na,x,\n", r"line 2 \('a'\) has 3 cells.* Remove the comma at its end"),
        ("case;t1\na,x\n", r"line 2 .* Separate its cells by a semicolon"),
        ("case;t1;;\na;x;;\n", r"columns 3, 4 have no name.* remove the semicolon at the ends"),
        ("case,t1,\na,x,\n", "column 3 has no name"),
        ("case, ,t1\na,,x\n", "column 2 has no name"),
        ("case,t1;t2\na,x\n", "the column name 't1;t2' holds a delimiter"),
        ('case,t1\na,"x\nb,y\nc,z\n', "line 2 begins a cell in quotation marks"),
        ('case,t1\na,x\nb,"y', "line 3 begins a cell in quotation marks"),
        ('case,t1\na,x\nb,"y\n', "line 3 begins a cell in quotation marks"),
        ('case,t1,note\na,x,"5 mm\nb,y,6" thick\n', "line 2 begins a cell in quotation marks"),
        ('case,t1,note\na,x,"open\nb,y,ok\n', "line 2 begins a cell in quotation marks"),
        ('case,t1\na,"x\ny"\n', "line 2 begins a cell in quotation marks"),
        ("case,t1\na,x\nb," + "y" * 140_000, "line 3 holds a cell of more than 131072 char"),
        ("case,t1\na,x\nb,y\0\n", "line 3 holds a NUL character"),
        ("a,scan.nii.gz\nb,other.nii.gz\n", "'scan.nii.gz'; expected 'case'"),
        ("case,t1\na,x\nA,y\n", r"'a' \(line 2\) and 'A' \(line 3\)"),
        ("case,t1\na,x\nb,x\na,y\n", r"must differ.*'a' \(line 2\) and 'a' \(line 4\)"),
        (
            "case,t1\n../a,x\n.b,y\n,z\n",
            r"'../a' \(line 2\), '.b' \(line 3\), '' \(line 4\) cannot name a file",
        ),
    ],
)
def test_a_bad_table_is_refused_whole(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        read_table(table(tmp_path, text))


def test_a_table_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputMissing, match="does not exist"):
        read_table(tmp_path / "no.csv")
    with pytest.raises(InputUnreadable, match=r"line 2 is not UTF-8 text \(byte 0xe4"):
        read_table(table(tmp_path, "case,t1\nä,x\n", "latin-1"))
    with pytest.raises(InputUnreadable, match="is a text in UTF-16, expected UTF-8"):
        read_table(table(tmp_path, "case,t1\nä,x\n", "utf-16"))
    with pytest.raises(InputUnreadable, match="NUL character"):
        read_table(table(tmp_path, "case,t1\na,x\n", "utf-16-le"))
    with pytest.raises(InputUnreadable, match="cannot be read"):
        read_table(tmp_path)


def test_unknown_columns_are_left_out_with_a_warning(tmp_path: Path) -> None:
    heard = WarningLog()
    path = table(tmp_path, "case,t1,age,site\na,x,61,berlin\n")
    (case,) = read_table(path, warn=heard.add)
    assert case.asked == Request(images={"t1": tmp_path / "x"})
    (warning,) = heard
    assert warning.code is COLUMNS_UNUSED
    assert warning.numbers == {"columns": "age, site"}


def test_a_note_of_several_lines_is_one_cell_of_a_column_that_is_not_used(tmp_path: Path) -> None:
    text = 'case,t1,note\na,x,"two\nlines, ""quoted"""\n\nb,y,5" long\nc,z\n'
    with pytest.raises(InputError, match=r"line 6 \('c'\) has 2 cells"):
        read_table(table(tmp_path, text))
    first, second = read_table(table(tmp_path, text[:-4]))
    assert (first.name, second.name) == ("a", "b")


def test_a_line_without_an_image_is_a_case_with_a_problem(tmp_path: Path) -> None:
    good, bad = read_table(table(tmp_path, "case,t1\na,x\nb,\n"))
    assert good.asked is not None
    assert str(bad.request) == "b: its line names no image."


def test_case_folders_and_their_problems(tmp_path: Path) -> None:
    data = write_cases(tmp_path / "däta 1", 4)
    (data / "case-001" / "case-001_t1.nii.gz").unlink()
    (data / "case-002" / "copy_t1.nii.gz").write_bytes(b"")
    (data / "case-003" / "case-003_seg.nii.gz").unlink()
    (data / "notes").mkdir()
    whole, without, twice, unprompted = folder_cases(data, prompts=True)
    assert whole.asked is not None
    assert whole.asked.prompt.source == data / "case-000" / "case-000_seg.nii.gz"
    assert "neither T1 nor T2" in str(without.request)
    assert "several files for t1" in str(twice.request)
    assert unprompted.asked is not None
    assert not unprompted.asked.prompt
    plain = [case.asked for case in folder_cases(data, prompts=False) if case.asked is not None]
    assert len(plain) == 2
    assert not any(request.prompt for request in plain)
    with pytest.raises(InputMissing, match="no case found"):
        folder_cases(data / "notes", prompts=True)


@pytest.mark.documents(
    "File",
    "`._*`, `.DS_Store`, `Thumbs.db` next to the files of a case",
    "left out, wherever files are listed",
)
def test_files_that_desktops_leave_are_no_images_and_no_cases(tmp_path: Path) -> None:
    data = write_cases(tmp_path / "data", 1)
    folder = data / "case-000"
    for path in [*folder.iterdir()]:
        path.with_name(f"._{path.name}").write_bytes(b"\x00\x05\x16\x07")
    for name in (".DS_Store", "Thumbs.db", ".tmp-123-0a1b2c3d-case-000_t1.nii.gz"):
        (folder / name).write_bytes(b"")
    (data / "__MACOSX").mkdir()
    (data / "__MACOSX" / "._case-000_t1.nii.gz").write_bytes(b"\x00\x05\x16\x07")
    (case,) = folder_cases(data, prompts=True)
    assert case.asked is not None
    assert case.asked.images["t1"] == folder / "case-000_t1.nii.gz"
    assert case.asked.prompt.source == folder / "case-000_seg.nii.gz"
    assert find_cases(data, ("t1", "seg"))[0].files["t1"] == folder / "case-000_t1.nii.gz"
