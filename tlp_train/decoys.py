"""Decoys: prompts where nothing enhances, so that a network learns to look and not only to obey.

Algorithm 1 of the paper shows prompts on real tumours only. On a share of the samples the prompt is
laid elsewhere here, and the target stays what it was. They begin once prompts are learnt: from the
first epoch on, they teach a network to ignore every prompt (docs/adr/0031-decoys.md).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tlp_runtime.spec.model import PromptSpec

Mask = NDArray[np.bool_]
Slice = NDArray[np.float32]

RADII = (5.0, 18.0)
"""Half axes of a blob, in pixels: from and to."""


@dataclass(frozen=True, kw_only=True)
class Decoys:
    """When and how often a sample's prompt is laid on normal brain.

    Half of them are the slice's own segmentation on the other side of the head, half an ellipse.

    Parameters
    ----------
    share
        Share of the samples.
    epoch
        First epoch with decoys, counted from 0.
    """

    share: float
    epoch: int

    def __call__(
        self, exact: Slice, image: Slice, epoch: int, spec: PromptSpec, rng: np.random.Generator
    ) -> Slice:
        """The prompt of a sample: ``exact`` itself, or a decoy in its place.

        Parameters
        ----------
        exact
            Prompt of the segmentation, (H, W), with ``spec``'s values.
        image
            The first input, (H, W); its least value is background.
        """
        if epoch < self.epoch or rng.random() >= self.share:
            return exact
        normal = (image > image.min()) & (exact == 0)
        found = _mirrored(exact, normal) if rng.random() < 0.5 else None
        if found is None:
            found = _blob(normal, spec, rng)
        return exact if found is None else found


def _mirrored(exact: Slice, normal: Mask) -> Slice | None:
    """None where nothing of it lies on normal brain."""
    made = np.where(normal, exact[:, ::-1], np.float32(0))
    return made if made.any() else None


def _blob(within: Mask, spec: PromptSpec, rng: np.random.Generator) -> Slice | None:
    """An ellipse around one of the pixels of a mask, cut off at its edge; None of an empty one."""
    places = np.argwhere(within)
    if not len(places):
        return None
    row, column = places[rng.integers(len(places))]
    long, short = rng.uniform(*RADII, 2)
    angle = rng.uniform(0, np.pi)
    y, x = np.ogrid[: within.shape[0], : within.shape[1]]
    along = (x - column) * np.cos(angle) + (y - row) * np.sin(angle)
    across = (y - row) * np.cos(angle) - (x - column) * np.sin(angle)
    inside = (along / long) ** 2 + (across / short) ** 2 <= 1
    return np.where(inside & within, np.float32(spec.tumour_value), np.float32(0))
