"""`tlp build`: a TensorRT engine added to a model bundle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tlp_runtime.engines.options import EngineOptions
from tlp_runtime.engines.tensorrt.flavours import FlavourName

from .console import JsonPath, Overwrite, Quiet, Verbose, begin, write_json
from .model import BuildBar, infer_line
from .options import verb

if TYPE_CHECKING:
    from tlp_runtime.engines.plans import StoredEngine


@verb
def command(
    *,
    bundle: Annotated[str, typer.Argument(help="Bundle folder or registered name.")],
    engine: Annotated[
        FlavourName,
        typer.Option(
            "--engine",
            help="trt: by the TensorRT that is installed; trt-rtx: by TensorRT-RTX.",
            rich_help_panel=EngineOptions.TITLE,
        ),
    ] = "trt",
    options: EngineOptions,
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
    opened, _ = find_bundle(bundle, None)
    with output.progress("building", named=True) as bar:
        stored = add_engine(
            opened,
            engine,
            options,
            warn=output.warn,
            on_builder=lambda builder, where: output.default("builder", builder, where),
            progress=BuildBar(bar),
        )
    record = {"model": opened.name, "bundle": str(opened.path), "engine": stored.sidecar.to_dict()}
    write_json(json_path, record, overwrite=overwrite)
    flavour = stored.sidecar.flavour
    output.done(
        f"engine {describe(stored)}",
        infer_line(opened.spec.inputs, "--model", bundle, "--engine", flavour),
    )


def describe(stored: StoredEngine) -> str:
    """An engine in one phrase."""
    said = stored.sidecar
    batches = " and ".join(str(profile) for profile in stored.options.profiles)
    return (
        f"{said.flavour} {said.version}, batch {batches}, "
        f"{said.engine_bytes / 2**20:.1f} MiB, in {stored.file}"
    )
