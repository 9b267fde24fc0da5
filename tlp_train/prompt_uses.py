"""What an evaluation tells the model: nothing, the segmentation, or what a reader may draw."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tlp_runtime.spec.model import PromptSpec
from tlp_train.decoys import moved, over_oedema
from tlp_train.fpg import FuzzyPrompt, sample_rng

PromptUse = Literal["none", "seg", "fuzzy", "sphere", "whole-tumour", "mirrored", "moved", "oedema"]

Slices = NDArray[np.float32]


def prompted(exact: Slices, use: PromptUse, spec: PromptSpec, case: str) -> Slices:
    """The prompt of a case, (Z, H, W), from its segmentation's; always the same for a case.

    Parameters
    ----------
    use
        ``none``: no prompt, as the paper tests. ``seg``: the segmentation, which was drawn on the
        T1ce, so that it knows what it should not. ``fuzzy``: each slice dilated and eroded by
        Algorithm 1, as an unsteady hand draws. ``sphere``: a ball in the place of each part of
        the core, of its volume. ``whole-tumour``: core and oedema as one, as a reader draws who
        sees no enhancement. ``mirrored``: the segmentation on the other side of the head, a wrong
        prompt. Near misses: ``moved``, the core about half beside itself; ``oedema``, the oedema
        as if it were the core, and the core left out.
    """
    return _RULES[use](exact, spec, case)


def _fuzzy(exact: Slices, spec: PromptSpec, case: str) -> Slices:
    unsteady = FuzzyPrompt(drop=0.0)
    return np.stack([unsteady(one, spec, sample_rng(0, 0, case, z)) for z, one in enumerate(exact)])


def _sphere(exact: Slices, spec: PromptSpec, case: str) -> Slices:
    made = np.zeros_like(exact)
    parts, count = ndimage.label(exact == spec.tumour_value, np.ones((3, 3, 3)))
    for part in range(1, count + 1):
        where = np.argwhere(parts == part)
        radius = (3 * len(where) / (4 * np.pi)) ** (1 / 3)
        distance = sum(
            (axis - centre) ** 2
            for axis, centre in zip(
                np.ogrid[tuple(map(slice, exact.shape))], where.mean(axis=0), strict=True
            )
        )
        made[distance <= radius**2] = spec.tumour_value
    return made


def _whole_tumour(exact: Slices, spec: PromptSpec, case: str) -> Slices:
    return np.where(exact != 0, np.float32(spec.tumour_value), np.float32(0))


def _moved(exact: Slices, spec: PromptSpec, case: str) -> Slices:
    return moved(exact, spec, sample_rng(0, 0, case, 0).uniform(0, 2 * np.pi))


_RULES: Mapping[PromptUse, Callable[[Slices, PromptSpec, str], Slices]] = {
    "none": lambda exact, spec, case: np.zeros_like(exact),
    "seg": lambda exact, spec, case: exact,
    "fuzzy": _fuzzy,
    "sphere": _sphere,
    "whole-tumour": _whole_tumour,
    "mirrored": lambda exact, spec, case: np.ascontiguousarray(exact[:, :, ::-1]),
    "moved": _moved,
    "oedema": lambda exact, spec, case: over_oedema(exact, spec),
}
