"""The modules that are traced: forms of TLP's parts that deploy better, and what serves all.

Each computes what its original in :mod:`tlp_train.networks.tlp` computes; the passes of
:mod:`tlp_export.fold` put them in its place. Whatever sums over many values does so in float32,
whatever the precision around it (an "island"): a float16 sum over 30,720 pixels overflows.

No prompt is an input of zeros, not another branch, so one graph serves both.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tlp_runtime.spec.model import ModelSpec
from tlp_train.networks.base import SynthesisNetwork, wide
from tlp_train.networks.tlp.blocks import (
    ChannelAttention,
    ChannelLayerNorm,
    GlobalFusion,
    SpatialAttention,
)
from tlp_train.networks.tlp.generator import Decoder


class IslandLayerNorm(nn.Module):
    """Layer normalisation over the channels of each (B, C, H, W) pixel, in float32."""

    def __init__(self, norm: ChannelLayerNorm) -> None:
        super().__init__()
        self.weight, self.bias = norm.weight, norm.bias

    def forward(self, x: Tensor) -> Tensor:
        pixels = wide(x.permute(0, 2, 3, 1))
        normal = F.layer_norm(pixels, self.weight.shape, self.weight, self.bias, eps=1e-5)
        return normal.to(x.dtype).permute(0, 3, 1, 2)


class IslandNorm(nn.Module):
    """PyTorch's group or layer normalisation, in float32."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(wide(x)).to(x.dtype)  # type: ignore[no-any-return]


class IslandInstanceNorm(nn.Module):
    """Instance normalisation of each (H, W) plane in float32, by mean and then deviation.

    Through a U-Net of six stages, ONNX Runtime's own operator was 4e-4 from float64 on a CPU, and
    this is 1.5e-5.
    """

    def __init__(self, norm: nn.InstanceNorm2d) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps

    def forward(self, x: Tensor) -> Tensor:
        values = wide(x)
        centred = values - _plane_mean(values)
        variance = _plane_mean(centred.square())
        gain = torch.rsqrt(variance + self.eps)
        if self.weight is not None:
            gain = gain * self.weight[:, None, None]
        normal = centred * gain
        if self.bias is not None:
            normal = normal + self.bias[:, None, None]
        return normal.to(x.dtype)


def _plane_mean(x: Tensor) -> Tensor:
    """Means over each plane, row by row: one sum over all of it rounds more."""
    return x.mean(dim=3, keepdim=True).mean(dim=2, keepdim=True)


class JointConvolutions(nn.Module):
    """q, k and v from one pair of convolutions, as published: three (B, C, H, W) arrays."""

    def __init__(self, pointwise: nn.Conv2d, depthwise: nn.Conv2d) -> None:
        super().__init__()
        self.pointwise, self.depthwise = pointwise, depthwise

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.depthwise(self.pointwise(x)).chunk(3, dim=1)  # type: ignore[no-any-return]


