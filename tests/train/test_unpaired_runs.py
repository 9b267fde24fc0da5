"""Runs of the unpaired networks: their data, their state on disk, and what is exported."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from tests.assets import split_of
from tests.fakes.engine import TINY_NETWORK
from tests.networks import changed
from tests.train.runs import Killed, assert_equal_runs, killed_before, weights
from tlp_export import export
from tlp_export.options import ExportOptions
from tlp_runtime.engines.select import choose
from tlp_runtime.errors import ModelDamaged, UsageError
from tlp_runtime.io.datasets import find_cases
from tlp_runtime.spec.model import CropSpec, ModelSpec
from tlp_train.cache import CachedCase, open_cases
from tlp_train.checkpoint import Lineage, load_checkpoint, write_checkpoint
from tlp_train.config import TrainConfig, preset
from tlp_train.data import SampleId, SliceDataset
from tlp_train.fpg import FuzzyPrompt
from tlp_train.module import SynthesisModule
from tlp_train.networks import registry
from tlp_train.networks.syndiff.options import SynDiffOptions
from tlp_train.pairing import OtherCases
from tlp_train.runs import Run
from tlp_train.safe_files import save_whole
from tlp_train.saving import StopWhenAsked
from tlp_train.stopping import TrainingStopped
from tlp_train.trainer import fit

CROP = CropSpec(rows=(80, 112), columns=(80, 112))
OPTIONS: dict[str, dict[str, Any]] = {
    "cyclegan": {"width": 4, "blocks": 1},
    "syndiff": {
        "width": 8, "multipliers": (1, 2), "blocks": 1, "attention": 16, "size": 32, "latent": 4,
        "latent_width": 8, "steps": 2,
    },
}  # fmt: skip
CHANGES: dict[str, dict[str, Any]] = {
    "cyclegan": {},
    "syndiff": {"ema": 0.9, "schedule": "cosine", "discriminator_learning_rate": 5e-4},
}


def config_of(network: str, **changes: Any) -> TrainConfig:
    """A run of seconds, with three steps an epoch and a falling rate."""
    config = preset("demo", ("t1",), network, precision="32-true")
    options = registry.network(network).options(**OPTIONS[network]).as_spec()
    small = {
        "epochs": 3, "constant_epochs": 1, "batch_size": 2, "slices_per_epoch": 6,
        "validation_slices": 4, "discriminator_channels": 4,
    }  # fmt: skip
    spec = replace(config.spec, network=options, crop=CROP)
    return replace(config, spec=spec, **{**small, **CHANGES[network], **changes})


def new_run(folder: Path, data: Path, network: str, **changes: Any) -> Run:
    return Run.create(folder, config_of(network, **changes), data, split_of(data))


@pytest.fixture(scope="module", params=OPTIONS)
def trained(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, phantom_dir: Path
) -> Run:
    """Three epochs of each network without a stop."""
    folder = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TLP_HOME", os.fspath(folder / "home"))
        run = new_run(folder / "run", phantom_dir, request.param)
        return fit(run, folder / "cache", progress=False)


def network_of(run: Run) -> str:
    return run.config.spec.network.name


def test_a_run_killed_between_epochs_goes_on_to_the_bit(
    trained: Run, tmp_path: Path, phantom_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run(tmp_path / "run", phantom_dir, network_of(trained))
    run = killed_before(1, run, tmp_path / "cache", monkeypatch)
    assert_equal_runs(fit(run, tmp_path / "cache", resume=True, progress=False), trained)


def test_a_run_stopped_within_an_epoch_goes_on_to_the_bit(
    trained: Run, tmp_path: Path, phantom_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run(tmp_path / "run", phantom_dir, network_of(trained), workers=1)
    inner = StopWhenAsked.on_train_batch_start

    def stop(self: Any, trainer: Any, module: SynthesisModule, *args: Any) -> None:
        if (module.current_epoch, trainer.fit_loop.batch_idx) == (1, 1):
            os.kill(os.getpid(), signal.SIGTERM)
        inner(self, trainer, module, *args)

    with monkeypatch.context() as patch, pytest.raises(TrainingStopped):
        patch.setattr(StopWhenAsked, "on_train_batch_start", stop)
        fit(run, tmp_path / "cache", progress=False)
    resumed = fit(Run.open(run.folder), tmp_path / "cache", resume=True, progress=False)
    assert_equal_runs(resumed, trained)


def test_a_checkpoint_holds_everything_that_is_trained(trained: Run) -> None:
    parts = {name.split(".")[0] for name in weights(trained)}
    own = {"cyclegan": {"memory"}, "syndiff": {"unaveraged"}}[network_of(trained)]
    assert parts == {"generator", "auxiliary", "discriminator"} | own
    if network_of(trained) == "cyclegan":
        assert int(weights(trained)["memory.target.held"]) == 18
        assert int((weights(trained)["memory.inputs.images"] != 0).any((1, 2, 3)).sum()) == 18


def test_a_checkpoint_without_a_part_of_the_state_is_refused(
    trained: Run, tmp_path: Path, phantom_dir: Path
) -> None:
    run = new_run(tmp_path / "run", phantom_dir, network_of(trained))
    own = {"cyclegan": "memory.", "syndiff": "unaveraged."}[network_of(trained)]
    for part in ("auxiliary.", own):
        data = torch.load(trained.last, weights_only=True)
        lost = next(name for name in data["state_dict"] if name.startswith(part))
        del data["state_dict"][lost]
        save_whole(run.last, data)
        with pytest.raises(ModelDamaged, match=f"lacks {lost}"):
            fit(run, tmp_path / "cache", resume=True, progress=False)


@pytest.mark.parametrize("trained", ["syndiff"], indirect=True)
def test_what_was_trained_is_exported(trained: Run, tmp_path: Path) -> None:
    """Of SynDiff the running mean: it is what ``generator.`` holds."""
    checkpoint = load_checkpoint(trained.last)
    assert len(checkpoint.generator().state_dict()) == len(checkpoint.generator_state)
    made = export(checkpoint, out=tmp_path / "bundle")
    assert made.bundle.spec.network.name == network_of(trained)
    state = weights(trained)
    if network_of(trained) == "syndiff":
        name = "denoiser.first.weight"
        assert torch.equal(checkpoint.generator_state[name], state[f"generator.{name}"])
        assert not torch.equal(state[f"generator.{name}"], state[f"unaveraged.{name}"])


def test_the_noise_of_a_graph_is_an_input_that_nobody_has_to_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its default is drawn by the seed in the specification."""
    monkeypatch.setenv("TLP_HOME", str(tmp_path / "home"))
    config = config_of("syndiff")
    spec = replace(config.spec, network=changed(config.spec.network, seed=7))
    config = replace(config, spec=spec)
    torch.manual_seed(0)
    built = registry.build(config.spec).eval()
    write_checkpoint(tmp_path / "a.ckpt", config.spec, built.state_dict(), Lineage(config=config))
    made = export(load_checkpoint(tmp_path / "a.ckpt"))
    assert made.parity.passed

    rng = np.random.default_rng(0)
    tensors = {
        name: rng.uniform(-1, 1, (2, 1, 32, 32)).astype(np.float32) for name in spec.tensor_names
    }
    noise = {
        name: rng.standard_normal(shape, np.float32)
        for name, shape in (("noise", (2, 1, 32, 32)), ("latents", (2, 1, 4)))
    }

    def of(*more: Any) -> Any:
        given = (*map(torch.from_numpy, tensors.values()), *map(torch.from_numpy, more))
        with torch.no_grad():
            return built(*given).numpy()

    drawn = np.random.default_rng(7)
    own = [drawn.standard_normal(array.shape, np.float32) for array in noise.values()]
    assert np.array_equal(of(*own), of())
    for name in ("ort-cpu", "ov-cpu"):
        with choose(name, "cpu").open(made.bundle) as engine:
            image, again = (engine.run(tensors) for _ in range(2))
        assert np.array_equal(image, again)
        assert np.abs(image - of()).max() < 1e-4, name
    session = onnxruntime.InferenceSession(made.bundle.onnx, providers=["CPUExecutionProvider"])
    assert [node.name for node in session.get_inputs()] == list(spec.tensor_names)
    assert {node.name for node in session.get_overridable_initializers()} == set(noise)
    (other,) = session.run(None, {**tensors, **noise})
    wanted = of(*noise.values())
    assert np.abs(other - wanted).max() < 1e-4
    assert np.abs(other - image).max() > 1e-2


