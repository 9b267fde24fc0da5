"""ResViT (arXiv 2106.16031): residual convolutions with a vision transformer between them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tlp_runtime.options import option
from tlp_runtime.spec.model import ModelSpec
from tlp_train.networks.base import Card, Network, SynthesisNetwork, wide
from tlp_train.networks.options import NetworkOptions, require
from tlp_train.recipes import PairedGAN

SIZE = 256
"""Rows and columns that the transformer's positions are for."""

WITH_TRANSFORMER = (0, 5)
"""Blocks that have a transformer."""


@dataclass(frozen=True, kw_only=True)
class ResViTOptions(NetworkOptions):
    """Shape of ResViT.

    Parameters
    ----------
    width
        Channels at full resolution; the residual blocks have 4 times as many.
    blocks
        Residual blocks; the first and the sixth have the transformer.
    transformer
        Whether there is a transformer; without it, this is the network of the first stage of the
        published training.
    hidden
        Width of the transformer's tokens.
    layers
        Layers of the one transformer that both blocks share.
    heads
        Its attention heads.
    mlp
        Width of its feed-forward layers.
    dropout
        Share of its values that are dropped in training.
    """

    NAME: ClassVar[str] = "resvit"

    width: int = option(64, minimum=1)
    blocks: int = option(9, minimum=6)
    transformer: bool = option(True)
    hidden: int = option(768, minimum=1)
    layers: int = option(12, minimum=1)
    heads: int = option(12, minimum=1)
    mlp: int = option(3072, minimum=1)
    dropout: float = option(0.1, minimum=0, maximum=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.hidden % self.heads == 0,
            f"hidden {self.hidden} does not divide into {self.heads} heads",
        )

    def may_begin_from(self, other: NetworkOptions) -> bool:
        """As :meth:`NetworkOptions.may_begin_from`; the transformer may be added then."""
        return replace(other, transformer=self.transformer) == self  # type: ignore[call-arg]

    @property
    def multiple(self) -> int:
        """Two downsamplings; with the transformer, slices are padded."""
        return 1 if self.transformer else 4

    def require_on(self, spec: ModelSpec) -> None:
        """As :meth:`NetworkOptions.require_on`; the transformer's positions have one size."""
        largest = spec.sizes.largest if spec.sizes else (spec.crop.height, spec.crop.width)
        require(
            not self.transformer or max(largest) <= SIZE,
            f"slices of {largest[0]} x {largest[1]}: the positions of resvit's transformer are "
            f"for {SIZE} x {SIZE}",
        )


