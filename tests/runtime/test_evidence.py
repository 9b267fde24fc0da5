"""What a prompt made of an image: measured, written, and reported wherever a case is run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest

from tests.cohorts import run as run_cases
from tests.cohorts import write_cases
from tests.derived import require_valid
from tests.fakes.engine import FakeEngine
from tests.readers import opened
from tests.scans import SMALL, run, scan
from tests.servers import saved
from tlp_runtime import Synthesizer, Volume
from tlp_runtime.engines.base import Slices
from tlp_runtime.errors import EngineError, OutputError, Unfinished
from tlp_runtime.io.dicom.seg import read_segmentation
from tlp_runtime.io.nifti import read_volume
from tlp_runtime.synthesis.evidence import DRAWN, evidence_path
from tlp_runtime.synthesis.provenance import read_record
from tlp_runtime.synthesis.request import Prompt, Request
from tlp_runtime.synthesis.result import Synthesis
from tlp_runtime.values.shapes import Sphere

BALL = Prompt(shapes=(Sphere((0.0, 5.0, 0.0, 9.0)),))


def synthesis(t1: Volume, prompt: Prompt = BALL, engine: FakeEngine | None = None) -> Synthesis:
    request = Request(images={"t1": t1}, prompt=prompt, evidence=True)
    with Synthesizer(engine or FakeEngine(SMALL)) as synthesizer:
        return synthesizer.run(request)


@pytest.mark.parametrize(
    "t1",
    [scan(), scan(orientation="AIR"), scan(spacing=(0.9, 1.1, 1.6), degrees=12)],
    ids=["own grid", "other axes", "interpolated"],
)
def test_the_map_is_the_difference_of_two_syntheses_as_a_share_of_brain(t1: Volume) -> None:
    found = synthesis(t1)
    assert found.evidence is not None
    plain, prompted = run(t1), run(t1, prompt=BALL)
    np.testing.assert_array_equal(found.volume.data, prompted.data)
    brain = t1.data != 0
    level = np.median(plain.data[brain])
    expected = np.where(brain, (prompted.data - plain.data) / level, 0)
    change = found.evidence.change
    np.testing.assert_allclose(change.data, expected, atol=1e-6)
    np.testing.assert_array_equal(change.affine, t1.affine)
    record = found.record.evidence
    assert record == found.evidence.record
    assert record is not None
    drawn = (expected > DRAWN).sum() * t1.grid.voxel_ml
    assert record.drawn_ml == pytest.approx(drawn, rel=1e-3)
    ball = 4 / 3 * np.pi * 0.9**3
    assert record.drawn_ml == pytest.approx(ball, rel=0.1), "the engine draws the prompt itself"


def test_only_what_the_prompt_touches_is_run_twice() -> None:
    engine = FakeEngine(SMALL)
    found = synthesis(scan(), engine=engine)
    touched = found.prepared.tensors["prompt"].any(axis=(1, 2)).sum()
    assert touched < found.slices_run / 2
    assert sum(engine.batches) == found.slices_run + touched
    engine = FakeEngine(SMALL)
    with Synthesizer(engine) as synthesizer:
        plain = synthesizer.run(Request(images={"t1": scan()}, prompt=BALL))
    assert (sum(engine.batches), plain.evidence, plain.record.evidence) == (
        plain.slices_run, None, None,
    )  # fmt: skip


def test_without_a_prompt_nothing_is_drawn() -> None:
    found = synthesis(scan(), Prompt())
    assert found.evidence is not None
    assert found.evidence.record.drawn_ml == 0
    assert not found.evidence.change.data.any()


class Black(FakeEngine):
    """Answers the lowest value."""

    def _run(self, tensors: Mapping[str, Slices]) -> Slices:
        return np.full_like(super()._run(tensors), -1)


def test_nothing_is_held_against_a_black_image() -> None:
    with pytest.raises(EngineError, match="black"):
        synthesis(scan(), engine=Black(SMALL))


def test_the_map_lies_beside_the_output_and_the_record_has_its_figures(tmp_path: Path) -> None:
    found = synthesis(scan())
    assert found.evidence is not None
    out = tmp_path / "out.nii.gz"
    record = found.save(out)
    kept = read_volume(tmp_path / "out_evidence.nii.gz")
    np.testing.assert_array_equal(kept.data, found.evidence.change.data)
    assert kept.header is not None
    assert b"not for diagnosis" in bytes(kept.header["descrip"])
    assert record["evidence"] == {
        "threshold": DRAWN,
        "drawn_ml": found.evidence.record.drawn_ml,
        "brain_level": found.evidence.record.brain_level,
    }
    assert read_record(tmp_path / "out.json") == found.record
    out.unlink()
    (tmp_path / "out.json").unlink()
    with pytest.raises(OutputError, match="out_evidence"):
        found.save(out)
    assert not out.exists(), "refused before anything is written"


def test_a_record_before_evidence_is_read(tmp_path: Path) -> None:
    with Synthesizer(FakeEngine(SMALL)) as synthesizer:
        synthesizer.run(Request(images={"t1": scan()})).save(tmp_path / "out.nii.gz")
    assert "evidence" not in json.loads((tmp_path / "out.json").read_text())
    assert read_record(tmp_path / "out.json").evidence is None


@pytest.mark.parametrize("prompt", [BALL, Prompt()], ids=["drawn", "nothing drawn"])
def test_a_dicom_output_has_a_segmentation_of_what_is_drawn(
    series: Path, tmp_path: Path, prompt: Prompt
) -> None:
    request = Request(images={"t1": series}, prompt=prompt, evidence=True)
    with Synthesizer(FakeEngine(SMALL)) as synthesizer:
        found = synthesizer.run(request)
    folder = tmp_path / "made"
    found.save_series(folder)
    path = tmp_path / "made_evidence.dcm"
    assert evidence_path(folder) == path
    require_valid(path)
    image = pydicom.dcmread(path)
    one = pydicom.dcmread(sorted(folder.iterdir())[0])
    assert (image.Modality, image.StudyInstanceUID) == ("SEG", one.StudyInstanceUID)
    assert image.ReferencedSeriesSequence[0].SeriesInstanceUID == one.SeriesInstanceUID
    assert "SYNTHETIC" in image.SeriesDescription
    grid = found.prepared.reference.grid
    read = read_segmentation(path, SMALL.prompt, grid, by_number=False)
    assert found.evidence is not None
    np.testing.assert_array_equal(read.data != 0, found.evidence.drawn)
    assert found.evidence.drawn.any() == bool(prompt)
    with pytest.raises(OutputError):
        found.save_series(folder)


def test_the_journal_has_the_figure_and_a_lost_map_is_made_again(tmp_path: Path) -> None:
    data, out = write_cases(tmp_path / "data", 2), tmp_path / "out"
    assert run_cases(data, out, evidence=True).done == 2
    lines = [json.loads(line) for line in (out / "journal.jsonl").read_text().splitlines()]
    found = {line["case"]: line["drawn_ml"] for line in lines if line["event"] == "done"}
    for name, drawn_ml in found.items():
        record = json.loads((out / f"{name}_synth-t1ce.json").read_text())
        assert record["evidence"]["drawn_ml"] == drawn_ml > 0
    assert run_cases(data, out, evidence=True).unchanged == 2
    (out / "case-001_synth-t1ce_evidence.nii.gz").unlink()
    again = run_cases(data, out, evidence=True)
    assert (again.done, again.unchanged) == (1, 1)
    assert run_cases(data, out).done == 2, "without a map it is another output"


def test_a_map_that_nobody_knows_is_not_written_over(tmp_path: Path) -> None:
    data, out = write_cases(tmp_path / "data", 1), tmp_path / "out"
    out.mkdir()
    (out / "case-000_synth-t1ce_evidence.nii.gz").write_bytes(b"somebody's")
    with pytest.raises(OutputError, match="evidence"):
        run_cases(data, out, evidence=True)
    assert run_cases(data, out).done == 1


def test_a_session_measures_what_tlp_infer_does(tmp_path: Path) -> None:
    t1 = scan()
    with opened({"t1": t1}, FakeEngine(SMALL)) as reader:
        with pytest.raises(Unfinished):
            reader.case.evidence()
        reader.case.go_on()
        reader.settle()
        assert reader.case.evidence().record.drawn_ml == 0
        labels = np.zeros(t1.shape, np.uint8)
        labels[30:40, 35:45, 40:44] = 1
        reader.case.replace_mask(replace(t1, data=labels))
        reader.settle()
        found = reader.case.evidence()
    roi = saved(replace(t1, data=labels), tmp_path / "roi.nii.gz")
    alone = synthesis(t1, Prompt(roi)).evidence
    assert alone is not None
    assert found.record == alone.record
    np.testing.assert_array_equal(found.change.data, alone.change.data)
