"""What can go wrong around a training: one sentence, the right exit code, and nothing lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from tlp_cli.main import main
from torch.utils.data import get_worker_info

from tests.train.runs import assert_equal_runs, new_run
from tlp_runtime.errors import MemoryExhausted, TrainingDiverged, UsageError
from tlp_train.callbacks import read_metrics
from tlp_train.checkpoint import load_checkpoint
from tlp_train.data import SampleId, SliceDataset
from tlp_train.launchers import is_first_process
from tlp_train.module import SynthesisModule
from tlp_train.processes import environment_of
from tlp_train.recipes import PairedGAN
from tlp_train.runs import Run
from tlp_train.trainer import fit

LAUNCHERS = ("RANK", "WORLD_SIZE", "LOCAL_", "GROUP_RANK", "NODE_RANK", "SLURM_", "TORCHELASTIC")


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of a plain shell."""
    for name in list(os.environ):
        if name.startswith(LAUNCHERS):
            monkeypatch.delenv(name)


# Losses that are not finite


def _spoil(patch: pytest.MonkeyPatch, term: str, step: int, value: float = float("nan")) -> None:
    """Give one loss of one step that value."""
    inner = getattr(PairedGAN, f"{term}_loss")
    steps = iter(range(1000))

    def spoilt(self: PairedGAN, *args: Any) -> Any:
        found = inner(self, *args)
        if next(steps) != step:
            return found
        return found * value if term == "discriminator" else (found[0], found[1] * value)

    patch.setattr(PairedGAN, f"{term}_loss", spoilt)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("term", "named"),
    [("generator", "the L1 distance"), ("discriminator", "the discriminator's loss")],
)
def test_the_first_loss_that_is_not_finite_ends_the_run_with_its_name_and_slices(
    straight: Run,
    tmp_path: Path,
    phantom_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    term: str,
    named: str,
    value: float,
) -> None:
    run = new_run(tmp_path / "run", phantom_dir)
    with monkeypatch.context() as patch, pytest.raises(TrainingDiverged) as error:
        _spoil(patch, term, step=4, value=value)  # the second batch of the second epoch
        fit(run, tmp_path / "cache", progress=False)
    assert error.value.exit_code == 4
    said = str(error.value)
    assert f"{named} is not finite in batch 2 (" in said
    assert "of epoch 2" in said
    assert said.count(" slice ") == 2, "a batch of two"
    ended = Run.open(run.folder)
    assert (ended.status, ended.ended) == ("interrupted", "TrainingDiverged")
    assert load_checkpoint(run.last).epoch == 1, "the last good one"
    assert len(read_metrics(run.metrics)) == 1
    resumed = fit(ended, tmp_path / "cache", resume=True, progress=False)
    assert_equal_runs(resumed, straight)


