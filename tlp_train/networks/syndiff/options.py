"""Options of SynDiff."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from tlp_runtime.options import option
from tlp_runtime.spec.model import ModelSpec
from tlp_train.networks.options import NetworkOptions, require


@dataclass(frozen=True, kw_only=True)
class SynDiffOptions(NetworkOptions):
    """Shape of SynDiff's diffusive generator, and its number of steps.

    Parameters
    ----------
    width
        Channels at full resolution, before they are multiplied.
    multipliers
        Channels of each level, in widths; each level has half the size of the one before.
    blocks
        Residual blocks of each level on the way down; there is one more on the way up.
    attention
        Columns of the level that has attention; none has it where no level has that size.
    size
        Rows and columns that slices are padded to.
    latent
        Values of the random latent.
    latent_width
        Width of the layers that turn it into styles.
    steps
        Denoising steps.
    seed
        Of the noise and latents of inference, the same for every slice.
    """

    NAME: ClassVar[str] = "syndiff"

    width: int = option(64, minimum=4)
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4, 4)
    blocks: int = option(2, minimum=1)
    attention: int = option(16, minimum=1)
    size: int = option(256, minimum=4)
    latent: int = option(100, minimum=1)
    latent_width: int = option(256, minimum=1)
    steps: int = option(4, minimum=1)
    seed: int = option(0, minimum=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            bool(self.multipliers) and all(one > 0 for one in self.multipliers),
            f"multipliers is {self.multipliers}, expected positive numbers, one for each level",
        )
        step = 2 ** (len(self.multipliers) - 1)
        require(
            self.size % step == 0,
            f"size {self.size} does not halve {len(self.multipliers) - 1} times; expected a "
            f"multiple of {step}",
        )
        require(
            self.size % 4 == 0, f"size is {self.size}, expected a multiple of 4 for the translators"
        )
        # GroupNorm has a quarter as many groups as channels, 32 at most.
        few = 2 * self.width * max(self.multipliers) <= 128
        wanted = 4 if few else 32
        require(
            self.width % wanted == 0,
            f"width is {self.width}, expected a multiple of {wanted} with multipliers "
            f"{self.multipliers}",
        )

    @property
    def discriminator_blocks(self) -> int:
        """Blocks of the discriminators of steps: down to 4 x 4, six at most, as published."""
        return max(1, min(6, self.size.bit_length() - 3))

    def attends(self, level: int) -> bool:
        """Whether that level has attention; level 0 has the full resolution."""
        return bool(self.size == self.attention * 2**level)

    def may_begin_from(self, other: NetworkOptions) -> bool:
        """As :meth:`NetworkOptions.may_begin_from`, whatever the noise."""
        return isinstance(other, SynDiffOptions) and replace(other, seed=self.seed) == self

    def require_on(self, spec: ModelSpec) -> None:
        """As :meth:`NetworkOptions.require_on`; slices are padded to one size."""
        largest = spec.sizes.largest if spec.sizes else (spec.crop.height, spec.crop.width)
        require(
            max(largest) <= self.size,
            f"slices of {largest[0]} x {largest[1]}: syndiff pads them to "
            f"{self.size} x {self.size}",
        )
