"""Built engines on disk: options, sidecar, fingerprint, and whether one may be used here.

An engine lies in a folder named after its fingerprint, in the bundle (the export puts it
there) or under ``TLP_HOME`` (where a run builds one that it lacks)::

    generator.engine   TensorRT's bytes
    engine.json        the sidecar: all that decides whether the engine may be used
    build.log          the builder's log
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from tlp_runtime.engines.cuda import Gpu
from tlp_runtime.engines.options import EngineOptions
from tlp_runtime.engines.tensorrt.binding import TensorRT
from tlp_runtime.engines.tensorrt.flavours import FlavourName
from tlp_runtime.engines.tensorrt.layers import Layers
from tlp_runtime.errors import EngineError, UsageError
from tlp_runtime.models.bundle import ENGINES, Bundle
from tlp_runtime.models.contents import ENGINE_FILES
from tlp_runtime.models.store import home
from tlp_runtime.spec.reader import Contract, build, read_schema

ENGINE_FILE, SIDECAR_FILE, LOG_FILE = ENGINE_FILES

SCHEMA_MAJOR, SCHEMA_MINOR = 2, 1
_NAMED_BY = {"major": 2, "minor": 0}
"""The schema that fingerprints are made with, whatever the sidecar's: names stay what they were."""


@dataclass(frozen=True, kw_only=True)
class BuiltOn:
    """The GPU that enterprise TensorRT built on."""

    name: str
    compute_capability: str


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Everything that makes two engines differ: what the fingerprint covers.

    Parameters
    ----------
    flavour, version
        TensorRT's.
    precision
        The bundle's.
    compute_capabilities
        TensorRT-RTX: the targets; none for all that it supports.
    gpu
        Enterprise TensorRT: the GPU it was built on.
    """

    flavour: FlavourName
    version: str
    onnx_sha256: str
    precision: str
    options: EngineOptions
    compute_capabilities: tuple[str, ...]
    gpu: BuiltOn | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, with the schema version, ready for JSON."""
        return {"schema": _NAMED_BY, **asdict(self)}


@dataclass(frozen=True, kw_only=True)
class Sidecar(Identity):
    """``engine.json``: all that decides whether an engine may be used, and how it was built.

    Parameters
    ----------
    layers
        Kinds of layer, and how many of each compute in which type.
    layers_from
        Where that was read: the engine, or the builder's log.
    engine_sha256, engine_bytes
        Hash and size of TensorRT's bytes.
    cuda
        CUDA versions of driver and runtime library; None where CUDA could not be asked.
    seconds
        Duration of the build.
    built, built_on
        When (ISO 8601), and on which platform.
    tf32
        Whether float32 may be computed in TF32; engines of schema 2.0 were built so.
    """

    fingerprint: str
    layers: Layers = field(default_factory=dict)
    layers_from: str = ""
    engine_sha256: str
    engine_bytes: int
    cuda: Mapping[str, str] | None = None
    seconds: float = 0.0
    built: str = ""
    built_on: str = ""
    tf32: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Plain values, with the schema version, ready for JSON."""
        return {"schema": {"major": SCHEMA_MAJOR, "minor": SCHEMA_MINOR}, **asdict(self)}

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read ``engine.json``.

        Raises
        ------
        EngineError
            It is missing, damaged, or of another schema.
        """
        contract = Contract(what="its sidecar cannot be read", error=EngineError, defaults=True)
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise EngineError(f"{contract.what} ({error!r})") from error
        if not isinstance(data, Mapping):
            contract.refuse(f"it holds {type(data).__name__}, expected an object")
        version = read_schema(data, contract)
        if version[0] != SCHEMA_MAJOR:
            raise EngineError(f"its sidecar is of schema {version[0]}")
        extra: list[str] = []
        try:
            body = {name: value for name, value in data.items() if name != "schema"}
            sidecar = build(cls, body, contract, extra)
        except UsageError as error:
            raise EngineError(f"{contract.what}: {error.problem}") from error
        if extra and version <= (SCHEMA_MAJOR, SCHEMA_MINOR):
            contract.refuse(f"unknown keys {', '.join(sorted(extra))}")
        return sidecar


