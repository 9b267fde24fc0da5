"""A run that is asked to end saves what it has, says so, and goes on from there to the bit."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.train.runs import TO_THE_BIT, assert_equal_runs, new_run
from tlp_runtime.errors import UsageError
from tlp_train.callbacks import read_metrics
from tlp_train.module import SynthesisModule
from tlp_train.runs import Run
from tlp_train.saving import StopWhenAsked
from tlp_train.stopping import StopRequests, TrainingStopped, seconds_of
from tlp_train.trainer import fit

SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR1: 143}

When = Callable[[int, int], bool]


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Whatever a test leaves, the next one begins as Python does."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        assert signal.getsignal(number) is handler
        signal.signal(number, handler)


def _send(patch: pytest.MonkeyPatch, hook: str, when: When, number: int = signal.SIGTERM) -> None:
    """Send this process a real signal at a hook of the training, before what it does there."""
    inner = getattr(StopWhenAsked, hook)

    def on_hook(self: Any, trainer: Any, module: SynthesisModule, *args: Any) -> None:
        if when(module.current_epoch, next((one for one in args if isinstance(one, int)), 0)):
            os.kill(os.getpid(), number)
        inner(self, trainer, module, *args)

    patch.setattr(StopWhenAsked, hook, on_hook)


def _stopped(run: Run, cache: Path, patch: pytest.MonkeyPatch, *how: Any) -> TrainingStopped:
    with patch.context() as inner, pytest.raises(TrainingStopped) as stop:
        _send(inner, *how)
        fit(run, cache, progress=False)
    return stop.value


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_within_an_epoch_saves_and_the_run_goes_on_to_the_bit(
    straight: Run, tmp_path: Path, phantom_dir: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    run = new_run(tmp_path / "run", phantom_dir)
    where = ("on_train_batch_start", lambda epoch, batch: (epoch, batch) == (1, 1), number)
    stop = _stopped(run, tmp_path / "cache", monkeypatch, *where)
    assert (stop.reason.exit_code, stop.saved) == (SIGNALS[signal.Signals(number)], run.last)
    stopped = Run.open(run.folder)
    assert (stopped.status, stopped.ended) == ("interrupted", stop.reason.name)
    assert torch.load(run.last, weights_only=True)["epoch"] == 1
    resumed = fit(stopped, tmp_path / "cache", resume=True, progress=False)
    assert_equal_runs(resumed, straight)
    assert (resumed.status, resumed.ended) == ("finished", "")


@pytest.mark.parametrize(
    "where",
    [
        ("on_train_batch_start", lambda epoch, batch: (epoch, batch) == (1, 2)),
        ("on_train_batch_end", lambda epoch, batch: (epoch, batch) == (1, 2)),
        ("on_validation_batch_start", lambda epoch, batch: (epoch, batch) == (1, 0)),
        ("on_validation_batch_start", lambda epoch, batch: (epoch, batch) == (1, 1)),
        ("on_train_epoch_end", lambda epoch, batch: epoch == 1),
        ("on_train_epoch_start", lambda epoch, batch: epoch == 2),
    ],
    ids=["last batch", "after it", "validation", "within it", "epoch's end", "next epoch"],
)
def test_a_signal_at_any_time_loses_nothing(
    straight: Run,
    tmp_path: Path,
    phantom_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: tuple[str, When],
) -> None:
    run = new_run(tmp_path / "run", phantom_dir)
    stop = _stopped(run, tmp_path / "cache", monkeypatch, *where)
    assert stop.saved == run.last
    state = torch.load(run.last, weights_only=True)
    used = state["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["completed"]
    assert used == 6, "both epochs' batches are in it"
    resumed = fit(Run.open(run.folder), tmp_path / "cache", resume=True, progress=False)
    assert_equal_runs(resumed, straight)


def test_epochs_of_one_batch_can_be_stopped(
    tmp_path: Path, phantom_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run(tmp_path / "run", phantom_dir, slices_per_epoch=2, validation_slices=1)
    stop = _stopped(
        run, tmp_path / "cache", monkeypatch, "on_train_batch_start", lambda e, b: e == 0
    )
    assert stop.saved == run.last
    assert len(read_metrics(run.metrics)) <= 1


@pytest.mark.parametrize("number", SIGNALS)
def test_before_the_first_step_there_is_nothing_to_save(
    tmp_path: Path, phantom_dir: Path, number: int
) -> None:
    run = new_run(tmp_path / "run", phantom_dir)
    before = signal.getsignal(number)
    told: list[str] = []

    def tell_once(name: str) -> None:
        told.append(name)  # cases are read in threads
        if told[0] == name:
            os.kill(os.getpid(), number)

    with pytest.raises(TrainingStopped) as stop:
        fit(run, tmp_path / "cache", progress=False, on_case=tell_once)
    assert stop.value.reason.exit_code == SIGNALS[signal.Signals(number)]
    assert stop.value.saved is None
    assert not run.last.exists()
    assert signal.getsignal(number) is before
    assert Run.open(run.folder).status == "interrupted"


def test_a_second_ctrl_c_stops_at_once(
    tmp_path: Path, phantom_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run(tmp_path / "run", phantom_dir)

    def twice(self: Any, trainer: Any, module: SynthesisModule, *args: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("went on")

    monkeypatch.setattr(StopWhenAsked, "on_train_batch_start", twice)
    with pytest.raises(TrainingStopped) as stop:
        fit(run, tmp_path / "cache", progress=False)
    assert stop.value.reason.exit_code == 130
    assert not run.last.exists()


@pytest.mark.parametrize("training", [True, False])
def test_a_second_sigterm_lets_the_first_one_finish(training: bool) -> None:
    with StopRequests() as requests:
        requests.training = training
        with nullcontext() if training else pytest.raises(TrainingStopped):
            os.kill(os.getpid(), signal.SIGTERM)
        for number in (signal.SIGTERM, signal.SIGUSR1):
            os.kill(os.getpid(), number)
        assert requests.asked is not None
        assert requests.asked.name == "SIGTERM"
        with pytest.raises(TrainingStopped):
            os.kill(os.getpid(), signal.SIGINT)


def test_the_time_limit_saves_and_leaves_the_run_unfinished(
    straight: Run, tmp_path: Path, phantom_dir: Path
) -> None:
    run = new_run(tmp_path / "run", phantom_dir)
    with StopRequests(limit_s=0.001) as requests, pytest.raises(TrainingStopped) as stop:
        time.sleep(0.01)
        fit(run, tmp_path / "cache", requests=requests, progress=False)
    assert (stop.value.reason.exit_code, stop.value.saved) == (0, run.last)
    assert Run.open(run.folder).status == "unfinished"
    resumed = fit(Run.open(run.folder), tmp_path / "cache", resume=True, progress=False)
    assert_equal_runs(resumed, straight)


def test_signals_are_left_alone_outside_of_the_main_thread() -> None:
    found = []

    def enter() -> None:
        with StopRequests() as requests:
            found.append(requests.asked)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [None]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90m", 5400), ("12h", 43200), ("1d6h", 108000), ("1h30m5s", 5405), ("45", 45),
        ("0.5", 0.5), ("36:00:00", 129600), ("1:12:00:00", 129600),
        ("00:00:10", 10), (" 2H ", 7200),
    ],
)  # fmt: skip
def test_durations(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "0", "-5m", "soon", "5 minutes", "1:99:00", "nan", "0h", "1:2"]
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(UsageError, match="not a duration"):
        seconds_of(text)


def test_the_figures_of_an_interrupted_epoch_are_of_all_of_it(
    straight: Run, tmp_path: Path, phantom_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = time.perf_counter()
    run = new_run(tmp_path / "run", phantom_dir)
    where = ("on_train_batch_end", lambda epoch, batch: (epoch, batch) == (1, 1))
    _stopped(run, tmp_path / "cache", monkeypatch, *where)
    before = torch.load(run.last, weights_only=True)["callbacks"]["MetricsCsv"]
    assert 0 < before["steps"] < before["seconds"]
    resumed = fit(Run.open(run.folder), tmp_path / "cache", resume=True, progress=False)
    row, expected = (read_metrics(one.metrics)[1] for one in (resumed, straight))
    assert {name: row[name] for name in TO_THE_BIT} == {name: expected[name] for name in TO_THE_BIT}
    assert before["seconds"] < float(row["seconds"]) < time.perf_counter() - began
    assert before["steps"] < float(row["step_seconds"]) < float(row["seconds"])
    assert 0 <= float(row["data_wait"]) <= 1
