"""`tlp compare`: two evaluations of the same cases, by a paired test."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .console import JsonPath, Overwrite, Quiet, Verbose, begin, require, table, write_json


def command(
    first: Annotated[Path, typer.Argument(help="JSON of tlp evaluate.")],
    second: Annotated[Path, typer.Argument(help="JSON of tlp evaluate, of the same cases.")],
    json_path: JsonPath = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Compare two evaluations of the same cases: mean difference, interval, Wilcoxon test.

    Example: tlp compare a.json b.json
    """
    output = begin(quiet, verbose)
    require("train", "skimage", "scipy")
    from tlp_runtime.files.atomic import require_writable
    from tlp_train.comparison import compare
    from tlp_train.evaluation import Evaluation
    from tlp_train.statistics import SIGNIFICANT
    from tlp_train.tables import comparison_head, comparison_rows

    if json_path not in (None, "-"):
        require_writable(Path(str(json_path)), overwrite=overwrite)
    result = compare(Evaluation.read(first), Evaluation.read(second))
    write_json(json_path, result.to_dict(), overwrite=overwrite)
    for name, arrays in result.inputs_differ.items():
        output.note(f"{name}: the two evaluations were given other voxels of {', '.join(arrays)}")
    for evaluation in (result.first, result.second):
        if evaluation.seen:
            output.note(
                f"{evaluation.model} was trained or chosen on {len(evaluation.seen)} of the "
                f"{len(result.pairs)} cases"
            )
    if json_path != "-":
        shown = table(
            comparison_head(),
            comparison_rows(result),
            title=f"first: {result.first.model}, prompt {result.first.prompt} · "
            f"second: {result.second.model}, prompt {result.second.prompt}",
            caption="means of cases, |…| of their absolute values; p: Wilcoxon signed-rank, "
            f"two-sided, not corrected for the number of metrics; better: p < {SIGNIFICANT:g} and "
            "an interval without 0",
            left=("metric",),
        )
        output.table(shown)
    output.done(f"a comparison over {len(result.pairs)} cases", "tlp evaluate --help")
