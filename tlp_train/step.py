"""One training step: both sides' losses and updates, in the order that the recipe says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from tlp_train.module import Batch, SynthesisModule

Outputs = tuple[Tensor, ...]


class Step:
    """A step on one batch, computed in ``parts`` one after the other.

    In several parts, what the generator made for the discriminator's step is not kept for its own:
    the graphs are what does not fit into memory. The images are.

    Attributes
    ----------
    losses
        By name, of each part.
    """

    def __init__(self, module: SynthesisModule, parts: Sequence[Batch], batch_index: int) -> None:
        self.module = module
        self.parts = parts
        self.batch_index = batch_index
        self.losses: dict[str, list[Tensor]] = {}
        self._ahead: Outputs | None = None
        self._made: list[Outputs] = []

    def run(self) -> None:
        """Update every side."""
        if self.module.recipe.together:
            self._both()
        else:
            for side in self.module.recipe.order:
                (self._generator if side == "generator" else self._discriminator)()

    def _generator(self) -> None:
        optimiser = self._optimiser(0)
        optimiser.zero_grad()
        with self._opponent_held():
            for part in self.parts:
                outputs = self._ahead or self.module.outputs(part)
                self.module.manual_backward(self._of_generator(outputs, part) / len(self.parts))
                self._made.append(_detached(outputs))
        self._require_finite("train_l1", "train_generator")
        optimiser.step()
        self.module.average()

    def _discriminator(self) -> None:
        optimiser = self._optimiser(1)
        optimiser.zero_grad()
        for index, part in enumerate(self.parts):
            made = self._made[index] if self._made else self._for_discriminator(part)
            self.module.manual_backward(self._of_discriminator(made, part) / len(self.parts))
        self._require_finite("train_discriminator")
        optimiser.step()

    def _both(self) -> None:
        """Both losses' gradients, then both updates."""
        optimisers = [self._optimiser(0), self._optimiser(1)]
        for optimiser in optimisers:
            optimiser.zero_grad()
        for part in self.parts:
            outputs = self.module.outputs(part)
            with self._opponent_held():
                own = self._of_generator(outputs, part)
            opponents = self._of_discriminator(outputs, part)
            self.module.manual_backward((own + opponents) / len(self.parts))
        self._require_finite(*self.losses)
        for optimiser in optimisers:
            optimiser.step()
        self.module.average()

    def _for_discriminator(self, part: Batch) -> Outputs:
        alone = len(self.parts) == 1
        with torch.set_grad_enabled(alone):
            outputs = self.module.outputs(part)
        if alone:
            self._ahead = outputs
        return _detached(outputs)

    def _of_generator(self, outputs: Outputs, part: Batch) -> Tensor:
        module = self.module
        loss, distance = module.recipe.generator_loss(module.config, outputs, part, module.networks)
        self._note("train_l1", distance)
        self._note("train_generator", loss)
        return loss

    def _of_discriminator(self, outputs: Outputs, part: Batch) -> Tensor:
        module = self.module
        loss = module.recipe.discriminator_loss(module.config, outputs, part, module.networks)
        self._note("train_discriminator", loss)
        return loss

    def _note(self, name: str, value: Tensor) -> None:
        self.losses.setdefault(name, []).append(value.detach())

    def _require_finite(self, *names: str) -> None:
        self.module.require_finite({name: self.losses[name] for name in names}, self.batch_index)

    def _optimiser(self, side: int) -> Any:
        found = self.module.optimizers()
        return found[side] if isinstance(found, list) else found

    @contextmanager
    def _opponent_held(self) -> Iterator[None]:
        """The discriminator as a judge: it gets no gradients."""
        held = [] if self.module.discriminator is None else self.module.discriminator.parameters()
        parameters = list(held)
        for parameter in parameters:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in parameters:
                parameter.requires_grad_(True)


def parts_of(batch: Batch, count: int) -> list[Batch]:
    """A batch in ``count`` equal parts."""
    chunks = {name: tensor.chunk(count) for name, tensor in batch.items()}
    return [{name: chunk[i] for name, chunk in chunks.items()} for i in range(count)]


def alone(module: SynthesisModule) -> SynthesisModule:
    """The module, made to step without a trainer: for measurements and tests."""
    optimisers, _ = module.configure_optimizers()
    without: dict[str, Any] = {
        "optimizers": lambda: optimisers,
        "manual_backward": torch.autograd.backward,
        "require_finite": lambda losses, batch: None,
    }
    for name, value in without.items():
        setattr(module, name, value)
    return module


def _detached(outputs: Outputs) -> Outputs:
    return tuple(one.detach() for one in outputs)
