"""What every network is: its options, its module, how it is trained, and its card."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tlp_runtime.spec.model import ModelSpec
from tlp_train.networks.options import NetworkOptions
from tlp_train.recipes import Recipe


def wide(x: Tensor) -> Tensor:
    """``x`` in float32 at least, for what sums over many values or ends a network."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


BACKGROUND = -1.0
"""Of a scaled image; a prompt's is 0."""


def centred(images: Tensor, height: int, width: int, value: float) -> Tensor:
    """Images in the middle of a larger size, with ``value`` around them."""
    rows, columns = height - images.shape[-2], width - images.shape[-1]
    sides = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
    return F.pad(images, sides, value=value)


class SynthesisNetwork(nn.Module):
    """Image slices, and a prompt where the network takes one, to T1ce slices.

    ``forward`` takes one (B, 1, H, W) float32 tensor for each of ``spec.tensor_names``, in that
    order, and returns (B, 1, H, W) in [-1, 1]. No prompt is a tensor of zeros.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec

    @property
    def channels(self) -> int:
        """Of each branch: its image, and the prompt if there is one."""
        return 1 + self.spec.network.prompt

    @property
    def drawn(self) -> Mapping[str, Tensor]:
        """Random tensors by name that ``forward`` takes as well, after the others, if given.

        Their values here are the ones that it uses otherwise. In a graph they are inputs with
        these values as defaults, of float32.
        """
        return {}

    def outputs(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """What training sees: the image first, then whatever else the losses need."""
        return (self(*tensors),)

    def shed(self) -> None:
        """Drop the parts that training alone needs, before the network is deployed."""

    def branches(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Each input with the prompt, (B, channels, H, W)."""
        self._require(tensors)
        if not self.spec.network.prompt:
            return list(tensors)
        *images, prompt = tensors
        return [torch.cat((image, prompt), dim=1) for image in images]

    def stacked(self, tensors: Sequence[Tensor]) -> Tensor:
        """All inputs, then the prompt, as the channels of one tensor."""
        self._require(tensors)
        return torch.cat(tuple(tensors), dim=1)

    def padded(self, stacked: Tensor, height: int, width: int) -> Tensor:
        """A stack of images and prompt, background around it, in a larger size; :meth:`cropped`
        undoes it."""
        count = len(self.spec.inputs)
        parts = [centred(stacked[:, :count], height, width, BACKGROUND)]
        if self.spec.network.prompt:
            parts.append(centred(stacked[:, count:], height, width, 0.0))
        return torch.cat(parts, dim=1)

    @staticmethod
    def cropped(image: Tensor, height: int, width: int) -> Tensor:
        """The middle of an image that :meth:`padded` made larger."""
        top, left = (image.shape[-2] - height) // 2, (image.shape[-1] - width) // 2
        return image[..., top : top + height, left : left + width]

    def _require(self, tensors: Sequence[Tensor]) -> None:
        names = self.spec.tensor_names
        if len(tensors) != len(names):
            raise TypeError(f"expected {', '.join(names)}, got {len(tensors)}")


@dataclass(frozen=True, kw_only=True)
class Card:
    """Where a network comes from.

    Parameters
    ----------
    title
        What it is, in a few words.
    paper
        Where it was published.
    licence
        Of the original code.
    differs
        How what is here differs from what was published.
    """

    title: str
    paper: str
    licence: str
    differs: str = ""


def _nothing_shown(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return {}


@dataclass(frozen=True, kw_only=True)
class Network:
    """One network as it is registered.

    Parameters
    ----------
    options
        Its own options; they name it.
    build
        Makes it of a model's specification, of class :class:`SynthesisNetwork`. Raises
        :class:`SpecError`.
    recipe
        How it is trained.
    card
        Where it comes from.
    demo
        Options of the ``demo`` preset: a size that a CPU trains in minutes.
    official
        Turns the keys of the published state dict into names here, or raises KeyError; None where
        none is known.
    shown
        The options that such a state dict, under our names, shows.
    """

    options: type[NetworkOptions]
    build: Callable[[ModelSpec], SynthesisNetwork]
    recipe: Recipe
    card: Card
    demo: Mapping[str, Any] = field(default_factory=dict)
    official: Callable[[str], str] | None = None
    shown: Callable[[Mapping[str, Tensor]], dict[str, Any]] = _nothing_shown

    @property
    def name(self) -> str:
        """In the registry."""
        return self.options.NAME
