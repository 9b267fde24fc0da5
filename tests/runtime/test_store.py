"""The register of models and runs, and bundles added to the store and removed from it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.store import Place, entry, used
from tests.support import TinyModel, public_folder, read_only
from tlp_runtime.errors import (
    ModelDamaged,
    ModelMissing,
    OutputError,
    RunTask,
    SetOption,
    UsageError,
)
from tlp_runtime.models.choice import (
    find_bundle,
    models,
    models_folder,
    set_default,
)
from tlp_runtime.models.store import Register


def test_entries_are_relative_in_the_store_and_absolute_elsewhere(
    tlp_home: Path, tmp_path: Path, place: Place, tiny: TinyModel
) -> None:
    models().add("inside", place("inside"))
    models().add("outside", tiny.bundle.path)
    assert json.loads(entry(tlp_home, "inside").read_text())["path"] == "models/inside"
    assert json.loads(entry(tlp_home, "outside").read_text())["path"] == str(tiny.bundle.path)


def test_a_moved_store_works(
    tlp_home: Path, tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    models().add("a", place("a"))
    models().add("b", place("b"))
    set_default("b")
    moved = tmp_path / "disk" / "moved"
    moved.parent.mkdir()
    tlp_home.rename(moved)
    monkeypatch.setenv("TLP_HOME", os.fspath(moved))
    assert used("t1") == "b"
    assert find_bundle("a", None)[0].path == moved / "models" / "a"


def test_a_store_of_the_version_before_is_read_and_may_have_been_moved(
    tlp_home: Path, tmp_path: Path, place: Place, tiny: TinyModel
) -> None:
    for number, (name, path) in enumerate(
        {"here": place("here"), "moved": Path("/before/models/moved"),
         "gone": Path("/before/models/gone"), "elsewhere": tiny.bundle.path}.items()
    ):  # fmt: skip
        entry(tlp_home, name).parent.mkdir(parents=True, exist_ok=True)
        entry(tlp_home, name).write_text(json.dumps({"path": str(path), "order": number + 1}))
    place("moved")
    assert [(one.name, one.path) for one in models()] == [
        ("here", tlp_home / "models" / "here"),
        ("moved", tlp_home / "models" / "moved"),
        ("gone", Path("/before/models/gone")),
        ("elsewhere", tiny.bundle.path),
    ]
    assert find_bundle("moved", None)[0].name == "moved"


def test_two_folders_of_one_name_get_two_names(tmp_path: Path) -> None:
    register = Register("runs")
    assert register.add("m", tmp_path / "a") == "m"
    assert register.add("m", tmp_path / "b") == "m-2"
    assert register.add("m", tmp_path / "a") == "m"  # the same folder again: now the newest
    assert [(e.name, e.path.name) for e in register] == [("m-2", "b"), ("m", "a")]


_REGISTER = """
import sys, time
from pathlib import Path
from tlp_runtime.models.store import Register
register, start, number = Register("runs"), Path(sys.argv[1]), sys.argv[2]
print("ready", flush=True)
trials = int(sys.argv[3])
for trial in range(trials):
    while not (start / str(trial)).exists():
        time.sleep(0.0005)
    register.add(f"same-{trial}", start / f"{trial} {number}")
    (start / f"{trial} {number}").touch()
