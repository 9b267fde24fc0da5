"""The journal: what it learns, and what becomes of it when a run is killed."""

from __future__ import annotations

import errno
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest

from tlp_runtime.cohort.journal import Finished, Journal
from tlp_runtime.errors import NoSpace, OutputError

RUN = {"event": "run", "schema": 1}


def done(case: str, key: str = "k") -> dict[str, str]:
    return {"event": "done", "case": case, "key": key, "sha256": f"s-{case}"}


def planned(case: str) -> dict[str, str]:
    return {"event": "planned", "case": case, "output": f"{case}.nii.gz"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "öut 1" / "journal.jsonl"


def test_what_was_written_is_known_again(path: Path) -> None:
    with Journal(path) as journal:
        journal.write(RUN, planned("ä"), planned("b"))
        journal.write(done("ä"), done("b"), {"event": "failed", "case": "b"})
    with Journal(path) as journal:
        assert journal.finished == {"ä": Finished("k", "s-ä")}
        assert journal.planned == {"ä": "ä.nii.gz", "b": "b.nii.gz"}
        journal.write(done("ä", "k2"))
    assert [json.loads(line)["event"] for line in path.read_text().splitlines()] == [
        "run", "planned", "planned", "done", "done", "failed", "done",
    ]  # fmt: skip


@pytest.mark.parametrize("lost", range(1, 40, 3))
def test_a_line_that_was_cut_short_is_dropped_and_the_next_is_whole(path: Path, lost: int) -> None:
    with Journal(path) as journal:
        journal.write(RUN, done("a"), done("b"))
    content = path.read_bytes()
    path.write_bytes(content[:-lost])
    with Journal(path) as journal:
        assert set(journal.finished) == {"a"}
        journal.write(done("c"))
    with Journal(path) as journal:
        assert set(journal.finished) == {"a", "c"}
    for line in path.read_text().splitlines():
        json.loads(line)


def test_a_tail_of_zeros_is_dropped_too(path: Path) -> None:
    with Journal(path) as journal:
        journal.write(RUN, done("a"))
    path.write_bytes(path.read_bytes() + bytes(100))
    with Journal(path) as journal:
        assert set(journal.finished) == {"a"}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("nonsense", "line 2"),
        ('{"event": "done"}', "KeyError"),
        ("[1]", "TypeError"),
        ('{"event": "run", "schema": 3}', r"schema 3, this version reads \(1, 2\)"),
    ],
)
def test_damage_in_its_middle_is_refused_and_nothing_is_lost(
    path: Path, line: str, said: str
) -> None:
    with Journal(path) as journal:
        journal.write(RUN)
    path.write_text(f"{path.read_text()}{line}\n{json.dumps(done('a'))}\n")
    before = path.read_bytes()
    with pytest.raises(OutputError, match=said):
        Journal(path)
    assert path.read_bytes() == before


def test_two_runs_cannot_share_it(path: Path) -> None:
    with Journal(path), pytest.raises(OutputError, match="another run is writing here"):
        Journal(path)
    Journal(path).close()


def test_a_place_that_cannot_hold_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="cannot be written"):
        Journal(tmp_path / "file" / "journal.jsonl")
    (tmp_path / "journal.jsonl").mkdir()
    with pytest.raises(OutputError, match="cannot be written"):
        Journal(tmp_path / "journal.jsonl")


class FullDisk(io.FileIO):
    """A file whose disk is full in the middle of the second line."""

    written = 0

    def write(self, text: Any) -> int:
        if self.written:
            super().write(bytes(text)[:5])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.written += 1
        return super().write(text)


def test_a_full_disk_is_said_and_what_it_held_is_whole(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda self, mode, buffering: FullDisk(self, mode))
        with Journal(path) as journal:
            journal.write(RUN, done("a"))
            with pytest.raises(NoSpace, match="No space left"):
                journal.write(done("b"))
    with Journal(path) as journal:
        assert set(journal.finished) == {"a"}
