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

from .console import JsonPath, Output, Overwrite, Quiet, Verbose, begin, require, write_json
from .model import BuildBar
from .models import say_default

if TYPE_CHECKING:
    from tlp_export.onnx_export import ExportOptions, GraphReport
    from tlp_runtime.engines.options import EngineOptions
    from tlp_runtime.engines.plans import StoredEngine
    from tlp_runtime.models.bundle import Bundle
    from tlp_runtime.spec.model import ModelSpec


class Target(StrEnum):
    """What to build."""

    onnx = "onnx"
    trt = "trt"
    trt_rtx = "trt-rtx"


class Hardware(StrEnum):
    """GPUs that an engine of enterprise TensorRT runs on."""

    none = "none"
    same_cc = "same-cc"
    ampere = "ampere+"


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
    batch: Annotated[
        list[str] | None,
        typer.Option(
            "--batch",
            metavar="MIN,OPT,MAX",
            help="Batch sizes of the engine; repeatable, a profile each; default: 1,4,16.",
        ),
    ] = None,
    workspace: Annotated[
        int | None, typer.Option("--workspace", help="Most GPU memory the builder may use, MiB.")
    ] = None,
    builder_level: Annotated[
        int | None,
        typer.Option("--builder-level", help="0 (fast build) to 5 (fast engine); default: 3."),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            help="TensorRT-RTX: compute capability such as 8.6, or current; repeatable; "
            "default: all it supports.",
        ),
    ] = None,
    hardware: Annotated[
        Hardware,
        typer.Option(
            "--hardware", help="TensorRT: GPUs the engine runs on besides this model of GPU."
        ),
    ] = Hardware.none,
    version_compatible: Annotated[
        bool,
        typer.Option(
            "--version-compatible", help="TensorRT: later versions of the same major may open it."
        ),
    ] = False,
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
    require("train", "monai", "lightning", "scipy")
    from tlp_export.onnx_export import export_bundle
    from tlp_export.verify import agreement
    from tlp_runtime.engines.onnx import require_onnxruntime
    from tlp_train.checkpoint import load_checkpoint

    if which not in ("last", "best"):
        raise UsageError(f"--checkpoint {which}: expected last or best.")
    require_onnxruntime()
    options_of_engine = _engine_options(
        engine, batch, workspace, builder_level, target, hardware, version_compatible
    )
    loaded = load_checkpoint(_checkpoint_file(checkpoint, which, output))
    options = _options(
        loaded.spec, precision.value, no_fold, max_size, calibration, min_psnr, exclude or []
    )
    with output.progress("exporting", named=True) as bar:
        task = bar.add_task("", total=None)
        exported = export_bundle(
            loaded,
            out,
            options,
            overwrite=overwrite,
            on_stage=lambda stage: bar.update(task, description=stage),
        )
    bundle, parity, report = exported.bundle, exported.parity, exported.report
    _explain(output, report)
    output.note(f"parity with the checkpoint: {agreement(parity)}")
    record = {
        "model": exported.name,
        "bundle": str(bundle.path),
        "checkpoint": str(loaded.path),
        "precision": bundle.precision,
        "graph": asdict(report),
        "parity": parity.to_dict(),
        "engine": None,
    }
    made = f"model {exported.name} in {bundle.path}"
    stored = None
    if engine is not Target.onnx:
        stored = _build(output, bundle, engine, options_of_engine)
        record["engine"] = dict(stored.sidecar)
        made += f"\nmade engine {_describe(stored)}"
    if triton is not None:
        if stored is not None and stored.sidecar["flavour"] == "trt-rtx":
            output.note("Triton serves no engines of TensorRT-RTX; it gets the ONNX model alone")
        models = _triton(bundle, triton, stored, overwrite)
        record["triton"] = {"repository": str(triton), "models": models}
        made += f"\nmade Triton models {', '.join(models)} in {triton}"
    write_json(json_path, record, overwrite=overwrite)
    say_default(output, exported.registration)
    images = " ".join(f"--{name} {name}.nii.gz" for name in bundle.spec.inputs)
    output.done(made, f"tlp infer {images} --prompt roi.nii.gz")


