"""Tables of `paper_tables.py`, in the paper's form, the paper's numbers beside ours."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.paper_figures import write_figures
from tlp_runtime.bench import environment
from tlp_runtime.io.brats import find_cases
from tlp_runtime.io.nifti import read_volume
from tlp_train.evaluation import (
    SYNTHESIS,
    Evaluation,
    select_cases,
)
from tlp_train.metrics import COLUMNS, Column
from tlp_train.prompt_uses import PromptUse
from tlp_train.statistics import SeededDifference
from tlp_train.tables import markdown_table


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
}
"""PSNR, SSIM and NMSE of Tables I to IV (BraTS 2021, 130 test cases, no prompt)."""

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


def table(results: Results, rows: Sequence[tuple[str, str]]) -> str:
    """A table of the paper: rows of (label, model), each beside the paper's numbers.

    Below stand the two reference rows of each first input, which need no network.
    """
    head = ["", "PSNR ↑", "paper", "SSIM ↑", "paper", "NMSE ↓", "paper"]
    head += [f"{key.split('.')[0]} {COLUMN[key].title}" for key in OURS]
    lines: list[list[str]] = []
    referenced: set[str] = set()
    for label, name in rows:
        cells = [f"{MODELS[name].task} {label}"]
        for key, paper in zip(PUBLISHED, PAPER[name], strict=True):
            cells += [results.cell(name, "none", key), paper]
        lines.append(cells + [results.cell(name, "none", key) for key in OURS])
    for _, name in rows:
        evaluations = results.seeds(name, "none")
        images = next(iter(evaluations.values())).images[1:] if evaluations else ()
        for image in images:
            if image in referenced:
                continue
            referenced.add(image)
            cells = [f"*{image}*"]
            for key in PUBLISHED:
                cells += [results.cell(name, "none", key, image), ""]
            lines.append(cells + [results.cell(name, "none", key, image) for key in OURS])
    return markdown_table(head, lines)


def prompt_table(results: Results) -> str:
    """The interactive experiment (section IV-G) in numbers: no, right and wrong prompt."""
    keys = ("slice.psnr_db", *OURS, FALSE)
    head = ["", "prompt", *(f"{key.split('.')[0]} {COLUMN[key].title}" for key in keys)]
    rows = [
        [MODELS[name].task, title, *(results.cell(name, use, key) for key in keys)]
        for name in ("t1", "t2", "t1-t2")
        for use, title in (("none", "none"), ("seg", "right"), ("mirrored", "wrong (mirrored)"))
    ]
    return markdown_table(head, rows)


def strata_table(results: Results) -> str:
    """The same for tumours with and without an enhancing label, means of cases."""
    keys = ("core.psnr_db", "enhancement.mae", "enhancement.correlation", "enhancement.dice")
    strata = {
        "enhancing": results.enhancing,
        "not enhancing": results.cases - results.enhancing,
    }
    rows = []
    for name in ("t1", "t2", "t1-t2"):
        for title, cases in strata.items():
            for use, prompt in (("none", "none"), ("seg", "right")):
                cells = []
                for key in keys:
                    means = [
                        mean
                        for evaluation in results.seeds(name, use).values()
                        if (mean := results.mean(evaluation, key, cases)) is not None
                    ]
                    digits = COLUMN[key].digits
                    cells.append(f"{np.mean(means):.{digits}f}" if means else "none")
                rows.append([MODELS[name].task, title, prompt, *cells])
    head = ["", "tumour", "prompt", *(f"{k.split('.')[0]} {COLUMN[k].title}" for k in keys)]
    return markdown_table(head, rows)


@dataclass(frozen=True)
class Claim:
    """Is ``better`` better than ``worse``, for other seeds and other cases too?

    Parameters
    ----------
    primary
        The one measure that decides, named before any run.
    keys
        Measures that are shown besides.
    enhancing
        Over the cases with an enhancing label alone.
    """

    text: str
    better: tuple[str, str]
    worse: tuple[str, str]
    keys: tuple[str, ...]
    primary: str = "enhancement.mae"
    enhancing: bool = False


CLAIMS = (
    Claim("prompts help in the tumour, T1", ("t1", "seg"), ("t1", "none"), OURS[1:]),
    Claim("prompts help in the tumour, T1+T2", ("t1-t2", "seg"), ("t1-t2", "none"), OURS[1:]),
    Claim(
        "prompts help in tumours that enhance, T1",
        ("t1", "seg"),
        ("t1", "none"),
        OURS[1:],
        enhancing=True,
    ),
    Claim(
        "prompts help in tumours that enhance, T1+T2",
        ("t1-t2", "seg"),
        ("t1-t2", "none"),
        OURS[1:],
        enhancing=True,
    ),
    Claim(
        "FPG beats deterministic prompts, tested without prompts, T1",
        ("t1", "none"),
        ("t1-no-fpg", "none"),
        ("slice.psnr_db", *OURS),
    ),
    Claim(
        "two inputs beat one, no prompt",
        ("t1-t2", "none"),
        ("t1", "none"),
        ("slice.psnr_db", *OURS),
    ),
    Claim(
        "two inputs beat one, prompted", ("t1-t2", "seg"), ("t1", "seg"), ("slice.psnr_db", *OURS)
    ),
)


def judge(results: Results, claim: Claim) -> list[dict[str, Any]]:
    """The effect on each measure, over the seeds and cases there are, positive where it is better.

    The claim holds where the interval of its primary measure lies above 0.
    """
    verdicts = []
    for key in claim.keys:
        arms = [results.seeds(*arm) for arm in (claim.better, claim.worse)]
        names = results.enhancing if claim.enhancing else results.cases
        rows = [[e.cases for e in arm.values()] for arm in arms]
        cases = [
            name
            for name in sorted(names)
            if all(
                name in seed and key in seed[name].images[SYNTHESIS] for arm in rows for seed in arm
            )
        ]
        if not cases or not all(rows):
            continue
        better, worse = (
            np.array([[seed[n].images[SYNTHESIS][key].mean for n in cases] for seed in arm])
            for arm in rows
        )
        if COLUMN[key].better == "zero":
            better, worse = abs(better), abs(worse)
        sign = 1 if COLUMN[key].better == "higher" else -1
        found = SeededDifference.of(sign * worse, sign * better)
        holds = found.interval is not None and found.interval[0] > 0
        verdicts.append(
            {
                "metric": key,
                "better": better.mean(axis=1).tolist(),
                "worse": worse.mean(axis=1).tolist(),
                "seeds": [sorted(arm) for arm in arms],
                "cases": len(cases),
                "effect": found.mean,
                "interval": found.interval,
                "holds": holds if key == claim.primary else None,
            }
        )
    return verdicts


def claims_table(judged: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Every claim and measure in a row."""
    rows = []
    words = {True: "**yes**", False: "no", None: ""}
    for text, verdicts in judged.items():
        for v in verdicts:
            digits = COLUMN[v["metric"]].digits
            within = "none"
            if v["interval"] is not None:
                within = " to ".join(f"{end:+.{digits}f}" for end in v["interval"])
            rows.append(
                [
                    text,
                    v["metric"],
                    str(v["cases"]),
                    *(", ".join(f"{x:.{digits}f}" for x in v[arm]) for arm in ("better", "worse")),
                    f"{v['effect']:+.{digits}f}",
                    within,
                    words[v["holds"]],
                ]
            )
    return markdown_table(
        ["claim", "measure", "cases", "by seed", "against, by seed", "effect", "95 %", "holds"],
        rows,
    )


