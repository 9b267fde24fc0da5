"""Files of a run: whole or absent, and never written by two processes at once."""

from __future__ import annotations

import errno
import json
import resource
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from tlp_cli.main import main

from tests.support import TinyModel
from tests.train.runs import assert_equal_runs, killed_before, new_run
from tlp_runtime.errors import (
    ModelDamaged,
    ModelError,
    NoSpace,
    OutputError,
    SpecError,
)
from tlp_train.callbacks import COLUMNS, read_metrics
from tlp_train.checkpoint import load_checkpoint
from tlp_train.runs import Run
from tlp_train.safe_files import load_safely, save_whole
from tlp_train.saving import WholeFiles
from tlp_train.trainer import fit


@pytest.fixture
def limited() -> Any:
    """No file of this process may grow beyond 64 KiB, as on a disk that is full."""
    import signal

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, limited: None
) -> None:
    path = tmp_path / "last.ckpt"
    WholeFiles().save_checkpoint({"a": torch.arange(10)}, path)
    before = path.read_bytes()
    with pytest.raises(OutputError, match=r"last\.ckpt: cannot be written"):
        WholeFiles().save_checkpoint({"a": torch.randn(100_000)}, path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_full_disk_is_said_as_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Any, content: Any) -> int:
        self.failure = OSError(errno.ENOSPC, "No space left on device")
        raise self.failure

    path = tmp_path / "best.ckpt"
    save_whole(path, {"a": 1})
    with monkeypatch.context() as patch:
        patch.setattr("tlp_train.safe_files._Target.write", full)
        with pytest.raises(NoSpace, match=r"best\.ckpt.*the disk is full. Nothing was damaged"):
            save_whole(path, {"a": torch.randn(1000)})
    assert load_safely(path) == {"a": 1}


def test_nothing_of_a_checkpoint_goes_by_way_of_the_temporary_folder(
    tmp_path: Path, phantom_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run(tmp_path / "run", phantom_dir, epochs=1, constant_epochs=1)
    forbidden = tmp_path / "no-such-folder"
    monkeypatch.setenv("TMPDIR", str(forbidden))
    monkeypatch.setattr("tempfile.tempdir", str(forbidden))
    fit(run, tmp_path / "cache", progress=False)
    assert {"last.ckpt", "best.ckpt"} <= {path.name for path in run.folder.iterdir()}
    assert not (run.folder / "hparams.yaml").exists()


def test_a_run_in_another_place_keeps_its_best(
    straight: Run, tmp_path: Path, phantom_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best epoch of a copied run stays best, unless a later one is better."""
    run = new_run(tmp_path / "run", phantom_dir)

    killed_before(3, run, tmp_path / "cache", monkeypatch)
    moved = tmp_path / "elsewhere"
    shutil.move(run.folder, moved)
    state = torch.load(moved / "last.ckpt", weights_only=True)
    state["callbacks"]["KeepCheckpoints"]["best"] = 99.0
    torch.save(state, moved / "last.ckpt")
    before = (moved / "best.ckpt").read_bytes()
    resumed = fit(Run.open(moved), tmp_path / "cache", resume=True, progress=False)
    assert (moved / "best.ckpt").read_bytes() == before
    assert len(read_metrics(resumed.metrics)) == 4


def test_a_run_of_the_first_version_goes_on(
    straight: Run, tmp_path: Path, phantom_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No schemas, random numbers in the record, the best score in Lightning's own state."""
    run = new_run(tmp_path / "run", phantom_dir)

    killed_before(2, run, tmp_path / "cache", monkeypatch)
    state = torch.load(run.last, weights_only=True)
    config = {k: v for k, v in state["tlp"]["config"].items() if k != "schema"}
    state["tlp"] = {
        "spec": state["tlp"]["spec"],
        "config": config,
        "rng": state["tlp_state"]["rng"],
    }
    del state["tlp_state"], state["callbacks"]["KeepCheckpoints"], state["callbacks"]["MetricsCsv"]
    torch.save(state, run.last)
    record = json.loads((run.folder / "run.json").read_text())
    first = {name: record[name] for name in ("status", "updated", "data", "versions")}
    (run.folder / "run.json").write_text(json.dumps({**first, "config": config}))
    assert load_checkpoint(run.last).epoch == 2
    resumed = fit(Run.open(run.folder), tmp_path / "cache", resume=True, progress=False)
    assert_equal_runs(resumed, straight)


def test_one_process_trains_a_run_at_a_time(tmp_path: Path, phantom_dir: Path) -> None:
    run = new_run(tmp_path / "run", phantom_dir)
    with FileLock(run.folder / ".lock"):
        with pytest.raises(OutputError, match="another process is training this run"):
            fit(run, tmp_path / "cache", progress=False)
        with pytest.raises(OutputError, match="another process is training this run"):
            new_run(run.folder, phantom_dir)
    assert Run.open(run.folder).status == "running"


def test_a_run_that_failed_at_its_data_check_starts_again_with_the_same_command(
    tmp_path: Path, phantom_dir: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(phantom_dir, data)
    damaged = next(iter(sorted(data.iterdir())))
    t1 = damaged / f"{damaged.name}_t1.nii.gz"
    whole = t1.read_bytes()
    t1.write_bytes(b"damaged")
    command = [
        "train", "--data", str(data), "--preset", "demo", "--epochs", "1", "--slices-per-epoch",
        "1", "--out", str(tmp_path / "run"), "--quiet", "--precision", "32-true",
    ]  # fmt: skip
    assert main(command) == 3
    assert Run.open(tmp_path / "run").status == "interrupted"
    t1.write_bytes(whole)
    assert main(command) == 0
    assert Run.open(tmp_path / "run").status == "finished"
    assert main(command) == 9, "a run that was trained is not replaced"


def test_what_is_not_a_run_s_own_is_never_removed(tmp_path: Path, phantom_dir: Path) -> None:
    run = new_run(tmp_path / "run", phantom_dir)
    (run.folder / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="not an empty folder"):
        new_run(run.folder, phantom_dir)
    assert (run.folder / "notes.txt").read_text() == "mine"


def test_a_metrics_file_that_was_cut_short_has_its_whole_rows(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    rows = [",".join(["0", *["1"] * (len(COLUMNS) - 1)]), ",".join(["1", *["2.5"] * 10])]
    text = "\n".join([",".join(COLUMNS), *rows]) + "\n"
    path.write_text(text)
    assert [row["epoch"] for row in read_metrics(path)] == ["0", "1"]
    for cut in range(1, len(rows[1]) + 1):
        path.write_text(text[:-cut])
        assert [row["epoch"] for row in read_metrics(path)] == ["0"]
    path.write_bytes(b"\xff\x00")
    assert read_metrics(path) == []


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        ("", ModelDamaged, "cannot be read"),
        ("[]", ModelDamaged, "expected an object"),
        ("{}", ModelDamaged, "missing keys"),
        (None, SpecError, "unknown keys colour"),
    ],
)
def test_a_damaged_record_of_a_run_is_refused(
    tiny: TinyModel, tmp_path: Path, text: str | None, kind: type[ModelError], said: str
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(tiny.run.folder, folder)
    if text is None:
        record = json.loads((folder / "run.json").read_text())
        record["config"]["colour"] = "red"
        text = json.dumps(record)
    (folder / "run.json").write_text(text)
    with pytest.raises(kind, match=said):
        Run.open(folder)
    assert main(["train", "--resume", str(folder), "--quiet"]) == 4
    assert (folder / "last.ckpt").is_file()
