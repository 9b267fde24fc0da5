"""A run and the one after it: what is skipped, redone, refused, and survives."""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import pytest

from tests.cohorts import SlowEngine, outputs, run, write_cases
from tests.fakes.engine import FakeEngine
from tests.scans import SMALL
from tlp_runtime.cohort.cases import CohortCase, folder_cases
from tlp_runtime.cohort.job import Outcome
from tlp_runtime.cohort.journal import Journal
from tlp_runtime.cohort.run import Summary
from tlp_runtime.errors import NoSpace, OutputError
from tlp_runtime.synthesis.request import Request


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_cases(tmp_path / "däta 1", 5)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "öut 1"


def events(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "journal.jsonl").read_text().splitlines()]


def test_a_second_run_does_nothing(data: Path, out: Path) -> None:
    assert run(data, out).done == 5
    before, times = outputs(out), [p.stat().st_mtime_ns for p in sorted(out.glob("*synth*"))]
    engine = FakeEngine(SMALL)
    again = run(data, out, engine)
    assert (again.done, again.unchanged, again.failed) == (0, 5, {})
    assert engine.batches == []
    assert outputs(out) == before
    assert times == [p.stat().st_mtime_ns for p in sorted(out.glob("*synth*"))]
    kinds = [event["event"] for event in events(out)]
    assert kinds == ["run", *["planned"] * 5, *["done"] * 5, "end", "run", "end"]


def test_what_changed_is_done_again(data: Path, out: Path) -> None:
    run(data, out)
    image = nib.load(data / "case-001" / "case-001_t1.nii.gz")
    nib.save(
        nib.Nifti1Image(image.dataobj[...] * 2, image.affine, image.header),
        data / "case-001" / "case-001_t1.nii.gz",
    )
    (data / "case-002" / "case-002_seg.nii.gz").unlink()
    (out / "case-003_synth-t1ce.nii.gz").unlink()
    (out / "case-004_synth-t1ce.nii.gz").write_bytes(b"not what was written")
    redone = set()
    again = run(data, out, on_outcome=lambda one, _: redone.add((one.case, one.status)))
    assert redone == {
        ("case-000", "unchanged"), ("case-001", "done"), ("case-002", "done"),
        ("case-003", "done"), ("case-004", "done"),
    }  # fmt: skip
    assert (again.done, again.unchanged) == (4, 1)


def test_other_options_or_another_model_do_all_again(data: Path, out: Path) -> None:
    run(data, out)
    assert run(data, out, int16=True).done == 5
    assert run(data, out, int16=True).unchanged == 5
    engine = FakeEngine(SMALL)
    other = replace(engine.bundle.manifest, files={"generator.onnx": "1" * 64})
    engine.bundle = replace(engine.bundle, manifest=other)
    assert run(data, out, engine, int16=True).done == 5


def test_a_case_that_failed_is_tried_again(data: Path, out: Path) -> None:
    hidden = data / "case-002" / "case-002_t1.nii.gz"
    aside = hidden.rename(data / "aside")
    first = run(data, out)
    assert list(first.failed) == ["case-002"]
    assert first.done == 4
    aside.rename(hidden)
    second = run(data, out)
    assert (second.done, second.unchanged, second.failed) == (1, 4, {})


def test_files_of_others_are_not_replaced_unless_told(data: Path, out: Path) -> None:
    out.mkdir()
    (out / "case-001_synth-t1ce.nii.gz").write_text("mine")
    (out / "case-003_synth-t1ce.json").write_text("mine too")
    with pytest.raises(OutputError, match=r"case-001_synth-t1ce.nii.gz, case-003_synth-t1ce.json"):
        run(data, out)
    assert set(outputs(out).values()) == {b"mine", b"mine too"}, "before anything is done"
    assert run(data, out, overwrite=True).done == 5
    assert len(outputs(out)) == 10


def test_a_read_only_output_is_that_case_s_failure(data: Path, out: Path) -> None:
    run(data, out)
    kept = out / "case-001_synth-t1ce.nii.gz"
    kept.chmod(0o444)
    before = kept.read_bytes()
    again = run(data, out, int16=True)
    assert again.done == 4
    assert "is read-only and is not replaced" in again.failed["case-001"]
    assert kept.read_bytes() == before


