"""MMgSN-Net (Li et al., IJROBP 2022): fusion that guides both encoders, and self-attention."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tlp_runtime.options import option
from tlp_runtime.spec.model import ModelSpec
from tlp_train.networks.base import Card, Network, wide
from tlp_train.networks.hinet import (
    PUBLISHED,
    RENAMED,
    FusionNetwork,
    FusionOptions,
    Rules,
    discriminator,
    doubled,
    halved,
    renamed,
    shown,
    two_units,
)
from tlp_train.recipes import PairedGAN


@dataclass(frozen=True, kw_only=True)
class MMgSNOptions(FusionOptions):
    """Shape of MMgSN-Net.

    Parameters
    ----------
    width
        Channels at full resolution; doubled at each of the next two scales.
    """

    NAME: ClassVar[str] = "mmgsn"

    width: int = option(64, minimum=8)

    @property
    def multiple(self) -> int:
        """Two downsamplings."""
        return 4


class SelfAttention(nn.Module):
    """Attention over all positions, unscaled, behind a learnt gate that is closed at the start."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, channels // 8, 1)
        self.key = nn.Conv2d(channels, channels // 8, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gate = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            wide(part(x)).flatten(2).transpose(1, 2).unsqueeze(1)
            for part in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, scale=1.0).squeeze(1)
        seen = mixed.transpose(1, 2).reshape(x.shape).to(x.dtype)
        return self.gate.to(x.dtype) * seen + x


class MMgSN(FusionNetwork):
    """HiNet's fusion at unpooled scales, whose results guide each encoder's next scale; the image
    is a mixture of every decoder scale."""

    def __init__(self, spec: ModelSpec) -> None:
        n = MMgSNOptions.of(spec).width
        super().__init__(spec, n)
        self.encoders = nn.ModuleList(
            nn.ModuleList(
                [two_units(self.channels, n), two_units(3 * n, 2 * n), two_units(8 * n, 4 * n)]
            )
            for _ in range(2)
        )
        self.attention = SelfAttention(n)
        self.out = nn.Conv2d(9 * n, 1, 1)

    def forward(self, *tensors: Tensor) -> Tensor:
        current = self.branches(tensors)
        scales: list[list[Tensor]] = []
        guides: list[Tensor] = []  # what is fused, each pooled to the scale that comes next
        for level, fuse in enumerate(self.fusions):
            current = [
                encoder[level](torch.cat((x, *guides), dim=1)) if level else encoder[0](x)  # type: ignore[index]
                for encoder, x in zip(self.encoders, current, strict=True)
            ]
            scales.append(current)
            fused = fuse(*current, guides[0] if guides else None)
            current = [halved(x) for x in current]
            guides = [halved(x) for x in (fused, *guides)]
        first, deep, middle, shallow, last = self.decoder
        d1 = first(self.lowest(fused))
        d2 = deep(*scales[2], d1)
        d3 = self.attention(middle(*scales[1], doubled(d2)))
        d4 = shallow(*scales[0], doubled(d3))
        d5 = last(d4)
        size = d5.shape[-2:]
        whole = [
            F.interpolate(x, size=size, mode="bilinear", align_corners=True) for x in (d1, d2, d3)
        ]
        return torch.tanh(wide(self.out(torch.cat((d5, *whole, d4), dim=1))))


_OWN: Rules = [
    (r"attn_deconv_3_0\.(query|key|value)_conv\.(.*)", lambda m: f"attention.{m[1]}.{m[2]}"),
    (r"attn_deconv_3_0\.gamma", lambda m: "attention.gate"),
    (r"attn_deconv_3_0\.", lambda m: "attention."),
]


def official(key: str) -> str:
    """Our name of a published key. Raises :class:`KeyError`."""
    return renamed(key, [*RENAMED, *_OWN])


NETWORK = Network(
    options=MMgSNOptions,
    build=MMgSN,
    recipe=PairedGAN(
        first="generator",
        together=True,
        make_discriminator=partial(discriminator, norm_first=True),
        published=PUBLISHED,
    ),
    demo={"width": 8},
    official=official,
    shown=shown,
    card=Card(
        title="MMgSN-Net: modality-guided synergistic fusion",
        paper="Li et al., Int J Radiat Oncol Biol Phys 112(4):1033-1044, 2022",
        licence="none published; written here from facts of its code",
        differs="intensities are scaled by each volume's own range, not by constants; inference "
        "with the statistics of the training, not of the batch",
    ),
)
