"""The record of a synthesis: the JSON it always was, read back as what it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.engine import FakeEngine
from tests.scans import SMALL, scan
from tests.servers import saved
from tlp_runtime.errors import InputMissing, InputUnreadable
from tlp_runtime.synthesis.provenance import SynthesisRecord, read_record
from tlp_runtime.synthesis.request import Prompt, Request
from tlp_runtime.synthesis.result import Synthesis
from tlp_runtime.synthesis.synthesizer import Synthesizer
from tlp_runtime.values.shapes import Sphere


@pytest.fixture
def synthesis(tmp_path: Path) -> Synthesis:
    """A case with a prompt and at least one warning."""
    engine = FakeEngine(SMALL)
    prompt = Prompt(shapes=(Sphere((0.0, 0.0, 0.0, 9.0)),))
    request = Request(images={"t1": saved(scan(), tmp_path / "t1.nii.gz")}, prompt=prompt)
    with Synthesizer(engine) as synthesizer:
        return synthesizer.synthesize(synthesizer.prepare(request))


def test_the_json_has_the_keys_it_always_had(synthesis: Synthesis, tmp_path: Path) -> None:
    written = synthesis.save(tmp_path / "out.nii.gz")
    read = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert list(read) == [
        "output", "output_sha256", "schema", "description", "inputs", "prompt", "model", "engine",
        "software", "geometry", "warnings", "slices", "seconds", "command", "time",
    ]  # fmt: skip
    assert read["schema"] == 1
    assert list(read["inputs"]["t1"]) == ["file", "sha256"]
    assert list(read["prompt"]) == ["labels", "shapes", "region"]
    assert list(read["model"]) == [
        "name", "onnx_sha256", "checkpoint_sha256", "precision", "spec"
    ]  # fmt: skip
    assert read["model"]["spec"]["schema"] == {"major": 2, "minor": 0}
    assert list(read["engine"]) == ["name", "device", "library"]
    assert list(read["geometry"]) == [
        "interpolated", "shape", "affine", "window", "windows", "all_slices"
    ]  # fmt: skip
    assert list(read["warnings"][0]) == ["code", "kind", "text", "numbers", "fixes"]
    for key in ("geometry", "prompt", "warnings", "inputs"):
        assert written[key] == read[key], "lists, as they are read back"


def test_a_record_is_read_back(synthesis: Synthesis, tmp_path: Path) -> None:
    synthesis.save(tmp_path / "out.nii.gz", extra={"Sources": ["bids:raw:t1.nii.gz"]})
    record = read_record(tmp_path / "out.json")
    assert isinstance(record, SynthesisRecord)
    assert record == synthesis.record
    assert record.prompt is not None
    assert len(record.prompt.shapes) == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda one: one.pop("engine"), "missing keys engine"),
        (lambda one: one.update(schema=9), "not a record of a synthesis of schema 1"),
        (lambda one: one["geometry"].update(shape="3"), r"geometry\.shape is '3', expected a list"),
        (lambda one: one["model"].update(colour="red"), r"unknown keys model\.colour"),
    ],
)
def test_what_is_no_record_is_refused(
    synthesis: Synthesis, tmp_path: Path, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    synthesis.save(tmp_path / "out.nii.gz")
    data = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    change(data)
    (tmp_path / "out.json").write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(InputUnreadable, match=said):
        read_record(tmp_path / "out.json")
    (tmp_path / "out.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputUnreadable, match="cannot be read"):
        read_record(tmp_path / "out.json")
    with pytest.raises(InputMissing):
        read_record(tmp_path / "absent.json")
