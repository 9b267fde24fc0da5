"""Runs: what they leave, that they resume exactly, and that checkpoints are safe."""

from __future__ import annotations

import os
import pickle
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.assets import tiny_config
from tests.support import TinyModel
from tests.train.runs import assert_equal_runs, new_run, weights
from tlp_runtime.errors import (
    ModelDamaged,
    ModelMismatch,
    ModelMissing,
    OutputError,
    UnsafeCheckpoint,
    UsageError,
)
from tlp_train import callbacks
from tlp_train.callbacks import COLUMNS, read_metrics
from tlp_train.checkpoint import load_checkpoint
from tlp_train.config import TrainConfig, preset
from tlp_train.module import SynthesisModule
from tlp_train.recipes import Networks, PairedGAN
from tlp_train.runs import Run, newest_finished
from tlp_train.trainer import fit


def test_two_and_two_epochs_equal_four(
    straight: Run, tmp_path: Path, phantom_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state of an epoch's end: kill -9 between two epochs."""

    class Killed(Exception):
        pass

    run = new_run(tmp_path / "run", phantom_dir)

    def killed(self: object, trainer: object, module: SynthesisModule) -> None:
        if module.current_epoch == 2:
            raise Killed

    monkeypatch.setattr(callbacks.MetricsCsv, "on_train_epoch_start", killed)
    with pytest.raises(Killed):
        fit(run, tmp_path / "cache", progress=False)
    assert Run.open(run.folder).status == "interrupted"
    assert torch.load(run.last, weights_only=True)["epoch"] == 1
    monkeypatch.undo()
    monkeypatch.setenv("TLP_HOME", os.fspath(tmp_path / "home"))
    assert_equal_runs(fit(run, tmp_path / "cache", resume=True, progress=False), straight)


@pytest.mark.gpu
def test_a_run_on_the_gpu_can_be_loaded_without_one(tmp_path: Path, phantom_dir: Path) -> None:
    run = fit(
        new_run(tmp_path / "run", phantom_dir, epochs=1, constant_epochs=1, precision="bf16-mixed"),
        tmp_path / "cache",
        progress=False,
    )
    weights = load_checkpoint(run.last).generator_state.values()
    assert all(tensor.device.type == "cpu" and tensor.isfinite().all() for tensor in weights)


def test_a_run_leaves_checkpoints_metrics_samples_and_scalars(straight: Run) -> None:
    folder = straight.folder
    assert {"last.ckpt", "best.ckpt", "metrics.csv", "run.json", "split.json"} <= {
        path.name for path in folder.iterdir()
    }
    rows = read_metrics(folder / "metrics.csv")
    assert [row["epoch"] for row in rows] == ["0", "1", "2", "3"]
    assert tuple(rows[0]) == COLUMNS
    assert all(all(row.values()) for row in rows)
    rates = [float(row["learning_rate"]) for row in rows]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-3 * 2 / 3, 1e-3 / 3], rel=1e-4)
    assert len(list((folder / "samples").glob("*.png"))) == 4
    assert list(folder.glob("events.out.tfevents.*"))
    best = max(rows, key=lambda row: float(row["val_psnr"]))
    assert torch.load(straight.best, weights_only=True)["epoch"] == int(best["epoch"])


def test_a_checkpoint_holds_all_it_takes_to_go_on(straight: Run) -> None:
    data = torch.load(straight.last, weights_only=True)
    assert {"state_dict", "optimizer_states", "lr_schedulers", "loops", "tlp"} <= set(data)
    assert len(data["optimizer_states"]) == 2
    assert {"spec", "config", "training_voxels"} <= set(data["tlp"])
    checkpoint = load_checkpoint(straight.last)
    assert replace(checkpoint.spec, brightness=()) == straight.config.spec
    (seen,) = checkpoint.spec.brightness
    assert seen.modality == "t1"
    assert list(seen.mean) == sorted(seen.mean)
    assert -1 <= seen.mean[0] < seen.mean[-1] <= 1
    assert max(seen.spread) > 0, "two cases differ"
    assert checkpoint.lineage.config == straight.config
    assert checkpoint.epoch == 4
    checkpoint.generator()


