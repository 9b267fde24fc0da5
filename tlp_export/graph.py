"""The module that is traced: a generator with its tensors as plain, named arguments.

No prompt is an input of zeros, not another branch, so one graph serves both.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tlp_runtime.spec import ModelSpec
from tlp_train.network import Generator


class OneInputGraph(nn.Module):
    """(image, prompt) to T1ce."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, image: Tensor, prompt: Tensor) -> Tensor:
        return self.generator(image, prompt)  # type: ignore[no-any-return]


class TwoInputGraph(nn.Module):
    """(T1, T2, prompt) to T1ce."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, t1: Tensor, t2: Tensor, prompt: Tensor) -> Tensor:
        return self.generator(t1, t2, prompt)  # type: ignore[no-any-return]


def export_module(generator: Generator) -> nn.Module:
    """The graph module for as many inputs as the generator takes, in evaluation mode."""
    kind = OneInputGraph if len(generator.spec.inputs) == 1 else TwoInputGraph
    return kind(generator).eval()


def example_inputs(spec: ModelSpec, batch: int = 2) -> tuple[Tensor, ...]:
    """Tensors of the right shapes, each its own (one tensor passed twice becomes one input)."""
    shape = (batch, 1, spec.crop.height, spec.crop.width)
    return tuple(torch.rand(shape) for _ in spec.tensor_names)
