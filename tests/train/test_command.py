"""`tlp train` as a command: its exit codes, what it says, and the command it says to go on with."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from tlp_cli.main import main

from tests.train.runs import assert_equal_runs, new_run
from tlp_train import loaders
from tlp_train.runs import Run
from tlp_train.saving import StopWhenAsked


@pytest.fixture
def run(tmp_path: Path, phantom_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A tiny run that is not trained yet."""
    monkeypatch.setenv("TLP_HOME", str(tmp_path / "home"))
    return new_run(tmp_path / "run", phantom_dir)


def _resume(run: Run, *more: str) -> int:
    code: int = main(["train", "--resume", str(run.folder), *more])
    return code


@pytest.mark.parametrize(
    ("number", "code", "name"),
    [
        (signal.SIGINT, 130, "Ctrl-C"),
        (signal.SIGTERM, 143, "SIGTERM"),
        (signal.SIGUSR1, 143, "SIGUSR1"),
    ],
)
def test_a_signal_saves_says_so_and_the_command_it_names_goes_on(
    straight: Run,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: int,
    code: int,
    name: str,
) -> None:
    inner = StopWhenAsked.on_train_batch_start

    def told(self: Any, trainer: Any, module: Any, *args: Any) -> None:
        if (module.current_epoch, args[-1]) == (1, 1):
            os.kill(os.getpid(), number)
        inner(self, trainer, module, *args)

    with monkeypatch.context() as patch:
        patch.setattr(StopWhenAsked, "on_train_batch_start", told)
        assert _resume(run) == code
    said = capsys.readouterr().err.replace("\n", " ")
    assert f"stopped by {name}; the state is saved in {run.last}" in said
    assert f"next: tlp train --resume {run.folder}" in said
    assert "Traceback" not in said
    assert _resume(run) == 0
    assert_equal_runs(Run.open(run.folder), straight)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_before_the_first_step_is_no_failure(
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: int,
    code: int,
) -> None:
    def told(*args: Any) -> None:
        os.kill(os.getpid(), number)

    monkeypatch.setattr(loaders, "open_cases", told)
    assert _resume(run) == code
    said = capsys.readouterr().err
    assert "nothing was trained yet" in said
    assert "Traceback" not in said
    assert Run.open(run.folder).status == "interrupted"


def test_the_time_limit_saves_and_exits_0(
    straight: Run, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    limits = 0
    while Run.open(run.folder).status != "finished" and limits < 20:
        assert _resume(run, "--max-time", "0.001") == 0
        limits += 1
        assert Run.open(run.folder).status in ("unfinished", "finished")
    said = capsys.readouterr().err.replace("\n", " ")
    assert "stopped by the time limit; the state is saved in" in said
    assert limits == 13, "a step each time, and the last validation"
    assert_equal_runs(Run.open(run.folder), straight)


def test_a_time_limit_that_is_none_is_exit_2(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert _resume(run, "--max-time", "soon") == 2
    assert "'soon' is not a duration" in capsys.readouterr().err


def test_changes_on_resume_are_said_and_others_refused(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _resume(run, "--seed", "3", "--inputs", "t2") == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "seed (0, given 3)" in said
    assert "inputs (t1, given t2)" in said
    assert _resume(run, "--max-time", "0.001") == 0
    assert _resume(run, "--workers", "0", "--epochs", "4", "--max-time", "0.001") == 0
    said = capsys.readouterr().err
    assert "workers: None -> 0" in said
    assert "epochs:" not in said, "as many as before"
