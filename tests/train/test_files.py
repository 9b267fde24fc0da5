"""Files of a run: whole or absent, read with care, never those of two processes at once."""

from __future__ import annotations

import errno
import json
import random
import resource
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from tlp_cli.main import main

from tests.support import TinyModel
from tests.train.runs import assert_equal_runs, new_run
from tlp_runtime.errors import (
    ModelDamaged,
    ModelError,
    ModelMismatch,
    ModelMissing,
    NoSpace,
    OutputError,
    SpecError,
    UnsafeCheckpoint,
)
from tlp_train.callbacks import COLUMNS, read_metrics
from tlp_train.checkpoint import load_checkpoint
from tlp_train.module import SynthesisModule
from tlp_train.runs import Run
from tlp_train.safe_files import load_safely, save_whole
from tlp_train.saving import StopWhenAsked, WholeFiles
from tlp_train.trainer import fit

State = dict[str, Any]


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

    class Killed(BaseException): ...

    def killed(self: object, trainer: Any, module: SynthesisModule) -> None:
        if module.current_epoch == 3:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(StopWhenAsked, "on_train_epoch_start", killed)
        fit(run, tmp_path / "cache", progress=False)
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

    class Killed(BaseException): ...

    def killed(self: object, trainer: Any, module: SynthesisModule) -> None:
        if module.current_epoch == 2:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(StopWhenAsked, "on_train_epoch_start", killed)
        fit(run, tmp_path / "cache", progress=False)
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


# Checkpoints that are none


def _refused(path: Path, kind: type[ModelError] = ModelError) -> ModelError:
    with pytest.raises(kind) as error:
        load_checkpoint(path)
    assert error.value.exit_code == 4
    assert "weights_only" not in str(error.value)
    assert str(path) in str(error.value)
    return error.value


