"""How networks are trained: a small family of recipes, one of which each network names.

A recipe says which losses there are and in which order the two sides are updated; the training
step that follows it is in :mod:`tlp_train.module`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tlp_runtime.spec.model import OUTPUT_NAME
from tlp_train.discriminators import patch_discriminator

if TYPE_CHECKING:
    from tlp_train.config import TrainConfig

Batch = Mapping[str, Tensor]

Side = Literal["generator", "discriminator"]

MakeDiscriminator = Callable[[int, "TrainConfig"], nn.Module]
"""Of the number of its input channels and the training's options."""


def l1(image: Tensor, target: Tensor) -> Tensor:
    """The mean absolute difference."""
    return F.l1_loss(image, target)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Plain regression: the generator alone, on the L1 distance.

    Parameters
    ----------
    published
        What the publication sets of :class:`~tlp_train.config.TrainConfig`, where it is not as
        the ``paper`` preset has it.
    """

    published: Mapping[str, Any] = field(default_factory=dict)

    @property
    def order(self) -> tuple[Side, ...]:
        """The sides in the order of their updates."""
        return ("generator",)

    @property
    def together(self) -> bool:
        """Whether both sides take their gradients before either is updated."""
        return False

    def discriminator(self, config: TrainConfig) -> nn.Module | None:
        """The opponent, if there is one."""
        return None

    def generator_loss(
        self, config: TrainConfig, outputs: Sequence[Tensor], batch: Batch, opponent: Any
    ) -> tuple[Tensor, Tensor]:
        """The generator's loss, and its L1 distance by itself.

        Parameters
        ----------
        outputs
            What the generator returns in training; the image is the first.
        opponent
            The discriminator.
        """
        distance = l1(outputs[0], batch[OUTPUT_NAME])
        return distance, distance

    def discriminator_loss(
        self, config: TrainConfig, image: Tensor, batch: Batch, opponent: Any
    ) -> Tensor:
        """The discriminator's loss on real and synthesized images."""
        raise NotImplementedError(f"{type(self).__name__} has no discriminator")


Regression = Recipe


@dataclass(frozen=True, kw_only=True)
class PairedGAN(Recipe):
    """A generator against a discriminator, on pairs: adversarial loss plus weighted L1.

    Without options it is equation 6 of the TLP paper.

    Parameters
    ----------
    criterion
        ``least_squares``: squared distance of the scores to 1 or 0; ``bce``: binary cross-entropy
        with logits.
    conditional
        Whether the discriminator sees the inputs too, before the image.
    first
        The side that is updated first; both see the same synthesized image.
    together
        Take the gradients of both losses before either update, and let the generator have that of
        the discriminator's loss too (MMgSN-Net's published code).
    reconstruction
        Weight of the L1 distance of each further output to its input.
    make_discriminator
        The discriminator.
    """

    criterion: Literal["least_squares", "bce"] = "least_squares"
    conditional: bool = False
    first: Side = "discriminator"
    together: bool = False
    reconstruction: float = 0.0
    make_discriminator: MakeDiscriminator = patch_discriminator

    @property
    def order(self) -> tuple[Side, ...]:
        """As :attr:`Recipe.order`."""
        if self.first == "generator":
            return ("generator", "discriminator")
        return ("discriminator", "generator")

    def discriminator(self, config: TrainConfig) -> nn.Module:
        """As :meth:`Recipe.discriminator`."""
        seen = 1 + len(config.spec.inputs) * self.conditional
        return self.make_discriminator(seen, config)

    def generator_loss(
        self, config: TrainConfig, outputs: Sequence[Tensor], batch: Batch, opponent: Any
    ) -> tuple[Tensor, Tensor]:
        """Adversarial + weighted L1 (+ reconstructions), and the L1."""
        image, *further = outputs
        distance = l1(image, batch[OUTPUT_NAME])
        loss = self._judged(self._scores(config, image, batch, opponent), real=True)
        loss = loss + config.l1_weight * distance
        if self.reconstruction:
            pairs = zip(further, config.spec.inputs, strict=True)
            loss = loss + self.reconstruction * sum(l1(one, batch[name]) for one, name in pairs)
        return loss, distance

    def discriminator_loss(
        self, config: TrainConfig, image: Tensor, batch: Batch, opponent: Any
    ) -> Tensor:
        """Half the sum of the losses on real and on synthesized images, means over patches."""
        real = self._scores(config, batch[OUTPUT_NAME], batch, opponent)
        fake = self._scores(config, image, batch, opponent)
        return (self._judged(real, real=True) + self._judged(fake, real=False)) / 2

    def _scores(self, config: TrainConfig, image: Tensor, batch: Batch, opponent: Any) -> Tensor:
        """The map of patch scores; MONAI's discriminator returns all its layers."""
        if self.conditional:
            image = torch.cat((*(batch[name] for name in config.spec.inputs), image), dim=1)
        scores = opponent(image)
        return scores[-1] if isinstance(scores, list) else scores  # type: ignore[no-any-return]

    def _judged(self, scores: Tensor, *, real: bool) -> Tensor:
        wanted = torch.ones_like(scores) if real else torch.zeros_like(scores)
        if self.criterion == "bce":
            return F.binary_cross_entropy_with_logits(scores, wanted)
        return F.mse_loss(scores, wanted)


def normal_start(module: nn.Module) -> None:
    """Start from N(0, 0.02) for convolutions and N(1, 0.02) for BatchNorm; biases from 0."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)
