"""A model against real T1ce images, by the published protocol (section IV of the paper)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tlp_runtime.errors import ContentError
from tlp_runtime.grid import crop_slices, require_same_grid
from tlp_runtime.intensity import scale
from tlp_runtime.io.nifti import read_volume
from tlp_runtime.spec import OUTPUT_NAME, PROMPT_NAME
from tlp_runtime.synthesize import Synthesizer, prepare
from tlp_train.brats import CaseFiles
from tlp_train.metrics import SliceMetrics, Summary, region_metrics, slice_metrics, to_levels

PromptUse = Literal["none", "seg"]


@dataclass(frozen=True)
class CaseResult:
    """Every evaluated slice of one case; ``tumour`` holds those with tumour only."""

    name: str
    whole: tuple[SliceMetrics, ...]
    tumour: tuple[SliceMetrics, ...]


@dataclass(frozen=True)
class Evaluation:
    """All cases of one model under one use of the prompt."""

    prompt: PromptUse
    cases: tuple[CaseResult, ...]

    @property
    def whole(self) -> Summary:
        """Over every slice of every case: the published figures."""
        return Summary.of(m for case in self.cases for m in case.whole)

    @property
    def tumour(self) -> Summary:
        """Over every slice with tumour, inside the tumour (labels 1, 3, 4)."""
        return Summary.of(m for case in self.cases for m in case.tumour)

    def to_dict(self) -> dict[str, Any]:
        """Plain values: the summaries and a row a case."""
        return {
            "prompt": self.prompt,
            "whole_slice": self.whole.to_dict(),
            "tumour_region": self.tumour.to_dict(),
            "cases": [
                {
                    "name": case.name,
                    "whole_slice": Summary.of(case.whole).to_dict(),
                    "tumour_region": Summary.of(case.tumour).to_dict(),
                }
                for case in self.cases
            ],
        }


def evaluate(
    synthesizer: Synthesizer,
    cases: Sequence[CaseFiles],
    prompt: PromptUse,
    on_case: Callable[[str], None] | None = None,
) -> Evaluation:
    """Run every case's published slices and compare them with its T1ce.

    Parameters
    ----------
    cases
        With the model's inputs, ``t1ce`` and ``seg``.
    prompt
        ``none``: no prompt, as the paper tests; ``seg``: the exact segmentation.

    Raises
    ------
    InputError
        A case that cannot be read or does not suit the model.
    """
    results = []
    for case in cases:
        results.append(_evaluate_case(synthesizer, case, prompt))
        if on_case is not None:
            on_case(case.name)
    return Evaluation(prompt, tuple(results))


def _evaluate_case(synthesizer: Synthesizer, case: CaseFiles, use: PromptUse) -> CaseResult:
    spec = synthesizer.spec
    volumes = {name: read_volume(case.files[name]) for name in spec.inputs}
    prepared = prepare(volumes, read_volume(case.files["seg"]), spec)
    target = read_volume(case.files[OUTPUT_NAME])
    require_same_grid(prepared.reference, target)
    oriented = target.reoriented(spec.crop.orientation)
    published = slice(*spec.crop.slices)
    if oriented.shape[2] < published.stop:
        raise ContentError(
            f"{target.name}: {oriented.shape[2]} axial slices; the published protocol evaluates "
            f"slices {published.start} to {published.stop - 1}."
        )
    reference = scale(crop_slices(oriented, spec.crop), spec.intensity, target.name)[published]
    tensors = {name: array[published] for name, array in prepared.tensors.items()}
    tumour = tensors[PROMPT_NAME] == spec.prompt.tumour_value
    if use == "none":
        tensors[PROMPT_NAME] = np.zeros_like(tensors[PROMPT_NAME])
    pairs = list(zip(to_levels(reference), to_levels(synthesizer.run_slices(tensors)), strict=True))
    return CaseResult(
        case.name,
        tuple(slice_metrics(*pair) for pair in pairs),
        tuple(
            region_metrics(*pair, region)
            for pair, region in zip(pairs, tumour, strict=True)
            if region.any()
        ),
    )
