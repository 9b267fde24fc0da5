"""Evaluations and comparisons as Markdown and CSV."""

from __future__ import annotations

import csv
import io

from tlp_runtime.files.markdown import markdown_table
from tlp_train.comparison import Comparison
from tlp_train.evaluation import SYNTHESIS, Evaluation
from tlp_train.metrics import COLUMNS, ENHANCEMENT, GROUPS, VOLUMES, WEAK, Column, ColumnGroup
from tlp_train.patients import LEAST
from tlp_train.statistics import Statistic

Rows = list[list[str]]


def figure(statistic: Statistic, column: Column) -> str:
    """``mean ± s.d.``."""
    if statistic.mean is None or statistic.sd is None:
        return "none"
    return f"{statistic.mean:.{column.digits}f} ± {statistic.sd:.{column.digits}f}"


def group_rows(evaluation: Evaluation, group: ColumnGroup) -> Rows:
    """A row an image: the figures of one group and, beside each, its interval over cases."""
    rows = []
    for image in evaluation.images:
        row = [f"{image} *" if evaluation.seen and image == SYNTHESIS else image]
        for column in group.columns:
            statistic = evaluation.summary[image][column.key]
            cell = figure(statistic, column)
            if statistic.interval is not None:
                low, high = statistic.interval
                cell += f" [{low:.{column.digits}f}, {high:.{column.digits}f}]"
            row.append(cell)
        rows.append(row)
    return rows


def group_head(group: ColumnGroup) -> list[str]:
    """Column titles; an arrow says which way is better."""
    arrows = {"higher": "↑", "lower": "↓", "zero": "→ 0", "none": ""}
    return ["", *(f"{c.title} {arrows[c.better]}".rstrip() for c in group.columns)]


def seen_text(evaluation: Evaluation) -> str:
    """What the star of a row means; empty where there is none."""
    if not evaluation.seen:
        return ""
    return (
        f"* the model was trained or chosen on {len(evaluation.seen)} of these "
        f"{len(evaluation.cases)} cases: no measure of new ones"
    )


def weak_rows(evaluation: Evaluation) -> Rows:
    """A row per case whose T1 and T1ce correlate weakly: the synthesis's enhancement there."""
    columns = ENHANCEMENT.columns
    rows = []
    for name in evaluation.weak:
        case = evaluation.cases[name]
        held = case.images[SYNTHESIS]
        r = "none" if case.correlation is None else f"{case.correlation:.2f}"
        cells = [f"{held[c.key].mean:.{c.digits}f}" if c.key in held else "none" for c in columns]
        rows.append([name, r, *cells])
    return rows


def weak_head() -> list[str]:
    """Titles of :func:`weak_rows`."""
    return ["case", "r", *group_head(ENHANCEMENT)[1:]]


def weak_text(evaluation: Evaluation) -> str:
    """What :func:`weak_rows` are; empty where there are none."""
    if not evaluation.weak:
        return ""
    return (
        f"{len(evaluation.weak)} of {len(evaluation.cases)} cases, whose T1 and T1ce correlate by "
        f"less than {WEAK:g} over normal brain: their difference holds more than uptake"
    )


def patient_head() -> list[str]:
    """Titles of :func:`patient_rows`."""
    return ["", "enhancing", "others", "sensitivity ↑", "specificity ↑", "AUC ↑", "R² ↑"]


def patient_rows(evaluation: Evaluation) -> Rows:
    """A row an image; empty where no case has an enhancing label that could be told apart."""
    rows = []
    for image, found in evaluation.patients.items():
        figures = (found.sensitivity, found.specificity, found.auc, found.r_squared)
        cells = ["none" if value is None else f"{value:.2f}" for value in figures]
        rows.append([image, str(found.enhancing), str(found.others), *cells])
    return rows


def patient_text() -> str:
    """What :func:`patient_rows` are."""
    return (
        "does the image enhance in patients whose tumour does, and in no others? No figure below "
        f"{LEAST} of each"
    )


def evaluation_markdown(evaluation: Evaluation) -> str:
    """Every group as a table, under a line that says what was evaluated."""
    parts = [
        f"# {evaluation.model}, prompt: {evaluation.prompt}",
        f"{len(evaluation.cases)} cases, engine {evaluation.engine}. Mean ± population s.d. over "
        "slices or cases; in brackets the 95 % interval of the mean over cases.",
    ]
    if evaluation.seen:
        parts.append(f"\\{seen_text(evaluation)}.")
    for group in GROUPS:
        parts.append(f"## {group.title} (over {group.unit})")
        parts.append(markdown_table(group_head(group), group_rows(evaluation, group)))
        if group is ENHANCEMENT and evaluation.weak:
            parts.append(f"Apart: {weak_text(evaluation)}.")
            parts.append(markdown_table(weak_head(), weak_rows(evaluation)))
        if group is VOLUMES and evaluation.patients:
            parts.append(f"Patients: {patient_text()}.")
            parts.append(markdown_table(patient_head(), patient_rows(evaluation)))
    return "\n\n".join(parts) + "\n"


def evaluation_csv(evaluation: Evaluation) -> str:
    """A row a case and image: each metric's mean; empty where the case has none."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    origin = ["case", "image", "prompt", "model", "seen_in_training", "t1_correlation"]
    writer.writerow([*origin, *(column.key for column in COLUMNS)])
    for name, case in evaluation.cases.items():
        seen = {None: "", True: "yes", False: "no"}[case.seen]
        r = "" if case.correlation is None else f"{case.correlation:.4g}"
        for image, means in case.images.items():
            values = [f"{means[c.key].mean:.9g}" if c.key in means else "" for c in COLUMNS]
            writer.writerow([name, image, evaluation.prompt, evaluation.model, seen, r, *values])
    return text.getvalue()


def comparison_head() -> list[str]:
    """Titles of :func:`comparison_rows`."""
    return ["metric", "cases", "first", "second", "second - first", "95 % interval", "p", "better"]


def comparison_rows(comparison: Comparison) -> Rows:
    """A row a metric; ``better`` names a model only where chance is no likely reason.

    Where 0 is best, the row is of absolute values, and its name stands between bars.
    """
    rows = []
    for group in GROUPS:
        for column in group.columns:
            found = comparison.differences.get(column.key)
            if found is None:
                continue
            digits = column.digits
            interval = "none"
            if found.interval is not None:
                low, high = found.interval
                interval = f"{low:+.{digits}f} to {high:+.{digits}f}"
            gain = {"higher": found.sign, "none": 0}.get(column.better, -found.sign)
            better = {1: "second", -1: "first", 0: ""}[gain]
            rows.append(
                [
                    f"|{column.key}|" if column.better == "zero" else column.key,
                    str(found.cases),
                    f"{found.first:.{digits}f}",
                    f"{found.second:.{digits}f}",
                    f"{found.mean:+.{digits}f}",
                    interval,
                    f"{found.p_value:.3g}",
                    better,
                ]
            )
    return rows
