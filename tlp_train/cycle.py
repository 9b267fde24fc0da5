"""Unpaired training in a cycle (CycleGAN): each image is translated to the other side and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

import torch
from torch import Tensor, nn

from tlp_runtime.spec.model import OUTPUT_NAME, PROMPT_NAME
from tlp_train.pairing import TARGET_PROMPT
from tlp_train.pool import ImagePool
from tlp_train.recipes import Batch, MakeDiscriminator, Networks, Recipe, Side, l1, least_squares

if TYPE_CHECKING:
    from tlp_train.config import TrainConfig


class Translator(Protocol):
    """Gives T1ce (B, 1, H, W) of the inputs, and of the prompt where there is one."""

    def __call__(self, *tensors: Tensor) -> Tensor: ...


def stacked_inputs(config: TrainConfig, batch: Batch) -> Tensor:
    """The inputs of a batch as channels, (B, inputs, H, W)."""
    return torch.cat([batch[name] for name in config.spec.inputs], dim=1)


def prompt_of(config: TrainConfig, batch: Batch, name: str = PROMPT_NAME) -> tuple[Tensor, ...]:
    """The prompt of a batch, if the network takes one: of its inputs, or of its T1ce."""
    return (batch[name],) if config.spec.network.prompt else ()


def _channels(images: Tensor) -> tuple[Tensor, ...]:
    """Each channel as an image, (B, 1, H, W)."""
    return images.chunk(images.shape[1], dim=1)


@dataclass(frozen=True, kw_only=True)
class UnpairedCycle(Recipe):
    """Two generators and two discriminators on images without pairs (section 3 of the paper).

    The generator gives T1ce of the inputs; the backward one gives all inputs, as channels, of a
    T1ce. Prompts belong to the generator alone: that of the inputs' slice where it begins with
    them, that of the T1ce's slice where it comes back to that.

    ``outputs`` are the T1ce of the inputs, the inputs of the T1ce, and both ways back: the inputs
    again, the T1ce again. The L1 distance that is reported is that of the T1ce again.

    Parameters
    ----------
    cycle
        Weight of the L1 distances of both ways back.
    identity
        Weight of the L1 distances of what each generator makes of an image that is already its
        result. It counts only where inputs and result have one channel each: one input, no prompt.
    pool
        Synthesized images that each discriminator's pool holds.
    make_backward
        The backward generator.
    make_discriminator
        A discriminator of T1ce or of the inputs.
    """

    TITLE: ClassVar[str] = "adversarial loss and cycle, unpaired"
    unpaired: ClassVar[bool] = True

    cycle: float = 10.0
    identity: float = 5.0
    pool: int = 50
    make_backward: Callable[[TrainConfig], nn.Module]
    make_discriminator: MakeDiscriminator

    @property
    def order(self) -> tuple[Side, ...]:
        """As :attr:`Recipe.order`."""
        return ("generator", "discriminator")

    def auxiliary(self, config: TrainConfig) -> nn.Module:
        """The backward generator."""
        return self.make_backward(config)

    def discriminator(self, config: TrainConfig) -> nn.ModuleDict:
        """One of T1ce, and one of the inputs."""
        return nn.ModuleDict(
            {
                "target": self.make_discriminator(1, config),
                "inputs": self.make_discriminator(len(config.spec.inputs), config),
            }
        )

    def memory(self, config: TrainConfig) -> nn.ModuleDict:
        """A pool for each discriminator."""
        crop, inputs = config.spec.crop, len(config.spec.inputs)
        return nn.ModuleDict(
            {
                "target": ImagePool(self.pool, 1, crop.height, crop.width),
                "inputs": ImagePool(self.pool, inputs, crop.height, crop.width),
            }
        )

    def draws(self, config: TrainConfig, count: int, rng: torch.Generator) -> Batch:
        """What happens in the pools: columns are those of T1ce and of the inputs."""
        coins = torch.rand(count, 2, generator=rng)
        return {
            "coins": coins,
            "places": torch.randint(max(1, self.pool), (count, 2), generator=rng),
        }

    def outputs(self, config: TrainConfig, batch: Batch, nets: Networks) -> tuple[Tensor, ...]:
        """As the class says."""
        forward: Translator = nets.generator
        inputs = stacked_inputs(config, batch)
        made = forward(*_channels(inputs), *prompt_of(config, batch))
        back = nets.auxiliary(batch[OUTPUT_NAME])
        again = forward(*_channels(back), *prompt_of(config, batch, TARGET_PROMPT))
        return made, back, nets.auxiliary(made), again

    def generator_loss(
        self, config: TrainConfig, outputs: Sequence[Tensor], batch: Batch, nets: Networks
    ) -> tuple[Tensor, Tensor]:
        """Least squares of both discriminators + weighted cycle (+ identity), and the distance."""
        made, back, inputs_again, target_again = outputs
        inputs, target = stacked_inputs(config, batch), batch[OUTPUT_NAME]
        distance = l1(target_again, target)
        loss = least_squares(nets.discriminator["target"](made), real=True)
        loss = loss + least_squares(nets.discriminator["inputs"](back), real=True)
        loss = loss + self.cycle * (distance + l1(inputs_again, inputs))
        if self.identity and len(config.spec.tensor_names) == 1:
            same = l1(nets.generator(target), target) + l1(nets.auxiliary(inputs), inputs)
            loss = loss + self.identity * same
        return loss, distance

    def discriminator_loss(
        self, config: TrainConfig, outputs: Sequence[Tensor], batch: Batch, nets: Networks
    ) -> Tensor:
        """Of each discriminator half the losses on real images and on those of its pool."""
        made = {"target": outputs[0], "inputs": outputs[1]}
        real = {"target": batch[OUTPUT_NAME], "inputs": stacked_inputs(config, batch)}
        loss = torch.zeros((), device=outputs[0].device)
        for column, name in enumerate(made):
            fake = nets.memory[name].exchange(
                made[name], batch["coins"][:, column], batch["places"][:, column]
            )
            judge = nets.discriminator[name]
            on_real = least_squares(judge(real[name]), real=True)
            loss = loss + (on_real + least_squares(judge(fake), real=False)) / 2
        return loss
