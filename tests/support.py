"""Helpers of several tests."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.fakes.engine import TINY_NETWORK
from tlp_export import export
from tlp_runtime.io.datasets import find_cases
from tlp_runtime.models.bundle import Bundle
from tlp_runtime.models.choice import models
from tlp_runtime.spec.model import ModelSpec
from tlp_train.checkpoint import Lineage, load_checkpoint, write_checkpoint
from tlp_train.config import TrainConfig, preset
from tlp_train.module import SynthesisModule
from tlp_train.runs import Run
from tlp_train.split import Split
from tlp_train.trainer import fit

DATA_DIR = Path(__file__).parent / "data"
REAL_CASES = Path(__file__).resolve().parents[2] / "shared" / "data" / "brats"


def tiny_config(inputs: tuple[str, ...] = ("t1",), **changes: Any) -> TrainConfig:
    """A run of seconds."""
    config = preset(
        "demo",
        inputs,
        spec=ModelSpec(inputs=inputs, network=TINY_NETWORK),
        epochs=1,
        constant_epochs=1,
        batch_size=2,
        slices_per_epoch=4,
        validation_slices=2,
        discriminator_channels=2,
        precision="32-true",
    )
    return replace(config, **changes)


def split_of(data: Path) -> Split:
    """The first cases train, the next validates, the last tests."""
    *train, validation, test = sorted(path.name for path in data.iterdir())
    return Split(tuple(train), (validation,), (test,))


def need_tool(name: str, package: str) -> str:
    """A program's path; the test is skipped where it is not installed, but fails in CI."""
    found = shutil.which(name)
    if found is None:
        message = f"{name} is not installed (Debian: apt-get install {package})"
        if os.environ.get("TLP_CI"):
            pytest.fail(message)
        pytest.skip(message)
    return found


@contextmanager
def public_folder() -> Iterator[Path]:
    """A temporary folder that every user of this machine can reach."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        folder.chmod(0o755)
        yield folder


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Take away the right to change ``folder`` and what is below it, from root too."""
    places = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    for place in places:
        place.chmod(0o555)
    root = os.geteuid() == 0  # whom no mode keeps out
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        for place in places:
            place.chmod(0o755)


@dataclass(frozen=True)
class TinyModel:
    """A finished run and the bundle made of it."""

    run: Run
    bundle: Bundle

    def register(self) -> None:
        """Make it known under the current ``TLP_HOME``."""
        models().add(self.bundle.name, self.bundle.path)

    def copy(self, folder: Path) -> Path:
        """A copy of the bundle that a test may damage."""
        target = folder / "bundle copy"
        shutil.copytree(self.bundle.path, target)
        return target


def make_tiny_model(folder: Path, data: Path) -> TinyModel:
    """Train and export under ``folder``."""
    config = tiny_config()
    assert find_cases(data, ("t1", "t1ce", "seg"))
    run = Run.create(folder / "run", config, data, split_of(data))
    run = fit(run, folder / "cache", progress=False)
    exported = export(load_checkpoint(run.last), out=folder / "tiny-t1")
    return TinyModel(run, exported.bundle)


def make_untrained_bundle(folder: Path, inputs: tuple[str, ...]) -> Bundle:
    """A bundle of random weights, for what does not depend on them."""
    config = tiny_config(inputs)
    torch.manual_seed(0)
    module = SynthesisModule(config)
    path = folder / "untrained.ckpt"
    write_checkpoint(path, config.spec, module.generator.state_dict(), Lineage(config=config))
    return export(load_checkpoint(path), out=folder / f"tiny-{'-'.join(inputs)}").bundle