def write_report(out: Path, preset: str, data: Path) -> None:
    """Write ``tables.md``, ``results.json`` and ``figures/`` from the evaluations in ``out``."""
    results = Results.read(out / "evaluations")
    results.enhancing.update(enhancing_cases(data, results.cases))
    judged = {claim.text: judge(results, claim) for claim in CLAIMS}
    counts = {name: len(results.seeds(name, "none")) for name in MODELS}
    text = f"""# The paper's experiments, preset {preset}

Seeds of each model: {", ".join(f"{name} {count}" for name, count in counts.items())}.
Mean over seeds, ± s.d. over slices, range of the seeds in brackets; the paper's own numbers are of
BraTS 2021. Reference rows need no network. docs/evaluation.md says how to read the columns.

## Table I: inputs

{table(results, [("", name) for name in ("t1", "t2", "t1-t2")])}

## Table II: fusion modules

{table(results, [("w/o LF", "t1-t2-no-lf"), ("w/o GF", "t1-t2-no-gf"), ("full", "t1-t2")])}

## Table III: downsamplings

{
        table(
            results,
            [
                row
                for name in ("t1", "t2", "t1-t2")
                for row in (
                    ("1 level", f"{name}-levels-1"),
                    ("2 levels", name),
                    ("3 levels", f"{name}-levels-3"),
                )
            ],
        )
    }

## Table IV: fuzzy prompt generation

{
        table(
            results,
            [
                row
                for name in ("t1", "t2", "t1-t2")
                for row in (("w/o FPG", f"{name}-no-fpg"), ("with FPG", name))
            ],
        )
    }

## The interactive experiment

{prompt_table(results)}

{len(results.cases)} test cases, of which {len(results.enhancing)} have an enhancing label. Nothing
tells a model which tumour enhances: where one does not, a prompt misleads it.

{strata_table(results)}

## What holds for other seeds and other cases

Intervals are of a hierarchical bootstrap over seeds and cases. One measure decides, named before:
{CLAIMS[0].primary}. With one seed there is no interval, and nothing holds.

{claims_table(judged)}
"""
    (out / "tables.md").write_text(text, encoding="utf-8")
    record = {
        "preset": preset,
        "environment": environment(f"onnxruntime {version('onnxruntime')}")
        | {name: version(name) for name in ("torch", "lightning", "monai", "scikit-image")},
        "test_cases": len(results.cases),
        "test_cases_with_enhancing_label": len(results.enhancing),
        "models": {
            f"{name} {use}": {
                str(seed): {
                    image: {key: [_short(s.mean), _short(s.sd), s.cases] for key, s in row.items()}
                    for image, row in evaluation.summary.items()
                }
                for seed, evaluation in seeds.items()
            }
            for (name, use), seeds in results.evaluations.items()
        },
        "figures_are": ["mean", "population s.d.", "cases"],
        "claims": judged,
    }
    (out / "results.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"\n{text}\nwritten: {out / 'tables.md'}, results.json", flush=True)
    write_figures(out, data, {name: model.inputs for name, model in MODELS.items()})


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")
