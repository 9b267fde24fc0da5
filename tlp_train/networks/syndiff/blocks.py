"""Building blocks of the diffusive generator and of the discriminator of steps."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tlp_train.networks.base import wide
from tlp_train.networks.syndiff.options import SynDiffOptions

ROOT_HALF = math.sqrt(0.5)
"""Keeps the variance of a sum of two."""


def sinusoid(t: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """Steps (B,) as sines, then cosines, of geometrically falling frequencies, (B, width)."""
    half = width // 2
    places = torch.arange(half, dtype=torch.promote_types(dtype, torch.float32), device=t.device)
    rates = torch.exp(places * (-math.log(10000) / max(half - 1, 1)))
    angles = t[:, None].to(rates.dtype) * rates
    return torch.cat((angles.sin(), angles.cos()), dim=1).to(dtype)


class Smooth(nn.Module):
    """Filter [1, 3, 3, 1] along rows and columns, with zero padding, to another size.

    Parameters
    ----------
    to
        Output size: half or double the input's, or one pixel more.
    """

    kernel: Tensor

    def __init__(self, to: Literal["half", "double", "one more"]) -> None:
        super().__init__()
        self.to_size = to
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        kernel = torch.outer(taps, taps)[None, None] * (4 if to == "double" else 1)
        self.register_buffer("kernel", kernel, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        kernel = self.kernel.to(x.dtype).expand(channels, 1, 4, 4)
        if self.to_size == "double":
            return F.conv_transpose2d(x, kernel, stride=2, padding=1, groups=channels)
        stride, padding = (2, 1) if self.to_size == "half" else (1, 2)
        return F.conv2d(x, kernel, stride=stride, padding=padding, groups=channels)


def group_norm(channels: int, *, affine: bool = True) -> nn.GroupNorm:
    """GroupNorm with a quarter as many groups as channels, 32 at most."""
    return nn.GroupNorm(min(channels // 4, 32), channels, eps=1e-6, affine=affine)


class AdaptiveGroupNorm(nn.Module):
    """GroupNorm whose scale and shift come from the latent."""

    def __init__(self, channels: int, latent_width: int) -> None:
        super().__init__()
        self.norm = group_norm(channels, affine=False)
        self.style = nn.Linear(latent_width, 2 * channels)
        with torch.no_grad():
            self.style.bias[:channels] = 1
            self.style.bias[channels:] = 0

    def forward(self, x: Tensor, latent: Tensor) -> Tensor:
        scale, shift = wide(self.style(latent))[:, :, None, None].chunk(2, dim=1)
        return (scale * self.norm(wide(x)) + shift).to(x.dtype)  # type: ignore[no-any-return]


class Block(nn.Module):
    """Two 3x3 convolutions, conditioned on latent and step, and a skip connection.

    Parameters
    ----------
    resample
        Changes the size before the first convolution.
    """

    def __init__(
        self, inputs: int, outputs: int, net: SynDiffOptions, resample: Smooth | None = None
    ) -> None:
        super().__init__()
        self.resample = resample or nn.Identity()
        self.norm1 = AdaptiveGroupNorm(inputs, net.latent_width)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.time = nn.Linear(4 * net.width, outputs)
        self.norm2 = AdaptiveGroupNorm(outputs, net.latent_width)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        projected = inputs != outputs or resample is not None
        self.skip = nn.Conv2d(inputs, outputs, 1) if projected else nn.Identity()

    def forward(self, x: Tensor, time: Tensor, latent: Tensor) -> Tensor:
        h = self.conv1(self.resample(F.silu(self.norm1(x, latent))))
        h = h + self.time(time)[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h, latent)))
        return (self.skip(self.resample(x)) + h) * ROOT_HALF  # type: ignore[no-any-return]


class Pointwise(nn.Module):
    """Linear layer over the last axis; its weight is (in, out), as published."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        bound = channels**-0.5
        self.weight = nn.Parameter(torch.empty(channels, channels).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.to(x.dtype) + self.bias.to(x.dtype)


class Attention(nn.Module):
    """Self-attention over all pixels, with one head."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.query, self.key, self.value, self.project = (Pointwise(channels) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        pixels = self.norm(wide(x)).to(x.dtype).flatten(2).transpose(1, 2)
        q, k, v = (part(pixels) for part in (self.query, self.key, self.value))
        scores = wide(q) @ wide(k).transpose(1, 2) * q.shape[-1] ** -0.5
        seen = self.project(scores.softmax(dim=-1).to(v.dtype) @ v)
        return (x + seen.transpose(1, 2).unflatten(2, x.shape[-2:])) * ROOT_HALF  # type: ignore[no-any-return]
