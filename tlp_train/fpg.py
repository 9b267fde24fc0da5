"""Fuzzy prompt generation: Algorithm 1 of the paper, on label slices.

The published code draws once a batch; here every sample draws from its own generator, seeded by
(seed, epoch, case, slice), so that workers, resumed runs and several processes agree.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tlp_runtime.spec.model import PromptSpec

Mask = NDArray[np.bool_]

_NEIGHBOURS = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]
_CROSS = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))

KERNELS: tuple[tuple[tuple[int, int], ...], ...] = (
    *(((0, 0), offset) for offset in _NEIGHBOURS),
    _CROSS,
)
"""Equation 1: the nine 3x3 kernels, each as the (row, column) offsets of its ones."""


@dataclass(frozen=True, kw_only=True)
class FuzzyPrompt:
    """Parameters of Algorithm 1 (section III-A of the paper and the published code).

    Parameters
    ----------
    drop
        q, the probability that a sample has no prompt.
    dilate
        p, the probability that a step dilates rather than erodes.
    tumour_steps, oedema_steps
        t for each class.
    """

    drop: float = 0.5
    dilate: float = 0.9
    tumour_steps: int = 5
    oedema_steps: int = 2

    def __call__(
        self, prompt: NDArray[np.float32], spec: PromptSpec, rng: np.random.Generator
    ) -> NDArray[np.float32]:
        """A perturbed copy of an exact prompt slice (H, W) with ``spec``'s values."""
        if rng.random() < self.drop:
            return np.zeros_like(prompt)
        tumour = self._perturb(prompt == spec.tumour_value, self.tumour_steps, rng)
        oedema = self._perturb(prompt == spec.oedema_value, self.oedema_steps, rng)
        fuzzy = np.zeros_like(prompt)
        fuzzy[oedema] = spec.oedema_value
        fuzzy[tumour] = spec.tumour_value
        return fuzzy

    def _perturb(self, mask: Mask, steps: int, rng: np.random.Generator) -> Mask:
        for _ in range(steps):
            dilate = rng.random() < self.dilate
            kernel = KERNELS[rng.integers(len(KERNELS))]
            mask = covered(mask, kernel) > (0 if dilate else 1)
        return mask


def covered(mask: Mask, kernel: tuple[tuple[int, int], ...]) -> NDArray[np.uint8]:
    """How many ones of ``kernel`` lie on the mask at each pixel: a zero-padded 3x3 correlation."""
    padded = np.pad(mask.astype(np.uint8), 1)
    height, width = mask.shape
    count = np.zeros(mask.shape, np.uint8)
    for dy, dx in kernel:
        count += padded[1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]
    return count


def sample_rng(
    seed: int, epoch: int, case: str, slice_index: int, *stream: int
) -> np.random.Generator:
    """The generator of one sample, the same in every process; each stream draws by itself."""
    return np.random.default_rng((seed, epoch, zlib.crc32(case.encode()), slice_index, *stream))
