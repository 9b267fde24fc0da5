"""Exact foldings: the same function with fewer operations, each a pass of its own.

TLP has passes of its own, :data:`FOLDS`; every other network has the :data:`GENERIC` ones.

A pass changes a copy of the generator in place. None changes the function but for rounding; every
product of weights is formed in float64. What each saves is counted by :func:`savings`.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from tlp_export.graph import (
    GramAttention,
    IslandInstanceNorm,
    IslandLayerNorm,
    IslandNorm,
    JointConvolutions,
    MergedGlobalFusion,
    MergedSpatialAttention,
    ProjectedAttention,
    SeparateConvolutions,
    SummingDecoder,
    convolution,
    pointwise,
)
from tlp_runtime.models.manifest import Cost, FoldLine
from tlp_runtime.spec.model import ModelSpec
from tlp_train.networks import registry
from tlp_train.networks.base import SynthesisNetwork
from tlp_train.networks.tlp.blocks import (
    ChannelAttention,
    ChannelLayerNorm,
    ConvFeedForward,
    GatedFeedForward,
    GlobalFusion,
    SpatialAttention,
    TransformerBlock,
)
from tlp_train.networks.tlp.generator import Decoder
from tlp_train.networks.tlp.options import TLPOptions


@dataclass(frozen=True)
class Fold:
    """One pass.

    Parameters
    ----------
    what
        What becomes of what, as one phrase for the export report.
    apply
        Changes a generator in place.
    """

    name: str
    what: str
    apply: Callable[[SynthesisNetwork], None]


def fold(generator: SynthesisNetwork, folds: Sequence[Fold] | None = None) -> SynthesisNetwork:
    """A folded copy of ``generator``, after those passes in order; all for its network if None."""
    folded = copy.deepcopy(generator).eval()
    folded.shed()
    for one in folds_of(generator.spec) if folds is None else folds:
        one.apply(folded)
    return folded


def folds_of(spec: ModelSpec) -> tuple[Fold, ...]:
    """The passes for a model's network, in order."""
    return FOLDS if spec.network.name == TLPOptions.NAME else GENERIC


@cache
def savings(spec: ModelSpec) -> tuple[FoldLine, ...]:
    """What each pass for the network saves, one after the other; weights do not matter."""
    folded = _shadow(spec)
    lines, before = [], _count(folded)
    for one in folds_of(spec):
        one.apply(folded)
        after = _count(folded)
        lines.append(FoldLine(one.name, one.what, before, after))
        before = after
    return tuple(lines)


def cost(spec: ModelSpec) -> Cost:
    """Of the network as published."""
    return _count(_shadow(spec))


def _shadow(spec: ModelSpec) -> SynthesisNetwork:
    """A network with shapes and no values."""
    with torch.device("meta"):
        return registry.build(spec).eval()


def _count(shadow: SynthesisNetwork) -> Cost:
    """Count one slice of the crop. Nothing is computed."""
    crop = shadow.spec.crop
    tensors = [
        torch.empty(1, 1, crop.height, crop.width, device="meta") for _ in shadow.spec.tensor_names
    ]
    flops, operators = FlopCounterMode(display=False), _OperatorCount()
    with torch.no_grad(), flops, operators:
        shadow(*tensors)
    return Cost(flops.get_total_flops() / 1e9, operators.count)


