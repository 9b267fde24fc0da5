"""The training step: generator and discriminator, optimised by hand in turn."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import Adam
from torch.optim.lr_scheduler import LambdaLR

from tlp_runtime.spec.model import OUTPUT_NAME, PROMPT_NAME
from tlp_train.config import TrainConfig
from tlp_train.losses import AdversarialObjective
from tlp_train.network import Generator
from tlp_train.network.discriminator import build_discriminator

Batch = dict[str, Tensor]


class SynthesisModule(L.LightningModule):
    """One GAN: the generator runs forward once a step, the discriminator steps first.

    Logged: ``train_l1``, ``train_generator``, ``train_discriminator`` (means over the epoch),
    ``val_psnr`` (dB, mean over slices, without prompt, range 2 of the network's scale) and
    ``val_l1``.
    """

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.config = config
        self.generator = Generator(config.spec)
        self.discriminator = build_discriminator(
            config.discriminator_channels, config.discriminator_norm
        )
        self.objective = AdversarialObjective(config.l1_weight)
        if config.start == "normal":
            self.generator.apply(_normal_start)

    def configure_optimizers(self) -> tuple[list[Adam], list[LambdaLR]]:
        """Adam for each network, both on the published schedule."""
        optimisers = [
            Adam(
                net.parameters(), lr=self.config.learning_rate, betas=self.config.betas, fused=True
            )
            for net in (self.generator, self.discriminator)
        ]
        return optimisers, [LambdaLR(o, self.config.rate_factor) for o in optimisers]

    def forward(self, batch: Batch) -> Tensor:
        """Synthesise a batch with its prompts."""
        image: Tensor = self.generator(*(batch[name] for name in self.config.spec.tensor_names))
        return image

    def training_step(self, batch: Batch, batch_index: int) -> None:
        generator_step, discriminator_step = self.optimizers()  # type: ignore[attr-defined]
        parts = _parts(batch, self.config.accumulate)
        share = 1 / len(parts)
        # In parts, the fakes of the discriminator's step are not kept for the generator's: their
        # graphs are what does not fit into memory.
        image = None
        discriminator_step.zero_grad()
        losses_d = []
        for part in parts:
            with torch.set_grad_enabled(len(parts) == 1):
                image = self(part)
            loss = self.objective.discriminator(
                self.discriminator(part[OUTPUT_NAME])[-1], self.discriminator(image.detach())[-1]
            )
            self.manual_backward(loss * share)
            losses_d.append(loss.detach())
        discriminator_step.step()

        for parameter in self.discriminator.parameters():
            parameter.requires_grad_(False)
        generator_step.zero_grad()
        losses_g, l1s = [], []
        for part in parts:
            if len(parts) > 1 or image is None:
                image = self(part)
            loss, l1 = self.objective.generator(
                self.discriminator(image)[-1], image, part[OUTPUT_NAME]
            )
            self.manual_backward(loss * share)
            losses_g.append(loss.detach())
            l1s.append(l1.detach())
        generator_step.step()
        for parameter in self.discriminator.parameters():
            parameter.requires_grad_(True)

        size = len(batch[OUTPUT_NAME])
        l1 = torch.stack(l1s).mean()
        self.log_dict(
            {
                "train_l1": l1,
                "train_generator": torch.stack(losses_g).mean(),
                "train_discriminator": torch.stack(losses_d).mean(),
            },
            on_step=False,
            on_epoch=True,
            batch_size=size,
            sync_dist=True,
        )
        self.log("l1", l1, prog_bar=True, logger=False, batch_size=size)

    def on_train_epoch_end(self) -> None:
        for schedule in self.lr_schedulers():  # type: ignore[union-attr]
            schedule.step()

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        image = self({**batch, PROMPT_NAME: torch.zeros_like(batch[PROMPT_NAME])})
        target = batch[OUTPUT_NAME]
        mse = (image.float() - target).square().mean(dim=(1, 2, 3)).clamp_min(1e-10)
        self.log_dict(
            {
                "val_psnr": (10 * torch.log10(4 / mse)).mean(),
                "val_l1": (image - target).abs().mean(),
            },
            prog_bar=True,
            batch_size=len(target),
            sync_dist=True,
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # What the training volumes looked like is known once they are read.
        data = getattr(self.trainer, "datamodule", None)
        seen = getattr(data, "brightness", ())
        checkpoint["tlp"] = {
            "spec": replace(self.config.spec, brightness=seen).to_json(),
            "config": self.config.to_dict(),
            "rng": torch.get_rng_state(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        torch.set_rng_state(checkpoint["tlp"]["rng"])


def _parts(batch: Batch, count: int) -> list[Batch]:
    """A batch in ``count`` equal parts."""
    chunks = {name: tensor.chunk(count) for name, tensor in batch.items()}
    return [{name: chunk[i] for name, chunk in chunks.items()} for i in range(count)]


def _normal_start(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
