"""Training in several processes, and in parts, is the training of one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tlp_cli.main import main

from tests.assets import split_of, tiny_config
from tests.support import TinyModel
from tlp_runtime.errors import DeviceUnavailable, ModelMissing, UsageError
from tlp_train.callbacks import read_metrics
from tlp_train.checkpoint import load_checkpoint
from tlp_train.judging import JUDGED
from tlp_train.launchers import is_first_process
from tlp_train.processes import RUN_VARIABLE, join_run
from tlp_train.runs import Run
from tlp_train.trainer import fit

ROOT = Path(__file__).resolve().parents[2]

Train = Callable[..., Run]

JUDGED_TOO = {"best": "enhancement", "validation_slices": 3, "decoy_share": 0.5}
"""Figures of slices that only some of the processes see are those of all."""


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory, phantom_dir: Path) -> Train:
    """Trains a tiny run in processes of its own."""
    folder = tmp_path_factory.mktemp("runs")

    def start(name: str, **changes: Any) -> Run:
        subprocess.run(
            [
                sys.executable, "-m", "tests.train.training_process",
                folder / name, phantom_dir, json.dumps({**JUDGED_TOO, **changes}),
            ],
            cwd=ROOT,
            env={**os.environ, "TLP_HOME": str(folder / "home")},
            check=True,
        )  # fmt: skip
        return Run.open(folder / name)

    return start


@pytest.fixture(scope="module")
def alone(train: Train) -> Run:
    """One process with batches of four."""
    return train("alone", batch_size=4)


def _assert_same(run: Run, alone: Run) -> None:
    """The same curves and weights but for rounding."""
    assert run.status == "finished"
    rows, expected = (
        read_metrics(run.folder / "metrics.csv"),
        read_metrics(alone.folder / "metrics.csv"),
    )
    assert len(rows) == 2
    for row, other in zip(rows, expected, strict=True):
        assert row["step"] == other["step"]
        for name in ("train_l1", "train_generator", "train_discriminator", "val_psnr", "val_l1"):
            assert float(row[name]) == pytest.approx(float(other[name]), rel=2e-4)
        for name in JUDGED:
            assert float(row[name]) == pytest.approx(float(other[name]), abs=2e-3)
    ours, theirs = (load_checkpoint(r.last).generator_state for r in (run, alone))
    moved = [float((ours[name] - theirs[name]).abs().max()) for name in theirs]
    # Six steps of at most 1e-3 each: rounding moves a weight by a fraction of one.
    assert max(moved) < 2e-4


def test_two_processes_train_as_one_with_the_doubled_batch(train: Train, alone: Run) -> None:
    run = train("two", batch_size=2, devices=2)
    _assert_same(run, alone)
    assert len(list(run.folder.glob("samples/*.png"))) == 2


def test_a_batch_in_parts_is_the_same_step(train: Train, alone: Run) -> None:
    _assert_same(train("parts", batch_size=4, accumulate=2), alone)


def test_other_batches_train_otherwise(train: Train, alone: Run) -> None:
    """The comparison above can fail."""
    with pytest.raises(AssertionError):
        _assert_same(train("other", batch_size=4, seed=1), alone)


def test_torchrun_trains_one_run(tmp_path: Path, phantom_dir: Path) -> None:
    out = tmp_path / "run"
    words: list[str | Path] = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "--no-python", Path(sys.executable).with_name("tlp"), "train", "--data", phantom_dir,
        "--preset", "demo", "--devices", "2", "--epochs", "1", "--slices-per-epoch", "2",
        "--out", out,
    ]  # fmt: skip
    environment = {**os.environ, "TLP_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("device: 2 x cpu") == 1, "only the first process speaks"
    run = Run.open(out)
    assert (run.status, run.config.devices) == ("finished", 2)
    assert [row["step"] for row in read_metrics(out / "metrics.csv")] == ["1"]


def test_further_processes_find_the_run_or_say_what_is_missing(
    alone: Run,
    tiny: TinyModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    phantom_dir: Path,
) -> None:
    assert RUN_VARIABLE not in os.environ, "training leaves no word of its run behind"
    for variable in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):
        monkeypatch.setenv(variable, "1")
        assert not is_first_process()
        monkeypatch.setenv(variable, "0")
        assert is_first_process()
        monkeypatch.delenv(variable)
    monkeypatch.delenv(RUN_VARIABLE, raising=False)
    with pytest.raises(UsageError, match="must be given one run folder"):
        join_run(None)
    with pytest.raises(ModelMissing):
        join_run(tmp_path / "absent", patience_s=0)
    assert join_run(alone.folder) == alone
    monkeypatch.setenv(RUN_VARIABLE, str(alone.folder))
    assert join_run(None) == alone
    assert join_run(tiny.run.folder) == tiny.run, "what was given wins over what was told"
    monkeypatch.delenv(RUN_VARIABLE)
    monkeypatch.setenv("RANK", "1")
    assert main(["train", "--data", str(phantom_dir), "--preset", "demo"]) == 2


def test_more_gpus_than_there_are(
    tmp_path: Path, phantom_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(devices=3, slices_per_epoch=6)
    run = Run.create(tmp_path / "run", config, phantom_dir, split_of(phantom_dir))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(DeviceUnavailable, match="has 2 GPUs"):
        fit(run, tmp_path / "cache", progress=False)


@pytest.mark.parametrize(
    "changes", [{"batch_size": 4, "accumulate": 3}, {"devices": 0}, {"devices": 3, "nodes": 2}]
)
def test_options_that_do_not_divide_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        tiny_config(**{"slices_per_epoch": 4, **changes})
