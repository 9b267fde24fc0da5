"""Built engines on disk: options, sidecar, fingerprint, and whether one may be used here.

An engine lies in a folder named after its fingerprint, in the bundle (``tlp export`` puts it
there) or under ``TLP_HOME`` (where a run builds one that it lacks)::

    generator.engine   TensorRT's bytes
    engine.json        the sidecar: all that decides whether the engine may be used
    build.log          what the builder said
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tlp_runtime.bundle import ENGINES, Bundle, Precision
from tlp_runtime.engines.cuda import Gpu
from tlp_runtime.engines.tensorrt.binding import TensorRT
from tlp_runtime.engines.tensorrt.flavours import BuildRequest, FlavourName
from tlp_runtime.errors import EngineError, UsageError
from tlp_runtime.spec import ModelSpec
from tlp_runtime.store import home

ENGINE_FILE = "generator.engine"
SIDECAR_FILE = "engine.json"
LOG_FILE = "build.log"

SCHEMA = {"major": 2, "minor": 0}

HARDWARE = ("none", "same-cc", "ampere+")


@dataclass(frozen=True)
class BatchProfile:
    """Batch sizes an engine accepts and is tuned for."""

    minimum: int = 1
    optimum: int = 4
    maximum: int = 16

    def __post_init__(self) -> None:
        if not 1 <= self.minimum <= self.optimum <= self.maximum:
            raise UsageError(f"--batch {self}: expected 1 <= MIN <= OPT <= MAX.")

    @classmethod
    def parse(cls, text: str) -> BatchProfile:
        """Read ``MIN,OPT,MAX``. Raises :class:`UsageError`."""
        parts = text.split(",")
        if len(parts) != 3 or not all(part.strip().isdigit() for part in parts):
            raise UsageError(f"--batch {text}: expected MIN,OPT,MAX such as 1,4,16.")
        return cls(*(int(part) for part in parts))

    def __str__(self) -> str:
        return f"{self.minimum},{self.optimum},{self.maximum}"


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How an engine is built. Valid once constructed.

    Parameters
    ----------
    profiles
        One or more; a run takes the one that fits its batch best.
    workspace_mib
        Limit of the builder's temporary GPU memory; None leaves it to TensorRT.
    level
        Builder optimisation level, 0 to 5; None leaves it to TensorRT (3).
    targets
        TensorRT-RTX: compute capabilities such as ``8.6``, or ``current``; none builds for all.
    hardware
        Enterprise: ``none`` (this GPU model), ``same-cc``, or ``ampere+``.
    version_compatible
        Enterprise: later versions of the same major may open it.
    """

    profiles: tuple[BatchProfile, ...] = (BatchProfile(),)
    workspace_mib: int | None = None
    level: int | None = None
    targets: tuple[str, ...] = ()
    hardware: str = "none"
    version_compatible: bool = False

    def __post_init__(self) -> None:
        if not self.profiles:
            raise UsageError("--batch: expected at least one MIN,OPT,MAX.")
        if self.workspace_mib is not None and self.workspace_mib < 1:
            raise UsageError(f"--workspace {self.workspace_mib}: expected at least 1 MiB.")
        if self.level is not None and not 0 <= self.level <= 5:
            raise UsageError(f"--builder-level {self.level}: expected 0 to 5.")
        if self.hardware not in HARDWARE:
            raise UsageError(f"--hardware {self.hardware}: expected one of {', '.join(HARDWARE)}.")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EngineOptions:
        """The inverse of ``dataclasses.asdict``."""
        profiles = tuple(BatchProfile(**profile) for profile in values["profiles"])
        rest = {name: value for name, value in values.items() if name != "profiles"}
        return cls(profiles=profiles, **(rest | {"targets": tuple(rest["targets"])}))

    def request(self, spec: ModelSpec, timing_cache: bytes = b"") -> BuildRequest:
        """The same with the shapes of ``spec``'s inputs in it."""
        tuned = (spec.crop.height, spec.crop.width)
        sizes = spec.sizes
        sides = (tuned, tuned, tuned) if sizes is None else (sizes.smallest, tuned, sizes.largest)
        profiles = []
        for profile in self.profiles:
            batches = (profile.minimum, profile.optimum, profile.maximum)
            smallest, usual, largest = (
                (batch, 1, *side) for batch, side in zip(batches, sides, strict=True)
            )
            profiles.append(dict.fromkeys(spec.tensor_names, (smallest, usual, largest)))
        return BuildRequest(
            profiles=profiles,
            workspace_mib=self.workspace_mib,
            level=self.level,
            targets=self.targets,
            hardware=self.hardware,
            version_compatible=self.version_compatible,
            timing_cache=timing_cache,
        )