"""


def register_at_once(folder: Path, trials: int) -> None:
    """Let ten processes register under one name at the same moment, trial after trial."""
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", _REGISTER, folder, str(number), str(trials)],
            stdout=subprocess.PIPE,
        )
        for number in range(10)
    ]
    try:
        for worker in workers:
            assert worker.stdout is not None
            assert worker.stdout.readline() == b"ready\n"
        for trial in range(trials):
            (folder / str(trial)).touch()
            while len(list(folder.glob(f"{trial} *"))) < 10:
                assert not any(worker.poll() for worker in workers)
        assert [worker.wait() for worker in workers] == [0] * 10
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
    found = list(Register("runs"))
    assert len(found) == 10 * trials
    assert {one.path.name for one in found} == {
        f"{trial} {number}" for trial in range(trials) for number in range(10)
    }
    assert len({one.order for one in found}) == 10 * trials


def test_ten_processes_that_register_at_once_lose_nothing(tmp_path: Path) -> None:
    register_at_once(tmp_path, 5)


@pytest.mark.proof
def test_ten_processes_that_register_at_once_lose_nothing_in_a_hundred_trials(
    tmp_path: Path,
) -> None:
    register_at_once(tmp_path, 100)


def test_leftovers_and_foreign_files_are_no_entries(tlp_home: Path, place: Place) -> None:
    models().add("a", place("a"))
    folder = tlp_home / "register" / "models"
    (folder / ".tmp-123-0a1b2c3d-b.json").write_text("{")
    (folder / "._a.json").write_bytes(b"\x00\x05\x16\x07")
    (folder / "notes.txt").write_text("mine")
    (folder / "folder.json").mkdir()
    assert [one.name for one in models()] == ["a"]
    assert models().damaged == {}
    assert used("t1") == "a"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"path": 3, "order": 1}', '{"order": 1}', "\xff"])
def test_a_damaged_entry_harms_no_other(
    tlp_home: Path, place: Place, tiny: TinyModel, text: str
) -> None:
    models().add("a", place("a"))
    Register("runs").add("run", tiny.run_folder)
    for kind in ("models", "runs"):
        (tlp_home / "register" / kind / "bad.json").write_text(text, encoding="latin-1")
    assert [one.name for one in models()] == ["a"]
    assert used("t1") == "a"
    assert [one.path for one in Register("runs")] == [tiny.run_folder]
    for find in (models().find, lambda name: find_bundle(name, None)):
        with pytest.raises(ModelDamaged, match=r"bad\.json: is not a register entry") as raised:
            find("bad")
        assert raised.value.fixes == (
            RunTask("models remove", arguments=("bad",), purpose="to remove the entry"),
        )
    with pytest.raises(ModelMissing, match="no model is called 'other'; there are: a"):
        models().find("other")
    assert models().add("b", place("b")) == "b"
    models().take_out("bad")
    assert models().damaged == {}
    Register("runs").remove("bad")
    assert Register("runs").damaged == {}


def test_a_damaged_entry_is_repaired_by_registering_its_own_folder(
    tlp_home: Path, place: Place, tiny: TinyModel
) -> None:
    models().add("a", place("a"))
    entry(tlp_home, "a").write_text("{")
    assert models().add("a", tiny.bundle.path) == "a-2", "another folder does not take the name"
    assert models().add("a", tlp_home / "models" / "a") == "a"
    assert models().damaged == {}


def test_a_bundle_is_copied_in_with_its_engines_and_nothing_else(
    tiny: TinyModel, tmp_path: Path
) -> None:
    source = tiny.copy(tmp_path)
    engine = source / "engines" / "0123abcd"
    engine.mkdir(parents=True)
    for name in ("generator.engine", "engine.json", "build.log"):
        (engine / name).write_text(name)
    (source / "notes.txt").write_text("mine")
    registration = models().copy_in(source)
    assert (registration.name, registration.is_default) == ("bundle copy", True)
    target = models_folder() / "bundle copy"
    assert find_bundle(None, ("t1",))[0].path == target
    copied = {path.relative_to(target) for path in target.rglob("*") if path.is_file()}
    whole = {path.relative_to(source) for path in source.rglob("*") if path.is_file()}
    assert copied == whole - {Path("notes.txt")}


def test_a_linked_bundle_stays_where_it_is(tiny: TinyModel, tlp_home: Path) -> None:
    registration = models().copy_in(tiny.bundle.path, "mine", link=True)
    assert registration.name == "mine"
    assert models().find("mine").path == tiny.bundle.path
    assert not (tlp_home / "models").exists()
    removal = models().take_out("mine")
    assert removal.left == tiny.bundle.path
    assert tiny.bundle.path.is_dir()


def test_a_damaged_bundle_is_not_added(tiny: TinyModel, tmp_path: Path, tlp_home: Path) -> None:
    source = tiny.copy(tmp_path)
    (source / "generator.onnx").write_bytes(b"")
    for link in (True, False):
        with pytest.raises(ModelDamaged, match=r"generator\.onnx was altered"):
            models().copy_in(source, link=link)
    assert not tlp_home.exists()


def test_a_taken_name_is_accepted_for_the_same_bundle_alone(
    tiny: TinyModel, tmp_path: Path, place: Place
) -> None:
    source = tiny.copy(tmp_path)
    models().copy_in(source, "m")
    assert models().copy_in(source, "m").name == "m"
    assert models().copy_in(tiny.bundle.path, "m", link=True).name == "m"
    assert [one.name for one in models()] == ["m"]
    other = place("other")
    for link in (True, False):
        with pytest.raises(OutputError, match="the name m is taken by another bundle") as raised:
            models().copy_in(other, "m", link=link)
        assert raised.value.fixes == (
            SetOption("name", purpose="to add it under another name"),
            RunTask("models remove", arguments=("m",), purpose="to remove the other one"),
        )
    assert models().copy_in(other).name == "other", "it lies in the store already"
    (models_folder() / "m" / "generator.onnx").write_bytes(b"")
    with pytest.raises(OutputError, match="the name m is taken and what has it is damaged"):
        models().copy_in(source, "m")


@pytest.mark.parametrize("name", ["a/b", "..", ".hidden", "a\\b", "a\nb", "c:"])
def test_a_name_that_is_no_file_s_is_refused(tiny: TinyModel, name: str) -> None:
    with pytest.raises(UsageError, match="cannot be a model's name"):
        models().copy_in(tiny.bundle.path, name)


def test_a_removed_bundle_leaves_the_store_but_foreign_files_stay(place: Place) -> None:
    models().register(place("a"))
    (place("b") / "notes.txt").write_text("mine")
    models().register(models_folder() / "b")
    assert models().take_out("a").left is None
    removal = models().take_out("b")
    assert removal.left == models_folder().resolve() / "b"
    assert [file.name for file in removal.foreign] == ["notes.txt"]
    assert os.listdir(models_folder()) == ["b"]
    assert (models_folder() / "b" / "notes.txt").read_text() == "mine"
    assert list(models()) == []


def test_a_read_only_store_is_used_but_nothing_is_added_or_removed(
    tiny: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    with public_folder() as home:
        monkeypatch.setenv("TLP_HOME", os.fspath(home / "store"))
        models().copy_in(tiny.bundle.path, "a")
        before = sorted(home.rglob("*"))
        with read_only(home):
            assert used("t1") == "a"
            for act in (
                lambda: models().take_out("a"),
                lambda: set_default("a"),
                lambda: set_default(None),
                lambda: models().copy_in(models_folder() / "a", "b"),
            ):
                with pytest.raises(OutputError, match="it is read-only"):
                    act()
        with read_only(home / "store" / "models"), pytest.raises(OutputError, match="read-only"):
            models().take_out("a")
        assert sorted(home.rglob("*")) == before
        assert used("t1") == "a"


def test_a_folder_that_can_be_deleted_in_part_only_is_unregistered_first(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    models().register(place("a"))

    def half(folder: Path, *_: object, **__: object) -> None:
        (folder / "generator.onnx").unlink()
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(shutil, "rmtree", half)
    with pytest.raises(OutputError, match=r"a was removed, but what is left .*\.tmp-.*-a, cannot"):
        models().take_out("a")
    assert list(models()) == []
    assert not (models_folder() / "a").exists()