class SeparateConvolutions(nn.Module):
    """The same from three pairs, so that nothing has to be split."""

    def __init__(self, joint: JointConvolutions) -> None:
        super().__init__()
        self.pairs = nn.ModuleList(
            nn.Sequential(pointwise, depthwise)
            for pointwise, depthwise in zip(
                _thirds(joint.pointwise), _thirds(joint.depthwise), strict=True
            )
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(pair(x) for pair in self.pairs)


class GramAttention(nn.Module):
    """Channel attention that normalises the Gram matrix instead of q and k.

    ``q_i . k_j / (|q_i| |k_j|)`` divides C/heads x C/heads numbers where the original divides
    2 C x H W. The Gram matrix, the norms and the softmax are float32.
    """

    def __init__(self, attention: ChannelAttention) -> None:
        super().__init__()
        self.heads = attention.heads
        self.temperature = attention.temperature
        self.convolutions: nn.Module = JointConvolutions(attention.qkv, attention.qkv_depthwise)
        self.project = attention.project

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.convolutions(x)
        return self.combine(self.attention(q, k), v)

    def attention(self, q: Tensor, k: Tensor) -> Tensor:
        """The (B, heads, C/heads, C/heads) softmax of cosines times temperature, float32."""
        q = wide(_heads(q, self.heads))
        k = wide(_heads(k, self.heads))
        q_norm, k_norm = (_norm(part).clamp_min(1e-12) for part in (q, k))
        gram = q @ k.transpose(-2, -1)
        cosine = gram * (self.temperature / q_norm) / k_norm.transpose(-2, -1)
        return torch.softmax(cosine, dim=-1)

    def combine(self, attention: Tensor, v: Tensor) -> Tensor:
        """Attention times v, then the output projection."""
        mixed = attention.to(v.dtype) @ _heads(v, self.heads)
        image: Tensor = self.project(_image(mixed.flatten(1, 2), v))
        return image


class ProjectedAttention(GramAttention):
    """With the output projection multiplied into the attention matrix.

    One (C x C) @ (C x HW) product stands for two, and for the 1x1 convolution's layout changes.
    """

    def __init__(self, attention: GramAttention) -> None:
        nn.Module.__init__(self)
        self.heads = attention.heads
        self.temperature = attention.temperature
        self.convolutions = attention.convolutions
        weight = attention.project.weight.detach().flatten(1)
        # (heads, C, C/heads), float32 as the small product with the attention is.
        self.projection = nn.Parameter(
            weight.reshape(len(weight), self.heads, -1).transpose(0, 1).clone()
        )

    def combine(self, attention: Tensor, v: Tensor) -> Tensor:
        matrix = (self.projection @ attention).transpose(1, 2).flatten(2)
        return _image(matrix.to(v.dtype) @ v.flatten(2), v)


class MergedAttention(nn.Module):
    """Attention over positions with its 1x1 convolutions multiplied together.

    ``q . k = (Wk^T Wq n) . n`` and ``Wo (A v) + b = A (Wo Wv n + b)``, for each row of A sums to
    one: of the convolutions for q, k, v and output two are left. The scale 1/sqrt(C) is in the
    first. The products that the softmax sees are float32.

    Parameters
    ----------
    attention
        Gives keys, values and the output projection.
    queries
        Gives the queries: the same, or in global fusion the other branch's.
    """

    def __init__(self, attention: SpatialAttention, queries: SpatialAttention) -> None:
        super().__init__()
        wq, _, _ = (part.double() for part in _matrix(queries.qkv).chunk(3))
        _, wk, wv = (part.double() for part in _matrix(attention.qkv).chunk(3))
        project = attention.project
        self.query = pointwise(wk.T @ wq * len(wq) ** -0.5, like=project)
        self.value = pointwise(_matrix(project).double() @ wv, project.bias, like=project)

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        """(B, C, H, W) from normalised features of that shape."""
        q, k = wide(self.query(queries).flatten(2)), wide(keys.flatten(2))
        weights = (q.transpose(1, 2) @ k).softmax(dim=-1).to(keys.dtype)
        v = self.value(keys).flatten(2)
        return _image(v @ weights.transpose(1, 2), keys)


class MergedSpatialAttention(nn.Module):
    """The self-attention of the bottleneck; residual onto the un-normalised features."""

    def __init__(self, attention: SpatialAttention) -> None:
        super().__init__()
        self.norm: nn.Module = attention.norm
        self.attend = MergedAttention(attention, attention)

    def forward(self, x: Tensor) -> Tensor:
        normal = self.norm(x)
        return x + self.attend(normal, normal)  # type: ignore[no-any-return]


class MergedGlobalFusion(nn.Module):
    """Global fusion, queries exchanged; residual onto the normalised features."""

    def __init__(self, fusion: GlobalFusion) -> None:
        super().__init__()
        self.norm_a: nn.Module = fusion.a.norm
        self.norm_b: nn.Module = fusion.b.norm
        self.attend_a = MergedAttention(fusion.a, queries=fusion.b)
        self.attend_b = MergedAttention(fusion.b, queries=fusion.a)

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        a, b = self.norm_a(a), self.norm_b(b)
        return a + self.attend_a(b, a), b + self.attend_b(a, b)


class SummingDecoder(nn.Module):
    """The decoder with each 1x1 convolution over (upsampled, skip) as a sum of its halves.

    The half over the upsampled features goes through the pixel-shuffle, being the same for every
    pixel, and into the 3x3 convolution before it: no concatenation is left there.
    """

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.lowest = decoder.lowest
        self.ups = nn.ModuleList(decoder.ups)
        self.skips = nn.ModuleList()
        for index, reduce in enumerate(decoder.reduces):
            up: Any = decoder.ups[index]
            over_up, over_skip = _matrix(reduce).double().chunk(2, dim=1)
            # Pixel-shuffle takes channel 4 c + p of its input to channel c, place p.
            kernel = up.conv.weight.detach().double().unflatten(0, (-1, 4))
            folded = torch.einsum("oc,cpikl->opikl", over_up, kernel).flatten(0, 1)
            self.ups[index] = nn.Sequential(convolution(folded, like=reduce), nn.PixelShuffle(2))
            self.skips.append(pointwise(over_skip, like=reduce))
        self.scales = decoder.scales
        self.finest, self.refinement = decoder.finest, decoder.refinement
        self.output = decoder.output

    def forward(self, features: list[Tensor]) -> Tensor:
        *skips, lowest = features
        x = self.lowest(lowest)
        for up, skip, blocks in zip(list(self.ups)[:-1], self.skips, self.scales, strict=True):
            x = blocks(up(x) + skip(skips.pop()))
        x = self.finest(torch.cat((self.ups[-1](x), skips.pop()), dim=1))
        return torch.tanh(wide(self.output(self.refinement(x))))


class Graph(nn.Module):
    """The network's inputs to T1ce, float32 whatever the precision inside."""

    def __init__(self, generator: SynthesisNetwork, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.generator, self.dtype = generator, dtype

    def forward(self, *tensors: Tensor) -> Tensor:
        output: Tensor = self.generator(*(tensor.to(self.dtype) for tensor in tensors))
        return output.float()

    @property
    def drawn(self) -> dict[str, Tensor]:
        """Inputs with a default, by name, float32; they come after the others."""
        return {name: tensor.float() for name, tensor in self.generator.drawn.items()}


def export_module(generator: SynthesisNetwork, dtype: torch.dtype = torch.float32) -> Graph:
    """The module that is traced, in evaluation mode."""
    return Graph(generator, dtype).eval()


def example_inputs(spec: ModelSpec, batch: int = 2) -> tuple[Tensor, ...]:
    """Tensors of the right shapes, each its own (one tensor passed twice becomes one input)."""
    shape = (batch, 1, spec.crop.height, spec.crop.width)
    return tuple(torch.rand(shape) for _ in spec.tensor_names)


def convolution(
    weight: Tensor, bias: Tensor | None = None, *, like: nn.Module, groups: int = 1
) -> nn.Conv2d:
    """The convolution of that kernel, (out, in / groups, k, k), keeping height and width.

    Products of weights are formed in float64; they are rounded once, here, to ``like``'s type.
    """
    outputs, inputs, size, _ = weight.shape
    made = nn.Conv2d(
        groups * inputs, outputs, size, padding=size // 2, groups=groups, bias=bias is not None
    )
    kind: Any = next(like.parameters()).dtype
    made.weight = nn.Parameter(weight.detach().to(kind).clone())
    if bias is not None:
        made.bias = nn.Parameter(bias.detach().to(kind).clone())
    return made


def pointwise(matrix: Tensor, bias: Tensor | None = None, *, like: nn.Module) -> nn.Conv2d:
    """The 1x1 convolution that multiplies each pixel by ``matrix``, (out, in)."""
    return convolution(matrix[:, :, None, None], bias, like=like)


def _heads(x: Tensor, heads: int) -> Tensor:
    """(B, C, H, W) to (B, heads, C/heads, H*W)."""
    return torch.unflatten(x, 1, (heads, -1)).flatten(3)


def _norm(x: Tensor) -> Tensor:
    """L2 norm over the last axis, kept as 1.

    Not ``vector_norm``: its ReduceL2 took half of the network's time in ONNX Runtime on an H100.
    """
    return x.square().sum(dim=-1, keepdim=True).sqrt()


def _image(x: Tensor, like: Tensor) -> Tensor:
    """(B, C, H*W) to (B, C, H, W)."""
    return torch.unflatten(x, 2, like.shape[-2:])


def _matrix(conv: Any) -> Tensor:
    """The (out, in) matrix of a 1x1 convolution."""
    weight: Tensor = conv.weight
    return weight.detach().flatten(1)


def _thirds(conv: nn.Conv2d) -> list[nn.Conv2d]:
    """Three convolutions that give the thirds of ``conv``'s outputs."""
    weights = conv.weight.chunk(3)
    biases = (None,) * 3 if conv.bias is None else conv.bias.chunk(3)
    groups = conv.groups // 3 if conv.groups > 1 else 1
    return [
        convolution(weight, bias, like=conv, groups=groups)
        for weight, bias in zip(weights, biases, strict=True)
    ]
