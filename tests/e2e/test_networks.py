"""Every network through the whole chain: trained, exported, verified, used."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tlp_cli.main import main

from tests.assets import split_of
from tests.scans import slab
from tests.train.runs import QUARTER
from tlp_export import export
from tlp_export.options import ExportOptions
from tlp_runtime.engines.builds import add_engine
from tlp_runtime.engines.options import BatchProfile, EngineOptions
from tlp_runtime.engines.select import choose
from tlp_runtime.errors import ModelMismatch, SpecError, UsageError
from tlp_runtime.synthesis.request import Prompt, Request
from tlp_runtime.synthesis.synthesizer import Synthesizer
from tlp_runtime.warnings import WarningLog
from tlp_train.callbacks import read_metrics
from tlp_train.checkpoint import Lineage, load_checkpoint, write_checkpoint
from tlp_train.config import TrainConfig, preset
from tlp_train.module import SynthesisModule
from tlp_train.networks import registry
from tlp_train.runs import Run
from tlp_train.stopping import StopRequests, TrainingStopped
from tlp_train.trainer import fit

SMALL: Mapping[str, dict[str, Any]] = {
    "unet": {"width": 2, "stages": 4},
    "pix2pix": {"width": 2},
    "hinet": {"width": 2},
    "mmgsn": {"width": 8},
    "resvit": {"width": 2, "blocks": 6, "hidden": 16, "heads": 2, "layers": 1, "mlp": 16},
    "cyclegan": {"width": 2, "blocks": 1},
}


def small_config(network: str, *, prompt: bool = True) -> TrainConfig:
    """A run of two steps on two inputs."""
    config = preset(
        "demo", ("t1", "t2"), network, network_options=SMALL[network], prompt=prompt, epochs=1,
        constant_epochs=1, batch_size=2, slices_per_epoch=4, validation_slices=2,
        discriminator_channels=2,
    )  # fmt: skip
    if network == "mmgsn":  # its attention is over every pixel of half the size
        config = replace(config, spec=replace(config.spec, crop=QUARTER))
    return config


def test_every_other_network_is_tried_here() -> None:
    """SynDiff, whose graph takes longest, is in tests/train/test_unpaired_runs.py."""
    assert {*SMALL, "tlp", "syndiff"} == set(registry.NAMES)


@pytest.mark.parametrize("network", SMALL)
def test_a_network_goes_through_the_whole_chain(
    network: str,
    tmp_path: Path,
    phantom_dir: Path,
    phantom_case: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TLP_HOME", str(tmp_path / "home"))
    prompt = network != "hinet"
    config = small_config(network, prompt=prompt)
    run = fit(
        Run.create(tmp_path / "run", config, phantom_dir, split_of(phantom_dir)),
        tmp_path / "cache",
        progress=False,
    )
    (row,) = read_metrics(run.metrics)
    assert ("train_discriminator" in row) == (network != "unet")
    assert row["step"] == "2"
    checkpoint = load_checkpoint(run.last)
    assert checkpoint.spec.network == config.spec.network

    exported = export(checkpoint)
    assert exported.parity.passed
    assert network in exported.name
    names = ("t1", "t2", "prompt") if prompt else ("t1", "t2")
    assert exported.bundle.spec.tensor_names == names
    card = (exported.bundle.path / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert card.startswith(f"# {network} model: T1 and T2 to synthetic T1ce")
    assert registry.network(network).card.licence in card

    files = slab(phantom_case, tmp_path, 6)
    images: Any = {name: files[name] for name in ("t1", "t2")}
    drawn = Prompt(files["seg"])
    engine = choose("ort-cpu", "cpu").open(exported.bundle)
    with Synthesizer(engine) as synthesizer:
        made = synthesizer.run(Request(images=images, prompt=drawn if prompt else Prompt()))
        assert made.volume.data.shape == made.prepared.reference.data.shape
        assert np.ptp(made.volume.data) > 0
        if not prompt:
            with pytest.raises(ModelMismatch, match=r"takes no prompt.*Leave the prompt out"):
                synthesizer.prepare(Request(images=images, prompt=drawn))
    if not prompt:
        refuses_prompts(exported.bundle.path, files, phantom_dir, tmp_path, capfd)


def refuses_prompts(
    bundle: Path, files: dict[str, Path], data: Path, folder: Path, capfd: Any
) -> None:
    """Every command that could give a prompt says that the model takes none, and works without."""
    model = ["--model", str(bundle)]
    images = ["--t1", str(files["t1"]), "--t2", str(files["t2"])]
    out = ["--out", str(folder / "out")]
    for command in (
        ["infer", *images, "--prompt", str(files["seg"]), *model],
        ["infer", *images, "--prompt-sphere", "0,0,0,9", *model],
        ["infer", "--cases", str(data), *out, *model],
        ["evaluate", "--data", str(data), "--prompt", "seg", *model],
        ["augment", *images, "--random", "1", *out, *model],
        ["view", *images, "--prompt", str(files["seg"]), *model],
    ):
        assert main(command) == 4, command
        said = capfd.readouterr().err
        assert "takes no prompt" in said, said
    assert not (folder / "out").exists()
    assert main(["infer", *images, *model, "--out", str(folder / "plain.nii.gz")]) == 0
    assert "next: tlp bench" in capfd.readouterr().err
    assert main(["bench", *model, "--volumes", "1", "--slices", "1", "--warmup", "0"]) == 0


@pytest.mark.proof
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("network", [name for name in registry.NAMES if name != "tlp"])
def test_a_network_of_published_size_trains_and_is_exported(
    network: str, tmp_path: Path, phantom_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TLP_HOME", str(tmp_path / "home"))
    config = preset(
        "paper", ("t1", "t2"), network, prompt=False, epochs=1, batch_size=1, slices_per_epoch=2,
        validation_slices=1,
    )  # fmt: skip
    run = Run.create(tmp_path / "run", config, phantom_dir, split_of(phantom_dir))
    run = fit(run, tmp_path / "cache", progress=False)
    exported = export(load_checkpoint(run.last))
    assert exported.parity.passed
    slices = {name: np.zeros((1, 1, 192, 160), np.float32) - 1 for name in ("t1", "t2")}
    with choose("ort-cpu", "cpu").open(exported.bundle) as engine:
        assert np.isfinite(engine.run(slices)).all()
    profile = EngineOptions(profiles=(BatchProfile(1, 1, 1),))
    built = add_engine(exported.bundle, "trt-rtx", profile, warn=WarningLog().add)
    assert built.file.stat().st_size > 100_000


def test_networks_of_two_inputs_say_so() -> None:
    for network in ("hinet", "mmgsn"):
        with pytest.raises(SpecError, match="fuses two inputs, T1 and T2") as caught:
            preset("demo", ("t1",), network)
        assert "t1,t2" in str(caught.value.fixes)


def test_prompts_cannot_be_judged_or_be_decoys_without_prompts() -> None:
    with pytest.raises(UsageError, match="only for a network that takes prompts"):
        preset("lab", ("t1",), prompt=False)


def test_resvit_takes_the_weights_of_its_first_stage(
    tmp_path: Path, phantom_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The transformer is added then; every other weight goes on from where it was."""
    monkeypatch.setenv("TLP_HOME", str(tmp_path / "home"))
    stages: list[Run] = []
    for transformer, before in ((False, None), (True, 0)):
        options = {**SMALL["resvit"], "transformer": transformer}
        config = preset(
            "demo", ("t1",), "resvit", network_options=options, epochs=1, batch_size=2,
            slices_per_epoch=2, validation_slices=1, learning_rate=1e-12,
            discriminator_channels=2,
        )  # fmt: skip
        origin = None if before is None else load_checkpoint(stages[before].last)
        run = Run.create(
            tmp_path / f"run{len(stages)}", config, phantom_dir, split_of(phantom_dir),
            weights=None if origin is None else origin.path,
            begun_from=() if origin is None else origin.as_ancestor(),
        )  # fmt: skip
        stages.append(fit(run, tmp_path / "cache", progress=False))
    first, second = (load_checkpoint(run.last).generator_state for run in stages)
    assert any(name.startswith("transformer.") for name in second)
    for name, tensor in first.items():
        if tensor.is_floating_point() and "running" not in name:
            torch.testing.assert_close(tensor, second[name])
    assert json.loads((stages[1].folder / "run.json").read_text())["begun_from"]


