"""The one reader of checkpoints: what is cut, altered, foreign or not whole is refused by name."""

from __future__ import annotations

import json
import random
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tlp_cli.main import main

from tests.support import TinyModel
from tlp_runtime.errors import (
    ModelDamaged,
    ModelError,
    ModelMismatch,
    ModelMissing,
    SpecError,
    UnsafeCheckpoint,
)
from tlp_train.checkpoint import load_checkpoint
from tlp_train.runs import Run
from tlp_train.trainer import fit

State = dict[str, Any]


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
    assert f"error: {path}: is not a checkpoint, or is damaged" in said.replace("\n", " ")
    assert not (tmp_path / "r").exists()
