"""`tlp export`: a checkpoint to a verified model bundle, and to a TensorRT engine."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tlp_export.options import ExportOptions, Target
from tlp_runtime.engines.options import EngineOptions

from .build import describe
from .console import JsonPath, Output, Overwrite, Quiet, Verbose, begin, require, table, write_json
from .model import BuildBar, infer_line
from .models import say_default
from .options import verb

if TYPE_CHECKING:
    from tlp_runtime.models.manifest import GraphReport


class Which(StrEnum):
    """Checkpoints of a run."""

    last = "last"
    best = "best"


@verb
def command(
    *,
    checkpoint: Annotated[
        Path | None,
        typer.Argument(help="Checkpoint or run folder; default: the newest finished run."),
    ] = None,
    which: Annotated[
        Which | None,
        typer.Option(
            "--checkpoint",
            help="Which checkpoint of a run folder; by default the last, the best where the run "
            "judged that by enhancement.",
        ),
    ] = None,
    options: ExportOptions,
    engine: Annotated[
        Target,
        typer.Option(
            "--engine",
            help="onnx: the graph alone. trt: an engine too, by the TensorRT that is installed. "
            "trt-rtx: by TensorRT-RTX.",
            rich_help_panel=EngineOptions.TITLE,
        ),
    ] = "onnx",
    engine_options: EngineOptions,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            help="Bundle folder; default: in the local store.",
            rich_help_panel="Output",
        ),
    ] = None,
    triton: Annotated[
        Path | None,
        typer.Option(
            "--triton",
            metavar="DIR",
            help="Add the model to this model repository for Triton.",
            rich_help_panel="Output",
        ),
    ] = None,
    json_path: JsonPath = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Export a checkpoint to a model bundle: an ONNX graph, proven equal to the checkpoint.

    --engine builds a TensorRT engine too. --verbose shows how the graph was folded.

    Example: tlp export --engine trt --precision fp16
    """
    output = begin(quiet, verbose)
    require("export", "torch", "onnx", "onnxscript")
    import tlp_export
    from tlp_export.verify import agreement

    source = _checkpoint_file(checkpoint, which, output)
    with output.progress("exporting", named=True) as bar:
        task = bar.add_task("", total=None)
        exported = tlp_export.export(
            source,
            options,
            out=out,
            engine=engine,
            engine_options=engine_options,
            triton=triton,
            overwrite=overwrite,
            on_stage=lambda stage: bar.update(task, description=stage),
            progress=BuildBar(bar),
            warn=output.warn,
        )
    bundle, stored = exported.bundle, exported.engine
    _explain(output, exported.report)
    output.note(f"parity with the checkpoint: {agreement(exported.parity)}")
    record = {
        "model": exported.name,
        "bundle": str(bundle.path),
        "checkpoint": str(source),
        "precision": bundle.precision,
        "graph": asdict(exported.report),
        "parity": exported.parity.to_dict(),
        "engine": None if stored is None else stored.sidecar.to_dict(),
    }
    made = f"model {exported.name} in {bundle.path}"
    if stored is not None:
        made += f"\nmade engine {describe(stored)}"
    if triton is not None:
        if stored is not None and stored.sidecar.flavour == "trt-rtx":
            output.note("Triton serves no engines of TensorRT-RTX; it gets the ONNX model alone")
        record["triton"] = {"repository": str(triton), "models": list(exported.triton)}
        made += f"\nmade Triton models {', '.join(exported.triton)} in {triton}"
    write_json(json_path, record, overwrite=overwrite)
    say_default(output, exported.registration)
    output.done(made, infer_line(bundle.spec.inputs, prompt=True))


def _explain(output: Output, report: GraphReport) -> None:
    before, after = report.before, report.after
    output.note(
        f"{before.gflop:.1f} GFLOP per slice as published, {after.gflop:.1f} exported; "
        f"{report.nodes} ONNX nodes"
    )
    if output.verbose and report.folds:
        heads = ("pass", "what", "GFLOP", "operators")
        rows = [
            (
                line.name,
                line.what,
                f"{line.before.gflop:.1f} -> {line.after.gflop:.1f}",
                f"{line.before.operators} -> {line.after.operators}",
            )
            for line in report.folds
        ]
        caption = "operators: what runs of the traced network"
        output.aside(table(heads, rows, title="foldings", caption=caption, left=heads))
    if report.layers:
        columns = ("layer", "PSNR alone, dB", "GFLOP")
        costs = [
            (layer.name, f"{layer.psnr_db:.1f}", f"{layer.gflop:.2f}")
            for layer in report.layers[: None if output.verbose else 5]
        ]
        title = "int8: what each layer costs alone"
        output.aside(table(columns, costs, title=title, left=("layer",)))


def _checkpoint_file(given: Path | None, which: Which | None, output: Output) -> Path:
    from tlp_runtime.errors import ModelMissing
    from tlp_train.runs import Run, newest_finished

    if given is not None and not given.is_dir():
        return given
    run = newest_finished() if given is None else Run.open(given)
    judged = run.config.best == "enhancement"
    file: Path = getattr(run, which or (Which.best if judged else Which.last))
    if given is None:
        output.default("checkpoint", file, "the newest finished run")
    elif which is None:
        output.default("checkpoint", file.name, "best by enhancement" if judged else "default")
    if not file.is_file():
        raise ModelMissing(f"{run.folder}: has no {file.name}; was any epoch finished?")
    return file
