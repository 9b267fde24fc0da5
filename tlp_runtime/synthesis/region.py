"""The region a prompt marks: on the scan's voxels, in numbers, and as the network sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tlp_runtime.errors import ContentError, SetOption
from tlp_runtime.geometry.boxes import box_of, widened
from tlp_runtime.geometry.grid import Grid, difference
from tlp_runtime.geometry.resample import filled, resampled_labels
from tlp_runtime.geometry.volume import Volume
from tlp_runtime.spec.model import PromptSpec
from tlp_runtime.synthesis.request import Request
from tlp_runtime.values.prompt import coded, encode, with_labels
from tlp_runtime.warnings import EMPTY_PROMPT, PROMPT_CHANGED, Warn

CHANGED_SHARE, CHANGED_ML = 0.2, 0.5
"""A map that has lost or gained more than both of these on the scan's voxels is warned of."""
_MARGIN = 5
"""Voxels around a region within which holes of the brain are filled."""
_ALLOW = SetOption("allow_empty_prompt", purpose="to synthesize the image without a prompt")


@dataclass(frozen=True)
class Region:
    """What a prompt marks on the scan's own voxels.

    Parameters
    ----------
    ml
        Volume by class, ``tumour`` and ``oedema``.
    inside_brain
        Share of it that lies in the brain, 0 to 1; 0 of an empty one.
    slices
        First and last slice that it touches, along the third axis of the scan's file, from 0;
        None of an empty one.
    """

    ml: Mapping[str, float]
    inside_brain: float
    slices: tuple[int, int] | None

    @property
    def total_ml(self) -> float:
        """Volume of all classes."""
        return sum(self.ml.values())

    def __str__(self) -> str:
        parts = [f"{name} {ml:.3g} ml" for name, ml in self.ml.items() if ml] or ["nothing"]
        if self.slices is not None:
            first, last = self.slices
            parts += [f"{100 * self.inside_brain:.0f} % in the brain", f"slices {first} to {last}"]
        return ", ".join(parts)


def encoded(request: Request, code: PromptSpec) -> Volume | None:
    """The prompt's label map with the network's values in the place of labels; None without one.

    Encoded whole, so that an unknown label outside the crop is refused too.

    Parameters
    ----------
    request
        Its files in memory.

    Raises
    ------
    ContentError
        Labels that are not whole numbers, or have no meaning.
    """
    labels = request.volumes.get("prompt")
    if labels is None:
        return None
    given = request.prompt.labels
    meaning = coded(code) if labels.coded and not given else with_labels(code, given)
    return replace(labels, data=encode(labels.data, meaning, labels.name))


def with_shapes(
    values: NDArray[np.float32], request: Request, grid: Grid, reference: Grid, code: PromptSpec
) -> NDArray[np.float32]:
    """Values on ``grid`` with the prompt's shapes drawn into them; tumour overwrites oedema."""
    for shape in request.prompt.shapes:
        value = code.tumour_value if shape.kind == "tumour" else code.oedema_value
        where = shape.drawn(grid, reference) & (values != code.tumour_value)
        values = np.where(where, np.float32(value), values)
    return values


def region_of(
    labels: Volume | None,
    request: Request,
    reference: Volume,
    brain: NDArray[np.bool_],
    code: PromptSpec,
    warn: Warn,
) -> Region:
    """Measure what a prompt marks.

    Parameters
    ----------
    labels
        As of :func:`encoded`.
    reference
        The volume whose voxels it is measured on.
    brain
        Where that is not background, of the same shape.
    warn
        Called where a label map is not the same on the scan's voxels as on its own.
    """
    grid = reference.grid
    values = np.zeros(grid.shape, np.float32, order="F")
    if labels is not None:
        values = _on(labels, grid)
        _check_change(labels, values, grid, warn)
    values = with_shapes(values, request, grid, grid, code)
    classes = {"tumour": code.tumour_value, "oedema": code.oedema_value}
    box = box_of(values != 0)
    if box[0].start == box[0].stop:
        return Region(ml=dict.fromkeys(classes, 0.0), inside_brain=0.0, slices=None)
    near = widened(box, _MARGIN)
    marked = values[near] != 0
    inside = int(np.count_nonzero(marked & filled(brain[near])))
    return Region(
        ml={
            name: round(np.count_nonzero(values[box] == value) * grid.voxel_ml, 4)
            for name, value in classes.items()
        },
        inside_brain=inside / int(np.count_nonzero(marked)),
        slices=(box[2].start, box[2].stop - 1),
    )


def require_marked(
    region: Region, labels: Volume | None, request: Request, name: str, warn: Warn, *, seen: bool
) -> None:
    """Refuse a prompt that marks nothing, or nothing in the brain, unless that is accepted.

    Parameters
    ----------
    seen
        Whether any of it is left on the network's grid.
    labels
        As of :func:`encoded`.
    name
        The scan.
    warn
        Called where it is accepted.

    Raises
    ------
    ContentError
        It is not.
    """
    if region.inside_brain > 0 and seen:
        return
    prompt = "the prompt's shapes" if labels is None else labels.name
    if region.inside_brain > 0:
        what = (
            f"is too small: nothing of its {region.total_ml:.3g} ml is left at the model's spacing"
        )
    elif region.slices is not None:
        what = f"marks nothing in the brain: its {region.total_ml:.3g} ml lie wholly outside it"
    elif request.prompt.shapes or (labels is not None and labels.data.any()):
        what = f"lies wholly outside {name}"
    else:
        what = "marks nothing"
    if not request.prompt.allow_empty:
        raise ContentError(f"{prompt}: the prompt {what}", fix=("Draw it on the brain.", _ALLOW))
    warn(
        EMPTY_PROMPT.warning(
            f"{prompt}: the prompt {what}; the synthesis of {name} is the one without a prompt.",
            volume_ml=round(region.total_ml, 4),
        )
    )


def _on(labels: Volume, grid: Grid) -> NDArray[np.float32]:
    """A map on a grid: its voxels where they are the grid's, else the nearest ones."""
    if difference(grid, labels.grid) is None:
        values: NDArray[np.float32] = labels.reoriented(grid.orientation).data
    else:
        values = resampled_labels(labels, grid)
    return values


def _check_change(labels: Volume, values: NDArray[np.float32], grid: Grid, warn: Warn) -> None:
    own = float(np.count_nonzero(labels.data) * labels.grid.voxel_ml)
    here = float(np.count_nonzero(values) * grid.voxel_ml)
    if abs(here - own) > max(CHANGED_SHARE * own, CHANGED_ML):
        warn(
            PROMPT_CHANGED.warning(
                f"{labels.name}: marks {own:.3g} ml, but {here:.3g} ml on the scan's voxels: parts "
                "of it lie outside the scan, or are lost between its voxels.",
                own_ml=round(own, 3),
                scan_ml=round(here, 3),
            )
        )
