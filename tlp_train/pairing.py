"""Which T1ce a training sample has where a recipe learns from unpaired images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

TARGET_PROMPT = "t1ce_prompt"
"""Key of the prompt of an unpaired sample's T1ce, which is of another case than ``prompt``."""


class OtherCases:
    """Slices of other cases than a sample's own.

    Slices with tumour are drawn as often as the sampler draws them, so that both sides of an
    unpaired training have tumours alike.

    Parameters
    ----------
    lengths
        Slices of each case.
    favoured
        Flat indices of which ``share`` of the slices are drawn; None draws all alike.

    Raises
    ------
    ValueError
        There are fewer than two cases.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        favoured: NDArray[np.int64] | None = None,
        share: float = 0.0,
    ) -> None:
        if len(lengths) < 2:
            raise ValueError(f"there are slices of {len(lengths)} cases, expected at least 2")
        self.ends = np.cumsum(lengths)
        self.favoured = np.empty(0, np.int64) if favoured is None else favoured
        self.share = share

    def draw(self, case: int, rng: np.random.Generator) -> int:
        """The flat index of a slice of any case but the one with that number."""
        stop = int(self.ends[case])
        start = int(self.ends[case - 1]) if case else 0
        favoured = self.favoured[(self.favoured < start) | (self.favoured >= stop)]
        if rng.random() < self.share and len(favoured):
            return int(rng.choice(favoured))
        index = int(rng.integers(int(self.ends[-1]) - (stop - start)))
        return index if index < start else index + stop - start
