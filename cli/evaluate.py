"""`tlp evaluate`: a model against real T1ce images, by the published protocol and more."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import RenderableType

from tlp_runtime.engines.choice import EngineChoice
from tlp_runtime.io.datasets import DataOptions
from tlp_runtime.synthesis.request import Prompt
from tlp_runtime.warnings import SEEN_IN_TRAINING

from .console import (
    JsonPath,
    Overwrite,
    Quiet,
    Verbose,
    begin,
    command_line,
    require,
    table,
    write_json,
)
from .datasets import choose_segmentations, say_brought
from .model import ModelOption, choose_model, open_engine
from .options import Pick, verb

if TYPE_CHECKING:
    from tlp_train.evaluation import Evaluation
    from tlp_train.metrics import ColumnGroup


NAMED = 8
"""How many cases a warning names."""


class PromptUse(StrEnum):
    """What the model is told."""

    none = "none"
    seg = "seg"
    fuzzy = "fuzzy"
    sphere = "sphere"
    whole_tumour = "whole-tumour"
    mirrored = "mirrored"
    moved = "moved"
    oedema = "oedema"


@verb
def command(
    *,
    data: Annotated[
        Path,
        typer.Option(
            "--data",
            metavar="DIR|CSV",
            help="Folder of cases, BIDS dataset or CSV table, as tlp train takes them.",
            rich_help_panel=DataOptions.TITLE,
        ),
    ],
    layout: DataOptions,
    model: ModelOption = None,
    prompt: Annotated[
        PromptUse,
        typer.Option(
            "--prompt",
            help="No prompt (as the paper tests), the seg (which was drawn on the T1ce), the seg "
            "by an unsteady hand (fuzzy), a ball of its volume, core and oedema as one, or the seg "
            "mirrored: a wrong prompt.",
        ),
    ] = PromptUse.none,
    told: Annotated[Prompt, Pick(only=("labels",))],
    split: Annotated[
        Path | None, typer.Option("--split", help="A run's split.json: its test cases only.")
    ] = None,
    choice: EngineChoice,
    json_path: JsonPath = None,
    csv_path: Annotated[
        Path | None, typer.Option("--csv", help="Write a row a case and image as CSV.")
    ] = None,
    markdown_path: Annotated[
        Path | None, typer.Option("--markdown", help="Write every table as Markdown.")
    ] = None,
    card: Annotated[
        bool,
        typer.Option(
            "--card", help="Put the tables into the model's card and `tlp models show`, too."
        ),
    ] = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Compare syntheses with acquired T1ce images: published metrics, brain, and enhancement.

    Reference rows that hold no network are printed too: the first input as it is, times a factor
    learnt from histograms, and times its best factor.

    Example: tlp evaluate --data phantom --prompt seg --json a.json
    """
    output = begin(quiet, verbose)
    require("train", "skimage", "scipy")
    from tlp_runtime.files.atomic import require_folder, require_writable, write_text
    from tlp_runtime.io.datasets import find_cases
    from tlp_runtime.models.contents import foreign_in_bundle
    from tlp_runtime.models.manifest import MODEL_CARD
    from tlp_runtime.synthesis.synthesizer import Synthesizer
    from tlp_train.evaluating import (
        evaluate,
        needed_arrays,
        require_prompt_use,
        select_cases,
    )
    from tlp_train.measured import keep_evaluation
    from tlp_train.metrics import GROUPS
    from tlp_train.split import Split
    from tlp_train.tables import (
        evaluation_csv,
        evaluation_markdown,
        patient_head,
        patient_rows,
        patient_text,
        weak_head,
        weak_rows,
        weak_text,
    )

    json_file = Path(json_path) if json_path not in (None, "-") else None
    files = [path for path in (json_file, csv_path, markdown_path) if path is not None]
    for path in files:
        require_writable(path, overwrite=overwrite)
    selected, bundle = choose_model(output, model, None, choice)
    require_prompt_use(bundle.spec, prompt.value)
    if card:
        require_folder(bundle.path, overwrite=True, foreign=foreign_in_bundle)
    segmentations = choose_segmentations(output, data, layout)
    cases = find_cases(
        data,
        needed_arrays(bundle.spec, prompt.value),
        ("seg",),
        segmentations=segmentations,
        warn=output.warn,
    )
    without = sum("seg" not in case.files for case in cases)
    if without:
        output.note(f"{without} cases have no segmentation: their measures of tumours are left out")
    if split is not None:
        cases = select_cases(cases, Split.from_json(split).test, split, data)
    with (
        Synthesizer(
            open_engine(output, selected, bundle, choice), batch=choice.batch
        ) as synthesizer,
        output.progress("cases") as bar,
    ):
        task = bar.add_task("", total=len(cases))
        result = evaluate(
            synthesizer,
            cases,
            prompt.value,
            model=bundle.name,
            data=str(data),
            training_voxels=bundle.manifest.training_voxels,
            learnt=bundle.manifest.learnt_factor,
            labels=told.labels,
            on_case=lambda _: bar.advance(task),
        )
    say_brought(output, result.brought)
    write_json(json_path, result.to_dict(), overwrite=overwrite)
    if csv_path is not None:
        write_text(csv_path, evaluation_csv(result), overwrite=overwrite)
    if markdown_path is not None:
        write_text(markdown_path, evaluation_markdown(result), overwrite=overwrite)
    if card:
        keep_evaluation(bundle, result)
        output.note(f"the model's card has it: {bundle.path / MODEL_CARD}")
    if json_path != "-":
        for group in GROUPS if verbose else GROUPS[:3]:
            output.table(_table(result, group))
        if result.patients:
            output.table(table(patient_head(), patient_rows(result), title=patient_text()))
        if result.weak:
            output.table(table(weak_head(), weak_rows(result), title=f"apart: {weak_text(result)}"))
    if result.seen:
        output.warn(
            SEEN_IN_TRAINING.warning(
                f"the model was trained or chosen on {len(result.seen)} of these "
                f"{len(cases)} cases: {', '.join(result.seen[:NAMED])}"
                + (", …" if len(result.seen) > NAMED else ""),
                fix="Evaluate on cases that it has not seen, such as the test part of its split.",
                cases=len(result.seen),
            )
        )
    elif not bundle.manifest.training_voxels:
        output.note("whether the model was trained on these cases is not known: it has no hashes")
    where = () if layout.segmentations is None else ("--segmentations", layout.segmentations)
    other = "seg" if prompt is PromptUse.none else "none"
    again = ("evaluate", "--data", data, *where, "--prompt", other)
    output.done(
        f"an evaluation of {len(cases)} cases"
        + (f" in {', '.join(map(str, files))}" if files else ""),
        command_line("tlp", *(again if bundle.spec.network.prompt else ("bench",))),
    )


def _table(result: Evaluation, group: ColumnGroup) -> RenderableType:
    from tlp_train.tables import group_head, group_rows, seen_text

    return table(
        group_head(group),
        group_rows(result, group),
        title=f"{group.title} · {result.model}, prompt: {result.prompt}, {len(result.cases)} cases",
        caption="\n".join(
            filter(
                None,
                (f"mean ± s.d. over {group.unit} [95 % interval over cases]", seen_text(result)),
            )
        ),
        left=("",),
    )
