"""Checkpoint to a verified model bundle, to a TensorRT engine, to Triton: one call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tlp_export.bundle import make_bundle
from tlp_export.options import ExportOptions, Target
from tlp_export.triton import Plan, require_repository, write_repository
from tlp_export.verify import Parity
from tlp_runtime.engines.builds import add_engine
from tlp_runtime.engines.onnx import require_onnxruntime
from tlp_runtime.engines.options import EngineOptions
from tlp_runtime.engines.plans import StoredEngine
from tlp_runtime.engines.tensorrt.build import BuildProgress
from tlp_runtime.errors import DependencyMissing, SetOption, UsageError
from tlp_runtime.models.bundle import Bundle
from tlp_runtime.models.manifest import GraphReport
from tlp_runtime.models.registered import Registration
from tlp_runtime.warnings import TLPWarning, Warn, WarningLog
from tlp_train.checkpoint import Checkpoint, load_checkpoint


@dataclass(frozen=True)
class Exported:
    """What an export made.

    Parameters
    ----------
    registration
        The name under which the bundle was registered, and the default for its inputs.
    parity
        How close the graph came to its checkpoint.
    report
        What became of the network on its way into the graph.
    engine
        The TensorRT engine that was built, if one was asked for.
    triton
        Names of the models in the repository for Triton.
    warnings
        Warnings of the engine's build.
    """

    registration: Registration
    bundle: Bundle
    parity: Parity
    report: GraphReport
    engine: StoredEngine | None = None
    triton: tuple[str, ...] = ()
    warnings: tuple[TLPWarning, ...] = ()

    @property
    def name(self) -> str:
        """The name under which the bundle was registered."""
        return self.registration.name


def export(
    checkpoint: Path | str | Checkpoint,
    options: ExportOptions | None = None,
    *,
    out: Path | str | None = None,
    engine: Target = "onnx",
    engine_options: EngineOptions | None = None,
    triton: Path | str | None = None,
    overwrite: bool = False,
    on_stage: Callable[[str], None] = lambda stage: None,
    progress: BuildProgress | None = None,
    warn: Warn | None = None,
) -> Exported:
    """Make a verified bundle of a checkpoint and register it; then an engine, then Triton's models.

    Parameters
    ----------
    checkpoint
        A checkpoint's file, or the checkpoint.
    options
        How the checkpoint becomes a graph.
    out
        The bundle's folder; None takes one in the local store, named after inputs, preset,
        checkpoint and options, and replaces an earlier export of the same. Engines of an equal
        graph are kept.
    engine
        ``onnx`` makes the bundle alone; ``trt`` builds an engine of the TensorRT flavour that is
        installed, ``trt-rtx`` one of TensorRT-RTX.
    engine_options
        How the engine is built.
    triton
        A model repository for Triton to which the bundle is added; an engine of enterprise
        TensorRT goes there too (Triton runs none of TensorRT-RTX).
    on_stage
        Called with what begins.
    progress
        Told how the engine's build goes on.
    warn
        Called with each warning of the engine's build.

    Raises
    ------
    UsageError
        Options that exclude each other.
    ModelError
        The checkpoint is missing, damaged or unsafe.
    ParityError
        The graph's values or types are not what they must be; nothing is written or registered.
    DependencyMissing
        No TensorRT is installed; the bundle was made and registered.
    OutputError
        ``out`` exists, or cannot be written.
    """
    engine_options = engine_options or EngineOptions()
    if engine == "onnx" and engine_options != EngineOptions():
        raise UsageError(
            "options of a TensorRT engine were given, but no engine was asked for",
            fix=SetOption("engine", "trt"),
        )
    require_onnxruntime()
    if not isinstance(checkpoint, Checkpoint):
        checkpoint = load_checkpoint(Path(checkpoint))

    def require_triton(name: str) -> None:
        if triton is not None:
            planned = engine == "trt"
            require_repository(Path(triton), name, with_plan=planned, overwrite=overwrite)

    made = make_bundle(
        checkpoint,
        options or ExportOptions(),
        None if out is None else Path(out),
        overwrite=overwrite,
        on_stage=on_stage,
        on_name=require_triton,
    )
    heard = WarningLog(warn)
    stored = None
    if engine != "onnx":
        try:
            stored = add_engine(
                made.bundle,
                engine,
                engine_options,
                warn=heard.add,
                on_builder=lambda builder, where: on_stage(f"building with {builder} ({where})"),
                progress=progress,
            )
        except DependencyMissing as error:
            raise DependencyMissing(
                f"{error.problem}. The ONNX bundle was made and registered as "
                f"{made.registration.name}",
                fix=error.fixes,
            ) from error
    names: tuple[str, ...] = ()
    if triton is not None:
        names = write_repository(made.bundle, Path(triton), _plan(stored), overwrite=overwrite)
    return Exported(
        made.registration, made.bundle, made.parity, made.report, stored, names, tuple(heard)
    )


def _plan(stored: StoredEngine | None) -> Plan | None:
    """The engine as Triton's TensorRT backend takes it; None for one that it cannot run."""
    if stored is None or stored.sidecar.flavour != "trt":
        return None
    profiles = tuple((one.minimum, one.optimum, one.maximum) for one in stored.options.profiles)
    return Plan(stored.file, "trt", profiles)
