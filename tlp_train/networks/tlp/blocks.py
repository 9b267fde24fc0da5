"""The parts of the generator. Every array is (B, C, H, W).

Convolutions carry a bias only in local fusion and in the output projections of the two spatial
attentions, as in the published network.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tlp_train.networks.tlp.options import FeedForward


class ChannelLayerNorm(nn.Module):
    """Layer normalisation over the channels of each pixel (biased variance, eps 1e-5)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        pixels = x.permute(0, 2, 3, 1)
        normal = F.layer_norm(pixels, self.weight.shape, self.weight, self.bias, eps=1e-5)
        return normal.permute(0, 3, 1, 2)


class ChannelAttention(nn.Module):
    """Attention between channels (Restormer, arXiv 2111.09881, section 3.1).

    q and k are L2-normalised along the pixels, so each head's map is a (C/heads x C/heads)
    matrix of cosines times a learnt temperature.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.qkv_depthwise = nn.Conv2d(
            3 * channels, 3 * channels, 3, padding=1, groups=3 * channels, bias=False
        )
        self.project = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        q, k, v = (
            part.unflatten(1, (self.heads, -1)).flatten(3)
            for part in self.qkv_depthwise(self.qkv(x)).chunk(3, dim=1)
        )
        q, k = F.normalize(q, dim=-1, eps=1e-12), F.normalize(k, dim=-1, eps=1e-12)
        attention = (q @ k.transpose(-2, -1) * self.temperature).softmax(dim=-1)
        mixed: Tensor = (attention @ v).flatten(1, 2).unflatten(2, (height, width))
        return self.project(mixed)  # type: ignore[no-any-return]


class ConvFeedForward(nn.Sequential):
    """1x1, full 3x3, GELU (erf), 1x1: the feed-forward part as published in code."""

    def __init__(self, channels: int, expansion: float) -> None:
        hidden = int(channels * expansion)
        super().__init__()
        self.expand = nn.Conv2d(channels, hidden, 1, bias=False)
        self.spatial = nn.Conv2d(hidden, hidden, 3, padding=1, bias=False)
        self.activation = nn.GELU()
        self.project = nn.Conv2d(hidden, channels, 1, bias=False)


class GatedFeedForward(nn.Module):
    """Restormer's gated depthwise feed-forward (arXiv 2111.09881, section 3.2)."""

    def __init__(self, channels: int, expansion: float) -> None:
        super().__init__()
        hidden = int(channels * expansion)
        self.expand = nn.Conv2d(channels, 2 * hidden, 1, bias=False)
        self.depthwise = nn.Conv2d(
            2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden, bias=False
        )
        self.project = nn.Conv2d(hidden, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.depthwise(self.expand(x)).chunk(2, dim=1)
        return self.project(F.gelu(gate) * value)  # type: ignore[no-any-return]


class TransformerBlock(nn.Module):
    """x + Attention(LN(x)), then x + FeedForward(LN(x))."""

    def __init__(
        self, channels: int, heads: int, *, ffn: FeedForward = "conv", expansion: float = 2.0
    ) -> None:
        super().__init__()
        self.attention_norm = ChannelLayerNorm(channels)
        self.attention = ChannelAttention(channels, heads)
        self.ffn_norm = ChannelLayerNorm(channels)
        self.ffn = (ConvFeedForward if ffn == "conv" else GatedFeedForward)(channels, expansion)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        return x + self.ffn(self.ffn_norm(x))  # type: ignore[no-any-return]


class Downsample(nn.Sequential):
    """C x H x W to 2C x H/2 x W/2 by a 3x3 convolution and pixel-unshuffle."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels // 2, 3, padding=1, bias=False)
        self.shuffle = nn.PixelUnshuffle(2)


class Upsample(nn.Sequential):
    """C x H x W to C/2 x 2H x 2W by a 3x3 convolution and pixel-shuffle."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels * 2, 3, padding=1, bias=False)
        self.shuffle = nn.PixelShuffle(2)


class LocalFusion(nn.Module):
    """Equation 2 of the paper: a 3x3 convolution over both features and their maximum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3 * channels, channels, 3, padding=1)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.conv(torch.cat((a, b, torch.maximum(a, b)), dim=1))  # type: ignore[no-any-return]


class ConcatFusion(nn.Module):
    """Table II, "w/o LF": concatenation, then a 1x1 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2 * channels, channels, 1, bias=False)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.conv(torch.cat((a, b), dim=1))  # type: ignore[no-any-return]


class SpatialAttention(nn.Module):
    """One-head attention over all H*W positions, scale 1/sqrt(C), split into its steps.

    Used by itself with its own queries (:meth:`forward`) and, in global fusion, with another
    branch's.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(16, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.project = nn.Conv2d(channels, channels, 1)

    def queries_keys_values(self, normal: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Three (B, H*W, C) arrays from a normalised (B, C, H, W) one."""
        q, k, v = self.qkv(normal).flatten(2).transpose(1, 2).chunk(3, dim=-1)
        return q, k, v

    def attend(self, q: Tensor, k: Tensor, v: Tensor, size: torch.Size) -> Tensor:
        """Attention and output projection, back to (B, C, *size)."""
        mixed = F.scaled_dot_product_attention(q.unsqueeze(1), k.unsqueeze(1), v.unsqueeze(1))
        image: Tensor = self.project(
            mixed.squeeze(1).transpose(1, 2).reshape(mixed.shape[0], -1, *size)
        )
        return image

    def forward(self, x: Tensor) -> Tensor:
        return x + self.attend(*self.queries_keys_values(self.norm(x)), x.shape[-2:])


class GlobalFusion(nn.Module):
    """Equations 3 to 5 of the paper: each branch attends with the other branch's queries.

    The residual adds onto the branch's *normalised* features, as published in code.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.a = SpatialAttention(channels)
        self.b = SpatialAttention(channels)

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        a, b = self.a.norm(a), self.b.norm(b)
        q_a, k_a, v_a = self.a.queries_keys_values(a)
        q_b, k_b, v_b = self.b.queries_keys_values(b)
        return (
            a + self.a.attend(q_b, k_a, v_a, a.shape[-2:]),
            b + self.b.attend(q_a, k_b, v_b, b.shape[-2:]),
        )
