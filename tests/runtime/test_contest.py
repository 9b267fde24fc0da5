"""Contenders in processes of their own: they take turns, and what fails is out and says why."""

from __future__ import annotations

import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from tlp_runtime.bench import load as module
from tlp_runtime.bench.contest import ContenderFailed, Process, compete
from tlp_runtime.bench.load import LoadMeter
from tlp_runtime.errors import EngineError


class Runner:
    """Writes down its turns, and fails as it is told to."""

    def __init__(self, name: str, log: Path, fails: str = "") -> None:
        self.name, self.log, self.fails = name, log, fails
        if fails == "opening":
            raise EngineError("the engine is not there", fix="Build it.")
        os.write(1, b"this must not reach standard output")

    def turn(self) -> int:
        with self.log.open("a") as file:
            file.write(self.name)
        if self.fails == "turn":
            raise ValueError("no good\nat all")
        if self.fails == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fails == "hangs":
            time.sleep(60)
        return os.getpid()

    def variable(self) -> str | None:
        return os.environ.get("TLP_TEST_VARIABLE")

    def work(self, seconds: float) -> None:
        ends = time.process_time() + seconds
        while time.process_time() < ends:
            pass


def test_everybody_has_a_process_and_its_turn(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log"
    pids: set[int] = set()

    def turn(process: Process) -> tuple[float, float]:
        pid, cpu_s = process.timed_call("turn")
        pids.add(pid)
        return {"a": 4.0, "b": 2.0, "c": 1.0}[process.name], cpu_s

    opened = [Process(name, partial(Runner, name, log)) for name in "abc"]
    found = compete(opened, 4, turn)
    for process in opened:
        process.close()
    assert log.read_text() == "abc" + "bca" + "cab" + "abc", "who begins changes"
    assert len(pids) == 3
    assert os.getpid() not in pids
    assert found.median("b") == 2
    assert found.faster("c", "a") == 4
    assert found.faster("c", "none such") is None
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    ("fails", "said"),
    [
        ("turn", "ValueError: no good"),
        ("killed", "its process was ended by SIGKILL"),
        ("hangs", "ended after 15 s"),
    ],
)
def test_what_fails_is_out_and_the_others_go_on(tmp_path: Path, fails: str, said: str) -> None:
    log = tmp_path / "log"
    limit = 15 if fails == "hangs" else None
    with (
        Process("bad", partial(Runner, "x", log, fails), limit_s=limit) as bad,
        Process("good", partial(Runner, "g", log)) as good,
    ):
        found = compete([bad, good], 3, lambda one: (1.0, one.timed_call("turn")[1]))
    assert found.failed == {"bad": said}
    assert found.seconds == {"good": [1.0, 1.0, 1.0]}
    assert log.read_text() == "xggg"


def test_what_cannot_be_opened_says_why_with_its_fix(tmp_path: Path) -> None:
    with pytest.raises(ContenderFailed, match=r"^the engine is not there\. Build it\.$"):
        Process("bad", partial(Runner, "x", tmp_path / "log", "opening"))


def test_variables_are_set_in_its_process_alone(tmp_path: Path) -> None:
    before = dict(os.environ)
    opening = partial(Runner, "a", tmp_path / "log")
    with Process("a", opening, environment={"TLP_TEST_VARIABLE": "1"}) as process:
        assert process.call("variable") == "1"
    assert dict(os.environ) == before


def test_processor_time_of_a_turn_is_its_own(tmp_path: Path) -> None:
    with Process("a", partial(Runner, "a", tmp_path / "log")) as process:
        _, cpu_s = process.timed_call("work", 0.2)
    assert 0.1 < cpu_s < 5  # counted in hundredths, at either end


@pytest.mark.parametrize(
    ("second", "own_s", "busy", "said"),
    [
        ("cpu 1100 0 0 1900 0 0 0 0 0 0", 1.0, False, "quiet machine (0% of"),
        ("cpu 1220 0 0 1780 0 0 0 0 0 0", 1.0, True, "BUSY MACHINE: 6% of"),
        ("cpu 1100 0 0 1000 0 0 0 900 0 0", 1.0, True, "45% to other machines"),
    ],
)
def test_a_busy_machine_is_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    second: str,
    own_s: float,
    busy: bool,
    said: str,
) -> None:
    stat = tmp_path / "stat"
    monkeypatch.setattr(module, "_STAT", stat)
    monkeypatch.setattr(os, "sysconf", lambda name: 100)
    stat.write_text("cpu 1000 0 0 0 0 0 0 0 0 0\ncpu0 1 2 3\n")
    meter = LoadMeter()
    meter.start()
    stat.write_text(f"{second}\n")
    meter.stop(own_s)
    found = meter.load()
    assert found is not None
    assert found.busy == busy
    assert said in str(found)


def test_a_system_that_does_not_tell_is_not_called_quiet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_STAT", tmp_path / "none")
    meter = LoadMeter()
    meter.start()
    meter.stop(1.0)
    assert meter.load() is None