def _engine_options(
    engine: Target,
    batch: list[str] | None,
    workspace: int | None,
    level: int | None,
    targets: list[str] | None,
    hardware: Hardware,
    version_compatible: bool,
) -> EngineOptions:
    from tlp_runtime.engines.options import BatchProfile, EngineOptions

    options = EngineOptions(
        profiles=tuple(BatchProfile.parse(text) for text in batch or ["1,4,16"]),
        workspace_mib=workspace,
        level=level,
        targets=tuple(targets or ()),
        hardware=hardware.value,
        version_compatible=version_compatible,
    )
    if engine is Target.onnx and options != EngineOptions():
        raise UsageError(
            "--batch, --workspace, --builder-level, --target, --hardware and --version-compatible "
            "are of engines: give --engine trt with them."
        )
    return options


def _build(output: Output, bundle: Bundle, engine: Target, options: EngineOptions) -> StoredEngine:
    from tlp_runtime.engines.builds import build_engine, current_gpu, pick_flavour
    from tlp_runtime.engines.tensorrt.binding import load
    from tlp_runtime.errors import DependencyMissing

    gpu = current_gpu()
    try:
        flavour = "trt-rtx" if engine is Target.trt_rtx else pick_flavour(gpu)
        binding = load(flavour)
    except DependencyMissing as error:
        raise DependencyMissing(
            f"{error.problem}. The ONNX bundle was made and registered as {bundle.name}",
            fix=error.fixes,
        ) from error
    where = "no GPU here" if gpu is None else gpu.name
    output.default("builder", f"{binding.product} {binding.version}", where)
    with output.progress("building", named=True) as bar:
        return build_engine(bundle, options, binding, gpu, warn=output.warn, progress=BuildBar(bar))


def _describe(stored: StoredEngine) -> str:
    said = stored.sidecar
    batches = " and ".join(str(profile) for profile in stored.options.profiles)
    return (
        f"{said['flavour']} {said['version']}, batch {batches}, "
        f"{said['engine_bytes'] / 2**20:.1f} MiB, in {stored.file}"
    )


def _triton(
    bundle: Bundle, folder: Path, stored: StoredEngine | None, overwrite: bool
) -> list[str]:
    from tlp_export.triton import Plan, write_repository

    plan = None
    if stored is not None and stored.sidecar["flavour"] == "trt":
        profiles = tuple(
            (profile.minimum, profile.optimum, profile.maximum)
            for profile in stored.options.profiles
        )
        plan = Plan(stored.file, "trt", profiles)
    return list(write_repository(bundle, folder, plan, overwrite=overwrite))


def _options(
    spec: ModelSpec,
    precision: Any,
    no_fold: bool,
    max_size: str | None,
    calibration: Path | None,
    min_psnr: float | None,
    exclude: list[str],
) -> ExportOptions:
    from tlp_export.onnx_export import ExportOptions
    from tlp_export.slices import calibration_slices
    from tlp_runtime.io.brats import find_cases

    largest = None
    if max_size is not None:
        sides = re.fullmatch(r"(\d+)x(\d+)", max_size)
        if sides is None:
            raise UsageError(f"--max-size {max_size}: expected HxW such as 240x240.")
        largest = (int(sides[1]), int(sides[2]))
    if calibration is not None and precision != "int8":
        raise UsageError("--calibration belongs to --precision int8.")
    slices = None
    if calibration is not None:
        slices = calibration_slices(spec, find_cases(calibration, (*spec.inputs, "seg")))
    return ExportOptions(
        precision=precision,
        fold=not no_fold,
        largest=largest,
        calibration=slices,
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
