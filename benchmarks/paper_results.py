"""The models of the paper's experiments, its own numbers, and our evaluations of them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tlp_runtime.io.datasets import find_cases
from tlp_runtime.io.nifti import read_volume
from tlp_train.evaluating import select_cases
from tlp_train.evaluation import SYNTHESIS, Evaluation
from tlp_train.metrics import COLUMNS, Column
from tlp_train.prompt_uses import PromptUse


@dataclass(frozen=True)
class Model:
    """One row of a table: what is trained, and under which prompts it is tested."""

    name: str
    inputs: tuple[str, ...]
    options: tuple[str, ...] = ()
    prompts: tuple[PromptUse, ...] = ("none",)

    @property
    def task(self) -> str:
        """As the paper writes it."""
        return ",".join(self.inputs).upper() + " → T1ce"


TASKS: tuple[tuple[str, ...], ...] = (("t1",), ("t2",), ("t1", "t2"))

PAIRED = ("unet", "pix2pix", "hinet", "mmgsn", "resvit")
RIVALS: dict[str, tuple[tuple[str, ...], ...]] = {
    "unet": TASKS,
    "pix2pix": TASKS,
    "hinet": TASKS[2:],
    "mmgsn": TASKS[2:],
    "resvit": TASKS,
    "cyclegan": TASKS[:2],
    "syndiff": TASKS[:2],
}
"""Other networks of Table I, and two that the paper does not have, by what they are trained on."""


def _models() -> Iterable[Model]:
    every: tuple[PromptUse, ...] = ("none", "seg", "mirrored")
    names = {inputs: "-".join(inputs) for inputs in TASKS}
    for inputs, name in names.items():
        yield Model(name, inputs, prompts=every)
    for inputs, name in names.items():
        yield Model(f"{name}-no-fpg", inputs, ("--no-fpg",))
    both = TASKS[-1]
    yield Model(f"{names[both]}-no-lf", both, ("--no-local-fusion",))
    yield Model(f"{names[both]}-no-gf", both, ("--no-global-fusion",))
    for inputs, name in names.items():
        for levels in (1, 3):
            yield Model(f"{name}-levels-{levels}", inputs, ("--levels", str(levels)))
    for network, tasks in RIVALS.items():
        for inputs in tasks:
            yield Model(f"{names[inputs]}-{network}", inputs, ("--network", network, "--no-prompt"))


MODELS: dict[str, Model] = {model.name: model for model in _models()}

PAPER: dict[str, tuple[str, str, str]] = {
    "t1": ("28.81 ± 3.25", "0.885 ± 0.045", "0.185"),
    "t2": ("28.60 ± 3.40", "0.880 ± 0.050", "0.186"),
    "t1-t2": ("30.22 ± 3.45", "0.909 ± 0.040", "0.138"),
    "t1-t2-no-lf": ("29.84 ± 3.49", "0.902 ± 0.042", "0.158"),
    "t1-t2-no-gf": ("29.53 ± 3.35", "0.900 ± 0.042", "0.181"),
    "t1-levels-1": ("28.33 ± 3.34", "0.879 ± 0.049", "0.191"),
    "t1-levels-3": ("28.46 ± 3.27", "0.882 ± 0.046", "0.189"),
    "t2-levels-1": ("28.16 ± 3.44", "0.873 ± 0.052", "0.194"),
    "t2-levels-3": ("28.41 ± 3.45", "0.877 ± 0.056", "0.188"),
    "t1-t2-levels-1": ("29.64 ± 3.50", "0.899 ± 0.043", "0.151"),
    "t1-t2-levels-3": ("29.89 ± 3.45", "0.903 ± 0.044", "0.142"),
    "t1-no-fpg": ("27.94 ± 3.73", "0.872 ± 0.054", "0.231"),
    "t2-no-fpg": ("27.96 ± 3.69", "0.874 ± 0.052", "0.214"),
    "t1-t2-no-fpg": ("29.32 ± 3.51", "0.898 ± 0.046", "0.149"),
    "t1-t2-hinet": ("26.09 ± 3.18", "0.843 ± 0.057", "0.663"),
    "t1-t2-mmgsn": ("29.36 ± 3.50", "0.891 ± 0.047", "0.263"),
    "t1-resvit": ("27.27 ± 3.48", "0.860 ± 0.047", "0.280"),
    "t2-resvit": ("26.29 ± 3.59", "0.831 ± 0.053", "0.370"),
    "t1-t2-resvit": ("28.55 ± 3.26", "0.875 ± 0.046", "0.263"),
    "t1-cyclegan": ("25.76 ± 3.64", "0.842 ± 0.064", "0.430"),
    "t2-cyclegan": ("26.13 ± 3.21", "0.836 ± 0.058", "0.301"),
    "t1-syndiff": ("21.75 ± 4.15", "0.801 ± 0.072", "0.998"),
    "t2-syndiff": ("24.03 ± 4.01", "0.825 ± 0.060", "0.609"),
}
"""PSNR, SSIM and NMSE of Tables I to IV (BraTS 2021, 130 test cases, no prompt)."""

NOT_PUBLISHED = ("", "", "")
"""Of networks that the paper does not have."""

PUBLISHED = ("slice.psnr_db", "slice.ssim", "slice.nmse")
OURS = (
    "brain.psnr_db",
    "core.psnr_db",
    "enhancement.mae",
    "enhancement.correlation",
    "enhancement.dice",
)
FALSE = "mirror.false_enhancement"
COLUMN: dict[str, Column] = {column.key: column for column in COLUMNS}


ENHANCING_LABELS = (3, 4)  # of BraTS 2023 and 2021


def enhancing_cases(data: Path, names: Iterable[str]) -> set[str]:
    """Those of the cases whose segmentation has an enhancing part."""
    cases = select_cases(find_cases(data, ("seg",)), names, data, data)
    return {
        case.name
        for case in cases
        if np.isin(read_volume(case.files["seg"]).data, ENHANCING_LABELS).any()
    }


@dataclass(frozen=True)
class Results:
    """All evaluations there are: (model, prompt) to one a seed.

    ``enhancing`` names the test cases with an enhancing label.
    """

    evaluations: dict[tuple[str, str], dict[int, Evaluation]] = field(default_factory=dict)
    enhancing: set[str] = field(default_factory=set)

    @property
    def cases(self) -> set[str]:
        """Every test case."""
        return {
            name
            for seeds in self.evaluations.values()
            for evaluation in seeds.values()
            for name in evaluation.cases
        }

    def mean(
        self, evaluation: Evaluation, key: str, cases: Iterable[str] | None = None
    ) -> float | None:
        """The synthesis's mean, over all values or over the means of some of the cases."""
        if cases is None:
            return evaluation.summary[SYNTHESIS][key].mean
        rows = [evaluation.cases[name].images[SYNTHESIS] for name in sorted(cases)]
        held = [row[key].mean for row in rows if key in row]
        return float(np.mean(held)) if held else None

    @classmethod
    def read(cls, folder: Path) -> Results:
        """From ``NAME_seedN_USE.json``."""
        results = cls()
        for path in sorted(folder.glob("*.json")):
            match = re.fullmatch(r"(.+)_seed(\d+)_(none|seg|mirrored)\.json", path.name)
            if match and match[1] in MODELS:
                held = results.evaluations.setdefault((match[1], match[3]), {})
                held[int(match[2])] = Evaluation.read(path)
        return results

    def seeds(self, model: str, prompt: str) -> dict[int, Evaluation]:
        """Evaluations by seed; empty when there is none."""
        return self.evaluations.get((model, prompt), {})

    def cell(self, model: str, prompt: str, key: str, image: str = SYNTHESIS) -> str:
        """``mean ± s.d.`` as the paper writes it; with several seeds their range besides."""
        statistics = [e.summary[image][key] for e in self.seeds(model, prompt).values()]
        held = [s for s in statistics if s.mean is not None and s.sd is not None]
        if not held:
            return "none"
        means = [s.mean for s in held if s.mean is not None]
        digits = COLUMN[key].digits
        text = f"{np.mean(means):.{digits}f}"
        if key in PUBLISHED[:2]:
            text += f" ± {np.mean([s.sd for s in held if s.sd is not None]):.{digits}f}"
        if len(means) > 1 and image == SYNTHESIS:
            text += f" ({min(means):.{digits}f} to {max(means):.{digits}f})"
        return text