def test_a_full_disk_ends_the_run_and_room_lets_it_go_on(
    data: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, written = os.replace, []

    def replace(source: Path, target: Path) -> None:
        written.append(target)
        if len(written) > 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(NoSpace, match=r"the disk is full.*then try again"):
        run(data, out)
    monkeypatch.undo()
    assert not list(out.glob(".tmp-*"))
    done = {event["case"] for event in events(out) if event["event"] == "done"}
    assert len(done) <= 2
    assert run(data, out).unchanged == len(done)
    run(data, out.with_name("whole"))
    assert outputs(out) == outputs(out.with_name("whole"))


def test_an_interrupt_finishes_what_is_being_written(data: Path, out: Path) -> None:
    def interrupt(outcome: Outcome, summary: Summary) -> None:
        if summary.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(data, out, SlowEngine(0.05), on_outcome=interrupt)
    assert not list(out.glob(".tmp-*"))
    done = [event["case"] for event in events(out) if event["event"] == "done"]
    whole = {path.name for path in out.glob("*.nii.gz")}
    assert {f"{case}_synth-t1ce.nii.gz" for case in done} == whole, "each was journaled"
    assert 2 <= len(done) < 5
    assert run(data, out).unchanged == len(done)
    assert all(not thread.name.startswith("engine-") for thread in threading.enumerate())


def test_what_a_killed_run_left_is_swept_up(data: Path, out: Path) -> None:
    out.mkdir()
    left = out / ".tmp-4242-0badcafe-case-001_synth-t1ce.nii.gz"
    other = out / ".tmp-mine"
    left.write_text("half")
    other.write_text("mine")
    run(data, out)
    assert not left.exists()
    assert other.exists()


def test_more_cases_may_join_and_some_may_stay_away(data: Path, out: Path) -> None:
    cases = folder_cases(data, prompts=True)
    assert run(cases[:3], out).done == 3
    joined = run(cases, out)
    assert (joined.done, joined.unchanged) == (2, 3)
    assert run(cases[2:4], out).unchanged == 2


def test_a_name_with_another_output_is_another_case(data: Path, out: Path) -> None:
    cases = folder_cases(data, prompts=True)[:1]
    run(cases, out)
    moved = [replace(case, output=f"sub/{case.output}") for case in cases]
    assert run(moved, out).done == 1
    assert (out / "sub" / cases[0].output).is_file()


def test_outputs_do_not_depend_on_when_or_where(data: Path, out: Path) -> None:
    run(data, out)
    run(data, out.with_name("elsewhere"), batch=1, workers=1)
    assert outputs(out) == outputs(out.with_name("elsewhere"))
    shutil.rmtree(out)
    record = json.loads(outputs(out.with_name("elsewhere"))["case-000_synth-t1ce.json"])
    assert not {"time", "seconds", "command"} & set(record)
    assert record["output"] == "case-000_synth-t1ce.nii.gz"


def test_a_series_is_a_case_too(series: Path, out: Path) -> None:
    cases = [CohortCase.named("dicom", Request(images={"t1": series}))]
    assert run(cases, out).done == 1
    assert run(cases, out).unchanged == 1
    files = sorted(path for path in series.iterdir() if path.name.isdigit())
    files[len(files) // 2].unlink()
    assert list(run(cases, out).failed) == ["dicom"]


def test_an_interrupt_just_before_a_case_is_journaled_loses_none(
    data: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = Journal.append, []

    def append(self: Journal, *entries: Mapping[str, Any]) -> None:
        if any(entry["event"] == "done" for entry in entries):
            calls.append(len(entries))
            if len(calls) == 1:
                raise KeyboardInterrupt
        real(self, *entries)

    monkeypatch.setattr(Journal, "append", append)
    with pytest.raises(KeyboardInterrupt):
        run(data, out, SlowEngine(0.05))
    done = [event["case"] for event in events(out) if event["event"] == "done"]
    whole = {path.name for path in out.glob("*.nii.gz")}
    assert done
    assert {f"{case}_synth-t1ce.nii.gz" for case in done} == whole
