"""What may change when a run goes on, what it is then called, and what it begins with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from tlp_cli.main import main

from tests.assets import tiny_config
from tests.support import TinyModel, as_schema_1
from tests.train.runs import LONG, Killed, assert_equal_runs, killed_before, new_run, weights
from tlp_export import export
from tlp_runtime.errors import ModelMismatch, ModelMissing, UsageError
from tlp_runtime.io.datasets import find_cases
from tlp_train.cache import open_cases
from tlp_train.checkpoint import load_checkpoint
from tlp_train.module import SynthesisModule
from tlp_train.resume import begun_session, environment, reopen
from tlp_train.runs import Run, Session
from tlp_train.safe_files import save_whole
from tlp_train.saving import StopWhenAsked, WholeFiles
from tlp_train.split import Split
from tlp_train.trainer import fit


def _go_on(folder: Path, cache: Path, given: Mapping[str, Any]) -> Run:
    part = reopen(folder, given)
    return fit(part.run, cache, resume=part.resumes, progress=False)


def test_workers_and_the_place_of_the_data_change_nothing(
    straight: Run, tmp_path: Path, phantom_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    shutil.copytree(phantom_dir, data)
    run = killed_before(2, new_run(tmp_path / "run", data), tmp_path / "cache", monkeypatch)
    shutil.move(data, tmp_path / "elsewhere")
    given = {"data": tmp_path / "elsewhere", "workers": 1}
    resumed = _go_on(run.folder, tmp_path / "cache", given)
    assert_equal_runs(resumed, straight)
    assert resumed.differs == ()
    assert (resumed.data, resumed.config.workers) == (tmp_path / "elsewhere", 1)
    assert resumed.sessions[-1].changes == {"workers": "None -> 1"}
    assert [session.epoch for session in resumed.sessions] == [0, 2]
    assert [session.step for session in resumed.sessions] == [0, 6]
    assert load_checkpoint(resumed.last).lineage.differs == ()


def test_other_voxels_are_recorded(
    straight: Run, tmp_path: Path, phantom_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    shutil.copytree(phantom_dir, data)
    run = killed_before(2, new_run(tmp_path / "run", data), tmp_path / "cache", monkeypatch)
    names = run.split.train
    for array in ("t1", "t1ce", "seg"):
        first, second = (data / n / f"{n}_{array}.nii.gz" for n in names[:2])
        kept = first.read_bytes()
        first.write_bytes(second.read_bytes())
        assert kept != first.read_bytes()
    resumed = _go_on(run.folder, tmp_path / "cache", {})
    assert resumed.differs == (f"data: other voxels of {names[0]}",)
    assert load_checkpoint(resumed.last).lineage.differs == resumed.differs
    assert any(
        not torch.equal(weights(resumed)[name], tensor)
        for name, tensor in weights(straight).items()
    )


def test_another_segmentation_is_recorded(
    straight: Run, tmp_path: Path, phantom_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    shutil.copytree(phantom_dir, data)
    run = killed_before(3, new_run(tmp_path / "run", data), tmp_path / "cache", monkeypatch)
    name = run.split.train[1]
    file = data / name / f"{name}_seg.nii.gz"
    image = nib.load(file)
    labels = np.asarray(image.dataobj)
    nib.save(nib.Nifti1Image(np.where(labels == 2, 0, labels), image.affine, image.header), file)
    resumed = _go_on(run.folder, tmp_path / "cache", {})
    assert resumed.differs == (f"data: other voxels of {name}",)


def test_a_cache_with_further_arrays_is_shared(
    straight: Run, tmp_path: Path, phantom_dir: Path
) -> None:
    both = replace(straight.config.spec, inputs=("t1", "t2"))
    cases = find_cases(phantom_dir, ("t1", "t2", "t1ce", "seg"))
    open_cases(cases, both, tmp_path / "cache")
    run = fit(new_run(tmp_path / "run", phantom_dir), tmp_path / "cache", progress=False)
    assert_equal_runs(run, straight)
    ours, theirs = (load_checkpoint(one.last).lineage.training_voxels for one in (run, straight))
    assert ours == theirs, "no T2"


def test_a_longer_run_is_the_longer_one_from_the_start_while_the_rate_is_constant(
    straight: Run, tmp_path: Path, phantom_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = {"epochs": 2, "constant_epochs": 1}
    run = killed_before(
        1, new_run(tmp_path / "run", phantom_dir, **short), tmp_path / "cache", monkeypatch
    )
    long = fit(
        new_run(tmp_path / "long", phantom_dir, epochs=4, constant_epochs=2),
        tmp_path / "cache",
        progress=False,
    )
    resumed = _go_on(run.folder, tmp_path / "cache", {"epochs": 4})
    assert (resumed.config.epochs, resumed.config.constant_epochs) == (4, 2)
    assert_equal_runs(resumed, long)
    assert resumed.differs == ()


def test_a_finished_run_can_be_trained_longer(
    tmp_path: Path, phantom_dir: Path, straight: Run
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(straight.folder, folder)
    with pytest.raises(UsageError, match="is finished"):
        reopen(folder, {})
    with pytest.raises(UsageError, match="cannot become one of 3"):
        reopen(folder, {"epochs": 3})
    resumed = _go_on(folder, tmp_path / "cache", {"epochs": 5})
    assert resumed.status == "finished"
    assert load_checkpoint(resumed.last).epoch == 5
    assert resumed.differs == ("epochs: 4 -> 5, after the learning rate began to fall",)


@pytest.mark.parametrize("name", ["devices", "accumulate"])
def test_another_order_of_sums_is_recorded(straight: Run, name: str) -> None:
    changes: dict[str, Any] = {name: 2}
    changed = replace(straight.config, **changes)
    session = begun_session(replace(straight, config=changed), straight.config, epoch=1, step=3)
    assert session.differs == (f"{name}: 1 -> 2",)
    assert session.changes == {name: "1 -> 2"}


def test_another_machine_or_version_is_recorded(straight: Run) -> None:
    before = {**environment(), "torch": "2.0.0", "threads": "64"}
    ended = replace(straight, sessions=(Session(began="", epoch=0, step=0, environment=before),))
    found = begun_session(ended, straight.config, epoch=1, step=3).differs
    assert [one.split(":")[0] for one in found] == ["torch", "threads"]
    assert begun_session(straight, straight.config, epoch=1, step=3).differs == ()


def test_other_devices_share_out_the_same_batch(tmp_path: Path, phantom_dir: Path) -> None:
    run = new_run(tmp_path / "run", phantom_dir, batch_size=6)
    config = reopen(run.folder, {"devices": 3}).run.config
    assert (config.batch_size, config.global_batch) == (2, 6)
    with pytest.raises(UsageError, match="cannot be shared out among 4"):
        reopen(run.folder, {"devices": 4})


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"inputs": ("t2",)}, r"inputs \(t1, given t2\)"),
        ({"seed": 1}, r"seed \(0, given 1\)"),
        ({"levels": 3}, "levels"),
        ({"ffn": "gated"}, "ffn"),
        ({"batch_size": 3}, r"batch_size \(2, given 3\)"),
        ({"precision": "bf16-mixed"}, "precision"),
        ({"preset": "paper"}, "preset"),
        ({"rule": "percentile-crop"}, "rule"),
        ({"out": Path("elsewhere")}, "out"),
        ({"split": Path("list.txt")}, "split"),
        ({"from": Path("a.ckpt")}, "from"),
        ({"fpg": False}, "fpg"),
    ],
)
def test_what_cannot_change_is_named(
    tmp_path: Path, phantom_dir: Path, given: Mapping[str, Any], named: str
) -> None:
    run = new_run(tmp_path / "run", phantom_dir)
    with pytest.raises(UsageError, match=named) as error:
        reopen(run.folder, given)
    assert "data, segmentations, workers, devices, nodes, accumulate, epochs" in str(error.value)


def test_options_that_are_the_run_s_own_are_no_change(tmp_path: Path, phantom_dir: Path) -> None:
    run = new_run(tmp_path / "run", phantom_dir)
    own = {"inputs": ("t1",), "seed": 0, "epochs": 4, "levels": 2}
    assert reopen(run.folder, {**own, "data": phantom_dir, "fpg": True}).run == run


def test_a_run_without_a_checkpoint_begins_anew(
    straight: Run, tmp_path: Path, phantom_dir: Path
) -> None:
    run = new_run(tmp_path / "run", phantom_dir)
    part = reopen(run.folder, {})
    assert not part.resumes
    assert_equal_runs(fit(part.run, tmp_path / "cache", progress=False), straight)


def test_a_run_killed_between_its_first_two_checkpoints_goes_on(
    straight: Run, tmp_path: Path, phantom_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run(tmp_path / "run", phantom_dir)

    def killed(self: WholeFiles, checkpoint: Any, path: Any, storage_options: Any) -> None:
        if Path(path).name == "last.ckpt":
            raise Killed
        save_whole(Path(path), checkpoint)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(WholeFiles, "save_checkpoint", killed)
        fit(run, tmp_path / "cache", progress=False)
    assert (run.best.is_file(), run.last.is_file()) == (True, False)
    part = reopen(run.folder, {})
    assert part.resumes
    assert part.from_best
    assert_equal_runs(fit(part.run, tmp_path / "cache", resume=True, progress=False), straight)


def test_a_finished_run_without_checkpoints_has_nothing_to_go_on_from(
    straight: Run, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(straight.folder, folder, ignore=shutil.ignore_patterns("*.ckpt"))
    with pytest.raises(ModelMissing, match="is missing"):
        reopen(folder, {"epochs": 9})


# Runs of earlier versions


def _earlier(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration as it was written before specifications had schema 2."""
    added = ("discriminator_learning_rate", "schedule", "final_learning_rate", "ema")
    kept = {name: value for name, value in config.items() if name not in added}
    return {**kept, "schema": {"major": 1, "minor": 1}, "spec": as_schema_1(config["spec"])}


