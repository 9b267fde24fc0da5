"""Tables of `paper_tables.py`, in the paper's form, the paper's numbers next to ours."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from benchmarks.paper_claims import CLAIMS, claims_table, judge
from benchmarks.paper_figures import write_figures
from benchmarks.paper_results import (
    COLUMN,
    FALSE,
    MODELS,
    NOT_PUBLISHED,
    OURS,
    PAIRED,
    PAPER,
    PUBLISHED,
    RIVALS,
    Results,
    enhancing_cases,
)
from tlp_export.fold import cost
from tlp_runtime.bench import environment
from tlp_runtime.files.markdown import markdown_table
from tlp_train.networks import registry
from tlp_train.runs import Run


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
        for key, paper in zip(PUBLISHED, PAPER.get(name, NOT_PUBLISHED), strict=True):
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


def _methods(*, paired: bool) -> list[tuple[str, str]]:
    """Rows of Table I, and of the two networks that the paper does not have."""
    tasks = {inputs: "-".join(inputs) for rival in RIVALS.values() for inputs in rival}
    rows = [
        (network, f"{name}-{network}")
        for inputs, name in tasks.items()
        for network, trained in RIVALS.items()
        if inputs in trained and (network in PAIRED) == paired
    ]
    return rows + ([("ours", name) for name in tasks.values()] if paired else [])


def size_table(out: Path) -> str:
    """Parameters, work, seconds and memory of every method that was trained, by ``tlp bench``."""
    rows = []
    for _, name in _methods(paired=True) + _methods(paired=False):
        path = out / "benches" / f"{name}.json"
        if not path.is_file():
            continue
        held = json.loads(path.read_text(encoding="utf-8"))
        spec = Run.open(out / "runs" / f"{name}_seed0").config.spec
        with torch.device("meta"):
            parameters = sum(p.numel() for p in registry.build(spec).parameters())
        rows.append(
            [
                f"{MODELS[name].task} {spec.network.name}",
                f"{parameters / 1e6:.2f}",
                f"{cost(spec).gflop:.1f}",
                f"{held['slice_batch1']['p50_ms'] / 1e3:.3f}",
                f"{held['peak_memory_mib']:.0f}",
                f"{held['engine']}, {held['precision']}",
            ]
        )
    head = ["", "M parameters", "GFLOP", "s per slice", "peak memory, MiB", "engine"]
    return markdown_table(head, rows) if rows else "none was measured"


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

## Table I: methods

{table(results, _methods(paired=True))}

From unpaired images:

{table(results, _methods(paired=False))}

Size and speed on this machine, of each method's first seed; work is of one slice:

{size_table(out)}

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
