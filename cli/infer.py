"""`tlp infer`: a scan in, its synthetic T1ce out on the same grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from tlp_runtime.cohort.options import CohortOptions
from tlp_runtime.engines.choice import EngineChoice
from tlp_runtime.errors import UsageError
from tlp_runtime.synthesis.request import Prompt, Request
from tlp_runtime.synthesis.result import SaveOptions
from tlp_runtime.synthesis.synthesizer import Synthesizer
from tlp_runtime.values.prompt import label_texts, parse_labels

from .console import JsonPath, Overwrite, Quiet, Verbose, begin
from .infer_cases import CohortRun, infer_cohort
from .infer_scan import ScanOutput, infer_scan
from .model import ModelOption, choose_model, open_engine
from .options import Pick, given_flags, verb

OF_ONE_SCAN = (
    "t1", "t2", "t1_series", "t2_series", "prompt", "prompt_sphere", "prompt_box", "brain_mask",
    "preview", "out_format",
)  # fmt: skip
NO_PROMPT = Prompt()
OF_MANY_CASES = ("prompts", "workers", "ray", "participant_label")


@verb
def command(
    context: typer.Context,
    *,
    asked: Annotated[dict[str, Any], Request, Pick(changes=True)],
    model: ModelOption = None,
    choice: EngineChoice,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Output; default: <stem>_synth-t1ce.nii.gz (or -dicom) next to the T1. With "
            "--cases: a folder.",
            rich_help_panel=SaveOptions.TITLE,
        ),
    ] = None,
    form: SaveOptions,
    preview: Annotated[
        Path | None,
        typer.Option(
            "--preview",
            help="PNG of T1, prompt and synthesis.",
            rich_help_panel=SaveOptions.TITLE,
        ),
    ] = None,
    json_path: JsonPath = None,
    overwrite: Overwrite = False,
    many: CohortOptions,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Synthesize the contrast-enhanced T1 (T1ce) of a scan; a prompt marks the region to enhance.

    The output lies on the T1's own grid, and next to it a JSON file that says how it was made.

    --cases and --bids run many cases; those that an earlier run finished are skipped.

    Examples: tlp infer --t1 a.nii.gz --prompt roi.nii.gz --preview a.png
    · tlp infer --t1 series --prompt-sphere -76,97,57,15 --out-format dicom
    · tlp infer --cases cases.csv --out syntheses
    · tlp infer --bids study --derivatives study/derivatives/tlp --participant-label 01 02
    """
    output = begin(quiet, verbose)
    asked, many = _with_words(asked, many, context.args)
    if many.cases is not None or many.bids is not None:
        name = "--cases" if many.cases is not None else "--bids"
        _refuse(name, given_flags(context, *OF_ONE_SCAN))
        folder = out
        if many.bids is not None:
            _refuse(name, given_flags(context, "out"))
            folder = many.derivatives
        if folder is None:
            raise UsageError("--cases needs --out DIR, the folder for the syntheses.")
        run = CohortRun(
            options=many, folder=folder, model=model, choice=choice, int16=form.int16,
            overwrite=overwrite, json_path=json_path, command=context.obj,
        )  # fmt: skip
        infer_cohort(run, partial(_request_of_case, asked), output)
        return
    _refuse("a single scan", given_flags(context, *OF_MANY_CASES))
    request = Request(**asked)
    target = ScanOutput.of(
        next(Path(str(image)) for image in request.images.values()),
        out,
        as_dicom=form.out_format == "dicom",
        int16=form.int16,
        preview=preview,
        overwrite=overwrite,
    )
    if out is None:
        output.default("output", target.path, "default")

    def opened(given: Sequence[str]) -> Synthesizer:
        selected, bundle = choose_model(output, model, given, choice)
        return Synthesizer(open_engine(output, selected, bundle, choice), batch=choice.batch)

    infer_scan(request, target, opened, output, json_path, context.obj)


def _request_of_case(
    asked: dict[str, Any], *, prompt: Prompt = NO_PROMPT, **of_case: Any
) -> Request:
    """The request of one case of many; what was asked holds for each."""
    for_all: Prompt = asked.get("prompt", prompt)
    prompt = replace(prompt, labels=for_all.labels, allow_empty=for_all.allow_empty)
    return Request(**{**asked, **of_case, "prompt": prompt})


def _with_words(
    asked: dict[str, Any], many: CohortOptions, words: list[str]
) -> tuple[dict[str, Any], CohortOptions]:
    """What was asked, with values that follow the first of an option.

    These are label meanings (tumour=1,4 oedema=2) and participants of a dataset (01 02).
    """
    prompt: Prompt = asked.get("prompt", NO_PROMPT)
    meanings = [word for word in words if "=" in word] if prompt.labels else []
    others = [word for word in words if word not in meanings]
    if others and not many.participant_label:
        raise UsageError(
            f"unexpected {' '.join(others)!r}: a scan is given by --t1 or --t2, a region by "
            "--prompt."
        )
    if meanings:
        labels = parse_labels([*label_texts(prompt.labels), *meanings])
        asked = {**asked, "prompt": replace(prompt, labels=labels)}
    if others:
        many = replace(many, participant_label=(*many.participant_label, *others))
    return asked, many


def _refuse(mode: str, given: list[str]) -> None:
    """Refuse options that have no meaning in this mode."""
    if given:
        raise UsageError(f"{', '.join(given)} cannot go with {mode}; leave them out.")
