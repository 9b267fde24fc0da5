"""What an evaluation tells the model: nothing, the segmentation, or what a reader may draw."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tlp_runtime.spec.model import PromptSpec
from tlp_train.fpg import FuzzyPrompt, sample_rng

PromptUse = Literal["none", "seg", "fuzzy", "sphere", "whole-tumour", "mirrored", "moved", "oedema"]

Slices = NDArray[np.float32]

MOVED = 0.8
"""How far a near miss is moved, in radii of the tumour; about half of a disc stays on it."""


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


def moved(exact: Slices, spec: PromptSpec, angle: float) -> Slices:
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


def over_oedema(exact: Slices, spec: PromptSpec) -> Slices:
    """A prompt that calls the oedema tumour, and the tumour nothing."""
    return np.where(exact == spec.oedema_value, np.float32(spec.tumour_value), np.float32(0))


def _shifted(mask: NDArray[np.bool_], rows: int, columns: int) -> NDArray[np.bool_]:
    """The last two axes moved; what leaves them is lost."""
    by = (*(0,) * (mask.ndim - 2), rows, columns)
    return np.asarray(ndimage.shift(mask.astype(np.uint8), by, order=0).astype(bool))


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