@dataclass(frozen=True)
class StoredEngine:
    """A built engine on disk; its sidecar has been read, its bytes have not.

    Parameters
    ----------
    folder
        Named after the fingerprint.
    """

    folder: Path
    sidecar: Mapping[str, Any]

    @property
    def file(self) -> Path:
        """TensorRT's bytes."""
        return self.folder / ENGINE_FILE

    @property
    def options(self) -> EngineOptions:
        """What it was built with."""
        return EngineOptions.from_dict(self.sidecar["options"])

    @classmethod
    def open(cls, folder: Path) -> StoredEngine:
        """Read the sidecar.

        Raises
        ------
        EngineError
            It is missing, damaged, or of another schema.
        """
        path = folder / SIDECAR_FILE
        try:
            sidecar = json.loads(path.read_text(encoding="utf-8"))
            if sidecar["schema"]["major"] != SCHEMA["major"]:
                raise EngineError(f"its sidecar is of schema {sidecar['schema']['major']}")
            engine = cls(folder, sidecar)
            _ = engine.options, [sidecar[name] for name in _KEYS]
        except (OSError, ValueError, KeyError, TypeError, UsageError) as error:
            raise EngineError(f"its sidecar cannot be read ({error!r})") from error
        return engine

    def read(self) -> bytes:
        """TensorRT's bytes. Raises :class:`EngineError` when they are not those that were built."""
        try:
            plan = self.file.read_bytes()
        except OSError as error:
            raise EngineError(f"{ENGINE_FILE} cannot be read ({error.strerror})") from error
        expected = self.sidecar["engine_bytes"]
        if len(plan) != expected:
            raise EngineError(f"{ENGINE_FILE} has {len(plan)} bytes, {expected} were built")
        if hashlib.sha256(plan).hexdigest() != self.sidecar["engine_sha256"]:
            raise EngineError(f"{ENGINE_FILE} was altered or damaged: its SHA-256 is another")
        return plan

    def misfit(self, bundle: Bundle, binding: TensorRT, gpu: Gpu) -> str | None:
        """Why it cannot be used for this model, with this TensorRT, on this GPU; None if it can."""
        said, options = self.sidecar, self.options
        if said["onnx_sha256"] != bundle.onnx_sha256:
            return (
                f"it was built from another graph ({said['onnx_sha256'][:12]}…, the bundle's is "
                f"{bundle.onnx_sha256[:12]}…)"
            )
        same_major = said["version"].split(".")[0] == binding.version.split(".")[0]
        if said["version"] != binding.version and not (options.version_compatible and same_major):
            return (
                f"it was built by {binding.product} {said['version']}, {binding.version} is "
                "installed"
            )
        have = _capability(gpu)
        if binding.flavour == "trt-rtx":
            targets = said["compute_capabilities"]
            if targets and have not in targets:
                return (
                    f"it was built for compute capability {' and '.join(targets)}, {gpu.name} "
                    f"has {have}"
                )
            return None
        built = said["gpu"]
        if options.hardware == "ampere+":
            return None if gpu.compute_capability >= (8, 0) else f"{gpu.name} is older than Ampere"
        if built["compute_capability"] != have or (
            options.hardware == "none" and built["name"] != gpu.name
        ):
            return (
                f"it was built on {built['name']} (compute capability "
                f"{built['compute_capability']}), this is {gpu.name} ({have})"
            )
        return None


_KEYS = (
    "fingerprint", "flavour", "version", "onnx_sha256", "precision", "gpu",
    "compute_capabilities", "engine_sha256", "engine_bytes",
)  # fmt: skip


def stored_engines(bundle: Bundle, flavour: FlavourName) -> Iterator[StoredEngine | str]:
    """Engines of that flavour that were built for ``bundle``, here or elsewhere.

    For a folder whose sidecar cannot be read, a sentence instead.
    """
    for root in (bundle.path / ENGINES, engines_folder()):
        for folder in sorted(root.iterdir()) if root.is_dir() else ():
            if not folder.is_dir() or folder.name.startswith("."):
                continue
            try:
                engine = StoredEngine.open(folder)
            except EngineError as error:
                if root.parent == bundle.path:
                    yield f"{folder.name}: {error}"
                continue
            ours = root.parent == bundle.path or engine.sidecar["onnx_sha256"] == bundle.onnx_sha256
            if ours and engine.sidecar["flavour"] == flavour:
                yield engine


def engines_folder() -> Path:
    """Where a run keeps the engines it had to build."""
    return home() / "engines"


def caches_folder() -> Path:
    """Where timings and compiled kernels are kept from one process to the next."""
    return home() / "caches"


def identity(
    bundle: Bundle, binding: TensorRT, options: EngineOptions, gpu: Gpu | None
) -> dict[str, Any]:
    """Everything the fingerprint covers."""
    rtx = binding.flavour == "trt-rtx"
    targets = list(options.targets)
    if targets == ["current"] and gpu is not None:
        targets = [_capability(gpu)]
    built_on = None
    if not rtx and gpu is not None:
        built_on = {"name": gpu.name, "compute_capability": _capability(gpu)}
    return {
        "schema": SCHEMA,
        "flavour": binding.flavour,
        "version": binding.version,
        "onnx_sha256": bundle.onnx_sha256,
        "precision": bundle.precision,
        "options": asdict(options),
        "compute_capabilities": targets,
        "gpu": built_on,
    }


def fingerprint(identity: Mapping[str, Any]) -> str:
    """A short name for it."""
    text = json.dumps(identity, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def require_precision(layers: Mapping[str, Mapping[str, int]], precision: Precision) -> None:
    """The built engine's convolutions must compute in the bundle's precision.

    Raises
    ------
    EngineError
        They do not, or none is told of.
    """
    found: dict[str, int] = {}
    for kind, types in layers.items():
        if "conv" in kind.lower() or kind.lower() == "correlation":
            for dtype, count in types.items():
                found[dtype.lower()] = found.get(dtype.lower(), 0) + count
    wanted = _CONVOLUTION_TYPES[precision]
    right = sum(count for dtype, count in found.items() if dtype in wanted)
    # int8 leaves convolutions that cost accuracy in float32.
    if not right or (precision != "int8" and right != sum(found.values())):
        raise EngineError(
            f"the built engine is not {precision}: its convolutions compute in "
            f"{found or 'types that it does not tell'}, expected {' or '.join(wanted)}. Nothing "
            "was kept. Report this with the build log."
        )


_CONVOLUTION_TYPES: Mapping[Precision, tuple[str, ...]] = {
    "fp32": ("float", "fp32"),
    "fp16": ("half", "fp16"),
    "bf16": ("bfloat16", "bf16"),
    "int8": ("int8",),
}


def _capability(gpu: Gpu) -> str:
    return ".".join(str(part) for part in gpu.compute_capability)