@dataclass(frozen=True)
class StoredEngine:
    """A built engine on disk; its sidecar has been read, its bytes have not.

    Parameters
    ----------
    folder
        Named after the fingerprint.
    """

    folder: Path
    sidecar: Sidecar

    @property
    def file(self) -> Path:
        """TensorRT's bytes."""
        return self.folder / ENGINE_FILE

    @property
    def options(self) -> EngineOptions:
        """The options it was built with."""
        return self.sidecar.options

    @classmethod
    def open(cls, folder: Path) -> StoredEngine:
        """Read the sidecar.

        Raises
        ------
        EngineError
            It is missing, damaged, or of another schema.
        """
        return cls(folder, Sidecar.read(folder / SIDECAR_FILE))

    def read(self) -> bytes:
        """TensorRT's bytes. Raises :class:`EngineError` when they are not those that were built."""
        try:
            plan = self.file.read_bytes()
        except OSError as error:
            raise EngineError(f"{ENGINE_FILE} cannot be read ({error.strerror})") from error
        expected = self.sidecar.engine_bytes
        if len(plan) != expected:
            raise EngineError(f"{ENGINE_FILE} has {len(plan)} bytes, {expected} were built")
        if hashlib.sha256(plan).hexdigest() != self.sidecar.engine_sha256:
            raise EngineError(f"{ENGINE_FILE} was altered or damaged: its SHA-256 is another")
        return plan

    def misfit(self, bundle: Bundle, binding: TensorRT, gpu: Gpu) -> str | None:
        """Why it cannot be used for this model, with this TensorRT, on this GPU; None if it can."""
        said, options = self.sidecar, self.options
        if said.onnx_sha256 != bundle.onnx_sha256:
            return (
                f"it was built from another graph ({said.onnx_sha256[:12]}…, the bundle's is "
                f"{bundle.onnx_sha256[:12]}…)"
            )
        if said.tf32 and bundle.precision == "fp32":
            return "it was built to compute float32 in TF32, whose ten bits are not fp32"
        later = options.version_compatible and _later(said.version, binding.version)
        if said.version != binding.version and not later:
            return (
                f"it was built by {binding.product} {said.version}, {binding.version} is installed"
            )
        have = gpu.capability
        if binding.flavour == "trt-rtx":
            targets = said.compute_capabilities
            if targets and have not in targets:
                return (
                    f"it was built for compute capability {' and '.join(targets)}, {gpu.name} "
                    f"has {have}"
                )
            return None
        built = said.gpu
        if built is None:
            return "it does not say which GPU it was built on"
        if options.hardware == "ampere+":
            return None if gpu.compute_capability >= (8, 0) else f"{gpu.name} is older than Ampere"
        if built.compute_capability != have or (
            options.hardware == "none" and built.name != gpu.name
        ):
            return (
                f"it was built on {built.name} (compute capability "
                f"{built.compute_capability}), this is {gpu.name} ({have})"
            )
        return None


def stored_engines(bundle: Bundle, flavour: FlavourName) -> Iterator[StoredEngine | str]:
    """Engines of that flavour that were built for ``bundle``, here or elsewhere.

    A folder whose sidecar cannot be read gives a sentence that says why.
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
            ours = root.parent == bundle.path or engine.sidecar.onnx_sha256 == bundle.onnx_sha256
            if ours and engine.sidecar.flavour == flavour:
                yield engine


def engines_folder() -> Path:
    """Where a run keeps the engines it had to build."""
    return home() / "engines"


def identity(
    bundle: Bundle, binding: TensorRT, options: EngineOptions, gpu: Gpu | None
) -> Identity:
    """The identity of the engine that would be built."""
    targets = options.targets
    if targets == ("current",) and gpu is not None:
        targets = (gpu.capability,)
    built_on = None
    if binding.flavour != "trt-rtx" and gpu is not None:
        built_on = BuiltOn(name=gpu.name, compute_capability=gpu.capability)
    return Identity(
        flavour=binding.flavour,
        version=binding.version,
        onnx_sha256=bundle.onnx_sha256,
        precision=bundle.precision,
        options=options,
        compute_capabilities=targets,
        gpu=built_on,
    )


def fingerprint(identity: Identity) -> str:
    """A short name for an identity."""
    text = json.dumps(identity.to_dict(), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _later(built: str, here: str) -> bool:
    """Whether ``here`` is a later version of the same major."""
    old, new = ([int(part) for part in re.findall(r"\d+", text)] for text in (built, here))
    return old[0] == new[0] and old <= new