def test_the_seed_decides_theweights(straight: Run, tmp_path: Path, phantom_dir: Path) -> None:
    short = {"epochs": 1, "constant_epochs": 1}
    runs = [
        fit(
            new_run(tmp_path / name, phantom_dir, **short, seed=seed),
            tmp_path / "cache",
            progress=False,
        )
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    a, b, c = (weights(run)["generator.decoder.output.weight"] for run in runs)
    torch.testing.assert_close(a, b)
    assert not torch.allclose(a, c)


def test_the_published_schedule() -> None:
    config = preset("paper", ("t1", "t2"))
    assert (config.batch_size, config.epochs, config.learning_rate) == (20, 80, 1e-4)
    for epoch in (0, 39, 40, 41, 60, 79):
        assert config.rate_factor(epoch) == pytest.approx(1 - max(0, epoch - 40) / 40)


def test_the_paper_preset_starts_from_small_normalweights() -> None:
    config = preset("paper", ("t1",))
    module = SynthesisModule(config)
    weight = module.generator.encoders["t1"].scales[0][0].ffn.spatial.weight  # type: ignore[index, union-attr]
    assert float(weight.detach().std()) == pytest.approx(0.02, rel=0.05)


def test_the_losses_are_equation_6() -> None:
    recipe, config = PairedGAN(), preset("paper", ("t1",))
    image, target = torch.randn(2, 1, 8, 8), torch.randn(2, 1, 8, 8)

    def opponent(seen: torch.Tensor) -> torch.Tensor:
        return seen[..., ::2, ::2] * 3

    nets = Networks(SynthesisModule(config).generator, opponent)
    real, fake = opponent(target), opponent(image)
    torch.testing.assert_close(
        recipe.discriminator_loss(config, [image], {"t1ce": target}, nets),
        ((real - 1).square().mean() + fake.square().mean()) / 2,
    )
    loss, l1 = recipe.generator_loss(config, [image], {"t1ce": target}, nets)
    torch.testing.assert_close(l1, (image - target).abs().mean())
    torch.testing.assert_close(loss, (fake - 1).square().mean() + 100 * l1)


def test_training_moves_both_networks_from_their_seeded_start(straight: Run) -> None:
    torch.manual_seed(0)
    before = SynthesisModule(straight.config).state_dict()
    after = weights(straight)
    for name in ("generator.decoder.output.weight", "discriminator.final_conv.conv.weight"):
        assert not torch.allclose(before[name], after[name])


def test_the_newest_finished_run_is_found(tiny: TinyModel, tlp_home: Path) -> None:
    from tlp_runtime.models.store import Register

    with pytest.raises(ModelMissing, match="Run the task train"):
        newest_finished()
    Register("runs").add("finished", tiny.run.folder)
    Register("runs").add("gone", tlp_home / "gone")
    assert newest_finished().folder == tiny.run.folder


def test_a_used_run_folder_is_refused(tiny: TinyModel, phantom_dir: Path) -> None:
    with pytest.raises(OutputError, match="Run the task train with resume"):
        new_run(tiny.run.folder, phantom_dir)


@pytest.mark.parametrize(
    "changes", [{"epochs": 0}, {"slices_per_epoch": 1}, {"tumour_share": 2.0}, {"precision": "16"}]
)
def test_options_that_make_no_run_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        tiny_config(**changes)


def test_options_survive_their_record() -> None:
    config = tiny_config(("t1", "t2"), fpg=False)
    assert TrainConfig.from_dict(config.to_dict()) == config


class Bomb:
    """Pickles into a call that creates a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return os.mkdir, (os.fspath(self.target),)


@pytest.mark.parametrize("form", ["torch", "pickle"])
def test_code_in_a_checkpoint_does_not_run(tmp_path: Path, form: str) -> None:
    path, target = tmp_path / "evil.ckpt", tmp_path / "executed"
    if form == "torch":
        torch.save({"state_dict": {}, "tlp": Bomb(target)}, path)
    else:
        path.write_bytes(pickle.dumps(Bomb(target)))
    with pytest.raises(UnsafeCheckpoint, match="was not loaded"):
        load_checkpoint(path)
    assert not target.exists()


def test_damaged_and_foreign_checkpoints(tiny: TinyModel, tmp_path: Path) -> None:
    with pytest.raises(ModelMissing):
        load_checkpoint(tmp_path / "no.ckpt")
    cut = tmp_path / "cut.ckpt"
    cut.write_bytes(tiny.run.last.read_bytes()[:-5000])
    with pytest.raises(ModelDamaged):
        load_checkpoint(cut)
    cut.write_text("hello")
    with pytest.raises(ModelDamaged):
        load_checkpoint(cut)
    with zipfile.ZipFile(cut, "w") as archive:
        archive.writestr("a", "b")
    with pytest.raises(ModelDamaged):
        load_checkpoint(cut)
    torch.save({"weight": torch.zeros(3)}, cut)
    with pytest.raises(ModelMismatch, match="no TLP model specification"):
        load_checkpoint(cut)


def test_weights_that_do_not_fit_their_specification(tiny: TinyModel, tmp_path: Path) -> None:
    data = torch.load(tiny.run.last, weights_only=True)
    name = "generator.decoder.output.weight"
    data["state_dict"][name] = data["state_dict"][name][:, :1]
    torch.save(data, tmp_path / "odd.ckpt")
    with pytest.raises(ModelDamaged, match="does not fit its specification"):
        load_checkpoint(tmp_path / "odd.ckpt").generator()
