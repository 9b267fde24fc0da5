"""Tiny runs, and whether two of them came to the same end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.assets import split_of, tiny_config
from tests.fakes.engine import TINY_NETWORK
from tlp_runtime.spec.model import CropSpec, ModelSpec
from tlp_train.callbacks import read_metrics
from tlp_train.module import SynthesisModule
from tlp_train.runs import Run
from tlp_train.saving import StopWhenAsked
from tlp_train.step import Step, alone, parts_of
from tlp_train.trainer import fit

QUARTER = CropSpec(rows=(82, 178), columns=(80, 160))
"""A quarter of the published crop: what a run does does not depend on it, but its time does."""

LONG: dict[str, Any] = {
    "spec": ModelSpec(inputs=("t1",), network=TINY_NETWORK, crop=QUARTER),
    "epochs": 4,
    "constant_epochs": 1,
    "slices_per_epoch": 6,
    "validation_slices": 4,
    "tumour_share": 0.5,
}
"""Three steps an epoch, and a falling learning rate, so that a wrong schedule shows."""

TO_THE_BIT = (
    "epoch", "step", "learning_rate", "train_l1", "train_generator", "train_discriminator",
    "val_psnr", "val_l1",
)  # fmt: skip
"""Columns of metrics.csv that two runs of the same options share."""


def new_run(folder: Path, data: Path, **changes: Any) -> Run:
    """A run that is not trained yet."""
    return Run.create(folder, tiny_config(**{**LONG, **changes}), data, split_of(data))


class Killed(BaseException):
    """As SIGKILL would end it: nothing more is written."""


def killed_before(epoch: int, run: Run, cache: Path, patch: pytest.MonkeyPatch) -> Run:
    """The run, killed before that epoch, counted from 0."""

    def killed(self: object, trainer: Any, module: SynthesisModule) -> None:
        if module.current_epoch == epoch:
            raise Killed

    with patch.context() as inner, pytest.raises(Killed):
        inner.setattr(StopWhenAsked, "on_train_epoch_start", killed)
        fit(run, cache, progress=False)
    return Run.open(run.folder)


def weights(run: Run) -> dict[str, torch.Tensor]:
    """What ``last.ckpt`` holds of both networks."""
    return dict(torch.load(run.last, weights_only=True)["state_dict"])


def assert_equal_runs(resumed: Run, straight: Run) -> None:
    """The same weights and curves, to the bit."""
    left, right = weights(resumed), weights(straight)
    assert left.keys() == right.keys()
    assert [name for name in left if not torch.equal(left[name], right[name])] == []
    rows, expected = (
        [{name: row[name] for name in TO_THE_BIT} for row in read_metrics(run.metrics)]
        for run in (resumed, straight)
    )
    assert rows == expected
    best, other = (torch.load(run.best, weights_only=True)["epoch"] for run in (resumed, straight))
    assert best == other


def run_step(module: SynthesisModule, batch: dict[str, torch.Tensor], parts: int = 1) -> Step:
    """One step on a batch, without a trainer."""
    step = Step(alone(module), parts_of(batch, parts), 0)
    step.run()
    return step
