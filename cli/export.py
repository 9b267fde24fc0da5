"""`tlp export`: a checkpoint to a verified model bundle, and to a TensorRT engine."""

from __future__ import annotations

import re
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from tlp_runtime.errors import UsageError

from .build import (
    BatchProfiles,
    BuilderLevel,
    Hardware,
    HardwareOption,
    Targets,
    VersionCompatible,
    Workspace,
    describe,
    engine_options,
)
from .console import JsonPath, Output, Overwrite, Quiet, Verbose, begin, require, write_json
from .model import BuildBar

if TYPE_CHECKING:
    from tlp_export.options import ExportOptions
    from tlp_runtime.models.manifest import GraphReport


class Target(StrEnum):
    """What to build."""

    onnx = "onnx"
    trt = "trt"
    trt_rtx = "trt-rtx"


class PrecisionName(StrEnum):
    """What the convolutions compute in."""

    fp32 = "fp32"
    fp16 = "fp16"
    bf16 = "bf16"
    int8 = "int8"


def command(
    checkpoint: Annotated[
        Path | None,
        typer.Argument(help="Checkpoint or run folder; default: the newest finished run."),
    ] = None,
    engine: Annotated[
        Target, typer.Option("--engine", help="onnx alone, or a TensorRT engine besides.")
    ] = Target.onnx,
    which: Annotated[
        str, typer.Option("--checkpoint", help="last or best, of a run folder.")
    ] = "last",
    batch: BatchProfiles = None,
    workspace: Workspace = None,
    builder_level: BuilderLevel = None,
    target: Targets = None,
    hardware: HardwareOption = Hardware.none,
    version_compatible: VersionCompatible = False,
    triton: Annotated[
        Path | None,
        typer.Option("--triton", metavar="DIR", help="Add it to a model repository for Triton."),
    ] = None,
    precision: Annotated[
        PrecisionName,
        typer.Option("--precision", help="Of the convolutions; sums stay fp32, and so does I/O."),
    ] = PrecisionName.fp32,
    no_fold: Annotated[
        bool, typer.Option("--no-fold", help="The graph as published, for comparison; fp32 only.")
    ] = False,
    max_size: Annotated[
        str | None,
        typer.Option(
            "--max-size",
            metavar="HxW",
            help="Take slices of any size up to this; default: the crop.",
        ),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option("--calibration", help="BraTS cases for int8's ranges; default: the phantom."),
    ] = None,
    min_psnr: Annotated[
        float | None,
        typer.Option("--min-psnr", help="int8: least PSNR to the checkpoint, dB; default: 45."),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            "--exclude", help="int8: a layer (or its name's beginning) to leave fp32; repeatable."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Bundle folder; default: in the local store.")
    ] = None,
    overwrite: Overwrite = False,
    json_path: JsonPath = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Export to a model bundle (ONNX, proven equal to the checkpoint), then build an engine.

    The graph is folded to fewer operations, the same function; --verbose shows each pass.

    Example: tlp export --engine trt --precision fp16
    """
    output = begin(quiet, verbose)
    require("export", "torch", "onnx", "onnxscript")
    import tlp_export
    from tlp_export.verify import agreement

    if which not in ("last", "best"):
        raise UsageError(f"--checkpoint {which}: expected last or best.")
    options_of_engine = engine_options(
        batch, workspace, builder_level, target, hardware, version_compatible
    )
    options = _options(precision.value, no_fold, max_size, calibration, min_psnr, exclude or [])
    source = _checkpoint_file(checkpoint, which, output)
    with output.progress("exporting", named=True) as bar:
        task = bar.add_task("", total=None)
        exported = tlp_export.export(
            source,
            options,
            out=out,
            engine=engine.value,
            engine_options=options_of_engine,
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
    images = " ".join(f"--{name} {name}.nii.gz" for name in bundle.spec.inputs)
    output.done(made, f"tlp infer {images} --prompt roi.nii.gz")


def _options(
    precision: Any,
    no_fold: bool,
    max_size: str | None,
    calibration: Path | None,
    min_psnr: float | None,
    exclude: list[str],
) -> ExportOptions:
    from tlp_export.options import ExportOptions

    largest = None
    if max_size is not None:
        sides = re.fullmatch(r"(\d+)x(\d+)", max_size)
        if sides is None:
            raise UsageError(f"--max-size {max_size}: expected HxW such as 240x240.")
        largest = (int(sides[1]), int(sides[2]))
    return ExportOptions(
        precision=precision,
        fold=not no_fold,
        largest=largest,
        calibration=calibration,
        min_psnr_db=min_psnr,
        exclude=tuple(exclude),
    )


def _explain(output: Output, report: GraphReport) -> None:
    before, after = report.before, report.after
    output.note(
        f"{before.gflop:.1f} GFLOP per slice as published, {after.gflop:.1f} exported; "
        f"{report.nodes} ONNX nodes"
    )
    if output.verbose and report.folds:
        table = Table(title="foldings", caption="operators: what runs of the traced network")
        for column in ("pass", "what", "GFLOP", "operators"):
            table.add_column(column)
        for line in report.folds:
            table.add_row(
                line.name,
                line.what,
                f"{line.before.gflop:.1f} -> {line.after.gflop:.1f}",
                f"{line.before.operators} -> {line.after.operators}",
            )
        output.aside(table)
    if report.layers:
        table = Table(title="int8: what each layer costs alone")
        for column in ("layer", "PSNR alone, dB", "GFLOP"):
            table.add_column(column)
        for layer in report.layers[: None if output.verbose else 5]:
            table.add_row(layer.name, f"{layer.psnr_db:.1f}", f"{layer.gflop:.2f}")
        output.aside(table)


def _checkpoint_file(given: Path | None, which: str, output: Output) -> Path:
    from tlp_runtime.errors import ModelMissing
    from tlp_train.runs import Run, newest_finished

    if given is not None and not given.is_dir():
        return given
    if given is None:
        run = newest_finished()
        output.default("checkpoint", getattr(run, which), "the newest finished run")
    else:
        run = Run.open(given)
    file: Path = getattr(run, which)
    if not file.is_file():
        raise ModelMissing(f"{run.folder}: has no {file.name}; was any epoch finished?")
    return file
