"""Building engines: on export into the bundle, at run time once for all processes that wait."""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from datetime import datetime
from pathlib import Path
from typing import Generic, TypeVar

from filelock import FileLock, Timeout

from tlp_runtime.engines import plans
from tlp_runtime.engines.caches import caches_folder, keep
from tlp_runtime.engines.cuda import Cuda, Gpu
from tlp_runtime.engines.options import EngineOptions
from tlp_runtime.engines.plans import StoredEngine
from tlp_runtime.engines.tensorrt.binding import TensorRT, installed, load
from tlp_runtime.engines.tensorrt.build import BuildProgress, build_plan
from tlp_runtime.engines.tensorrt.flavours import FlavourName
from tlp_runtime.engines.tensorrt.layers import require_precision
from tlp_runtime.errors import (
    Advice,
    DependencyMissing,
    DeviceUnavailable,
    EngineError,
    Install,
    MemoryExhausted,
    RunTask,
    SetOption,
)
from tlp_runtime.files.atomic import (
    atomic_folder,
    make_folder,
    require_folder,
    write_text,
)
from tlp_runtime.models.bundle import ENGINES, Bundle
from tlp_runtime.models.contents import foreign_in_engine
from tlp_runtime.warnings import BUILD_AWAITED, ENGINE_BUILT, Warn

Opened = TypeVar("Opened")

_TIDY = Advice("Then build again.")


@dataclass(frozen=True)
class Obtained(Generic[Opened]):
    """An engine that was opened, its files, and the seconds it took to build here."""

    opened: Opened
    stored: StoredEngine
    build_s: float = 0.0


def pick_flavour(gpu: Gpu | None) -> FlavourName:
    """The flavour to build with where none is named: one that is installed and suits the GPU.

    With both installed, enterprise TensorRT where there is a GPU (it runs on all of them and times
    its kernels on this one), TensorRT-RTX where there is none (it alone builds without one).

    Raises
    ------
    DependencyMissing
        None is installed.
    """
    found = installed()
    if not found:
        raise DependencyMissing(
            "no TensorRT is installed",
            fix=(
                Install(("tlp-mri[trt-rtx]",), purpose="for GeForce, RTX and A100 GPUs"),
                Install(("tlp-mri[trt]",), purpose="for other GPUs"),
            ),
        )
    if len(found) == 1:
        return next(iter(found))
    return "trt-rtx" if gpu is None else "trt"


def current_gpu(index: int = 0) -> Gpu | None:
    """The GPU a build may use; None where there is none, or cuda-bindings is not installed."""
    try:
        gpus = Cuda().gpus()
    except DependencyMissing:
        return None
    return gpus[index] if index < len(gpus) else None


def add_engine(
    bundle: Bundle,
    flavour: FlavourName,
    options: EngineOptions | None = None,
    *,
    warn: Warn,
    on_builder: Callable[[str, str], None] = lambda builder, where: None,
    progress: BuildProgress | None = None,
) -> StoredEngine:
    """Add an engine to a bundle, with what is installed here.

    Parameters
    ----------
    flavour
        ``trt`` takes the flavour that is installed and suits the GPU (:func:`pick_flavour`),
        ``trt-rtx`` TensorRT-RTX.
    on_builder
        Called, before the build, with the product and version that builds and with the GPU.

    Raises
    ------
    DependencyMissing
        The flavour is not installed.
    DeviceUnavailable, EngineError, OutputError
        As :func:`build_engine`.
    """
    gpu = current_gpu()
    binding = load(flavour if flavour == "trt-rtx" else pick_flavour(gpu))
    on_builder(f"{binding.product} {binding.version}", "no GPU here" if gpu is None else gpu.name)
    return build_engine(
        bundle, options or EngineOptions(), binding, gpu, warn=warn, progress=progress
    )


def build_engine(
    bundle: Bundle,
    options: EngineOptions,
    binding: TensorRT,
    gpu: Gpu | None,
    *,
    warn: Warn,
    root: Path | None = None,
    progress: BuildProgress | None = None,
) -> StoredEngine:
    """Build ``bundle``'s graph and keep the engine under its fingerprint.

    An engine of that fingerprint that is there already is built again: engine bytes are not
    deterministic, and a rebuild is what was asked for. An interrupt leaves nothing.

    Parameters
    ----------
    gpu
        The GPU of this machine, if any.
    root
        Where the fingerprint's folder goes; None takes the bundle's own ``engines/``.

    Raises
    ------
    DeviceUnavailable
        The flavour needs a GPU to build on.
    EngineError
        TensorRT refuses the graph or the build, or built it in other types than the graph's.
    OutputError
        The folder cannot be written.
    """
    if gpu is None and (binding.flavour == "trt" or "current" in options.targets):
        what = "the target 'current'" if binding.flavour == "trt-rtx" else binding.product
        raise DeviceUnavailable(
            f"{what} builds on the GPU that the engine is for, and there is none here",
            fix=(
                "Build on such a machine, or with TensorRT-RTX.",
                Install(("tlp-mri[trt-rtx]",)),
                SetOption("engine", "trt-rtx"),
            ),
        )
    identity = plans.identity(bundle, binding, options, gpu)
    name = plans.fingerprint(identity)
    folder = (root or bundle.path / ENGINES) / name
    require_folder(folder, overwrite=True, foreign=foreign_in_engine, fix=_TIDY)
    timings = _timing_cache(binding, gpu)
    tf32 = bundle.precision != "fp32"
    began = time.perf_counter()
    known = timings.read_bytes() if timings is not None and timings.is_file() else b""
    result = build_plan(
        binding,
        bundle.onnx,
        options.shapes(bundle.spec),
        options,
        tf32=tf32,
        timings=known,
        progress=progress,
    )
    seconds = time.perf_counter() - began
    require_precision(result.layers, bundle.precision, warn=warn)
    sidecar = plans.Sidecar(
        **{field.name: getattr(identity, field.name) for field in fields(identity)},
        fingerprint=name,
        layers=result.layers,
        layers_from=result.layers_from,
        engine_sha256=hashlib.sha256(result.plan).hexdigest(),
        engine_bytes=len(result.plan),
        cuda=_cuda_versions(),
        seconds=round(seconds, 3),
        built=datetime.now().astimezone().isoformat(timespec="seconds"),
        built_on=platform.platform(),
        tf32=tf32,
    )
    with atomic_folder(folder, overwrite=True, foreign=foreign_in_engine) as temporary:
        (temporary / plans.ENGINE_FILE).write_bytes(result.plan)
        (temporary / plans.LOG_FILE).write_text("\n".join(result.log) + "\n", encoding="utf-8")
        text = json.dumps(sidecar.to_dict(), indent=2) + "\n"
        write_text(temporary / plans.SIDECAR_FILE, text)
    if timings is not None and result.timing_cache:
        keep(timings, result.timing_cache, warn=warn)
    return StoredEngine.open(folder)


