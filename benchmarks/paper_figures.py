"""Figures of `paper_tables.py`: the paper's Figs. 2 to 6 from our models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray

from tlp_runtime.io.case_files import CaseFiles
from tlp_runtime.io.datasets import find_cases
from tlp_runtime.synthesis.synthesizer import Synthesizer
from tlp_train.evaluating import evaluation_slices, needed_arrays, read_case, select_cases
from tlp_train.metrics import LinearFit, to_unit64
from tlp_train.reference_rows import best_factor
from tlp_train.runs import Run

mpl.use("Agg")

TITLES = {
    "t1": "T1",
    "t2": "T2",
    "prompt": "T1 with the prompt",
    "x best factor": "input x best factor",
    "none": "ours, no prompt",
    "seg": "ours, right prompt",
    "mirrored": "ours, wrong prompt",
    "truth": "true T1ce",
    "error": "|ours - true|",
}


def write_figures(out: Path, data: Path, inputs: Mapping[str, Sequence[str]]) -> None:
    """Figs. 2 to 6 from the models of the lowest seed there is, on two test cases.

    Parameters
    ----------
    inputs
        Of each model, by its name in the run's folders.
    """
    folder = out / "figures"
    folder.mkdir(exist_ok=True)
    views: dict[str, list[dict[str, NDArray[Any]]]] = {}
    for name in ("t1", "t2", "t1-t2"):
        bundles = sorted((out / "models").glob(f"{name}_seed*"))
        if bundles:
            run = Run.open(out / "runs" / bundles[0].name)
            cases = find_cases(data, needed_arrays(run.config.spec))
            test = select_cases(cases, run.split.test, run.folder / "split.json", data)
            views[name] = _views(bundles[0], test)
    for number, name in ((2, "t1"), (3, "t2"), (4, "t1-t2")):
        if name in views:
            wanted = [*inputs[name], "x best factor", "none", "truth", "error"]
            _grid(folder / f"fig{number}-{name}.png", views[name], wanted)
    best = views.get("t1-t2") or views.get("t1")
    if best:
        _grid(folder / "fig5-prompts.png", best, ["prompt", "none", "seg", "truth"])
        _grid(folder / "fig6-wrong-prompt.png", best, ["prompt", "none", "seg", "mirrored"])
    print(f"figures: {folder}", flush=True)


def _views(bundle: Path, test: Sequence[CaseFiles], count: int = 2) -> list[dict[str, Any]]:
    """One slice of each of the cases with the largest core, images by name."""
    views = []
    with Synthesizer.open(bundle) as synthesizer:
        spec = synthesizer.spec
        cases = [read_case(case, spec) for case in test]
        prepared = [(case, evaluation_slices(case, spec, "seg", "")) for case in cases]
        largest = sorted(prepared, key=lambda item: -int(item[1].truth.core.sum()))[:count]
        for case, slices in largest:
            truth, given = slices.truth, slices.given
            z = int(truth.core.sum(axis=(1, 2)).argmax())
            view = {name: to_unit64(slices.tensors[name])[z] for name in spec.inputs}
            view["truth"] = truth.t1ce[z]
            view["x best factor"] = given[z] * best_factor(given, truth.t1ce)
            view["prompt"] = truth.t1[z]
            view["region"] = np.where(truth.core, 2, np.where(truth.oedema, 1, 0))[z]
            for use in ("none", "seg", "mirrored"):
                asked = evaluation_slices(case, spec, use, "").tensors
                one = {name: array[z : z + 1] for name, array in asked.items()}
                view[use] = slices.published(to_unit64(synthesizer.run_slices(one))[0], z)
            brain = truth.brain[z]
            fitted = LinearFit.of(view["none"][brain], truth.t1ce[z][brain])(view["none"])
            view["error"] = np.abs(fitted - truth.t1ce[z]) * brain
            views.append(view)
    return views


def _grid(path: Path, views: Sequence[Mapping[str, NDArray[Any]]], names: Sequence[str]) -> None:
    figure, axes = plt.subplots(
        len(views), len(names), figsize=(2.4 * len(names), 2.9 * len(views)), squeeze=False
    )
    for number, (row, view) in enumerate(zip(axes, views, strict=True)):
        limit = float(np.percentile(view["truth"], 99.8))
        for axis, name in zip(row, names, strict=True):
            shared = name not in ("t1", "t2", "prompt")
            top = limit if shared else float(np.percentile(view[name], 99.8))
            axis.imshow(view[name], cmap="gray", vmin=0, vmax=max(top, 1e-6))
            if name == "prompt":
                axis.contour(view["region"] > 0, levels=[0.5], colors=["#46a0ff"], linewidths=0.8)
                axis.contour(view["region"] > 1, levels=[0.5], colors=["#ff503c"], linewidths=1)
            if number == 0:
                axis.set_title(TITLES[name], fontsize=9)
            axis.set_xticks([])
            axis.set_yticks([])
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
