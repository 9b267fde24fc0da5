"""Where a synthesis came from: written next to every output, in short into its header too."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from tlp_runtime.engines.base import Engine
from tlp_runtime.geometry.placement import Placement
from tlp_runtime.geometry.volume import Volume
from tlp_runtime.spec.model import ModelSpec
from tlp_runtime.synthesis.request import Request
from tlp_runtime.values.prompt import label_texts
from tlp_runtime.warnings import TLPWarning

SCHEMA = 1
DESCRIPTION = "SYNTHETIC T1ce by TLP, not acquired, no contrast agent; not for diagnosis"
LIBRARIES = ("tlp-mri", "numpy", "scipy", "nibabel", "pydicom", "highdicom")


def describe(
    request: Request, placement: Placement, engine: Engine, warnings: Iterable[TLPWarning]
) -> dict[str, Any]:
    """Plain values that say how an image was made; they do not change from run to run.

    Parameters
    ----------
    request
        What was asked, its files in memory.
    """
    volumes = request.volumes
    sources = {name: volumes[name] for name in (*engine.spec.inputs, "prompt", "brain_mask")
               if name in volumes}  # fmt: skip
    prompt = {
        "labels": label_texts(request.prompt.labels),
        "shapes": [str(shape) for shape in request.prompt.shapes],
    }
    return {
        "schema": SCHEMA,
        "description": DESCRIPTION,
        "inputs": {name: _source(volume) for name, volume in sources.items()},
        "prompt": prompt if request.prompt else None,
        "model": model_record(engine),
        "engine": engine_record(engine),
        "software": software(),
        "geometry": {
            "interpolated": placement.offset is None,
            "shape": list(placement.grid.shape),
            "affine": placement.grid.affine.tolist(),
            "window": list(placement.window),
            "windows": [list(corner) for corner in placement.corners],
            "all_slices": request.all_slices,
        },
        "warnings": [warning.to_dict() for warning in warnings],
    }


def engine_record(engine: Engine) -> dict[str, str]:
    """The engine that ran; which of several equal GPUs it used is left out."""
    kind = engine.device.partition(":")[0]
    return {"name": engine.name, "device": kind, "library": engine.library}


def model_record(engine: Engine) -> dict[str, Any]:
    """Name, hashes and specification of the model in an engine."""
    bundle = engine.bundle
    spec: ModelSpec = engine.spec
    checkpoint = bundle.manifest.provenance.checkpoint
    return {
        "name": bundle.name,
        "onnx_sha256": bundle.onnx_sha256,
        "checkpoint_sha256": None if checkpoint is None else checkpoint.sha256,
        "precision": bundle.precision,
        "spec": spec.to_dict(),
    }


def software() -> dict[str, str]:
    """Versions of the software that made the image."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def in_short(record: Mapping[str, Any]) -> dict[str, Any]:
    """What fits a file's header: hashes and versions, no paths, which may name a patient."""
    model = record["model"]
    return {
        "description": record["description"],
        "inputs": {name: source["sha256"] for name, source in record["inputs"].items()},
        "prompt": record["prompt"],
        "model": {key: model[key] for key in ("name", "onnx_sha256", "precision")},
        "engine": record["engine"]["name"],
        "software": record["software"],
    }


def now() -> str:
    """The local time with its offset, ISO 8601."""
    return datetime.now().astimezone().isoformat(timespec="seconds")


def _source(volume: Volume) -> dict[str, str | None]:
    origin = volume.origin
    if origin is None:
        return {"file": None, "sha256": None}
    return {"file": origin.path, "sha256": origin.sha256}
