"""The training step: generator and discriminator, if any, optimised by hand as the recipe says."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Adam
from torch.optim.lr_scheduler import LambdaLR

from tlp_runtime.errors import SetOption, TrainingDiverged
from tlp_runtime.spec.model import OUTPUT_NAME, PROMPT_NAME
from tlp_train.checkpoint import RECORD, Lineage
from tlp_train.config import TrainConfig
from tlp_train.data import DRAWN
from tlp_train.judging import ENHANCEMENT, INVENTED, error_of, invented_by, score
from tlp_train.networks import registry
from tlp_train.networks.base import SynthesisNetwork
from tlp_train.recipes import Networks, normal_start
from tlp_train.step import Step, parts_of

Batch = dict[str, Tensor]

STATE = "tlp_state"
"""Key of a checkpoint for what a training resumes from, next to Lightning's own."""

DISCRIMINATOR = "train_discriminator"
TERMS = {
    "train_l1": "the L1 distance",
    "train_generator": "the generator's loss",
    DISCRIMINATOR: "the discriminator's loss",
}


class SynthesisModule(L.LightningModule):
    """A generator and its recipe (:mod:`tlp_train.recipes`).

    The generators run forward once a step, and both sides see the same images.

    ``generator`` is what is validated, saved and exported. With ``config.ema`` it is the running
    mean of the weights that are trained, and those are in ``unaveraged``; otherwise it is trained
    itself, and ``unaveraged`` is None. ``auxiliary`` and ``memory`` are the recipe's.

    Logged: ``train_l1``, ``train_generator``, ``train_discriminator`` where there is one (means
    over the epoch, also over the part of it before a resume), ``val_psnr`` (dB, mean over slices,
    without prompt, range 2 of the network's scale) and ``val_l1``; where the best checkpoint is
    judged by enhancement, the figures of :mod:`tlp_train.judging` too. A loss that is not finite
    ends the training before the step it would spoil.

    Parameters
    ----------
    lineage
        What checkpoints say of how they came to be; hashes of the run's own images are added.
    """

    def __init__(self, config: TrainConfig, lineage: Lineage | None = None) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.config = config
        self.lineage = replace(lineage or Lineage(), config=config)
        self._slices = 0
        self._validated = torch.zeros(7, dtype=torch.float64)
        self.recipe = registry.network(config.spec.network.name).recipe
        self.generator = registry.build(config.spec)
        self.discriminator = self.recipe.discriminator(config)
        self.terms = [name for name in TERMS if self.discriminator or name != DISCRIMINATOR]
        self._sums = torch.zeros(len(self.terms), dtype=torch.float64)
        if config.start == "normal":
            self.generator.apply(normal_start)
        self.auxiliary = self.recipe.auxiliary(config)
        if self.auxiliary is not None and config.start == "normal":
            self.auxiliary.apply(normal_start)
        self.memory = self.recipe.memory(config)
        self._drops = any(isinstance(m, nn.Dropout) and m.p > 0 for m in self.modules())
        self.unaveraged = copy.deepcopy(self.generator) if config.ema else None
        if self.unaveraged is not None:
            self.generator.requires_grad_(False)

    @property
    def trained(self) -> SynthesisNetwork:
        """The generator that the optimiser updates."""
        return self.generator if self.unaveraged is None else self.unaveraged

    @property
    def networks(self) -> Networks:
        """What the recipe's losses use."""
        return Networks(
            self.trained, self.discriminator, self.auxiliary, self.memory, self.steps_made
        )

    @property
    def steps_made(self) -> int:
        """Steps before the one in hand; Lightning counts every optimiser's."""
        return self.global_step // len(self.sides)

    @property
    def sides(self) -> list[nn.Module]:
        """What is trained, each by an optimiser of its own; the generator's side first."""
        own: nn.Module = self.trained
        if self.auxiliary is not None:
            own = nn.ModuleList([own, self.auxiliary])
        return [own, *([] if self.discriminator is None else [self.discriminator])]

    def average(self) -> None:
        """Take the trained weights into their running mean, if there is one."""
        if self.unaveraged is None:
            return
        with torch.no_grad():
            pairs = zip(self.generator.parameters(), self.unaveraged.parameters(), strict=True)
            for mean, weight in pairs:
                mean.lerp_(weight, 1 - self.config.ema)

    def configure_optimizers(self) -> tuple[list[Adam], list[LambdaLR]]:
        """Adam for each side, with its own rate, both on the same schedule."""
        config = self.config
        pairs = list(zip(self.sides, config.rates, strict=False))
        optimisers = [
            Adam(side.parameters(), lr=rate, betas=config.betas, fused=True) for side, rate in pairs
        ]
        factors = [partial(config.rate_factor, rate=rate) for _, rate in pairs]
        return optimisers, [LambdaLR(*both) for both in zip(optimisers, factors, strict=True)]

    def forward(self, batch: Batch) -> Tensor:
        """Synthesise a batch with its prompts."""
        given = (batch[name] for name in self.config.spec.tensor_names)
        return self.generator.outputs(*given)[0]

    def outputs(self, batch: Batch) -> tuple[Tensor, ...]:
        """What the generators make of a batch in training: the image, then what losses need."""
        return self.recipe.outputs(self.config, batch, self.networks)

    @contextmanager
    def _own_dropout(self) -> Iterator[None]:
        """What dropout draws depends on the seed, the step and the process alone.

        PyTorch's own state is drawn from by loaders too, which a resumed run begins again.
        """
        if not self._drops:
            yield
            return
        rank = dist.get_rank() if dist.is_available() and dist.is_initialized() else 0
        (word,) = np.random.SeedSequence((self.config.seed, self.steps_made, rank)).generate_state(
            1
        )
        on_gpu = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=on_gpu):
            torch.manual_seed(int(word))
            yield

    def draws(self, count: int) -> Batch:
        """Random numbers of the step in hand, for ``count`` samples of this process.

        Every process draws those of all and takes its own, so that several train as one, and they
        depend on nothing but the seed and the step, so that a resumed run draws them again.
        """
        several = dist.is_available() and dist.is_initialized()
        rank, world = (dist.get_rank(), dist.get_world_size()) if several else (0, 1)
        words = np.random.SeedSequence((self.config.seed, self.steps_made)).generate_state(2)
        rng = torch.Generator().manual_seed(int(words[0]) << 32 | int(words[1]))
        drawn = self.recipe.draws(self.config, world * count, rng)
        own = slice(rank * count, (rank + 1) * count)
        return {name: tensor[own].to(self.device) for name, tensor in drawn.items()}

    def training_step(self, batch: Batch, batch_index: int) -> None:
        batch = {**batch, **self.draws(len(batch[OUTPUT_NAME]))}
        step = Step(self, parts_of(batch, self.config.accumulate), batch_index)
        with self._own_dropout():
            step.run()
        size = len(batch[OUTPUT_NAME])
        means = torch.stack([torch.stack(step.losses[name]).mean() for name in self.terms])
        self._sums += size * means.double()
        self._slices += size
        self.log("l1", means[0], prog_bar=True, logger=False, batch_size=size)

    def on_train_start(self) -> None:
        self._sums = self._sums.to(self.device)
        for schedule in self._schedules():  # a longer run's rate, where a resumed one is now
            for group, rate in zip(schedule.optimizer.param_groups, schedule.base_lrs, strict=True):
                group["lr"] = rate * self.config.rate_factor(schedule.last_epoch, float(rate))

    def on_train_epoch_start(self) -> None:
        self._sums.zero_()
        self._slices = 0

    def epoch_means(self) -> dict[str, float]:
        """Means of the losses over the epoch's slices so far, of all processes."""
        sums, slices = self._totals()
        return dict(zip(self.terms, (sums / max(1, slices)).tolist(), strict=True))

    def on_train_epoch_end(self) -> None:
        self.log_dict(self.epoch_means(), sync_dist=True)
        for schedule in self._schedules():
            schedule.step()

    def _schedules(self) -> list[LambdaLR]:
        found: Any = self.lr_schedulers()  # of one optimiser, Lightning gives no list
        return list(found) if isinstance(found, list) else [found]

    def _totals(self) -> tuple[Tensor, int]:
        """Sums of the losses and the number of slices, of all processes."""
        total = torch.cat([self._sums, self._sums.new_tensor([self._slices])])
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(total)
        return total[:-1], int(total[-1])

    def require_finite(self, losses: Mapping[str, Sequence[Tensor]], batch: int) -> None:
        """Raise in every process when a loss of any of them is not finite."""
        bad = [
            name for name, kept in losses.items() if not torch.stack(list(kept)).isfinite().all()
        ]
        anywhere = bool(bad)
        if self.trainer.world_size > 1:
            anywhere = self.trainer.strategy.reduce_boolean_decision(anywhere, all=False)
        if anywhere:
            terms = " and ".join(TERMS[name] for name in bad) or "a loss of another process"
            data = self.trainer.datamodule  # type: ignore[attr-defined]
            slices = data.slices_of(self.current_epoch, batch)
            raise self._diverged(f"{terms} is not finite", f"batch {batch + 1} ({slices})")

    def _diverged(self, what: str, where: str) -> TrainingDiverged:
        return TrainingDiverged(
            f"{what} in {where} of epoch {self.current_epoch + 1}. Checkpoints saved before are "
            "as they were",
            fix=(
                SetOption("precision", "32-true", "if it is bf16-mixed"),
                "Or train with another seed, or on data without these slices.",
            ),
        )

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        image = self({**batch, PROMPT_NAME: torch.zeros_like(batch[PROMPT_NAME])})
        target = batch[OUTPUT_NAME]
        mse = (image.float() - target).square().mean(dim=(1, 2, 3)).clamp_min(1e-10)
        psnr = (10 * torch.log10(4 / mse)).sum()
        l1 = (image - target).abs().mean(dim=(1, 2, 3)).sum()
        sums = [psnr.double(), l1.double(), psnr.new_tensor(len(target)).double()]
        self._validated[:3] += torch.stack(sums)
        if DRAWN in batch:
            self._validated[3:] += self._judged(batch)

    def _judged(self, batch: Batch) -> Tensor:
        """Errors and voxels of enhancement where it is true, and where a wrong prompt lies."""
        exact, core = batch[PROMPT_NAME], self.config.spec.prompt.tumour_value
        low, high = self.config.spec.intensity.range
        target = (batch[OUTPUT_NAME] - low) / (high - low)
        drawn, wrong = (
            (self({**batch, PROMPT_NAME: prompt}) - low) / (high - low)
            for prompt in (batch[DRAWN], exact.flip(-1))
        )
        found = (
            error_of(drawn, target, exact, core),
            invented_by(wrong, target, exact, core),
        )
        return torch.stack([part for one in found for part in (one.total, one.voxels)])

    def on_validation_epoch_start(self) -> None:
        self._validated = torch.zeros(7, dtype=torch.float64, device=self.device)

    def on_validation_epoch_end(self) -> None:
        # By sums of our own: with slices that processes do not share evenly, Lightning's mean of
        # several divides by a whole number of slices per process.
        sums = self._validated
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(sums)
        psnr, l1, slices, error, core, invented, wrong = sums.tolist()
        means = {"val_psnr": psnr / slices, "val_l1": l1 / slices}
        if self.config.best == "enhancement":
            means |= {
                ENHANCEMENT: error / core if core else math.nan,
                INVENTED: invented / wrong if wrong else math.nan,
            }
        self.log_dict(means, prog_bar=True, sync_dist=True)
        if not math.isfinite(means["val_l1"]):
            raise self._diverged(
                "the L1 distance of the validation slices is not finite", "the end"
            )

    def score(self, metrics: Mapping[str, Any]) -> float:
        """The score of a validation; the best checkpoint has the highest."""
        if self.config.best == "enhancement":
            return score(metrics)
        return float(metrics["val_psnr"])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        bad = [name for name, value in self.state_dict().items() if not value.isfinite().all()]
        if bad:
            raise self._diverged(f"{len(bad)} weights such as {bad[0]} are not finite", "a step")
        # What the training volumes looked like is known once they are read.
        data = getattr(self.trainer, "datamodule", None)
        spec = replace(self.config.spec, brightness=getattr(data, "brightness", ()))
        voxels = getattr(data, "voxels", {})
        images = {one[name] for one in voxels.values() for name in one if name != "seg"}
        seen = images.union(self.lineage.training_voxels)
        lineage = replace(
            self.lineage,
            training_voxels=tuple(sorted(seen)),
            learnt_factor=getattr(data, "learnt_factor", None),
        )
        checkpoint[RECORD] = {"spec": spec.to_json(), **lineage.to_dict()}
        sums, slices = self._totals()
        checkpoint[STATE] = {
            "rng": torch.get_rng_state(),
            "losses": dict(zip(self.terms, sums.tolist(), strict=True)),
            "slices": slices,
            "voxels": voxels,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.restore(checkpoint)
        if not self.trainer.is_global_zero:  # of several processes, one goes on with all sums
            self._sums.zero_()
            self._slices = 0

    def restore(self, checkpoint: Mapping[str, Any]) -> None:
        """Take over the random numbers and the epoch's losses so far."""
        state = self.state_of(checkpoint)
        torch.set_rng_state(state["rng"])
        sums = state.get("losses", {})
        self._sums = torch.tensor([sums.get(name, 0.0) for name in self.terms], dtype=torch.float64)
        self._slices = int(state.get("slices", 0))

    @staticmethod
    def state_of(checkpoint: Mapping[str, Any]) -> Mapping[str, Any]:
        """What a checkpoint holds for a resume; the first version had it in its record."""
        state: Mapping[str, Any] = checkpoint.get(STATE, checkpoint[RECORD])
        return state
