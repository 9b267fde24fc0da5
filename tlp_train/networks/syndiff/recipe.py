"""How SynDiff is trained: translators in a cycle, which the diffusive generators learn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tlp_runtime.spec.model import OUTPUT_NAME, PROMPT_NAME
from tlp_train.cycle import prompt_of, stacked_inputs
from tlp_train.networks.base import BACKGROUND, centred
from tlp_train.networks.cyclegan import InstancePatchGAN, ResnetBody
from tlp_train.networks.syndiff.discriminator import TimeDiscriminator
from tlp_train.networks.syndiff.ncsnpp import NCSNpp
from tlp_train.networks.syndiff.options import SynDiffOptions
from tlp_train.networks.syndiff.schedule import NoiseSchedule
from tlp_train.pairing import TARGET_PROMPT
from tlp_train.recipes import Batch, Networks, Recipe, Side, l1, normal_start

if TYPE_CHECKING:
    from tlp_train.config import TrainConfig

TARGET, INPUTS = "target", "inputs"
"""The two sides of the cycle: T1ce, and all inputs as channels."""

EMBEDDING = 4
"""Width of the discriminators' step embedding, in their channels: 256 as published."""


def translator(in_channels: int, width: int = 64, out_channels: int = 1) -> ResnetBody:
    """A non-diffusive generator, which translates one contrast to the other."""
    return ResnetBody(in_channels, width, 6, out_channels)


def logistic(scores: Tensor, *, real: bool) -> Tensor:
    """Mean of softplus of the scores, negated for images that should be taken for real."""
    return F.softplus(-scores if real else scores).mean()


@dataclass(frozen=True)
class Noisy:
    """A real image of one side and what a training step makes of it.

    Parameters
    ----------
    t
        Steps, (B,).
    x, noisier
        The image at step t and at t + 1, (B, channels, size, size).
    """

    t: Tensor
    x: Tensor
    noisier: Tensor

    @classmethod
    def of(cls, image: Tensor, side: str, batch: Batch, schedule: NoiseSchedule) -> Noisy:
        """From a batch's draws."""
        t, noise = batch[f"{side}_t"], batch[f"{side}_noise"]
        x = schedule.noised(image, t, noise[:, 0])
        return cls(t, x, schedule.noisier(x, t, noise[:, 1]))


@dataclass(frozen=True, kw_only=True)
class AdversarialDiffusion(Recipe):
    """Two diffusive generators and two translators, each against a discriminator.

    The translators learn in a cycle of unpaired images. A diffusive generator learns to denoise the
    real images of one side; its source is what the translator makes of them, and the gradient goes
    on into the translator. Prompts belong to what gives T1ce alone: that of the inputs' slice where
    it begins with them, that of the T1ce's slice where it comes back to that. Everything is in the
    padded size.

    ``outputs`` are the T1ce and the inputs that are denoised, those that are translated, and those
    again after both translators. The L1 distance that is reported is that of the denoised T1ce.

    Parameters
    ----------
    distance, cycle
        Weights of the L1 distances of denoised images, and of those again.
    gamma
        Weight of the penalty on the gradient of the diffusive discriminators at real images (R1).
    every
        Steps from one penalty to the next.
    """

    TITLE: ClassVar[str] = "adversarial diffusion and cycle, unpaired"
    unpaired: ClassVar[bool] = True

    distance: float = 0.5
    cycle: float = 0.5
    gamma: float = 1.0
    every: int = 10

    @property
    def order(self) -> tuple[Side, ...]:
        """As :attr:`Recipe.order`."""
        return ("discriminator", "generator")

    def auxiliary(self, config: TrainConfig) -> nn.ModuleDict:
        """Both translators, and the diffusive generator of the inputs."""
        net, inputs = SynDiffOptions.of(config.spec), len(config.spec.inputs)
        return nn.ModuleDict(
            {
                "to_target": translator(len(config.spec.tensor_names), net.width),
                "to_inputs": translator(1, net.width, inputs),
                "denoiser": NCSNpp(inputs + 1, net),
            }
        )

    def discriminator(self, config: TrainConfig) -> nn.ModuleDict:
        """Of each side one of steps, and one of translated images."""
        net, width = SynDiffOptions.of(config.spec), config.discriminator_channels
        parts: dict[str, nn.Module] = {}
        for side, images in ((TARGET, 1), (INPUTS, len(config.spec.inputs))):
            parts[f"{side}_steps"] = TimeDiscriminator(
                width, EMBEDDING * width, images=images, blocks=net.discriminator_blocks
            )
            parts[side] = InstancePatchGAN(images, width).apply(normal_start)
        return nn.ModuleDict(parts)

    def draws(self, config: TrainConfig, count: int, rng: torch.Generator) -> Batch:
        """Of each side the step, the latent, and noise of x[t], of x[t + 1] and of denoising."""
        net = SynDiffOptions.of(config.spec)
        drawn: dict[str, Tensor] = {}
        for side, images in ((TARGET, 1), (INPUTS, len(config.spec.inputs))):
            drawn[f"{side}_t"] = torch.randint(net.steps, (count,), generator=rng)
            drawn[f"{side}_z"] = torch.randn(count, net.latent, generator=rng)
            shape = (count, 3, images, net.size, net.size)
            drawn[f"{side}_noise"] = torch.randn(shape, generator=rng)
        return drawn

    def outputs(self, config: TrainConfig, batch: Batch, nets: Networks) -> tuple[Tensor, ...]:
        """As the class says."""
        given = _Given.of(config, batch, nets)
        to_target, to_inputs = nets.auxiliary["to_target"], nets.auxiliary["to_inputs"]
        target = to_target(_stack(given.inputs, given.prompt))
        inputs = to_inputs(given.target)
        denoised = (
            self._denoised(nets.generator.denoiser, TARGET, given, inputs, given.target_prompt),
            self._denoised(nets.auxiliary["denoiser"], INPUTS, given, target, None),
        )
        again = to_target(_stack(inputs, given.target_prompt)), to_inputs(target)
        return *denoised, target, inputs, *again

    def _denoised(
        self, denoiser: Any, side: str, given: _Given, source: Tensor, prompt: Tensor | None
    ) -> Tensor:
        """The image of one side that its diffusive generator sees in the noisier one."""
        noisy = given.noisy[side]
        seen = _stack(torch.cat((noisy.noisier, source), dim=1), prompt)
        made: Tensor = denoiser(seen, noisy.t, given.latents[side])
        return made[:, : noisy.x.shape[1]]

    def generator_loss(
        self, config: TrainConfig, outputs: Sequence[Tensor], batch: Batch, nets: Networks
    ) -> tuple[Tensor, Tensor]:
        """Adversarial + weighted L1 + weighted cycle of both sides, and the L1 of T1ce."""
        denoised_target, denoised_inputs, target, inputs, target_again, inputs_again = outputs
        given, judge = _Given.of(config, batch, nets), nets.discriminator
        distance = l1(denoised_target, given.target)
        loss = logistic(given.judged(judge, TARGET, denoised_target), real=True)
        loss = loss + logistic(given.judged(judge, INPUTS, denoised_inputs), real=True)
        loss = loss + logistic(judge[TARGET](target), real=True)
        loss = loss + logistic(judge[INPUTS](inputs), real=True)
        loss = loss + self.distance * (distance + l1(denoised_inputs, given.inputs))
        cycle = l1(target_again, given.target) + l1(inputs_again, given.inputs)
        return loss + self.cycle * cycle, distance

    def discriminator_loss(
        self, config: TrainConfig, outputs: Sequence[Tensor], batch: Batch, nets: Networks
    ) -> Tensor:
        """Sum of the four discriminators' losses on real and on made images, and the penalty."""
        denoised_target, denoised_inputs, target, inputs, *_ = outputs
        given, judge = _Given.of(config, batch, nets), nets.discriminator
        loss = torch.zeros((), device=target.device)
        for side, denoised in ((TARGET, denoised_target), (INPUTS, denoised_inputs)):
            loss = loss + logistic(given.judged(judge, side, denoised), real=False)
            noisy = given.noisy[side]
            x = noisy.x.detach().requires_grad_(nets.step % self.every == 0)
            scores = judge[f"{side}_steps"](x, noisy.t, noisy.noisier)
            loss = loss + logistic(scores, real=True)
            if x.requires_grad:
                loss = loss + self.gamma / 2 * penalty(scores, x)
        for side, real, made in ((TARGET, given.target, target), (INPUTS, given.inputs, inputs)):
            on_real = logistic(judge[side](real), real=True)
            loss = loss + on_real + logistic(judge[side](made), real=False)
        return loss


