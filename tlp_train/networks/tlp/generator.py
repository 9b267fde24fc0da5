"""The TLP generator (arXiv 2503.01265, Fig. 1), for one or two input modalities."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tlp_runtime.spec.model import ModelSpec
from tlp_train.networks.base import Card, Network, SynthesisNetwork
from tlp_train.networks.tlp.blocks import (
    ConcatFusion,
    Downsample,
    GlobalFusion,
    LocalFusion,
    SpatialAttention,
    TransformerBlock,
    Upsample,
)
from tlp_train.networks.tlp.options import TLPOptions
from tlp_train.recipes import PairedGAN


def _blocks(count: int, channels: int, heads: int, net: TLPOptions) -> nn.Sequential:
    return nn.Sequential(
        *(
            TransformerBlock(channels, heads, ffn=net.ffn, expansion=net.ffn_expansion)
            for _ in range(count)
        )
    )


class Encoder(nn.Module):
    """One modality with its prompt, if any, (B, C, H, W), to features of every scale, finest first.

    Parameters
    ----------
    channels
        2 with a prompt, else 1.
    """

    def __init__(self, net: TLPOptions, channels: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, net.dim, 3, padding=1, bias=False)
        self.scales = nn.ModuleList(
            _blocks(net.blocks[s], net.channels(s), net.heads[s], net)
            for s in range(net.levels + 1)
        )
        self.downs = nn.ModuleList(Downsample(net.channels(s)) for s in range(net.levels))

    def forward(self, image: Tensor) -> list[Tensor]:
        features = [self.scales[0](self.stem(image))]
        for down, blocks in zip(self.downs, list(self.scales)[1:], strict=True):
            features.append(blocks(down(features[-1])))
        return features


class Bottleneck(nn.Module):
    """Two encoders' features to one set of skips and a fused lowest scale."""

    def __init__(self, net: TLPOptions) -> None:
        super().__init__()
        self.global_fusion = GlobalFusion(net.channels(net.levels)) if net.global_fusion else None
        fusion = LocalFusion if net.local_fusion else ConcatFusion
        self.fusions = nn.ModuleList(fusion(net.channels(s)) for s in range(net.levels + 1))

    def forward(self, a: list[Tensor], b: list[Tensor]) -> list[Tensor]:
        if self.global_fusion is not None:
            lowest_a, lowest_b = self.global_fusion(a[-1], b[-1])
            a, b = [*a[:-1], lowest_a], [*b[:-1], lowest_b]
        return [fuse(x, y) for fuse, x, y in zip(self.fusions, a, b, strict=True)]


class Decoder(nn.Module):
    """Features at every scale, finest first, to the image (B, 1, H, W) in [-1, 1]."""

    def __init__(self, net: TLPOptions) -> None:
        super().__init__()
        low = net.levels
        self.lowest = _blocks(net.blocks[low], net.channels(low), net.heads[low], net)
        inner = range(low - 1, 0, -1)
        self.ups = nn.ModuleList(Upsample(net.channels(s + 1)) for s in range(low - 1, -1, -1))
        self.reduces = nn.ModuleList(
            nn.Conv2d(2 * net.channels(s), net.channels(s), 1, bias=False) for s in inner
        )
        self.scales = nn.ModuleList(
            _blocks(net.blocks[s], net.channels(s), net.heads[s], net) for s in inner
        )
        # At full resolution the concatenated 2 * dim channels are kept.
        self.finest = _blocks(net.blocks[0], 2 * net.dim, net.heads[0], net)
        self.refinement = _blocks(net.refinement_blocks, 2 * net.dim, net.heads[0], net)
        self.output = nn.Conv2d(2 * net.dim, 1, 3, padding=1, bias=False)

    def forward(self, features: list[Tensor]) -> Tensor:
        *skips, lowest = features
        x = self.lowest(lowest)
        for up, reduce, blocks in zip(list(self.ups)[:-1], self.reduces, self.scales, strict=True):
            x = blocks(reduce(torch.cat((up(x), skips.pop()), dim=1)))
        x = self.finest(torch.cat((self.ups[-1](x), skips.pop()), dim=1))
        return torch.tanh(self.output(self.refinement(x)))


class Generator(SynthesisNetwork):
    """Image slices and a prompt to T1ce slices; H and W are multiples of ``2 ** levels``."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        net = TLPOptions.of(spec)
        self.encoders = nn.ModuleDict({name: Encoder(net, self.channels) for name in spec.inputs})
        self.bottleneck = Bottleneck(net) if len(spec.inputs) == 2 else None
        self.spatial_attention = SpatialAttention(net.channels(net.levels))
        self.decoder = Decoder(net)

    def forward(self, *tensors: Tensor) -> Tensor:
        branches = [
            encoder(image)
            for encoder, image in zip(self.encoders.values(), self.branches(tensors), strict=True)
        ]
        features = branches[0] if self.bottleneck is None else self.bottleneck(*branches)
        features[-1] = self.spatial_attention(features[-1])
        return self.decoder(features)  # type: ignore[no-any-return]


NETWORK = Network(
    options=TLPOptions,
    build=Generator,
    recipe=PairedGAN(),
    demo={"dim": 8},
    card=Card(
        title="TLP: two-path network with fuzzy prompts",
        paper="arXiv 2503.01265",
        licence="none published; written here from the paper and from facts of its code",
        differs="prompts are drawn for each sample, not for each batch",
    ),
)
