"""Files and engines side by side: what comes out is what one case at a time would give."""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.cohorts import FailingEngine, SlowEngine, outputs, run, write_cases
from tests.fakes.engine import FakeEngine
from tests.scans import SMALL
from tlp_runtime import Synthesis, Synthesizer
from tlp_runtime.cohort.cases import CohortCase, folder_cases
from tlp_runtime.cohort.job import Job, Outcome
from tlp_runtime.cohort.pipeline import Pipeline, Span
from tlp_runtime.cohort.run import run_cohort
from tlp_runtime.engines.base import Slices
from tlp_runtime.errors import EngineError, InputError, MemoryExhausted
from tlp_runtime.io.nifti import read_volume
from tlp_runtime.synthesis.request import Request
from tlp_runtime.warnings import BRAIN_TOO_SMALL, ENGINE_LOST, WarningLog


def asked(case: CohortCase) -> Request:
    assert case.asked is not None
    return case.asked


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cases(tmp_path_factory.mktemp("cohort") / "däta", 7)


def test_outputs_are_those_of_one_case_at_a_time(data: Path, tmp_path: Path) -> None:
    assert run(data, tmp_path / "out").done == 7
    with Synthesizer(FakeEngine(SMALL)) as synthesizer:
        for case in folder_cases(data, prompts=True):
            alone = synthesizer.synthesize(synthesizer.prepare(asked(case))).volume
            out = read_volume(tmp_path / "out" / case.output)
            np.testing.assert_array_equal(out.data, alone.data)
            np.testing.assert_array_equal(out.affine, alone.affine)


def test_cases_share_batches(data: Path, tmp_path: Path) -> None:
    engine = SlowEngine(0.01)
    run(data, tmp_path / "out", engine, batch=8)
    assert sum(engine.batches) == sum(6 + n % 3 - 1 for n in range(7))
    assert engine.batches.count(8) >= 3, "cases have 5 to 7 slices each"


def test_every_slice_is_run_when_asked(data: Path, tmp_path: Path) -> None:
    engines = [FakeEngine(SMALL), FakeEngine(SMALL)]
    run(data, tmp_path / "brain", engines[0])
    run(data, tmp_path / "all", engines[1], all_slices=True)
    assert sum(engines[1].batches) == sum(engines[0].batches) + 7
    name = "case-000_synth-t1ce.nii.gz"
    brain, whole = (read_volume(tmp_path / place / name).data for place in ("brain", "all"))
    np.testing.assert_array_equal(brain[:, :, 1:], whole[:, :, 1:])
    assert not brain[:, :, 0].any()
    assert whole[8:72, 8:88, 0].min() == 0.25, "this network's answer to an empty slice"


def test_a_broken_case_has_its_reason_and_the_others_go_on(data: Path, tmp_path: Path) -> None:
    cases = folder_cases(data, prompts=True)
    torn = tmp_path / "torn.nii.gz"
    t1 = Path(str(asked(cases[1]).images["t1"]))
    torn.write_bytes(t1.read_bytes()[:-50])
    cases[1] = replace(cases[1], request=Request(images={"t1": torn}))
    cases[4] = replace(cases[4], request=InputError("case-004: its folder is empty."))
    cases[5] = replace(cases[5], request=Request(images={"t2": t1}))
    summary = run(cases, tmp_path / "out")
    assert "damaged or cut short" in summary.failed.pop("case-001")
    assert summary.failed.pop("case-004") == "case-004: its folder is empty."
    assert "it has no t1, which the model needs" in summary.failed.pop("case-005")
    assert summary.failed == {}
    assert summary.done == 4


