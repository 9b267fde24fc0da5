"""The parameter names of the published implementation, as a map onto ours."""

from __future__ import annotations

import re
from collections.abc import Callable

from tlp_runtime.spec import ModelSpec

_BLOCK_PARTS = {
    "norm1.body": "attention_norm",
    "norm2.body": "ffn_norm",
    "attn.temperature": "attention.temperature",
    "attn.qkv": "attention.qkv",
    "attn.qkv_dwconv": "attention.qkv_depthwise",
    "attn.project_out": "attention.project",
    "ffn.project_in": "ffn.expand",
    "ffn.dwconv": "ffn.spatial",
    "ffn.project_out": "ffn.project",
}
_ATTENTION_PARTS = {"norm": "norm", "qkv": "qkv", "out": "project"}

_BLOCK = rf"(?P<index>\d+)\.(?P<part>{'|'.join(map(re.escape, _BLOCK_PARTS))})(?P<leaf>\.\w+)?"
_ATTENTION = r"(?P<part>norm|qkv|out)"
_LEAF = r"\.(?P<leaf>weight|bias)"


def _block(m: re.Match[str]) -> str:
    return f"{m['index']}.{_BLOCK_PARTS[m['part']]}{m['leaf'] or ''}"


def _decoder_scale(scale: int, levels: int) -> str:
    return {levels: "lowest", 0: "finest"}.get(scale, f"scales.{levels - 1 - scale}")


def _rules(levels: int) -> list[tuple[str, Callable[[re.Match[str]], str]]]:
    """Patterns of published names beside a function to ours; published scales count from 1."""
    return [
        (r"patch_embed\.proj\.weight", lambda m: "stem.weight"),
        (r"down(?P<scale>\d)_\d\.body\.0\.weight", lambda m: f"downs.{_scale(m)}.conv.weight"),
        (rf"encoder_level(?P<scale>\d)\.{_BLOCK}", lambda m: f"scales.{_scale(m)}.{_block(m)}"),
        (
            rf"decoder_level(?P<scale>\d)\.{_BLOCK}",
            lambda m: f"decoder.{_decoder_scale(_scale(m), levels)}.{_block(m)}",
        ),
        (rf"refinement\.{_BLOCK}", lambda m: f"decoder.refinement.{_block(m)}"),
        (
            r"up(?P<scale>\d)_\d\.body\.0\.weight",
            lambda m: f"decoder.ups.{levels - _scale(m)}.conv.weight",
        ),
        (
            r"reduce_chan_level(?P<scale>\d)\.weight",
            lambda m: f"decoder.reduces.{levels - 1 - _scale(m)}.weight",
        ),
        (
            rf"fusion_level(?P<scale>\d)\.layer{_LEAF}",
            lambda m: f"bottleneck.fusions.{_scale(m)}.conv.{m['leaf']}",
        ),
        (
            rf"cross_attention\.{_ATTENTION}_(?P<branch>[AB]){_LEAF}",
            lambda m: (
                f"bottleneck.global_fusion.{m['branch'].lower()}."
                f"{_ATTENTION_PARTS[m['part']]}.{m['leaf']}"
            ),
        ),
        (
            rf"attention_spatial\.{_ATTENTION}{_LEAF}",
            lambda m: f"spatial_attention.{_ATTENTION_PARTS[m['part']]}.{m['leaf']}",
        ),
        (r"output\.weight", lambda m: "decoder.output.weight"),
    ]


def _scale(m: re.Match[str]) -> int:
    return int(m["scale"]) - 1


def our_name(key: str, spec: ModelSpec) -> str | None:
    """Our state-dict name of the published parameter ``key``; None when it has none.

    The published encoder A is the first of ``spec.inputs``, B the second.
    """
    prefix = ""
    if key.startswith(("encoder_A.", "encoder_B.")):
        branch = "AB".index(key[8])
        if branch >= len(spec.inputs):
            return None
        prefix, key = f"encoders.{spec.inputs[branch]}.", key[10:]
    for pattern, name in _rules(spec.network.levels):
        match = re.fullmatch(pattern, key)
        if match:
            return prefix + name(match)
    return None
