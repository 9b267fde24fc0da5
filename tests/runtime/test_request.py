"""A request is valid once constructed, and reading it gives a request of the same kind."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from tests.scans import SMALL, scan
from tests.servers import saved
from tlp_runtime import Request
from tlp_runtime.errors import InputMissing, ModelMismatch, UsageError
from tlp_runtime.synthesis.prepare import prepare
from tlp_runtime.synthesis.request import Prompt, read


def test_a_request_without_an_image_cannot_be_made() -> None:
    with pytest.raises(UsageError, match="at least one image"):
        Request(images={})
    with pytest.raises(UsageError, match="a series of the T2 is named"):
        Request(images={"t1": Path("a")}, series={"t2": "1.2.3"})


def test_reading_brings_the_files_into_memory_and_changes_nothing_else(tmp_path: Path) -> None:
    path = saved(scan(), tmp_path / "t1.nii.gz")
    asked = Request(images={"t1": path}, prompt=Prompt(path, {"tumour": (7,)}), strict=True)
    had = read(asked)
    assert list(asked.paths()) == [path, path]
    assert list(had.paths()) == []
    assert had.read_s > 0
    assert (had.prompt.labels, had.strict) == (asked.prompt.labels, asked.strict)
    assert set(had.volumes) == {"t1", "prompt"}
    again = read(had)
    assert again.images == had.images, "what is in memory stays as it is"


def test_a_missing_file_and_another_model_s_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputMissing, match="does not exist"):
        read(Request(images={"t1": tmp_path / "no.nii.gz"}))
    with pytest.raises(ModelMismatch, match="this model takes t1; got t2"):
        prepare(Request(images={"t2": tmp_path / "unread.nii.gz"}), SMALL)


def test_records_cannot_be_changed() -> None:
    prepared = prepare(Request(images={"t1": scan()}), SMALL)
    with pytest.raises(FrozenInstanceError):
        prepared.tensors = {}  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        prepared.request.strict = True  # type: ignore[misc]
