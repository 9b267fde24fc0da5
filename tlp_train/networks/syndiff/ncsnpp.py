"""The diffusive generator: a U-Net of residual blocks, NCSN++ in the publication."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tlp_train.networks.base import wide
from tlp_train.networks.syndiff.blocks import (
    ROOT_HALF,
    Attention,
    Block,
    Smooth,
    group_norm,
    sinusoid,
)
from tlp_train.networks.syndiff.options import SynDiffOptions

LATENT_LAYERS = 4
"""Linear layers between a latent and the styles."""


class DownLevel(nn.Module):
    """Blocks at one resolution, then, but for the lowest level, a block to half of it, to which
    the downsampled inputs are added."""

    def __init__(self, level: int, inputs: int, pyramid: int, net: SynDiffOptions) -> None:
        super().__init__()
        width = net.width * net.multipliers[level]
        self.blocks = nn.ModuleList(
            Block(width if index else inputs, width, net) for index in range(net.blocks)
        )
        self.attentions = nn.ModuleList(
            Attention(width) if net.attends(level) else nn.Identity() for _ in self.blocks
        )
        self.shrink: Block | None = None
        if level < len(net.multipliers) - 1:
            self.shrink = Block(width, width, net, Smooth("half"))
            self.pyramid = nn.Sequential(Smooth("one more"), nn.Conv2d(pyramid, width, 3, stride=2))

    def forward(
        self, x: Tensor, pyramid: Tensor, time: Tensor, latent: Tensor
    ) -> tuple[list[Tensor], Tensor]:
        """Return all features of the level, and the downsampled inputs for the next."""
        features = []
        for block, attend in zip(self.blocks, self.attentions, strict=True):
            x = attend(block(x, time, latent))
            features.append(x)
        if self.shrink is not None:
            pyramid = (self.pyramid(pyramid) + self.shrink(x, time, latent)) * ROOT_HALF
            features.append(pyramid)
        return features, pyramid


class UpLevel(nn.Module):
    """Blocks at one resolution, each with a skipped feature, then a block to double of it."""

    def __init__(self, level: int, inputs: int, skips: list[int], net: SynDiffOptions) -> None:
        super().__init__()
        width = net.width * net.multipliers[level]
        self.blocks = nn.ModuleList(
            Block((width if index else inputs) + skips.pop(), width, net)
            for index in range(net.blocks + 1)
        )
        self.attention = Attention(width) if net.attends(level) else nn.Identity()
        self.grow = Block(width, width, net, Smooth("double")) if level else None

    def forward(self, x: Tensor, features: list[Tensor], time: Tensor, latent: Tensor) -> Tensor:
        """Remove the features that are used from the end of the list."""
        for block in self.blocks:
            x = block(torch.cat((x, features.pop()), dim=1), time, latent)
        x = self.attention(x)
        return x if self.grow is None else self.grow(x, time, latent)


class PixelNorm(nn.Module):
    """Scales latents (B, latent) to a mean square of one."""

    def forward(self, z: Tensor) -> Tensor:
        values = wide(z)
        power = values.square().mean(dim=1, keepdim=True)
        return (values * torch.rsqrt(power + 1e-8)).to(z.dtype)


class NCSNpp(nn.Module):
    """Diffusive generator: predicts the image from a noisy one, the inputs, a step and a latent.

    Parameters
    ----------
    channels
        Of the noisy image and the inputs together; as many come out, of which the first is the
        image.
    """

    def __init__(self, channels: int, net: SynDiffOptions) -> None:
        super().__init__()
        n = net.width
        self.width = n
        self.time = nn.Sequential(nn.Linear(n, 4 * n), nn.SiLU(), nn.Linear(4 * n, 4 * n))
        layers: list[nn.Module] = [PixelNorm()]
        for index in range(LATENT_LAYERS):
            inputs = net.latent_width if index else net.latent
            layers += [nn.Linear(inputs, net.latent_width), nn.SiLU()]
        self.latent = nn.Sequential(*layers)
        self.first = nn.Conv2d(channels, n, 3, padding=1)
        self.downs = nn.ModuleList()
        width, pyramid, skips = n, channels, [n]
        levels = range(len(net.multipliers))
        for level in levels:
            self.downs.append(DownLevel(level, width, pyramid, net))
            width = pyramid = n * net.multipliers[level]
            skips += [width] * (net.blocks + (level < levels[-1]))
        self.middle = nn.ModuleList(
            [Block(width, width, net), Attention(width), Block(width, width, net)]
        )
        self.ups = nn.ModuleList()
        for level in reversed(levels):
            self.ups.append(UpLevel(level, width, skips, net))
            width = n * net.multipliers[level]
        self.last_norm = group_norm(width)
        self.last = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, z: Tensor) -> Tensor:
        """Predict (B, channels, H, W) in [-1, 1].

        Parameters
        ----------
        x
            (B, channels, H, W), the noisy image first.
        t
            Steps as integers, (B,) or (1,).
        z
            Latents, (B, latent) or (1, latent).
        """
        time = F.silu(self.time(sinusoid(t, self.width, x.dtype)))
        latent = self.latent(z.to(x.dtype))
        features, pyramid = [self.first(x)], x
        for down in self.downs:
            made, pyramid = down(features[-1], pyramid, time, latent)
            features += made
        before, attend, after = self.middle
        h = after(attend(before(features[-1], time, latent)), time, latent)
        for up in self.ups:
            h = up(h, features, time, latent)
        h = F.silu(self.last_norm(wide(h))).to(x.dtype)
        return torch.tanh(wide(self.last(h)))
