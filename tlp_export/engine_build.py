"""An ONNX bundle to a TensorRT-RTX engine. Builds on machines without a GPU."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import platform
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tlp_runtime.bundle import ENGINES, Bundle
from tlp_runtime.errors import DependencyMissing, EngineError, UsageError
from tlp_runtime.io.atomic import atomic_folder, write_text

ENGINE_FILE = "generator.engine"
SIDECAR_FILE = "engine.json"
LOG_FILE = "build.log"


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


@dataclass(frozen=True)
class BuiltEngine:
    """A built engine's file and what its sidecar says."""

    path: Path
    sidecar: dict[str, Any]


def build_engine(bundle: Bundle, profile: BatchProfile) -> BuiltEngine:
    """Build ``bundle``'s graph and keep the engine in the bundle, under its fingerprint.

    An engine of that fingerprint that is there already is built anew: engine bytes are not
    deterministic, and a rebuild is what was asked for.

    Raises
    ------
    DependencyMissing
        TensorRT-RTX is not installed.
    EngineError
        TensorRT refuses the graph or the build; its own words are in the message.
    OutputError
        The bundle's folder cannot be written.
    """
    trt = _tensorrt_rtx()
    fingerprint, key = _fingerprint(bundle, profile, trt.__version__)
    plan, log = _build(trt, bundle, profile)
    folder = bundle.path / ENGINES / fingerprint
    with atomic_folder(folder, overwrite=True) as temporary:
        engine = temporary / ENGINE_FILE
        engine.write_bytes(plan)
        (temporary / LOG_FILE).write_text("\n".join(log) + "\n", encoding="utf-8")
        sidecar = {
            **key,
            "fingerprint": fingerprint,
            "engine_sha256": hashlib.sha256(plan).hexdigest(),
            "built": datetime.now().astimezone().isoformat(timespec="seconds"),
            "built_on": platform.platform(),
            "executed": False,
        }
        write_text(temporary / SIDECAR_FILE, json.dumps(sidecar, indent=2) + "\n")
    return BuiltEngine(folder / ENGINE_FILE, sidecar)


def _tensorrt_rtx() -> Any:
    if importlib.util.find_spec("tensorrt_rtx") is None:
        other = importlib.util.find_spec("tensorrt") is not None
        raise DependencyMissing(
            ("enterprise TensorRT is installed, but this version builds with TensorRT-RTX, which "
             if other else "TensorRT-RTX ")
            + "is not installed. The ONNX bundle is made and registered; for an engine install: "
            "pip install 'tlp-mri[trt-rtx]'"
        )  # fmt: skip
    import tensorrt_rtx

    return tensorrt_rtx


def _fingerprint(bundle: Bundle, profile: BatchProfile, version: str) -> tuple[str, dict[str, Any]]:
    """What decides whether an engine may be used, and a short name for it."""
    key = {
        "schema": {"major": 1, "minor": 0},
        "flavour": "trt-rtx",
        "version": version,
        "onnx_sha256": bundle.onnx_sha256,
        "precision": bundle.precision,
        "batch_profile": [profile.minimum, profile.optimum, profile.maximum],
        "options": {},
        "compute_capability": "default",
    }
    text = json.dumps(key, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16], key


def _build(trt: Any, bundle: Bundle, profile: BatchProfile) -> tuple[bytes, list[str]]:
    log: list[str] = []

    class Log(trt.ILogger):  # type: ignore[misc]
        """Keeps TensorRT's words for the sidecar instead of printing them."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.INFO:
                log.append(f"{severity.name} {message}")

    logger = Log()
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(bundle.onnx)):
        errors = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
        raise EngineError(f"TensorRT-RTX cannot read {bundle.onnx}: {errors}")
    config = builder.create_builder_config()
    shapes = builder.create_optimization_profile()
    crop, sizes = bundle.spec.crop, bundle.spec.sizes
    tuned = (crop.height, crop.width)
    sides = (sizes.smallest, tuned, sizes.largest) if sizes else (tuned, tuned, tuned)
    batches = (profile.minimum, profile.optimum, profile.maximum)
    for name in bundle.spec.tensor_names:
        shapes.set_shape(
            name, *((batch, 1, *side) for batch, side in zip(batches, sides, strict=True))
        )
    config.add_optimization_profile(shapes)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        reasons = [line for line in log if line.startswith(("ERROR", "INTERNAL_ERROR"))]
        raise EngineError(
            "TensorRT-RTX did not build the engine: "
            + ("; ".join(reasons[-3:]) or "no reason given")
        )
    return bytes(plan), log