def obtain(
    bundle: Bundle,
    flavour: FlavourName,
    gpu: Gpu,
    attempt: Callable[[TensorRT, bytes], Opened],
    *,
    warn: Warn,
    build: bool = True,
    binding: TensorRT | None = None,
    progress: BuildProgress | None = None,
) -> Obtained[Opened]:
    """Open an engine of ``bundle`` that fits this machine; build one if there is none.

    Engines built here go to ``TLP_HOME``, under a lock, so that of several processes one builds
    and the others open what it built.

    Parameters
    ----------
    attempt
        Opens the bytes; its :class:`EngineError` is one more reason why an engine does not fit.
    build
        Whether one may be built.

    Raises
    ------
    DependencyMissing, DeviceUnavailable
        The flavour is not installed.
    EngineError
        No engine fits and none may or can be built; every reason is in the message.
    """
    binding = binding or load(flavour)
    found, reasons, nearest = _open_first(bundle, binding, gpu, attempt)
    if found is not None:
        return found
    product = binding.product
    if reasons:
        why = f"no {product} engine of {bundle.name} can be used here: {'; '.join(reasons)}."
    else:
        why = f"{bundle.name} has no {product} engine."
    if not build:
        raise EngineError(
            f"{why} Building one was refused",
            fix=(
                SetOption("build", "", "to build it at the first run"),
                RunTask(
                    "build",
                    (("engine", flavour),),
                    "to build it now",
                    arguments=(str(bundle.path),),
                ),
            ),
        )
    options = EngineOptions() if nearest is None else nearest.options
    if flavour == "trt-rtx" and options.targets:
        options = replace(options, targets=())
    name = plans.fingerprint(plans.identity(bundle, binding, options, gpu))
    root = make_folder(plans.engines_folder())
    with _held(root / f"{name}.lock", warn=warn):
        found, _, _ = _open_first(bundle, binding, gpu, attempt)  # another process may have built
        if found is not None:
            return found
        warn(
            ENGINE_BUILT.warning(
                f"{why} Building one; this is done once, and can take minutes.", fingerprint=name
            )
        )
        try:
            stored = build_engine(
                bundle, options, binding, gpu, warn=warn, root=root, progress=progress
            )
        except EngineError as error:
            raise EngineError(
                f"{why} Building one failed: {error.problem}", fix=error.fixes
            ) from error
        return Obtained(attempt(binding, stored.read()), stored, stored.sidecar.seconds)


@contextmanager
def _held(path: Path, *, warn: Warn) -> Iterator[None]:
    """Hold a file lock, with a warning if another process holds it."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        warn(BUILD_AWAITED.warning("Another process is building this engine; waiting for it."))
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _open_first(
    bundle: Bundle,
    binding: TensorRT,
    gpu: Gpu,
    attempt: Callable[[TensorRT, bytes], Opened],
) -> tuple[Obtained[Opened] | None, list[str], StoredEngine | None]:
    """The first engine that fits and opens; else why none does, and the nearest of them."""
    reasons: list[str] = []
    nearest: StoredEngine | None = None
    for stored in plans.stored_engines(bundle, binding.flavour):
        if isinstance(stored, str):
            reasons.append(stored)
            continue
        try:
            reason = stored.misfit(bundle, binding, gpu)
            if reason is None:
                return Obtained(attempt(binding, stored.read()), stored), reasons, stored
        except EngineError as error:
            reason = str(error)
        reasons.append(f"{stored.folder.name}: {reason}")
        nearest = stored
    return None, reasons, nearest


def _timing_cache(binding: TensorRT, gpu: Gpu | None) -> Path | None:
    """Where enterprise TensorRT's kernel timings on this GPU are kept."""
    if binding.flavour != "trt" or gpu is None:
        return None
    model = "".join(c if c.isalnum() else "-" for c in gpu.name)
    return caches_folder() / f"timings-{binding.version}-{model}.cache"


def _cuda_versions() -> dict[str, str] | None:
    """CUDA versions of driver and runtime library; None where CUDA cannot be asked."""
    try:
        driver, runtime = Cuda().versions()
    except (DependencyMissing, DeviceUnavailable, EngineError, MemoryExhausted):
        return None
    return {"driver": driver, "runtime": runtime}
