"""`tlp evaluate`: a model against real T1ce images, by the published protocol."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from .console import JsonPath, Output, Overwrite, Quiet, Verbose, require, write_json
from .model import (
    BatchOption,
    DeviceOption,
    EngineOption,
    ModelOption,
    ThreadsOption,
    choose_model,
)

if TYPE_CHECKING:
    from tlp_train.evaluation import Evaluation
    from tlp_train.metrics import Statistic


class PromptUse(StrEnum):
    """What the model is told."""

    none = "none"
    seg = "seg"


def command(
    data: Annotated[Path, typer.Option("--data", help="Folder of BraTS cases.")],
    model: ModelOption = None,
    prompt: Annotated[
        PromptUse, typer.Option("--prompt", help="No prompt (as the paper tests), or the seg.")
    ] = PromptUse.none,
    split: Annotated[
        Path | None, typer.Option("--split", help="A run's split.json: its test cases only.")
    ] = None,
    engine: EngineOption = "auto",
    device: DeviceOption = "auto",
    batch: BatchOption = 4,
    threads: ThreadsOption = None,
    json_path: JsonPath = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """PSNR, SSIM and NMSE slice by slice, whole and inside the tumour.

    Example: tlp evaluate --data phantom --prompt seg
    """
    output = Output(quiet, verbose)
    require("train", "skimage")
    from tlp_runtime.errors import InputError
    from tlp_runtime.io.atomic import require_writable
    from tlp_runtime.synthesize import Synthesizer
    from tlp_train.brats import find_cases
    from tlp_train.evaluation import evaluate
    from tlp_train.split import Split

    if json_path not in (None, "-"):
        require_writable(Path(str(json_path)), overwrite=overwrite)
    choice, bundle = choose_model(output, model, None, engine, device)
    cases = find_cases(data, (*bundle.spec.inputs, "t1ce", "seg"))
    if split is not None:
        wanted = Split.from_json(split).test
        found = {case.name: case for case in cases}
        absent = [name for name in wanted if name not in found]
        if absent or not wanted:
            raise InputError(
                f"{split}: its test part has {len(wanted)} cases, of which {len(absent)} are not "
                f"in {data}: {', '.join(absent[:8])}"
            )
        cases = [found[name] for name in wanted]
    with (
        Synthesizer(choice.open(bundle, threads=threads), batch=batch) as synthesizer,
        output.progress("cases") as bar,
    ):
        task = bar.add_task("", total=len(cases))
        result = evaluate(synthesizer, cases, prompt.value, on_case=lambda _: bar.advance(task))
    record = {"model": bundle.name, "engine": choice.name, "data": str(data), **result.to_dict()}
    write_json(json_path, record, overwrite=overwrite)
    if json_path != "-":
        output.table(_table(result, bundle.name))
    output.done(
        f"an evaluation of {len(cases)} cases"
        + (f" in {json_path}" if json_path not in (None, "-") else ""),
        f"tlp evaluate --data {data} --prompt {'seg' if prompt is PromptUse.none else 'none'}",
    )


def _table(result: Evaluation, model: str) -> Table:
    table = Table(
        title=f"{model}, prompt: {result.prompt}, {len(result.cases)} cases",
        caption="mean ± population s.d. over slices; tumour: labels 1, 3, 4",
    )
    for column in ("", "slices", "PSNR dB", "SSIM", "NMSE"):
        table.add_column(column, justify="left" if not column else "right")
    for name, summary in (("whole slice", result.whole), ("tumour region", result.tumour)):
        table.add_row(
            name,
            str(summary.ssim.count),
            _figure(summary.psnr_db, 2),
            _figure(summary.ssim, 3),
            _figure(summary.nmse, 3),
        )
    return table


def _figure(statistic: Statistic, digits: int) -> str:
    if statistic.mean is None or statistic.sd is None:
        return "none"
    return f"{statistic.mean:.{digits}f} ± {statistic.sd:.{digits}f}"