def test_the_slices_that_are_named_are_those_of_the_batch(
    tmp_path: Path, phantom_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run(tmp_path / "run", phantom_dir)
    used: list[str] = []
    inner = SliceDataset.__getitem__

    def noted(self: SliceDataset, sample: SampleId) -> Any:
        case, z = self.locate(sample.position)
        used.append(f"{case.name} slice {case.first_slice + z}")
        return inner(self, sample)

    with monkeypatch.context() as patch, pytest.raises(TrainingDiverged) as error:
        patch.setattr(SliceDataset, "__getitem__", noted)
        _spoil(patch, "generator", step=2)
        fit(run, tmp_path / "cache", progress=False)
    # The samples for the pictures are read first; the last two may be of a batch ahead.
    position = next(i for i in range(len(used)) if ", ".join(used[i : i + 2]) in str(error.value))
    assert position >= 4
    assert not run.last.exists(), "nothing good was there to save"


def test_a_rate_that_is_much_too_high_ends_the_run(tmp_path: Path, phantom_dir: Path) -> None:
    run = new_run(tmp_path / "run", phantom_dir, learning_rate=1e30)
    with pytest.raises(TrainingDiverged, match=r"not finite in .* of epoch"):
        fit(run, tmp_path / "cache", progress=False)
    assert Run.open(run.folder).status == "interrupted"


def test_validation_that_is_not_finite_ends_the_run(
    straight: Run, tmp_path: Path, phantom_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run(tmp_path / "run", phantom_dir)
    inner = SynthesisModule.forward

    def spoilt(self: SynthesisModule, batch: Any) -> torch.Tensor:
        image = inner(self, batch)
        return image * float("nan") if not self.training and self.current_epoch == 1 else image

    with monkeypatch.context() as patch, pytest.raises(TrainingDiverged, match="validation slices"):
        patch.setattr(SynthesisModule, "forward", spoilt)
        fit(run, tmp_path / "cache", progress=False)
    assert load_checkpoint(run.last).epoch == 1
    resumed = fit(Run.open(run.folder), tmp_path / "cache", resume=True, progress=False)
    assert_equal_runs(resumed, straight)


# Processes that load data


def _in_workers(
    patch: pytest.MonkeyPatch, what: Callable[[], None], *, epoch: int, after: int
) -> None:
    """Do something in a process that loads data, when it loads a sample of that epoch."""
    inner = SliceDataset.__getitem__
    count = iter(range(1000))

    def loaded(self: SliceDataset, sample: SampleId) -> Any:
        training = self.fuzzy is not None
        if (
            get_worker_info() is not None
            and training
            and sample.epoch == epoch
            and next(count) >= after
        ):
            what()
        return inner(self, sample)

    patch.setattr(SliceDataset, "__getitem__", loaded)


def test_a_killed_process_that_loads_data_is_said_and_nothing_is_lost(
    straight: Run, tmp_path: Path, phantom_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run(tmp_path / "run", phantom_dir, workers=1)
    with monkeypatch.context() as patch, pytest.raises(MemoryExhausted) as error:
        _in_workers(patch, lambda: os.kill(os.getpid(), signal.SIGKILL), epoch=1, after=5)
        fit(run, tmp_path / "cache", progress=False)
    assert error.value.exit_code == 6
    assert "a process that loads data was killed" in str(error.value)
    assert "Set workers to 0" in str(error.value)
    assert Run.open(run.folder).status == "interrupted"
    resumed = fit(Run.open(run.folder), tmp_path / "cache", resume=True, progress=False)
    assert_equal_runs(resumed, straight)


@pytest.mark.parametrize(
    "text",
    [
        "unable to write to file </torch_123_456_0>: No space left on device (28)",
        "unable to mmap 64 bytes from file </torch_1_2_3>: Cannot allocate memory (12)",
    ],
)
def test_shared_memory_that_is_too_small_is_said(
    tmp_path: Path, phantom_dir: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    def full() -> None:
        raise RuntimeError(text)

    run = new_run(tmp_path / "run", phantom_dir, workers=1)
    _in_workers(monkeypatch, full, epoch=0, after=0)
    with pytest.raises(MemoryExhausted, match=r"the shared memory \(/dev/shm\) is too small"):
        fit(run, tmp_path / "cache", progress=False)


def test_another_error_in_a_process_that_loads_data_is_not_called_a_lack_of_memory(
    tmp_path: Path, phantom_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def odd() -> None:
        raise RuntimeError("odd")

    run = new_run(tmp_path / "run", phantom_dir, workers=1)
    _in_workers(monkeypatch, odd, epoch=0, after=0)
    with pytest.raises(RuntimeError, match="odd"):
        fit(run, tmp_path / "cache", progress=False)


# Environment variables of launchers


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"RANK": "abc"}, "RANK is 'abc'"),
        ({"RANK": "-1"}, "RANK is '-1'"),
        ({"LOCAL_RANK": "1.0"}, "LOCAL_RANK is '1.0'"),
        ({"WORLD_SIZE": "many"}, "WORLD_SIZE is 'many'"),
        ({"SLURM_NTASKS": "4(x2)"}, "SLURM_NTASKS is '4(x2)'"),
        ({"RANK": "3"}, "RANK is 3, but WORLD_SIZE, the number of processes, is not set"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "WORLD_SIZE, the number of processes, is 2"),
        ({"LOCAL_RANK": "1"}, "LOCAL_RANK is 1, but LOCAL_WORLD_SIZE"),
    ],
)
def test_variables_that_no_launcher_sets_are_exit_2(
    tmp_path: Path,
    phantom_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    variables: Mapping[str, str],
    said: str,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    out = tmp_path / "run"
    assert main(["train", "--data", str(phantom_dir), "--out", str(out)]) == 2
    captured = capsys.readouterr()
    assert said in " ".join(captured.err.split())
    assert not out.exists()


@pytest.mark.parametrize(
    ("variables", "first"),
    [
        ({}, True),
        ({"RANK": "", "LOCAL_RANK": ""}, True),
        ({"RANK": "0"}, True),
        ({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}, False),
        ({"LOCAL_RANK": "1", "WORLD_SIZE": "2"}, False),  # one that Lightning started
        ({"SLURM_NTASKS": "4"}, True),
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, True),
        ({"SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3"}, False),
    ],
)
def test_the_first_process(
    monkeypatch: pytest.MonkeyPatch, variables: Mapping[str, str], first: bool
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert is_first_process() is first


@pytest.mark.parametrize(
    "variables",
    [
        {"SLURM_NTASKS": "4", "SLURM_JOB_ID": "7"},  # salloc
        {"SLURM_NTASKS": "4", "SLURM_JOB_ID": "7", "SLURM_PROCID": "0"},  # sbatch
        {
            "SLURM_NTASKS": "4", "SLURM_JOB_ID": "7", "SLURM_PROCID": "0",
            "SLURM_STEP_NUM_TASKS": "1", "SLURM_JOB_NAME": "interactive",
        },  # srun --pty
    ],
)  # fmt: skip
def test_in_a_shell_of_an_allocation_the_training_is_a_plain_one(
    straight: Run,
    tmp_path: Path,
    phantom_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    variables: Mapping[str, str],
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert isinstance(environment_of(2, 1), LightningEnvironment)
    run = fit(new_run(tmp_path / "run", phantom_dir), tmp_path / "cache", progress=False)
    assert_equal_runs(run, straight)


def test_processes_that_srun_started_must_be_those_of_the_options(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in {
        "SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "0",
        "SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "train",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    assert isinstance(environment_of(2, 2), SLURMEnvironment)
    with pytest.raises(UsageError, match="srun started 4 processes, but 1 devices on 1 machines"):
        environment_of(1, 1)


def test_lightning_is_not_reached_where_a_variable_is_no_number(tmp_path: Path) -> None:
    """It reads RANK as it is imported."""
    result = subprocess.run(
        [sys.executable, "-c", "from tlp_cli.main import run; run()", "train", "--out", "run"],
        cwd=tmp_path,
        env={**os.environ, "RANK": "abc", "TLP_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2, result.stderr
    assert "RANK is 'abc'" in result.stderr
    assert "Traceback" not in result.stderr
