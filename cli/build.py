"""`tlp build`: a TensorRT engine added to a model bundle; and the options of engines."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from .console import JsonPath, Overwrite, Quiet, Verbose, begin, write_json
from .model import BuildBar

if TYPE_CHECKING:
    from tlp_runtime.engines.options import EngineOptions
    from tlp_runtime.engines.plans import StoredEngine


class Flavour(StrEnum):
    """The TensorRT to build with."""

    trt = "trt"
    trt_rtx = "trt-rtx"


class Hardware(StrEnum):
    """GPUs that an engine of enterprise TensorRT runs on."""

    none = "none"
    same_cc = "same-cc"
    ampere = "ampere+"


BatchProfiles = Annotated[
    list[str] | None,
    typer.Option(
        "--batch",
        metavar="MIN,OPT,MAX",
        help="Batch sizes of the engine; repeatable, one profile each; default: 1,4,16.",
    ),
]
Workspace = Annotated[
    int | None, typer.Option("--workspace", help="Most GPU memory the builder may use, MiB.")
]
BuilderLevel = Annotated[
    int | None,
    typer.Option("--builder-level", help="0 (fast build) to 5 (fast engine); default: 3."),
]
Targets = Annotated[
    list[str] | None,
    typer.Option(
        "--target",
        help="TensorRT-RTX: compute capability such as 8.6, or current; repeatable; "
        "default: all it supports.",
    ),
]
HardwareOption = Annotated[
    Hardware,
    typer.Option("--hardware", help="TensorRT: GPUs the engine runs on besides this model of GPU."),
]
VersionCompatible = Annotated[
    bool,
    typer.Option(
        "--version-compatible", help="TensorRT: later versions of the same major may open it."
    ),
]


def command(
    bundle: Annotated[str, typer.Argument(help="Bundle folder or registered name.")],
    engine: Annotated[
        Flavour,
        typer.Option("--engine", help="trt: the TensorRT that is installed; or trt-rtx."),
    ] = Flavour.trt,
    batch: BatchProfiles = None,
    workspace: Workspace = None,
    builder_level: BuilderLevel = None,
    target: Targets = None,
    hardware: HardwareOption = Hardware.none,
    version_compatible: VersionCompatible = False,
    json_path: JsonPath = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Add a TensorRT engine to a model bundle. Engines that it has are kept.

    An engine of the same options, TensorRT and GPU is built again and replaced.

    Example: tlp build my-bundle --engine trt-rtx --target 8.6 --batch 1,8,32
    """
    from tlp_runtime.engines.builds import add_engine
    from tlp_runtime.models.choice import find_bundle

    output = begin(quiet, verbose)
    options = engine_options(batch, workspace, builder_level, target, hardware, version_compatible)
    opened, _ = find_bundle(bundle, None)
    with output.progress("building", named=True) as bar:
        stored = add_engine(
            opened,
            engine.value,
            options,
            warn=output.warn,
            on_builder=lambda builder, where: output.default("builder", builder, where),
            progress=BuildBar(bar),
        )
    record = {"model": opened.name, "bundle": str(opened.path), "engine": stored.sidecar.to_dict()}
    write_json(json_path, record, overwrite=overwrite)
    images = " ".join(f"--{name} {name}.nii.gz" for name in opened.spec.inputs)
    flavour = stored.sidecar.flavour
    output.done(
        f"engine {describe(stored)}", f"tlp infer --model {bundle} --engine {flavour} {images}"
    )


def engine_options(
    batch: list[str] | None,
    workspace: int | None,
    level: int | None,
    targets: list[str] | None,
    hardware: Hardware,
    version_compatible: bool,
) -> EngineOptions:
    """The options of an engine from their flags."""
    from tlp_runtime.engines.options import BatchProfile, EngineOptions

    return EngineOptions(
        profiles=tuple(BatchProfile.parse(text) for text in batch or ["1,4,16"]),
        workspace_mib=workspace,
        level=level,
        targets=tuple(targets or ()),
        hardware=hardware.value,
        version_compatible=version_compatible,
    )


def describe(stored: StoredEngine) -> str:
    """An engine in one phrase."""
    said = stored.sidecar
    batches = " and ".join(str(profile) for profile in stored.options.profiles)
    return (
        f"{said.flavour} {said.version}, batch {batches}, "
        f"{said.engine_bytes / 2**20:.1f} MiB, in {stored.file}"
    )
