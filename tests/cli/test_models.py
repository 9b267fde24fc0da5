"""`tlp models`, and what `--overwrite` replaces, as typed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from tlp_cli.main import main

from tests.support import TinyModel, public_folder, read_only
from tlp_runtime.models.bundle import Bundle
from tlp_runtime.models.choice import models

LONG = "t1-paper-0123456789abcdef-int8-calibrated-excluding-decoder-level-1-and-output"

Printed = pytest.CaptureFixture[str]


@pytest.fixture
def two(tiny: TinyModel, tmp_path: Path) -> Path:
    """Two T1 models, ``one`` (the default) and ``two``; returns a folder with another bundle."""
    other = tmp_path / "other"
    shutil.copytree(tiny.bundle.path, other)
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["provenance"]["run"] = "another run"
    (other / "manifest.json").write_text(json.dumps(manifest))
    for name, path in (("one", tiny.bundle.path), ("two", other)):
        assert main(["models", "add", str(path), "--name", name, "--quiet"]) == 0
    return other


def rows(capfd: Printed) -> dict[str, dict[str, object]]:
    capfd.readouterr()
    assert main(["models", "list", "--json", "-"]) == 0
    return {row["name"]: row for row in json.loads(capfd.readouterr().out)}


def test_the_list_shows_whole_names_at_80_columns_and_folders_only_when_verbose(
    tiny: TinyModel, tlp_home: Path, capfd: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["models", "add", str(tiny.bundle.path), "--name", LONG]) == 0
    for columns in ("80", "60"):
        monkeypatch.setenv("COLUMNS", columns)
        capfd.readouterr()
        assert main(["models"]) == 0
        out = capfd.readouterr().out
        assert "…" not in out
        cells = "".join(row.split("│")[2].strip() for row in out.splitlines() if "│" in row)
        assert LONG in cells
        assert "folder" not in out
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["models", "list", "--verbose"]) == 0
    out = capfd.readouterr().out
    assert "folder" in out
    assert "…" not in out


def test_added_models_say_which_is_the_default_and_the_command_that_changes_it(
    two: Path, capfd: Printed
) -> None:
    assert main(["models", "add", str(two), "--name", "the third", "--link"]) == 0
    said = capfd.readouterr().err
    assert "the default model for T1 is still one" in said
    assert "tlp models default 'the third'" in said
    assert rows(capfd)["one"]["default"] is True
    assert main(["models", "default", "the third"]) == 0
    assert "default model for T1: the third" in capfd.readouterr().err
    assert main(["models", "default"]) == 0
    assert "the third" in capfd.readouterr().out
    assert main(["models", "default", "--clear"]) == 0
    assert rows(capfd)["one"]["default"] is True
    assert main(["models", "default", "one", "--clear"]) == 2


def test_a_name_that_is_taken_is_exit_9_with_what_to_do(two: Path, capfd: Printed) -> None:
    assert main(["models", "add", str(two), "--name", "two"]) == 0, "the same bundle"
    capfd.readouterr()
    assert main(["models", "add", str(two), "--name", "one"]) == 9
    said = capfd.readouterr().err.replace("\n", " ")
    assert "the name one is taken by another bundle" in said
    assert "Use --name to add it under another name" in said
    assert "tlp models remove one" in said


def test_what_a_bundle_is_is_shown(tiny: TinyModel, two: Path, capfd: Printed) -> None:
    assert main(["models", "show", "one"]) == 0
    out = capfd.readouterr().out
    lines = [row.split("│")[1:3] for row in out.splitlines() if "│" in row]
    shown = "".join(name.strip() for name, _ in lines), "".join(value.strip() for _, value in lines)
    for text in ("precision", "generator.onnx", "checkpoint", "engines"):
        assert text in shown[0], text
    for text in ("fp32", tiny.bundle.onnx_sha256):
        assert text in shown[1], text
    assert "…" not in out
    assert main(["models", "show", "one", "--json", "-"]) == 0
    record = json.loads(capfd.readouterr().out)
    assert (record["name"], record["inputs"], record["default"]) == ("one", ["t1"], True)
    assert record["files"]["generator.onnx"] == tiny.bundle.onnx_sha256
    assert main(["models", "show", str(two), "--json", "-"]) == 0
    assert json.loads(capfd.readouterr().out)["name"] == "other", "a folder that is not registered"
    assert main(["models", "show", "nobody"]) == 4


def test_a_damaged_entry_and_a_damaged_bundle_are_listed_with_their_state(
    two: Path, tlp_home: Path, capfd: Printed
) -> None:
    (tlp_home / "register" / "models" / "bad.json").write_text("{")
    (tlp_home / "register" / "models" / ".tmp-1-0a1b2c3d-x.json").write_text("{")
    (tlp_home / "models" / "one" / "generator.onnx").write_bytes(b"")
    shutil.rmtree(tlp_home / "models" / "two")
    assert main(["models"]) == 0
    said = capfd.readouterr()
    assert "bad.json: is not a register entry" in said.err
    assert "Run tlp models remove bad to remove the entry" in said.err
    assert "the default model for T1, one, cannot be used" in said.err
    states = {name: row["state"] for name, row in rows(capfd).items()}
    assert states == {"one": "damaged", "two": "missing", "bad": "damaged"}
    assert main(["models", "remove", "bad"]) == 0
    assert main(["models", "remove", "one"]) == 0
    assert not (tlp_home / "models" / "one").exists()


def test_a_removed_default_is_said_and_is_exit_4_until_another_is_set(
    two: Path, phantom_case: Path, tmp_path: Path, capfd: Printed
) -> None:
    assert main(["models", "remove", "one"]) == 0
    said = capfd.readouterr().err
    assert "one was the default model for T1" in said
    assert "tlp models default two" in said
    t1 = phantom_case / f"{phantom_case.name}_t1.nii.gz"
    infer = ["infer", "--t1", str(t1), "--out", str(tmp_path / "out.nii.gz"), "--device", "cpu"]
    assert main(infer) == 4
    said = capfd.readouterr().err.replace("\n", " ")
    assert "the default model for T1, one, is not registered any more" in said
    assert "Run tlp models default two to set another" in said
    assert main(["models", "default", "two"]) == 0
    assert main(infer) == 0


def test_removing_from_a_read_only_store_is_exit_9_in_one_sentence(
    tiny: TinyModel, capfd: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    with public_folder() as home:
        monkeypatch.setenv("TLP_HOME", os.fspath(home / "store"))
        assert main(["models", "add", str(tiny.bundle.path), "--name", "one"]) == 0
        capfd.readouterr()
        with read_only(home):
            assert main(["models", "remove", "one"]) == 9
        assert capfd.readouterr().err.replace("\n", " ").count("it is read-only.") == 1
        assert [entry.name for entry in models()] == ["one"]
        Bundle.open(home / "store" / "models" / "one")


def test_an_export_never_deletes_what_is_not_a_bundle_s(
    tiny: TinyModel, tmp_path: Path, capfd: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tlp_export.bundle

    monkeypatch.setattr(tlp_export.bundle, "fold", lambda *_: pytest.fail("refused too late"))
    monkeypatch.chdir(tmp_path)
    Path("thesis").mkdir()
    Path("thesis/thesis.docx").write_text("years")
    shutil.copytree(tiny.bundle.path, "annotated")
    Path("annotated/notes.txt").write_text("mine")
    Path("bundle").mkdir()
    Path("bundle/manifest.json").write_text('{"name": "a web page", "files": []}')
    Path("gone-link").symlink_to("gone")
    Path("file").write_text("words")
    before = sorted(tmp_path.rglob("*"))
    for out, said in (
        ("thesis", "thesis: holds thesis.docx, which this toolkit did not write"),
        ("annotated", "annotated: holds notes.txt, which"),
        ("bundle", "bundle: holds manifest.json, which"),
        (".", ".: is the current folder and is not replaced"),
        ("..", "..: holds the current folder and is not replaced"),
        ("gone-link", "is a link to gone, which does not exist"),
        ("file", "file: is a file, expected a folder"),
        ("file/below", "file is a file, expected a folder"),
    ):
        assert main(["export", str(tiny.run.folder), "--out", out, "--overwrite"]) == 9, out
        assert said in capfd.readouterr().err.replace("\n", " "), out
    assert sorted(tmp_path.rglob("*")) == before


def test_an_export_replaces_a_bundle_behind_a_link_and_says_what_the_default_is(
    tiny: TinyModel, two: Path, tmp_path: Path, capfd: Printed
) -> None:
    real, link = tmp_path / "disk" / "real", tmp_path / "link"
    shutil.copytree(tiny.bundle.path, real)
    (real / "parity.json").write_text("damaged")
    link.symlink_to(real)
    assert main(["export", str(tiny.run.folder), "--out", str(link), "--overwrite"]) == 0
    said = capfd.readouterr().err
    assert link.is_symlink()
    Bundle.open(real)
    assert os.listdir(tmp_path / "disk") == ["real"]
    assert "the default model for T1 is still one" in said
    assert "tlp models default link" in said


def test_a_triton_model_is_replaced_but_not_a_folder_with_other_versions(
    tiny: TinyModel, tmp_path: Path, capfd: Printed
) -> None:
    from tlp_export.triton import require_repository, write_repository
    from tlp_runtime.errors import OutputError

    write_repository(tiny.bundle, tmp_path)
    (name,) = write_repository(tiny.bundle, tmp_path, overwrite=True)
    theirs = tmp_path / name / "2" / "model.onnx"
    theirs.parent.mkdir()
    theirs.write_bytes(b"mine")
    with pytest.raises(OutputError, match=r"holds 2, which"):
        write_repository(tiny.bundle, tmp_path, overwrite=True)
    with pytest.raises(OutputError, match="exists already"):
        require_repository(tmp_path, tiny.bundle.name)
    theirs.unlink()
    theirs.parent.rmdir()
    (tmp_path / name / "config.pbtxt").write_text("name: 'mine'")
    with pytest.raises(OutputError, match=r"holds 1, config\.pbtxt, which"):
        require_repository(tmp_path, tiny.bundle.name, overwrite=True)