def test_warnings_of_a_case_are_kept_with_it(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outcomes, heard = {}, WarningLog()
    summary = run(
        data,
        tmp_path / "out",
        warn=heard.add,
        on_outcome=lambda one, _: outcomes.update({one.case: one}),
    )
    assert summary.warned == 7
    for name, outcome in outcomes.items():
        assert BRAIN_TOO_SMALL in [warning.code for warning in outcome.warnings]
        assert all(name in warning.text for warning in outcome.warnings)
        record = json.loads((tmp_path / "out" / f"{name}_synth-t1ce.json").read_text())
        assert record["warnings"] == [warning.to_dict() for warning in outcome.warnings]
    assert not len(heard), "a thousand cases must not fill the console"
    assert caplog.text == ""


def test_a_strict_run_fails_cases_with_warnings_about_their_scan(
    data: Path, tmp_path: Path
) -> None:
    engine = SlowEngine()
    outcomes: dict[str, Outcome] = {}
    summary = run(
        data,
        tmp_path / "out",
        engine,
        strict=True,
        on_outcome=lambda one, _: outcomes.update({one.case: one}),
    )
    assert len(summary.failed) == 7
    assert not engine.batches, "no case with a doubt reaches the engine"
    for outcome in outcomes.values():
        assert outcome.error == "InputDoubtful"
        assert BRAIN_TOO_SMALL in [warning.code for warning in outcome.warnings]


def test_a_strict_run_does_not_accept_doubtful_outputs_of_an_earlier_one(
    data: Path, tmp_path: Path
) -> None:
    assert run(data, tmp_path / "out").done == 7
    assert run(data, tmp_path / "out").unchanged == 7
    assert len(run(data, tmp_path / "out", strict=True).failed) == 7


def test_several_engines_share_the_cases_and_give_the_same(data: Path, tmp_path: Path) -> None:
    run(data, tmp_path / "one", SlowEngine())
    engines = [SlowEngine(0.005, number) for number in range(3)]
    workers = set()
    run(data, tmp_path / "three", *engines, on_outcome=lambda one, _: workers.add(one.worker))
    assert all(engine.batches for engine in engines)
    assert workers == {"cuda:0", "cuda:1", "cuda:2"}
    assert outputs(tmp_path / "three") == outputs(tmp_path / "one")


@pytest.mark.parametrize("good", [0, 1, 3])
def test_an_engine_that_fails_leaves_its_cases_to_the_others(
    data: Path, tmp_path: Path, good: int
) -> None:
    run(data, tmp_path / "one", SlowEngine())
    engines, heard = [FailingEngine(good, 0), SlowEngine(0.01, 1)], WarningLog()
    assert run(data, tmp_path / "two", *engines, warn=heard.add).done == 7
    assert outputs(tmp_path / "two") == outputs(tmp_path / "one")
    (warning,) = heard
    assert warning.code is ENGINE_LOST
    assert warning.text.startswith("fake on cuda:0 failed and is given up; 1 go on")
    lines = (tmp_path / "two" / "journal.jsonl").read_text().splitlines()
    (journaled,) = [one for one in map(json.loads, lines) if one["event"] == "warning"]
    assert journaled["code"] == "engine-lost"


def test_without_engines_the_run_ends_and_what_was_done_stays(data: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="fell off the bus"):
        run(data, tmp_path / "out", FailingEngine(4))
    kept = outputs(tmp_path / "out")
    assert 0 < len(kept) < 14
    again = run(data, tmp_path / "out", SlowEngine())
    assert again.unchanged == len(kept) / 2
    run(data, tmp_path / "one", SlowEngine())
    assert outputs(tmp_path / "out") == outputs(tmp_path / "one")


def test_an_engine_s_unexpected_error_is_not_a_case_s(data: Path, tmp_path: Path) -> None:
    class Bug(FakeEngine):
        def _run(self, tensors: Mapping[str, Slices]) -> Slices:
            raise ZeroDivisionError("a bug")

    with pytest.raises(EngineError, match="unexpected ZeroDivisionError"):
        run(data, tmp_path / "out", Bug(SMALL))


def test_a_case_s_unexpected_error_is_its_own(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object, **options: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(Synthesis, "of", broken)
    summary = run(data, tmp_path / "out")
    assert summary.failed["case-003"] == "unexpected: ZeroDivisionError('a bug')"
    assert len(summary.failed) == 7


def test_no_more_cases_are_under_way_than_there_is_room_for(data: Path, tmp_path: Path) -> None:
    under_way: list[int] = []

    class Counting(Pipeline):
        now = 0

        def submit(self, job: Job) -> Future[Outcome]:
            self.now += 1
            under_way.append(self.now)
            outcome = super().submit(job)
            outcome.add_done_callback(lambda _: setattr(self, "now", self.now - 1))
            return outcome

    with Counting([SlowEngine(0.05)], batch=4, workers=1) as pipeline:
        assert pipeline.room == 4
        cases = folder_cases(data, prompts=True)
        run_cohort(cases, tmp_path / "out", pipeline, about={})
    assert len(under_way) == 7
    assert max(under_way) == 4


def test_a_batch_that_is_halved_midway_loses_no_case(data: Path, tmp_path: Path) -> None:
    class Small(SlowEngine):
        def _run(self, tensors: Mapping[str, Slices]) -> Slices:
            if len(tensors["t1"]) > 5:
                raise MemoryExhausted("fake: too many.")
            return super()._run(tensors)

    run(data, tmp_path / "whole", SlowEngine())
    outcomes: list[Outcome] = []
    summary = run(
        data, tmp_path / "halved", Small(), batch=16, on_outcome=lambda one, _: outcomes.append(one)
    )
    assert summary.done == 7
    halved, whole = outputs(tmp_path / "halved"), outputs(tmp_path / "whole")
    for name in whole:  # the records of some cases say that batches were halved
        assert name.endswith(".json") or halved[name] == whole[name]
    warnings = [warning for outcome in outcomes for warning in outcome.warnings]
    halvings = {warning for warning in map(str, warnings) if "Going on with batches of" in warning}
    assert len(halvings) == 2


def test_a_few_cases_are_not_kept_waiting_for_a_full_batch(data: Path, tmp_path: Path) -> None:
    (case, *_) = folder_cases(data, prompts=True)
    with Pipeline([SlowEngine()], batch=64, workers=1) as pipeline:
        for number in range(3):
            job = Job(case, tmp_path / str(number))
            assert pipeline.submit(job).result(timeout=60).status == "done"


def test_spans_tell_what_every_thread_did(data: Path, tmp_path: Path) -> None:
    spans: list[Span] = []
    with Pipeline([SlowEngine(0.02)], batch=4, workers=2, on_span=spans.append) as pipeline:
        for case in folder_cases(data, prompts=True):
            pipeline.submit(Job(case, tmp_path))
    stages = [span.stage for span in spans]
    assert {stage: stages.count(stage) for stage in ("read", "prepare", "write")} == {
        "read": 7, "prepare": 7, "write": 7,
    }  # fmt: skip
    computed = [span for span in spans if span.stage == "engine"]
    assert all(0.015 < span.ended - span.began < 1 for span in computed)
    overlapping = [
        other
        for span in computed
        for other in spans
        if other.stage == "prepare" and other.began < span.ended and span.began < other.ended
    ]
    assert overlapping, "cases are prepared while the engine runs"
