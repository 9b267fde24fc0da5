"""The published state dict of TLP: its keys, and what they show of the network's size."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from tlp_runtime.errors import ModelMismatch, SetOption
from tlp_runtime.spec.model import ModelSpec
from tlp_train.networks.tlp.options import TLPOptions

_BLOCK_PARTS = {
    "attention_norm": "norm1.body",
    "ffn_norm": "norm2.body",
    "attention.temperature": "attn.temperature",
    "attention.qkv": "attn.qkv",
    "attention.qkv_depthwise": "attn.qkv_dwconv",
    "attention.project": "attn.project_out",
    "ffn.expand": "ffn.project_in",
    "ffn.spatial": "ffn.dwconv",
    "ffn.project": "ffn.project_out",
}
_ATTENTION_PARTS = {"norm": "norm", "qkv": "qkv", "project": "out"}

_LEAF = r"(?P<leaf>\.weight|\.bias|)"
_BLOCK = rf"(?P<index>\d+)\.(?P<part>{'|'.join(map(re.escape, _BLOCK_PARTS))}){_LEAF}"
_ATTENTION = rf"(?P<part>norm|qkv|project){_LEAF}"

_STEM = "encoder_A.patch_embed.proj.weight"
_SHOWN = 20


def _block(m: re.Match[str]) -> str:
    return f"{m['index']}.{_BLOCK_PARTS[m['part']]}{m['leaf']}"


def _attention(m: re.Match[str], suffix: str = "") -> str:
    return f"{_ATTENTION_PARTS[m['part']]}{suffix}{m['leaf']}"


def _rules(spec: ModelSpec) -> list[tuple[str, Callable[[re.Match[str]], str]]]:
    """Patterns of our names, each with a function to the published one.

    Published scales count from 1, the finest; its decoder is numbered by scale, ours in the order
    it runs. The first of ``spec.inputs`` is the published branch A, the second B.
    """
    top = TLPOptions.of(spec).levels

    def branch(m: re.Match[str]) -> str:
        return f"encoder_{'AB'[spec.inputs.index(m['input'])]}"

    def scale(m: re.Match[str], offset: int = 0) -> int:
        return int(m["scale"]) + 1 + offset

    def decoder_scale(m: re.Match[str]) -> int:
        return top - int(m["step"])

    encoder = r"encoders\.(?P<input>\w+)\."
    return [
        (encoder + r"stem\.weight", lambda m: f"{branch(m)}.patch_embed.proj.weight"),
        (
            encoder + rf"scales\.(?P<scale>\d)\.{_BLOCK}",
            lambda m: f"{branch(m)}.encoder_level{scale(m)}.{_block(m)}",
        ),
        (
            encoder + r"downs\.(?P<scale>\d)\.conv\.weight",
            lambda m: f"{branch(m)}.down{scale(m)}_{scale(m, 1)}.body.0.weight",
        ),
        (
            rf"bottleneck\.global_fusion\.(?P<branch>[ab])\.{_ATTENTION}",
            lambda m: f"cross_attention.{_attention(m, '_' + m['branch'].upper())}",
        ),
        (
            rf"bottleneck\.fusions\.(?P<scale>\d)\.conv{_LEAF}",
            lambda m: f"fusion_level{scale(m)}.layer{m['leaf']}",
        ),
        (rf"spatial_attention\.{_ATTENTION}", lambda m: f"attention_spatial.{_attention(m)}"),
        (rf"decoder\.lowest\.{_BLOCK}", lambda m: f"decoder_level{top + 1}.{_block(m)}"),
        (
            rf"decoder\.scales\.(?P<step>\d)\.{_BLOCK}",
            lambda m: f"decoder_level{decoder_scale(m)}.{_block(m)}",
        ),
        (rf"decoder\.finest\.{_BLOCK}", lambda m: f"decoder_level1.{_block(m)}"),
        (rf"decoder\.refinement\.{_BLOCK}", lambda m: f"refinement.{_block(m)}"),
        (
            r"decoder\.ups\.(?P<step>\d)\.conv\.weight",
            lambda m: f"up{decoder_scale(m) + 1}_{decoder_scale(m)}.body.0.weight",
        ),
        (
            r"decoder\.reduces\.(?P<step>\d)\.weight",
            lambda m: f"reduce_chan_level{decoder_scale(m)}.weight",
        ),
        (r"decoder\.output\.weight", lambda m: "output.weight"),
    ]


def published_name(name: str, spec: ModelSpec) -> str:
    """The published state dict's key of our parameter ``name``.

    Raises
    ------
    KeyError
        The published network has no such part (the ablations, the gated feed-forward).
    """
    for pattern, published in _rules(spec):
        match = re.fullmatch(pattern, name)
        if match:
            return published(match)
    raise KeyError(name)


def shown(state: Mapping[str, Tensor], source: Path, branches: int) -> TLPOptions:
    """Size of the network, from keys and shapes of its first branch.

    Raises
    ------
    ModelMismatch
        It is no such state dict, or has another number of branches.
    """
    if _STEM not in state:
        raise ModelMismatch(
            f"{source}: has no {_STEM}, so it is no state dict of the published generator. It has "
            f"{len(state)} keys: {', '.join(list(state)[:5])}."
        )
    found = 2 if any(key.startswith("encoder_B.") for key in state) else 1
    if found != branches:
        raise ModelMismatch(
            f"{source}: has {found} encoder{'s' if found > 1 else ''}, but the inputs "
            f"are {branches}",
            fix=SetOption("inputs", "t1,t2" if found == 2 else "t1 or t2"),
        )

    def count(prefix: str) -> int:
        pattern = re.compile(re.escape(prefix) + r"(\d+)\.")
        return len({match[1] for match in map(pattern.match, state) if match})

    scales = 0
    while count(f"encoder_A.encoder_level{scales + 1}."):
        scales += 1
    first = "encoder_A.encoder_level{}.0."
    try:
        expand = state[first.format(1) + "ffn.project_in.weight"]
        return TLPOptions(
            dim=len(state[_STEM]),
            levels=scales - 1,
            blocks=tuple(count(f"encoder_A.encoder_level{s + 1}.") for s in range(scales)),
            heads=tuple(
                len(state[first.format(s + 1) + "attn.temperature"]) for s in range(scales)
            ),
            refinement_blocks=count("refinement."),
            ffn_expansion=expand.shape[0] / expand.shape[1],
        )
    except (KeyError, IndexError, TypeError, ZeroDivisionError) as error:
        raise ModelMismatch(
            f"{source}: its size cannot be read off its keys; {error} is missing or of another "
            "shape. Expected the published generator's state dict."
        ) from error
