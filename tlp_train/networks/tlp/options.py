"""Options of the TLP generator; PyTorch is not needed to read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from tlp_runtime.options import option
from tlp_runtime.spec.model import ModelSpec
from tlp_train.networks.options import NetworkOptions, require

FeedForward = Literal["conv", "gdfn"]


@dataclass(frozen=True, kw_only=True)
class TLPOptions(NetworkOptions):
    """Shape of the generator (arXiv 2503.01265 and its published implementation).

    Parameters
    ----------
    dim
        Channels at full resolution; scale ``s`` has ``dim * 2**s``.
    levels
        Number of downsamplings (Table III of the paper); the network has one scale more.
    blocks, heads
        Transformer blocks and attention heads per scale, finest first; each ``levels + 1`` long.
    refinement_blocks
        Blocks after the decoder, at full resolution and ``2 * dim`` channels.
    ffn_expansion
        Hidden channels of the feed-forward part, relative to its input.
    ffn
        Feed-forward part. conv: 1x1, full 3x3, GELU, 1x1 (as published in code); gdfn: Restormer's
        gated depthwise form (as the paper's text points to).
    local_fusion
        Local fusion of two inputs at every scale (Table II of the paper).
    global_fusion
        Global fusion of two inputs at the lowest scale (Table II of the paper).
    """

    TITLE: ClassVar[str] = "Network tlp"
    NAME: ClassVar[str] = "tlp"

    dim: int = 48
    levels: int = option(2, minimum=1, maximum=3)
    blocks: tuple[int, ...] = (1, 2, 2)
    heads: tuple[int, ...] = (2, 4, 8)
    refinement_blocks: int = 2
    ffn_expansion: float = 2.0
    ffn: FeedForward = option("conv")
    local_fusion: bool = option(True)
    global_fusion: bool = option(True)

    def __post_init__(self) -> None:
        super().__post_init__()
        scales = self.levels + 1
        for name in ("blocks", "heads"):
            values = getattr(self, name)
            require(
                len(values) == scales and all(v > 0 for v in values),
                f"{name} is {values}, expected {scales} positive numbers for {self.levels} levels",
            )
        require(self.dim > 0, f"dim is {self.dim}, expected a positive number")
        for scale, heads in enumerate(self.heads):
            channels = self.channels(scale)
            require(
                channels % heads == 0,
                f"{channels} channels at scale {scale} do not divide into {heads} heads",
            )
        require(
            self.channels(self.levels) % 16 == 0,
            f"{self.channels(self.levels)} channels at the lowest scale, expected a multiple of 16 "
            "(GroupNorm of the spatial attentions)",
        )
        require(self.refinement_blocks >= 0, "refinement_blocks is negative")
        require(self.ffn_expansion > 0, "ffn_expansion is not positive")

    @property
    def multiple(self) -> int:
        """Two to the number of downsamplings."""
        return int(2**self.levels)

    def require_on(self, spec: ModelSpec) -> None:
        """As :meth:`NetworkOptions.require_on`; the ablations of fusion need two inputs."""
        require(
            len(spec.inputs) == 2 or (self.local_fusion and self.global_fusion),
            "local_fusion=False and global_fusion=False need two inputs; "
            f"this model has {spec.inputs[0]} alone",
        )

    @classmethod
    def changed(cls, own: Mapping[str, Any], changes: Mapping[str, Any]) -> Self:
        """As :meth:`NetworkOptions.changed`; with other levels, blocks and heads follow them.

        The paper is silent on them for 1 and 3: with one level the lowest published scale is
        dropped, with three it is repeated.
        """
        if "levels" in changes:
            own = {k: v for k, v in own.items() if k not in ("blocks", "heads")}
            scales, repeat = changes["levels"] + 1, max(0, changes["levels"] - 2)
            own |= {
                name: published[:scales] + published[-1:] * repeat
                for name, published in (("blocks", cls.blocks), ("heads", cls.heads))
            }
        return super().changed(own, changes)

    def channels(self, scale: int) -> int:
        """Channels at ``scale`` (0 is full resolution)."""
        return int(self.dim * 2**scale)