class _OperatorCount(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what computes: neither views, nor the copies that eager PyTorch makes for them."""

    _COPIES = (torch.ops.aten.clone, torch.ops.aten._unsafe_view)

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.count += not function.is_view and function.overloadpacket not in self._COPIES
        return function(*args, **(kwargs or {}))


def _ffn(generator: SynthesisNetwork) -> None:
    """W[o,c,i,j] = sum_h W3[o,h,i,j] W1[h,c]: nothing non-linear stands between, no bias."""
    for ffn in _all(generator, ConvFeedForward):
        first, second = ffn.expand.weight.detach().double(), ffn.spatial.weight.detach().double()
        weight = torch.einsum("ohij,hc->ocij", second, first.flatten(1))
        ffn.spatial = convolution(weight, like=ffn)
        ffn.expand = nn.Identity()


def _gram(generator: SynthesisNetwork) -> None:
    _replace(generator, ChannelAttention, GramAttention)


def _projection(generator: SynthesisNetwork) -> None:
    _replace(generator, GramAttention, ProjectedAttention)


def _scale(generator: SynthesisNetwork) -> None:
    """q and k are normalised afterwards, so any positive constant cancels; a power of two exactly.

    Their squares then sum to at most the mean square of a q or k, whatever the number of pixels.
    """
    spec = generator.spec
    sides = spec.sizes.largest if spec.sizes else (spec.crop.height, spec.crop.width)
    scale = 2.0 ** -math.ceil(math.log2(math.sqrt(math.prod(sides))))
    for convolutions in _all(generator, JointConvolutions):
        depthwise = convolutions.depthwise
        weight = depthwise.weight.detach().clone()
        weight[: 2 * len(weight) // 3] *= scale
        convolutions.depthwise = convolution(weight, like=depthwise, groups=depthwise.groups)


def _layer_norm(generator: SynthesisNetwork) -> None:
    """W (g n + b) = (W g) n + W b, before the depthwise convolution pads with zeros.

    Not into a feed-forward part's 3x3 convolution: there b would end at the padding.
    """
    for block in _all(generator, TransformerBlock):
        convolutions = block.attention.convolutions
        convolutions.pointwise = _normed(block.attention_norm, convolutions.pointwise)
        if isinstance(block.ffn, GatedFeedForward):
            block.ffn.expand = _normed(block.ffn_norm, block.ffn.expand)


def _normed(norm: ChannelLayerNorm, conv: nn.Conv2d) -> nn.Conv2d:
    """``conv`` over what ``norm`` gives without scale and shift, which it loses."""
    weight = conv.weight.detach().double().flatten(1)
    gain, shift = norm.weight.detach().double(), norm.bias.detach().double()
    norm.weight = nn.Parameter(torch.ones_like(norm.weight))
    norm.bias = nn.Parameter(torch.zeros_like(norm.bias))
    return pointwise(weight * gain, weight @ shift, like=conv)


def _separate(generator: SynthesisNetwork) -> None:
    _replace(generator, JointConvolutions, SeparateConvolutions)


def _decoder(generator: SynthesisNetwork) -> None:
    _replace(generator, Decoder, SummingDecoder)


def _spatial(generator: SynthesisNetwork) -> None:
    _replace(generator, GlobalFusion, MergedGlobalFusion)
    _replace(generator, SpatialAttention, MergedSpatialAttention)


def _islands(generator: SynthesisNetwork) -> None:
    _replace(generator, ChannelLayerNorm, IslandLayerNorm)
    _replace(generator, nn.GroupNorm, IslandNorm)


FOLDS = (
    Fold("ffn", "1x1 into the 3x3 convolution of each feed-forward part", _ffn),
    Fold("gram", "normalisation of q and k onto their Gram matrix", _gram),
    Fold("projection", "output projection into the attention matrix", _projection),
    Fold("scale", "a power of two into q and k, so that their squares sum to about one", _scale),
    Fold(
        "layer-norm",
        "LayerNorm's scale and shift into the 1x1 convolution to q, k and v",
        _layer_norm,
    ),
    Fold("separate", "three convolutions to q, k and v instead of one and a split", _separate),
    Fold("decoder", "1x1 over (upsampled, skip) through the pixel-shuffle", _decoder),
    Fold("spatial", "1x1 convolutions of the spatial attentions into each other", _spatial),
    Fold("islands", "norms in float32", _islands),
)
"""All passes for TLP, in the order in which they are applied."""


def _batch_norm(generator: SynthesisNetwork) -> None:
    """(W x + b - m) s + t = (s W) x + (b - m) s + t, with s the gain over the deviation."""
    for module in list(generator.modules()):
        children = list(module.named_children()) if isinstance(module, nn.Sequential) else []
        for (name, conv), (norm_name, norm) in itertools.pairwise(children):
            if isinstance(norm, nn.BatchNorm2d) and isinstance(conv, _CONVOLUTIONS):
                setattr(module, name, _with_batch_norm(conv, norm))
                setattr(module, norm_name, nn.Identity())


_CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)


def _with_batch_norm(conv: Any, norm: nn.BatchNorm2d) -> nn.Module:
    mean, deviation = norm.running_mean, norm.running_var
    assert mean is not None
    assert deviation is not None
    gain = norm.weight.detach().double() / (deviation.double() + norm.eps).sqrt()
    bias = 0.0 if conv.bias is None else conv.bias.detach().double()
    outputs = 1 if isinstance(conv, nn.ConvTranspose2d) else 0
    shape = [-1 if axis == outputs else 1 for axis in range(4)]
    made = copy.deepcopy(conv)
    kind = conv.weight.dtype
    made.weight = nn.Parameter((conv.weight.detach().double() * gain.reshape(shape)).to(kind))
    shifted = (bias - mean.double()) * gain + norm.bias.detach().double()
    made.bias = nn.Parameter(shifted.to(kind))
    return made  # type: ignore[no-any-return]


def _generic_islands(generator: SynthesisNetwork) -> None:
    for kind in (nn.GroupNorm, nn.LayerNorm):
        _replace(generator, kind, IslandNorm)
    _replace(generator, nn.InstanceNorm2d, IslandInstanceNorm)


GENERIC = (
    Fold("batch-norm", "BatchNorm into the convolution before it", _batch_norm),
    Fold("islands", "norms in float32", _generic_islands),
)
"""The passes for every other network."""


def _all(module: nn.Module, kind: type[nn.Module]) -> Iterator[Any]:
    return (m for m in list(module.modules()) if type(m) is kind)


def _replace(module: nn.Module, kind: type[nn.Module], make: Callable[[Any], nn.Module]) -> None:
    """Put ``make(child)`` in the place of every descendant of exactly that kind."""
    for name, child in list(module.named_children()):
        if type(child) is kind:
            setattr(module, name, make(child))
        else:
            _replace(child, kind, make)