def penalty(scores: Tensor, x: Tensor) -> Tensor:
    """Squared length of the gradient of the scores at images x, mean over the batch (R1)."""
    (gradient,) = torch.autograd.grad(scores.sum(), x, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3)).mean()


def _stack(images: Tensor, prompt: Tensor | None) -> Tensor:
    return images if prompt is None else torch.cat((images, prompt), dim=1)


@dataclass(frozen=True)
class _Given:
    """A batch in the padded size, with its noisy images.

    Parameters
    ----------
    target, inputs
        T1ce, and all inputs as channels.
    prompt, target_prompt
        Of the inputs' slice and of the T1ce's; None where the network takes none.
    """

    schedule: NoiseSchedule
    target: Tensor
    inputs: Tensor
    prompt: Tensor | None
    target_prompt: Tensor | None
    noisy: dict[str, Noisy]
    latents: dict[str, Tensor]
    noise: dict[str, Tensor]

    @classmethod
    def of(cls, config: TrainConfig, batch: Batch, nets: Networks) -> _Given:
        """Read what the losses use of a batch."""
        generator: Any = nets.generator
        size, schedule = generator.size, generator.schedule

        def prompt(name: str) -> Tensor | None:
            found = prompt_of(config, batch, name)
            return centred(found[0], size, size, 0.0) if found else None

        target = centred(batch[OUTPUT_NAME], size, size, BACKGROUND)
        inputs = centred(stacked_inputs(config, batch), size, size, BACKGROUND)
        return cls(
            schedule,
            target,
            inputs,
            prompt(PROMPT_NAME),
            prompt(TARGET_PROMPT),
            {
                TARGET: Noisy.of(target, TARGET, batch, schedule),
                INPUTS: Noisy.of(inputs, INPUTS, batch, schedule),
            },
            {side: batch[f"{side}_z"] for side in (TARGET, INPUTS)},
            {side: batch[f"{side}_noise"][:, 2] for side in (TARGET, INPUTS)},
        )

    def judged(self, judge: Any, side: str, denoised: Tensor) -> Tensor:
        """Scores of the less noisy image that follows from a denoised one."""
        noisy = self.noisy[side]
        x = self.schedule.denoised(denoised, noisy.noisier, noisy.t, self.noise[side])
        scores: Tensor = judge[f"{side}_steps"](x, noisy.t, noisy.noisier)
        return scores