def conv_unit(inputs: int, outputs: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    """A convolution without bias that pads with zeros, and BatchNorm."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


def up_unit(inputs: int, outputs: int) -> list[nn.Module]:
    """To twice the size: a transposed 3x3 convolution, BatchNorm, ReLU."""
    conv = nn.ConvTranspose2d(inputs, outputs, 3, stride=2, padding=1, output_padding=1, bias=False)
    return [conv, nn.BatchNorm2d(outputs), nn.ReLU()]


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions over reflected borders, added to what they read."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)  # type: ignore[no-any-return]


class Layer(nn.Module):
    """A transformer layer that normalises first (arXiv 2010.11929)."""

    def __init__(self, net: ResViTOptions) -> None:
        super().__init__()
        self.heads = net.heads
        self.attention_norm = nn.LayerNorm(net.hidden, eps=1e-6)
        self.query = nn.Linear(net.hidden, net.hidden)
        self.key = nn.Linear(net.hidden, net.hidden)
        self.value = nn.Linear(net.hidden, net.hidden)
        self.project = nn.Linear(net.hidden, net.hidden)
        self.mlp_norm = nn.LayerNorm(net.hidden, eps=1e-6)
        self.expand = nn.Linear(net.hidden, net.mlp)
        self.contract = nn.Linear(net.mlp, net.hidden)
        self.dropout = nn.Dropout(net.dropout)
        for linear in (self.expand, self.contract):
            nn.init.xavier_uniform_(linear.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._attention(self.attention_norm(x))
        hidden = self.dropout(F.gelu(self.expand(self.mlp_norm(x))))
        return x + self.dropout(self.contract(hidden))  # type: ignore[no-any-return]

    def _attention(self, x: Tensor) -> Tensor:
        q, k, v = (
            part(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        scores = wide(q) @ wide(k).transpose(2, 3) * q.shape[-1] ** -0.5
        weights = self.dropout(scores.softmax(dim=-1).to(v.dtype))
        return self.dropout(self.project((weights @ v).transpose(1, 2).flatten(2)))  # type: ignore[no-any-return]


class Transformer(nn.Module):
    """Layers, and a last norm."""

    def __init__(self, net: ResViTOptions) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(Layer(net) for _ in range(net.layers)))
        self.norm = nn.LayerNorm(net.hidden, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.layers(x))  # type: ignore[no-any-return]


class TransformerPath(nn.Module):
    """Features four times smaller, as tokens through the shared transformer, and large again;
    then compressed together with the features themselves."""

    def __init__(self, net: ResViTOptions) -> None:
        super().__init__()
        n = 4 * net.width
        tokens = (SIZE // 16) ** 2
        self.downsample = nn.Sequential(
            *conv_unit(n, 2 * n, 3, 2), nn.ReLU(), *conv_unit(2 * n, 4 * n, 3, 2), nn.ReLU()
        )
        self.embed = nn.Conv2d(4 * n, net.hidden, 1)
        self.positions = nn.Parameter(torch.zeros(1, tokens, net.hidden))
        self.dropout = nn.Dropout(net.dropout)
        self.upsample = nn.Sequential(*up_unit(net.hidden, 2 * n), *up_unit(2 * n, n))
        self.block = nn.Sequential(*conv_unit(2 * n, n, 3), nn.ReLU(), *conv_unit(n, n, 3))
        self.skip = nn.Sequential(*conv_unit(2 * n, n, 1))

    def forward(self, x: Tensor, transformer: Transformer) -> Tensor:
        small = self.embed(self.downsample(x))
        tokens = self.dropout(small.flatten(2).transpose(1, 2) + self.positions.to(x.dtype))
        seen = transformer(tokens).transpose(1, 2).unflatten(2, small.shape[-2:])
        both = torch.cat((self.upsample(seen), x), dim=1)
        return (self.block(both) + self.skip(both)).relu()  # type: ignore[no-any-return]


class ResViT(SynthesisNetwork):
    """Encoder, residual blocks with the transformer before the first and the sixth, decoder."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        net = ResViTOptions.of(spec)
        n = net.width
        self.encoder = nn.Sequential(
            nn.ReflectionPad2d(3),
            nn.Conv2d(len(spec.tensor_names), n, 7, bias=False),
            nn.BatchNorm2d(n),
            nn.ReLU(),
            *conv_unit(n, 2 * n, 3, 2),
            nn.ReLU(),
            *conv_unit(2 * n, 4 * n, 3, 2),
            nn.ReLU(),
        )
        self.transformer = Transformer(net) if net.transformer else None
        self.paths = nn.ModuleDict(
            {str(index): TransformerPath(net) for index in WITH_TRANSFORMER * net.transformer}
        )
        self.blocks = nn.ModuleList(ResidualBlock(4 * n) for _ in range(net.blocks))
        self.decoder = nn.Sequential(
            *up_unit(4 * n, 2 * n),
            *up_unit(2 * n, n),
            nn.ReflectionPad2d(3),
            nn.Conv2d(n, 1, 7),
        )

    def forward(self, *tensors: Tensor) -> Tensor:
        height, width = tensors[0].shape[-2:]
        x = self.stacked(tensors)
        if self.transformer is not None:
            x = self.padded(x, SIZE, SIZE)
        x = self.encoder(x)
        for index, block in enumerate(self.blocks):
            if str(index) in self.paths:
                x = self.paths[str(index)](x, self.transformer)
            x = block(x)
        return self.cropped(torch.tanh(wide(self.decoder(x))), height, width)


_ENCODER = {"1": {"1": 1, "2": 2}, "2": {"0": 4, "1": 5}, "3": {"0": 7, "1": 8}}
_DECODER = {"1": {"0": 0, "1": 1}, "2": {"0": 3, "1": 4}, "3": {"1": 7}}
_LAYER = {
    "attention_norm": "attention_norm", "ffn_norm": "mlp_norm", "ffn.fc1": "expand",
    "ffn.fc2": "contract", "attn.query": "query", "attn.key": "key", "attn.value": "value",
    "attn.out": "project",
}  # fmt: skip
_PATH = {
    "embeddings.patch_embeddings": "embed", "embeddings.positional_encoding": "positions",
    "downsample": "downsample", "upsample": "upsample", "cc.block": "block", "cc.skip": "skip",
}  # fmt: skip


def official(key: str) -> str:
    """Our name of a published key; of the shared transformer's three names, all are the same one.

    Raises
    ------
    KeyError
        It is none.
    """
    if found := re.fullmatch(r"encoder_([123])\.(\d)(\..*)", key):
        return f"encoder.{_ENCODER[found[1]][found[2]]}{found[3]}"
    if found := re.fullmatch(r"decoder_([123])\.(\d)(\..*)", key):
        return f"decoder.{_DECODER[found[1]][found[2]]}{found[3]}"
    if found := re.fullmatch(r"(?:transformer_encoder|art_\d\.transformer)\.(.*)", key):
        if norm := re.fullmatch(r"encoder_norm(\..*)", found[1]):
            return f"transformer.norm{norm[1]}"
        if part := re.fullmatch(r"layer\.(\d+)\.((?:\w+\.)?\w+)(\.(?:weight|bias))", found[1]):
            return f"transformer.layers.{part[1]}.{_LAYER[part[2]]}{part[3]}"
    if found := re.fullmatch(r"art_(\d)\.residual_cnn\.0\.conv_block(\..*)", key):
        return f"blocks.{int(found[1]) - 1}.body{found[2]}"
    if found := re.fullmatch(r"art_(\d)\.((?:\w+\.)?[a-z_]+)(\..*)?", key):
        return f"paths.{int(found[1]) - 1}.{_PATH[found[2]]}{found[3] or ''}"
    raise KeyError(key)


def shown(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Everything but the number of heads, which no tensor shows."""

    def count(prefix: str) -> int:
        parts = {n.removeprefix(prefix).split(".")[0] for n in state if n.startswith(prefix)}
        return len(parts)

    found = {"width": len(state["encoder.1.weight"]), "blocks": count("blocks.")}
    layers = count("transformer.layers.")
    if not layers:
        return {**found, "transformer": False}
    mlp, hidden = state["transformer.layers.0.expand.weight"].shape
    return {**found, "hidden": hidden, "layers": layers, "mlp": mlp}


NETWORK = Network(
    options=ResViTOptions,
    build=ResViT,
    recipe=PairedGAN(
        conditional=True,
        published={
            "epochs": 100,
            "constant_epochs": 50,
            "batch_size": 1,
            "learning_rate": 2e-4,
            "start": "default",
        },
    ),
    demo={"width": 8, "hidden": 64, "layers": 2, "heads": 4, "mlp": 128},
    official=official,
    shown=shown,
    card=Card(
        title="ResViT: residual vision transformer",
        paper="arXiv 2106.16031",
        licence="MIT",
        differs="the transformer does not start from ImageNet weights, which are not part of this "
        "software; train with transformer=false first and begin from that for the published two "
        "stages; no flips; no dropout in inference",
    ),
)
