"""How networks are trained: a small family of recipes, one of which each network names.

A recipe says which losses there are and in which order the two sides are updated; the training
step that follows it is in :mod:`tlp_train.step`. Those that learn from unpaired images are in
:mod:`tlp_train.cycle` and :mod:`tlp_train.networks.syndiff.recipe`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tlp_runtime.spec.model import OUTPUT_NAME
from tlp_train.discriminators import patch_discriminator

if TYPE_CHECKING:
    from tlp_train.config import TrainConfig
    from tlp_train.networks.base import SynthesisNetwork

Batch = Mapping[str, Tensor]

Side = Literal["generator", "discriminator"]

MakeDiscriminator = Callable[[int, "TrainConfig"], nn.Module]
"""Of the number of its input channels and the training's options."""


@dataclass(frozen=True)
class Networks:
    """The networks of a training, as its losses use them.

    Parameters
    ----------
    generator
        The network that is trained, with the weights of the last step.
    discriminator
        As :meth:`Recipe.discriminator` made it.
    auxiliary
        As :meth:`Recipe.auxiliary` made it.
    memory
        As :meth:`Recipe.memory` made it.
    step
        Steps that were made before.
    """

    generator: SynthesisNetwork
    discriminator: Any = None
    auxiliary: Any = None
    memory: Any = None
    step: int = 0


def l1(image: Tensor, target: Tensor) -> Tensor:
    """The mean absolute difference."""
    return F.l1_loss(image, target)


def _wanted(scores: Tensor, *, real: bool) -> Tensor:
    return torch.ones_like(scores) if real else torch.zeros_like(scores)


def least_squares(scores: Tensor, *, real: bool) -> Tensor:
    """Mean squared distance of scores to 1 of real images, or to 0."""
    return F.mse_loss(scores, _wanted(scores, real=real))


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Plain regression: the generator alone, on the L1 distance.

    Parameters
    ----------
    published
        What the publication sets of :class:`~tlp_train.config.TrainConfig`, where it is not as
        the ``paper`` preset has it.
    demo
        What the ``demo`` preset sets for this recipe.
    """

    TITLE: ClassVar[str] = "L1"
    """In the table of networks."""

    unpaired: ClassVar[bool] = False
    """Whether the T1ce of a training sample is of another case than its inputs."""

    published: Mapping[str, Any] = field(default_factory=dict)
    demo: Mapping[str, Any] = field(default_factory=dict)

    @property
    def order(self) -> tuple[Side, ...]:
        """The sides in the order of their updates."""
        return ("generator",)

    @property
    def together(self) -> bool:
        """Whether both sides take their gradients before either is updated."""
        return False

    def discriminator(self, config: TrainConfig) -> nn.Module | None:
        """The opponent, if there is one; a ModuleDict of several."""
        return None

    def auxiliary(self, config: TrainConfig) -> nn.Module | None:
        """Networks that are trained with the generator, by its optimiser, and never exported."""
        return None

    def memory(self, config: TrainConfig) -> nn.Module | None:
        """What is kept from step to step and has no weights; checkpoints hold its buffers."""
        return None

    def draws(self, config: TrainConfig, count: int, rng: torch.Generator) -> Batch:
        """Random numbers of a step, on the CPU: added to its batch, one row per sample.

        Parameters
        ----------
        count
            Samples of the step, of all processes.
        rng
            Seeded by the run's seed and the number of the step.
        """
        return {}

    def outputs(self, config: TrainConfig, batch: Batch, nets: Networks) -> tuple[Tensor, ...]:
        """What the generators make of a batch, for the losses of both sides; the image first."""
        return nets.generator.outputs(*(batch[name] for name in config.spec.tensor_names))

    def generator_loss(
        self, config: TrainConfig, outputs: Sequence[Tensor], batch: Batch, nets: Networks
    ) -> tuple[Tensor, Tensor]:
        """The generator's loss, and its L1 distance by itself.

        Parameters
        ----------
        outputs
            As :meth:`outputs` returned them.
        """
        distance = l1(outputs[0], batch[OUTPUT_NAME])
        return distance, distance

    def discriminator_loss(
        self, config: TrainConfig, outputs: Sequence[Tensor], batch: Batch, nets: Networks
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

    TITLE: ClassVar[str] = "adversarial loss and L1"

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
        self, config: TrainConfig, outputs: Sequence[Tensor], batch: Batch, nets: Networks
    ) -> tuple[Tensor, Tensor]:
        """Adversarial + weighted L1 (+ reconstructions), and the L1."""
        image, *further = outputs
        distance = l1(image, batch[OUTPUT_NAME])
        scores = self._scores(config, image, batch, nets.discriminator)
        loss = self._judged(scores, real=True)
        loss = loss + config.l1_weight * distance
        if self.reconstruction:
            pairs = zip(further, config.spec.inputs, strict=True)
            loss = loss + self.reconstruction * sum(l1(one, batch[name]) for one, name in pairs)
        return loss, distance

    def discriminator_loss(
        self, config: TrainConfig, outputs: Sequence[Tensor], batch: Batch, nets: Networks
    ) -> Tensor:
        """Half the sum of the losses on real and on synthesized images, means over patches."""
        real = self._scores(config, batch[OUTPUT_NAME], batch, nets.discriminator)
        fake = self._scores(config, outputs[0], batch, nets.discriminator)
        return (self._judged(real, real=True) + self._judged(fake, real=False)) / 2

    def _scores(self, config: TrainConfig, image: Tensor, batch: Batch, opponent: Any) -> Tensor:
        """The map of patch scores; MONAI's discriminator returns all its layers."""
        if self.conditional:
            image = torch.cat((*(batch[name] for name in config.spec.inputs), image), dim=1)
        scores = opponent(image)
        return scores[-1] if isinstance(scores, list) else scores  # type: ignore[no-any-return]

    def _judged(self, scores: Tensor, *, real: bool) -> Tensor:
        if self.criterion == "bce":
            return F.binary_cross_entropy_with_logits(scores, _wanted(scores, real=real))
        return least_squares(scores, real=real)


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