def test_a_run_whose_specification_has_schema_1_goes_on_to_the_same_weights(
    straight: Run, tmp_path: Path, phantom_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = killed_before(2, new_run(tmp_path / "run", phantom_dir), tmp_path / "cache", monkeypatch)
    state = torch.load(run.last, weights_only=True)
    record = state["tlp"]
    record["spec"] = json.dumps(as_schema_1(json.loads(record["spec"])))
    record["config"] = _earlier(record["config"])
    torch.save(state, run.last)
    path = run.folder / "run.json"
    written = json.loads(path.read_text())
    path.write_text(json.dumps({**written, "config": _earlier(written["config"])}))
    assert_equal_runs(_go_on(run.folder, tmp_path / "cache", {}), straight)


# Fine-tuning


def test_a_run_begins_with_the_weights_of_another_and_nothing_else(
    straight: Run, tmp_path: Path, phantom_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = load_checkpoint(straight.last)
    run = Run.create(
        tmp_path / "run", tiny_config(**LONG), phantom_dir, straight.split,
        weights=straight.last, begun_from=origin.as_ancestor(),
    )  # fmt: skip
    seen: dict[str, Any] = {}

    def at_start(self: object, trainer: Any, module: SynthesisModule) -> None:
        seen["weights"] = {name: t.clone() for name, t in module.state_dict().items()}
        seen["moments"] = [len(optimiser.state) for optimiser in trainer.optimizers]
        seen["epoch"] = trainer.current_epoch
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(StopWhenAsked, "on_train_start", at_start)
        fit(run, tmp_path / "cache", progress=False)
    assert all(torch.equal(seen["weights"][name], t) for name, t in weights(straight).items())
    assert (seen["moments"], seen["epoch"]) == ([0, 0], 0)

    tuned = fit(Run.open(run.folder), tmp_path / "cache", progress=False)
    (ancestor,) = load_checkpoint(tuned.last).lineage.ancestors
    assert (ancestor.file, ancestor.sha256, ancestor.epoch) == ("last.ckpt", origin.sha256, 4)
    again = load_checkpoint(tuned.last).as_ancestor()
    assert [one.sha256 for one in again] == [origin.sha256, load_checkpoint(tuned.last).sha256]


def test_what_an_ancestor_was_trained_on_was_seen_too(
    straight: Run, tmp_path: Path, phantom_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = load_checkpoint(straight.last)
    split = straight.split
    others = Split(train=split.test, validation=split.validation, test=split.train)
    run = Run.create(
        tmp_path / "run", tiny_config(**LONG), phantom_dir, others,
        weights=straight.last, begun_from=origin.as_ancestor(),
    )  # fmt: skip
    run = killed_before(2, run, tmp_path / "cache", monkeypatch)
    tuned = load_checkpoint(_go_on(run.folder, tmp_path / "cache", {}).last).lineage
    assert {*origin.lineage.training_voxels} < {*tuned.training_voxels}
    assert len(tuned.training_voxels) == 8, "T1 and T1ce of all four cases"
    assert tuned.differs == ()


def test_fine_tuning_at_the_command_line_and_the_chain_in_the_card(
    tiny: TinyModel, phantom_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    command = [
        "train", "--data", phantom_dir, "--preset", "demo", "--from", tiny.run.last, "--out", out,
        "--epochs", "1", "--slices-per-epoch", "2", "--precision", "32-true",
    ]  # fmt: skip
    words = [str(word) for word in command]
    assert main(words) == 0, capsys.readouterr().err
    run = Run.open(out)
    assert run.config.spec.network == tiny.run.config.spec.network
    made = export(run.last, out=tmp_path / "bundle").bundle
    (ancestor,) = made.manifest.provenance.ancestors
    assert ancestor.sha256 == load_checkpoint(tiny.run.last).sha256
    card = (made.path / "MODEL_CARD.md").read_text()
    assert f"| fine-tuned from | last.ckpt (1 epochs, SHA-256 {ancestor.sha256}) |" in card
    capsys.readouterr()
    assert main([*words, "--inputs", "t1,t2"]) == 2
    assert "other inputs or another network" in capsys.readouterr().err


def test_the_file_that_a_run_began_with_must_stay_the_same(
    straight: Run, tiny: TinyModel, tmp_path: Path, phantom_dir: Path
) -> None:
    start = tmp_path / "start.ckpt"
    shutil.copy(straight.last, start)
    run = Run.create(
        tmp_path / "run", tiny_config(**LONG), phantom_dir, straight.split,
        weights=start, begun_from=load_checkpoint(start).as_ancestor(),
    )  # fmt: skip
    shutil.copy(tiny.run.last, start)
    with pytest.raises(ModelMismatch, match="is not the checkpoint that this run was begun from"):
        fit(run, tmp_path / "cache", progress=False)


def test_a_bundle_knows_the_voxels_it_was_trained_on_unless_asked_not_to(
    tiny: TinyModel, phantom_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(tiny.bundle.manifest.training_voxels) == 6, "t1 and t1ce of three cases"
    seen_and_new = tmp_path / "data"
    seen_and_new.mkdir()
    for name in (*tiny.run.split.train[:1], *tiny.run.split.test):
        (seen_and_new / name).symlink_to(phantom_dir / name)
    report = tmp_path / "a.json"
    command = ["evaluate", "--data", str(seen_and_new), "--model", str(tiny.bundle.path)]
    assert main([*command, "--json", str(report)]) == 0
    said = capsys.readouterr()
    assert "trained or chosen on 1 of these 2 cases" in said.err
    assert "synthesis *" in said.out
    seen = [case["seen"] for case in json.loads(report.read_text())["cases"].values()]
    assert seen == [True, False]
    out = tmp_path / "plain"
    assert (
        main(["export", str(tiny.run.last), "--out", str(out), "--no-training-hashes", "--quiet"])
        == 0
    )
    assert json.loads((out / "manifest.json").read_text())["training_voxels"] == []
    (seen_and_new / tiny.run.split.test[0]).unlink()
    command[-1] = str(out)
    assert main(command) == 0
    said = capsys.readouterr()
    assert "is not known: it has no hashes" in said.err
    assert "synthesis *" not in said.out