def test_one_side_of_the_slices_may_have_a_single_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TLP_HOME", str(tmp_path / "home"))
    config = config_of("cyclegan")
    torch.manual_seed(0)
    built = registry.build(config.spec).eval()
    write_checkpoint(tmp_path / "a.ckpt", config.spec, built.state_dict(), Lineage(config=config))
    made = export(load_checkpoint(tmp_path / "a.ckpt"), ExportOptions(largest=(32, 48)))
    with choose("ort-cpu", "cpu").open(made.bundle) as engine:
        for width in (32, 48):
            given = torch.rand(len(config.spec.tensor_names), 1, 1, 32, width)
            with torch.no_grad():
                wanted = built(*given).numpy()
            found = engine.run(dict(zip(config.spec.tensor_names, given.numpy(), strict=True)))
            assert np.abs(found - wanted).max() < 1e-4


def test_a_run_may_begin_with_weights_that_were_used_with_other_noise() -> None:
    one, other = SynDiffOptions(seed=1), SynDiffOptions()
    assert one.may_begin_from(other)
    assert not one.may_begin_from(replace(other, width=32))


@pytest.mark.parametrize(
    "trained", ["cyclegan", pytest.param("syndiff", marks=pytest.mark.proof)], indirect=True
)
def test_a_run_begins_with_the_networks_of_another_but_not_with_its_pools(
    trained: Run, tmp_path: Path, phantom_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = load_checkpoint(trained.last)
    run = Run.create(
        tmp_path / "run", config_of(network_of(trained)), phantom_dir, trained.split,
        weights=trained.last, begun_from=origin.as_ancestor(),
    )  # fmt: skip
    seen: dict[str, Tensor] = {}

    def at_start(self: object, trainer: Any, module: SynthesisModule) -> None:
        seen.update({name: t.clone() for name, t in module.state_dict().items()})
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(StopWhenAsked, "on_train_start", at_start)
        fit(run, tmp_path / "cache", progress=False)
    for name, tensor in weights(trained).items():
        if name.startswith("memory."):
            assert not seen[name].any()
        elif name.startswith("unaveraged."):
            mean = name.replace("unaveraged.", "generator.")
            assert torch.equal(seen[name], weights(trained)[mean])
        else:
            assert torch.equal(seen[name], tensor), name


def test_one_training_case_is_not_enough(tmp_path: Path, phantom_dir: Path) -> None:
    split = split_of(phantom_dir)
    one = replace(split, train=split.train[:1])
    run = Run.create(tmp_path / "run", config_of("cyclegan"), phantom_dir, one)
    with pytest.raises(UsageError, match="has one case") as error:
        fit(run, tmp_path / "cache", progress=False)
    assert "Give more cases" in str(error.value)


# Unpaired samples


@pytest.fixture(scope="module")
def cases(phantom_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> list[CachedCase]:
    spec = ModelSpec(inputs=("t1",), network=TINY_NETWORK, crop=CROP)
    found = find_cases(phantom_dir, ("t1", "t1ce", "seg"))
    return open_cases(found, spec, tmp_path_factory.mktemp("cache"))


def dataset_of(cases: Sequence[CachedCase], **changes: Any) -> SliceDataset:
    spec = ModelSpec(inputs=("t1",), network=TINY_NETWORK, crop=CROP)
    made = SliceDataset(cases, spec, fuzzy=FuzzyPrompt(drop=0.2), seed=3, **changes)
    made.others = OtherCases([len(case) for case in cases])
    return made


def test_the_t1ce_is_that_of_another_case_with_its_own_prompt(cases: list[CachedCase]) -> None:
    unpaired = dataset_of(cases)
    paired = SliceDataset(cases, unpaired.spec, fuzzy=unpaired.fuzzy, seed=3)
    drawn: set[str] = set()
    for position in range(0, len(unpaired), 7):
        sample = SampleId(2, position)
        other = unpaired.other(sample)
        case, _ = unpaired.locate(position)
        drawn.add(unpaired.locate(other)[0].name)
        assert unpaired.locate(other)[0].name != case.name
        item, own, target = unpaired[sample], paired[sample], paired[SampleId(2, other)]
        assert torch.equal(item["t1"], own["t1"])
        assert torch.equal(item["prompt"], own["prompt"])
        assert torch.equal(item["t1ce"], target["t1ce"])
        assert torch.equal(item["t1ce_prompt"], target["prompt"])
    assert drawn == {case.name for case in cases}


def test_another_epoch_draws_another_t1ce(cases: list[CachedCase]) -> None:
    dataset = dataset_of(cases)
    first, again, second = (
        [dataset.other(SampleId(epoch, position)) for position in range(50)] for epoch in (0, 0, 1)
    )
    assert first == again
    assert sum(a == b for a, b in zip(first, second, strict=True)) < 10


def test_workers_draw_the_same_t1ce(cases: list[CachedCase]) -> None:
    dataset = dataset_of(cases, varied=True)
    samples: Any = [SampleId(1, position) for position in range(0, 60, 5)]
    found = [
        list(DataLoader(dataset, batch_size=3, sampler=samples, num_workers=workers))
        for workers in (0, 2)
    ]
    for one, other in zip(*found, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_every_slice_of_the_other_cases_is_drawn() -> None:
    others, rng = OtherCases([2, 3, 1]), np.random.default_rng(0)
    for case, own in enumerate([{0, 1}, {2, 3, 4}, {5}]):
        assert {others.draw(case, rng) for _ in range(200)} == set(range(6)) - own


def test_slices_with_tumour_are_drawn_as_often_as_the_sampler_draws_them() -> None:
    others = OtherCases([10, 10], np.array([3, 12]), 0.5)
    rng = np.random.default_rng(0)
    drawn = [others.draw(0, rng) for _ in range(1000)]
    assert min(drawn) == 10
    assert 0.5 < drawn.count(12) / 1000 < 0.6
    alone = OtherCases([10, 10], np.array([3]), 1.0)
    assert {alone.draw(0, rng) for _ in range(300)} == set(range(10, 20)), "none has a tumour"


def test_other_cases_are_at_least_two() -> None:
    with pytest.raises(ValueError, match="expected at least 2"):
        OtherCases([5])
