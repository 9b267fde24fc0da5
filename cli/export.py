"""`tlp export`: a checkpoint to a verified model bundle, and to a TensorRT engine."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from tlp_runtime.errors import UsageError

from .console import JsonPath, Output, Overwrite, Quiet, Verbose, require, write_json


class Target(StrEnum):
    """What to build."""

    onnx = "onnx"
    trt = "trt"
    trt_rtx = "trt-rtx"


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
        str, typer.Option("--batch", metavar="MIN,OPT,MAX", help="Batch sizes of the engine.")
    ] = "1,4,16",
    out: Annotated[
        Path | None, typer.Option("--out", help="Bundle folder; default: in the local store.")
    ] = None,
    overwrite: Overwrite = False,
    json_path: JsonPath = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Export to a model bundle (ONNX, proven equal to the checkpoint), then build an engine.

    Example: tlp export --engine trt
    """
    output = Output(quiet, verbose)
    require("export", "torch", "onnx", "onnxscript")
    require("train", "monai", "lightning", "scipy")
    from tlp_export.engine_build import BatchProfile, build_engine
    from tlp_export.onnx_export import export_bundle
    from tlp_runtime.engines.onnx import require_onnxruntime
    from tlp_train.checkpoint import load_checkpoint

    if which not in ("last", "best"):
        raise UsageError(f"--checkpoint {which}: expected last or best.")
    require_onnxruntime()
    profile = BatchProfile.parse(batch)
    path = _checkpoint_file(checkpoint, which, output)
    with output.progress("exporting and verifying") as bar:
        bar.add_task("", total=None)
        exported = export_bundle(load_checkpoint(path), out, overwrite=overwrite)
    bundle = exported.bundle
    output.note(
        f"parity with the checkpoint: largest difference {exported.parity.max_abs:.1e} "
        f"(allowed {exported.parity.bounds['max_abs']:.0e})"
    )
    record = {
        "model": exported.name,
        "bundle": str(bundle.path),
        "checkpoint": str(path),
        "parity": exported.parity.to_dict(),
        "engine": None,
    }
    made = f"model {exported.name} in {bundle.path}"
    if engine is not Target.onnx:
        output.note(f"registered {exported.name}; building the TensorRT engine")
        with output.progress("building") as bar:
            bar.add_task("", total=None)
            built = build_engine(bundle, profile)
        record["engine"] = built.sidecar
        made += (
            f"\nmade engine {built.sidecar['flavour']} {built.sidecar['version']}, batch "
            f"{profile}, {built.path.stat().st_size / 2**20:.1f} MiB, in {built.path}"
        )
    write_json(json_path, record, overwrite=overwrite)
    images = " ".join(f"--{name} {name}.nii.gz" for name in bundle.spec.inputs)
    output.done(made, f"tlp infer {images} --prompt roi.nii.gz")


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