def test_a_checkpoint_cut_anywhere_is_refused(tiny: TinyModel, tmp_path: Path) -> None:
    content = tiny.run.last.read_bytes()
    path = tmp_path / "cut.ckpt"
    for part in range(20):
        path.write_bytes(content[: len(content) * part // 20])
        _refused(path, ModelDamaged)


def test_a_checkpoint_with_one_bit_changed_is_refused(tiny: TinyModel, tmp_path: Path) -> None:
    """torch itself loads changed weights without a word."""
    content = bytearray(tiny.run.last.read_bytes())
    with zipfile.ZipFile(tiny.run.last) as archive:
        (weights,) = (one for one in archive.infolist() if one.filename.endswith("/data/3"))
    path = tmp_path / "changed.ckpt"
    lengths = content[weights.header_offset + 26 : weights.header_offset + 30]
    name, extra = struct.unpack("<HH", lengths)
    content[weights.header_offset + 30 + name + extra] ^= 1
    path.write_bytes(content)
    torch.load(path, weights_only=True)
    assert "is not what was written" in str(_refused(path, ModelDamaged))


def test_random_bytes_are_refused(tmp_path: Path) -> None:
    draw = random.Random(0)
    path = tmp_path / "random.ckpt"
    for start in (b"", b"\x80\x02", b"PK\x03\x04", b"\x80"):
        for _ in range(25):
            path.write_bytes(start + draw.randbytes(draw.randrange(1, 3000)))
            _refused(path)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _folder(path: Path) -> None:
    path.mkdir()


def _script(path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(path))


def _numpy(path: Path) -> None:
    import numpy as np

    torch.save({"state_dict": {"w": np.zeros(3)}, "tlp": {}}, path)


def _lightning(path: Path) -> None:
    torch.save({"state_dict": {"w": torch.zeros(3)}, "epoch": 1, "loops": {}}, path)


def _tensor(path: Path) -> None:
    torch.save(torch.zeros(3), path)


@pytest.mark.parametrize(
    ("make", "kind", "text"),
    [
        (_empty, ModelDamaged, "is empty"),
        (_folder, ModelMissing, "is a folder"),
        (_script, ModelMismatch, "a program of TorchScript"),
        (_numpy, UnsafeCheckpoint, "objects other than tensors"),
        (_lightning, ModelMismatch, "no TLP model specification"),
        (_tensor, ModelMismatch, "no TLP model specification"),
    ],
)
def test_other_files_are_refused_for_what_they_are(
    tmp_path: Path, make: Callable[[Path], None], kind: type[ModelError], text: str
) -> None:
    path = tmp_path / "other.ckpt"
    make(path)
    assert text in str(_refused(path, kind))


def _sparse() -> torch.Tensor:
    return torch.zeros(1, 16, 3, 3).to_sparse()


def _set(*keys: str | int, to: Any) -> Callable[[State], None]:
    def change(state: Any) -> None:
        for key in keys[:-1]:
            state = state[key]
        state[keys[-1]] = to

    return change


def _drop(*keys: str | int) -> Callable[[State], None]:
    def change(state: Any) -> None:
        for key in keys[:-1]:
            state = state[key]
        del state[keys[-1]]

    return change


@pytest.mark.parametrize(
    ("change", "kind", "text"),
    [
        (_drop("tlp", "config", "epochs"), SpecError, "missing keys epochs"),
        (_drop("tlp", "config", "schema"), SpecError, "schema is None"),
        (_set("tlp", "config", "colour", to=1), SpecError, "unknown keys colour"),
        (_set("tlp", "config", "fuzzy", "colour", to=1), SpecError, "unknown keys fuzzy.colour"),
        (_set("tlp", "config", "epochs", to="3"), SpecError, "epochs is '3', expected int"),
        (_set("tlp", "config", "epochs", to=0), SpecError, "epochs is 0, expected at least 1"),
        (_set("tlp", "config", "schema", to={"major": 1, "minor": 9}), SpecError, "schema 1.9"),
        (_set("tlp", "config", to=None), ModelDamaged, "neither how it was trained"),
        (_set("tlp", "schema", to={"major": 2, "minor": 0}), ModelMismatch, "of format 2.0"),
        (_set("tlp", "colour", to=1), ModelDamaged, "unknown keys colour"),
        (_set("tlp", "spec", to="{"), SpecError, "not JSON"),
        (_drop("tlp", "spec"), ModelDamaged, "no model specification"),
        (_set("tlp", to=[1]), ModelDamaged, "expected an object"),
        (_set("tlp", "training_voxels", to=3), ModelDamaged, "training_voxels is 3"),
        (_set("state_dict", to={}), ModelDamaged, "no weights"),
        (_set("state_dict", "generator.x", to=1), ModelDamaged, "others than tensors"),
        (_set("epoch", to="two"), ModelDamaged, "its epoch is 'two'"),
    ],
)
def test_a_record_that_is_not_whole_is_refused_by_name(
    tiny: TinyModel, tmp_path: Path, change: Callable[[State], None], kind: type, text: str
) -> None:
    state = torch.load(tiny.run.last, weights_only=True)
    change(state)
    path = tmp_path / "changed.ckpt"
    torch.save(state, path)
    assert text in str(_refused(path, kind))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (_drop("optimizer_states"), "no state of its 2 optimisers"),
        (_set("optimizer_states", to=[]), "no state of its 2 optimisers"),
        (_set("optimizer_states", to=[{}, {}]), "an optimiser that does not fit"),
        (_set("lr_schedulers", to=[]), "no state of its learning rates"),
        (_drop("loops", "fit_loop", "epoch_progress"), "how far its training came"),
        (_set("loops", to={}), "how far its training came"),
        (_set("callbacks", to=None), "what accompanies its training"),
        (_set("callbacks", "KeepCheckpoints", to={"b": 1}), "does not fit .KeyError"),
        (_drop("callbacks", "MetricsCsv"), "does not fit .KeyError"),
        (_drop("SliceData"), "which of an epoch's slices were used"),
        (_set("global_step", to=-1), "how many steps were made"),
        (_drop("pytorch-lightning_version"), "which version of Lightning"),
        (_drop("tlp_state", "losses", "train_l1"), "no losses of its epoch"),
        (_set("tlp_state", to=[1]), "its random numbers"),
        (_set("tlp_state", "rng", to=torch.zeros(3)), "its random numbers"),
        (_drop("optimizer_states", 1, "state", 0), "an optimiser that"),
        (_set("optimizer_states", 0, "param_groups", 0, "betas", to=(0, 0)), "an optimiser that"),
        (_set("lr_schedulers", 1, "base_lrs", to=[5.0]), "learning rate .5.0., expected"),
        (_set("loops", "fit_loop", "epoch_progress", "total", "ready", to=-1), "how far its"),
        (_set("tlp", "config", "seed", to=7), "other options than .* seed 7, not 0"),
        (_set("tlp", "config", "batch_size", to=1), "other options than .* batch 1, not 2"),
        (_set("tlp", "config", "learning_rate", to=-1.0), "learning_rate is -1.0"),
        (_set("state_dict", "generator.decoder.output.weight", to=_sparse()), "of another kind"),
        (_drop("tlp_state", "rng"), "its random numbers"),
        (_drop("state_dict", "discriminator.final_conv.conv.bias"), "lacks discriminator"),
        (_set("state_dict", "generator.other", to=torch.zeros(2)), "has unknown generator.other"),
        (
            _set("state_dict", "generator.decoder.output.weight", to=torch.zeros(2)),
            "another shape",
        ),
    ],
)
def test_a_state_that_is_not_whole_cannot_be_resumed(
    tiny: TinyModel, tmp_path: Path, change: Callable[[State], None], text: str
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(tiny.run.folder, folder)
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**record, "status": "interrupted"}))
    run = Run.open(folder)
    state = torch.load(run.last, weights_only=True)
    change(state)
    torch.save(state, run.last)
    before = run.last.read_bytes()
    with pytest.raises(ModelError, match=text) as error:
        fit(run, tmp_path / "cache", resume=True, progress=False)
    assert error.value.exit_code == 4
    assert run.last.read_bytes() == before


def test_weights_that_are_not_finite_are_not_exported(tiny: TinyModel, tmp_path: Path) -> None:
    state = torch.load(tiny.run.last, weights_only=True)
    state["state_dict"]["generator.decoder.output.weight"][0, 0] = float("nan")
    torch.save(state, tmp_path / "nan.ckpt")
    with pytest.raises(ModelDamaged, match=r"not finite in decoder\.output\.weight"):
        load_checkpoint(tmp_path / "nan.ckpt").generator()
    assert main(["export", str(tmp_path / "nan.ckpt"), "--quiet"]) == 4


@pytest.mark.parametrize("verb", ["export", "import", "train --from", "verify"])
def test_every_verb_that_reads_a_checkpoint_refuses_a_damaged_one(
    tiny: TinyModel,
    phantom_dir: Path,
    tmp_path: Path,
    verb: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "cut.ckpt"
    path.write_bytes(tiny.run.last.read_bytes()[:-5000])
    arguments = {
        "export": ["export", path],
        "import": ["import", path, "--inputs", "t1", "--out", tmp_path / "out.ckpt"],
        "train --from": ["train", "--data", phantom_dir, "--from", path, "--out", tmp_path / "r"],
        "verify": ["verify", tiny.bundle.path, "--reference", path],
    }[verb]
    assert main([str(word) for word in arguments]) == 4
    said = capsys.readouterr().err
    assert f"error: {path}: is no checkpoint, or damaged" in said.replace("\n", " ")
    assert not (tmp_path / "r").exists()


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
