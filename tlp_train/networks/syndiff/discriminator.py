"""The discriminator of steps: is the less noisy image a real one?"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tlp_train.networks.base import wide
from tlp_train.networks.syndiff.blocks import ROOT_HALF, Smooth, sinusoid


class DiscriminatorBlock(nn.Module):
    """Two 3x3 convolutions to half the size, conditioned on the step, and a skip connection."""

    def __init__(self, inputs: int, outputs: int, embedding: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.time = nn.Linear(embedding, outputs)
        self.shrink = Smooth("half")
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = self.conv1(F.leaky_relu(x, 0.2)) + self.time(time)[:, :, None, None]
        h = self.conv2(self.shrink(F.leaky_relu(h, 0.2)))
        return (h + self.skip(self.shrink(x))) * ROOT_HALF  # type: ignore[no-any-return]


class TimeDiscriminator(nn.Module):
    """Scores (B, 1) of pairs of noisy images: does the noisier one come from the other?

    Parameters
    ----------
    width
        An eighth of the channels at the lowest scale.
    embedding
        Width of the step embedding.
    images
        Channels of an image.
    blocks
        Halvings of the size.
    """

    def __init__(
        self, width: int = 64, embedding: int = 256, *, images: int = 1, blocks: int = 6
    ) -> None:
        super().__init__()
        widths = [width * factor for factor in (2, 4, 8, 8, 8, 8, 8)[: blocks + 1]]
        self.embedding = embedding
        self.time = nn.Sequential(
            nn.Linear(embedding, embedding), nn.LeakyReLU(0.2), nn.Linear(embedding, embedding)
        )
        self.first = nn.Conv2d(2 * images, widths[0], 1)
        self.blocks = nn.ModuleList(
            DiscriminatorBlock(a, b, embedding) for a, b in itertools.pairwise(widths)
        )
        self.last = nn.Conv2d(widths[-1] + 1, widths[-1], 3, padding=1)
        self.score = nn.Linear(widths[-1], 1)

    def forward(self, x: Tensor, t: Tensor, noisier: Tensor) -> Tensor:
        """Score ``x[t]`` (B, images, H, W) and ``x[t + 1]``, for t (B,)."""
        embedded = sinusoid(t, self.embedding, x.dtype)
        time = F.leaky_relu(self.time(embedded), 0.2)
        h = self.first(torch.cat((x, noisier), dim=1))
        for block in self.blocks:
            h = block(h, time)
        h = F.leaky_relu(self.last(torch.cat((h, deviation(h)), dim=1)), 0.2)
        return self.score(wide(h).sum(dim=(2, 3)).to(h.dtype))  # type: ignore[no-any-return]


def deviation(features: Tensor) -> Tensor:
    """Mean deviation between up to four samples of a batch, as a channel (B, 1, H, W)."""
    batch, _, height, width = features.shape
    samples = max(count for count in range(1, 5) if batch % count == 0)
    groups = wide(features).reshape(samples, -1, *features.shape[1:])
    spread = (groups.var(dim=0, correction=0) + 1e-8).sqrt().mean(dim=(1, 2, 3))
    return spread.repeat(samples)[:, None, None, None].expand(-1, 1, height, width).to(features)
