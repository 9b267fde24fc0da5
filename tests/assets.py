"""What the tests work on: phantom cases, a tiny trained model, bundles. Needs PyTorch to make.

    python -m tests.assets DIR

Environments without PyTorch receive the folder by TLP_TEST_ASSETS.
"""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tests.fakes.engine import TINY_NETWORK
from tests.support import DUAL, PHANTOM, RUN, TINY
from tlp_export import export
from tlp_runtime.io.datasets import find_cases
from tlp_runtime.spec.model import ModelSpec
from tlp_train.checkpoint import Lineage, load_checkpoint, write_checkpoint
from tlp_train.config import TrainConfig, preset
from tlp_train.module import SynthesisModule
from tlp_train.phantom import write_cohort
from tlp_train.runs import Run
from tlp_train.split import Split
from tlp_train.trainer import fit


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


def make(folder: Path) -> None:
    """Write everything; nothing is registered outside of the folder."""
    before = os.environ.get("TLP_HOME")
    with tempfile.TemporaryDirectory() as home:
        os.environ["TLP_HOME"] = home
        try:
            _make(folder)
        finally:
            if before is None:
                del os.environ["TLP_HOME"]
            else:
                os.environ["TLP_HOME"] = before


def _make(folder: Path) -> None:
    data = folder / PHANTOM
    write_cohort(data, cases=4, seed=1)
    assert find_cases(data, ("t1", "t1ce", "seg"))
    run = Run.create(folder / RUN, tiny_config(), data, split_of(data))
    with tempfile.TemporaryDirectory() as cache:
        run = fit(run, Path(cache) / "cache", progress=False)
    export(load_checkpoint(run.last), out=folder / TINY)
    config = tiny_config(("t1", "t2"))
    torch.manual_seed(0)  # random weights, for what does not depend on them
    module = SynthesisModule(config)
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "untrained.ckpt"
        write_checkpoint(path, config.spec, module.generator.state_dict(), Lineage(config=config))
        export(load_checkpoint(path), out=folder / DUAL)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
