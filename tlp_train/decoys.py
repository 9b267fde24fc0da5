"""Decoys: prompts where nothing enhances, so that a network learns to look and not only to obey.

Algorithm 1 of the paper shows prompts on real tumours only. On a share of the samples the prompt is
laid elsewhere here, and the target stays what it was. They begin once prompts are learnt: from the
first epoch on, they teach a network to ignore every prompt (docs/adr/0031-decoys.md).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tlp_runtime.spec.model import PromptSpec

Mask = NDArray[np.bool_]
Slice = NDArray[np.float32]

RADII = (5.0, 18.0)
"""Half axes of a blob, in pixels: from and to."""

MOVED = 0.8
"""How far a near miss is moved, in radii of the tumour; about half of a disc stays on it."""

EXTREME = 0.05
"""Share of the brain's pixels that are taken for ventricles: the darkest of a T1."""


@dataclass(frozen=True, kw_only=True)
class Decoys:
    """When and how often a sample's prompt is replaced by a decoy.

    Parameters
    ----------
    share
        Share of the samples.
    epoch
        First epoch with decoys, counted from 0.
    near
        Share of the decoys that are near misses: half on the tumour, on its oedema without the
        core, or on a ventricle. All others lie on normal brain: the slice's own segmentation on the
        other side of the head, or an ellipse.
    """

    share: float
    epoch: int
    near: float

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
        brain = image > image.min()
        normal = brain & (exact == 0)
        if rng.random() < self.near:
            found = _near(exact, image, brain, spec, rng)
        elif rng.random() < 0.5:
            found = _mirrored(exact, normal)
        else:
            found = None
        if found is None:
            found = _blob(normal, normal, spec, rng)
        return exact if found is None else found


def moved(exact: Slice, spec: PromptSpec, angle: float) -> Slice:
    """A prompt whose tumour is moved by :data:`MOVED` of its radius, its oedema left.

    Parameters
    ----------
    exact
        (..., H, W); the radius is that of the largest slice.
    angle
        Direction, in radians.
    """
    tumour = exact == spec.tumour_value
    areas = tumour.reshape(-1, *tumour.shape[-2:]).sum(axis=(1, 2))
    step = MOVED * float(np.sqrt(areas.max(initial=0) / np.pi))
    rows, columns = round(step * np.sin(angle)), round(step * np.cos(angle))
    made = np.where(tumour, np.float32(0), exact)
    made[_shifted(tumour, rows, columns)] = spec.tumour_value
    return made


def over_oedema(exact: Slice, spec: PromptSpec) -> Slice:
    """A prompt that calls the oedema tumour, and the tumour nothing."""
    return np.where(exact == spec.oedema_value, np.float32(spec.tumour_value), np.float32(0))


def _near(
    exact: Slice, image: Slice, brain: Mask, spec: PromptSpec, rng: np.random.Generator
) -> Slice | None:
    kind = rng.integers(3)
    if kind == 0 and (exact == spec.tumour_value).any():
        made = moved(exact, spec, rng.uniform(0, 2 * np.pi))
        return np.where(brain, made, np.float32(0))
    if kind == 1 and (exact == spec.oedema_value).any():
        return over_oedema(exact, spec)
    if kind == 2 and brain.any():
        dark = brain & (image <= np.quantile(image[brain], EXTREME))
        return _blob(dark & (exact == 0), brain & (exact == 0), spec, rng)
    return None


def _mirrored(exact: Slice, normal: Mask) -> Slice | None:
    """None where nothing of it lies on normal brain."""
    made = np.where(normal, exact[:, ::-1], np.float32(0))
    return made if made.any() else None


def _blob(centres: Mask, within: Mask, spec: PromptSpec, rng: np.random.Generator) -> Slice | None:
    """An ellipse around one of ``centres``; None where there is none."""
    places = np.argwhere(centres)
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


def _shifted(mask: Mask, rows: int, columns: int) -> Mask:
    """The last two axes moved; what leaves them is lost."""
    by = (*(0,) * (mask.ndim - 2), rows, columns)
    return np.asarray(ndimage.shift(mask.astype(np.uint8), by, order=0).astype(bool))
