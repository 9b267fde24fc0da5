"""Keys of the published state dicts by our names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tlp_train.networks.cyclegan import body_official
from tlp_train.networks.syndiff.options import SynDiffOptions


def _layout(net: SynDiffOptions) -> list[str]:
    """Our names of the published modules, in the order of their list."""
    names = ["time.0", "time.2", "first"]
    levels = range(len(net.multipliers))
    for level in levels:
        for block in range(net.blocks):
            names.append(f"downs.{level}.blocks.{block}")
            names += [f"downs.{level}.attentions.{block}"] * net.attends(level)
        names += [f"downs.{level}.shrink", f"downs.{level}.pyramid"] * (level < levels[-1])
    names += [f"middle.{index}" for index in range(3)]
    for index, level in enumerate(reversed(levels)):
        names += [f"ups.{index}.blocks.{block}" for block in range(net.blocks + 1)]
        names += [f"ups.{index}.attention"] * net.attends(level)
        names += [f"ups.{index}.grow"] * (level > 0)
    return [*names, "last_norm", "last"]


_INNER = {
    "GroupNorm_0.style": "norm1.style", "GroupNorm_1.style": "norm2.style", "GroupNorm_0": "norm",
    "Conv_0": "conv1", "Conv_1": "conv2", "Conv_2": "skip", "Dense_0": "time", "Conv2d_0": "1",
    "NIN_0": "query", "NIN_1": "key", "NIN_2": "value", "NIN_3": "project",
}  # fmt: skip
_LEAF = {"W": "weight", "b": "bias", "weight": "weight", "bias": "bias"}


def official(key: str, net: SynDiffOptions | None = None) -> str:
    """Our name of a published key of the diffusive generator.

    Parameters
    ----------
    net
        The shape, which the order of the published modules depends on; None is the published one.

    Raises
    ------
    KeyError
        It is none.
    """
    if found := re.fullmatch(r"z_transform\.(\d+\.\w+)", key):
        return f"denoiser.latent.{found[1]}"
    found = re.fullmatch(r"all_modules\.(\d+)\.(?:(\w+(?:\.style)?)\.)?(\w+)", key)
    names = _layout(net or SynDiffOptions())
    if found is None or int(found[1]) >= len(names):
        raise KeyError(key)
    inner = f"{_INNER[found[2]]}." if found[2] else ""
    return f"denoiser.{names[int(found[1])]}.{inner}{_LEAF[found[3]]}"


def translator_official(key: str) -> str:
    """Our name of a published key of the translator. Raises :class:`KeyError`."""
    return body_official(key)


_JUDGE = {
    "t_embed.main": "time", "start_conv": "first", "final_conv": "last", "end_linear": "score",
}  # fmt: skip
_JUDGE_BLOCK = {"conv1.0": "conv1", "conv2.0": "conv2", "dense_t1": "time", "skip.0": "skip"}


def discriminator_official(key: str) -> str:
    """The name in :class:`TimeDiscriminator` of a published key. Raises :class:`KeyError`."""
    if found := re.fullmatch(r"conv([1-6])\.(\w+(?:\.0)?)\.(weight|bias)", key):
        return f"blocks.{int(found[1]) - 1}.{_JUDGE_BLOCK[found[2]]}.{found[3]}"
    if found := re.fullmatch(r"(t_embed\.main|[a-z]+_[a-z]+)((?:\.\d)?\.(?:weight|bias))", key):
        return f"{_JUDGE[found[1]]}{found[2]}"
    raise KeyError(key)


def shown(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Options that a state dict shows; the padded size is taken to be the published one."""
    width = len(state["denoiser.first.weight"])
    latent_width, latent = state["denoiser.latent.1.weight"].shape
    found = {"width": width, "latent": latent, "latent_width": latent_width}
    widths: dict[int, list[int]] = {}
    for name, tensor in state.items():
        if block := re.fullmatch(r"denoiser\.downs\.(\d+)\.blocks\.\d+\.conv2\.weight", name):
            widths.setdefault(int(block[1]), []).append(len(tensor))
        if level := re.match(r"denoiser\.downs\.(\d+)\.attentions\.", name):
            found["attention"] = SynDiffOptions.size >> int(level[1])
    multipliers = tuple(widths[level][0] // width for level in sorted(widths))
    return {**found, "multipliers": multipliers, "blocks": len(widths[0])}