def test_dropout_is_drawn_again_when_an_epoch_goes_on(
    tmp_path: Path, phantom_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was stopped within an epoch ends with the weights of one that was not."""
    monkeypatch.setenv("TLP_HOME", str(tmp_path / "home"))
    config = replace(small_config("pix2pix"), epochs=2, slices_per_epoch=8)
    requests, inner = StopRequests(), SynthesisModule.training_step
    states = []

    def asked(module: SynthesisModule, batch: Any, index: int) -> None:
        inner(module, batch, index)
        if index == 1:
            requests.limit_s = 0.0

    for stops in (False, True):
        folder = tmp_path / f"run{stops}"
        run = Run.create(folder, config, phantom_dir, split_of(phantom_dir))
        if stops:
            with requests, monkeypatch.context() as patch, pytest.raises(TrainingStopped):
                patch.setattr(SynthesisModule, "training_step", asked)
                fit(run, tmp_path / "cache", requests=requests, progress=False)
        run = fit(Run.open(folder), tmp_path / "cache", resume=stops, progress=False)
        states.append(load_checkpoint(run.last).generator_state)
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), name


@pytest.mark.parametrize("network", ["pix2pix", "resvit"])
def test_padded_networks_take_slices_of_several_sizes(
    network: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The padding is computed inside the graph."""
    monkeypatch.setenv("TLP_HOME", str(tmp_path / "home"))
    config = small_config(network)
    torch.manual_seed(0)
    built = registry.build(config.spec).eval()
    write_checkpoint(tmp_path / "a.ckpt", config.spec, built.state_dict(), Lineage(config=config))
    exported = export(load_checkpoint(tmp_path / "a.ckpt"), ExportOptions(largest=(240, 240)))
    rng = np.random.default_rng(0)
    with choose("ort-cpu", "cpu").open(exported.bundle) as engine:
        for size in ((64, 64), (201, 167), (240, 240)):
            shape = (1, 1, *size)
            tensors = {
                name: rng.uniform(-1, 1, shape).astype(np.float32)
                for name in config.spec.tensor_names
            }
            with torch.no_grad():
                wanted = built(*map(torch.from_numpy, tensors.values())).numpy()
            assert np.abs(engine.run(tensors) - wanted).max() < 1e-4
