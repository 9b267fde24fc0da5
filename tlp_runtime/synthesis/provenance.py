"""Where a synthesis came from: written beside every output, in short into its header too."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from tlp_runtime.engines.base import Engine
from tlp_runtime.geometry.placement import Placement
from tlp_runtime.geometry.volume import Volume
from tlp_runtime.spec.model import ModelSpec

SCHEMA = 1
DESCRIPTION = "SYNTHETIC T1ce by TLP, not acquired, no contrast agent; not for diagnosis"
LIBRARIES = ("tlp-mri", "numpy", "scipy", "nibabel", "pydicom", "highdicom")


def describe(
    images: Mapping[str, Volume],
    *,
    labels: Volume | None,
    meaning: Sequence[str],
    shapes: Sequence[str],
    brain_mask: Volume | None,
    all_slices: bool,
    placement: Placement,
    engine: Engine,
) -> dict[str, Any]:
    """Plain values that say how an image was made; nothing in it changes from run to run."""
    sources = {**images, "prompt": labels, "brain_mask": brain_mask}
    prompted = labels is not None or bool(shapes)
    return {
        "schema": SCHEMA,
        "description": DESCRIPTION,
        "inputs": {name: _source(v) for name, v in sources.items() if v is not None},
        "prompt": {"labels": list(meaning), "shapes": list(shapes)} if prompted else None,
        "model": model_record(engine),
        "engine": engine_record(engine),
        "software": software(),
        "geometry": {
            "interpolated": placement.offset is None,
            "shape": list(placement.grid.shape),
            "affine": placement.grid.affine.tolist(),
            "window": list(placement.window),
            "windows": [list(corner) for corner in placement.corners],
            "all_slices": all_slices,
        },
    }


def engine_record(engine: Engine) -> dict[str, str]:
    """What ran the network; which of several equal GPUs it was is left out."""
    kind = engine.device.partition(":")[0]
    return {"name": engine.name, "device": kind, "library": engine.library}


def model_record(engine: Engine) -> dict[str, Any]:
    """Name, hashes and specification of the model in an engine."""
    bundle = engine.bundle
    spec: ModelSpec = engine.spec
    checkpoint = bundle.manifest.get("provenance", {}).get("checkpoint", {})
    return {
        "name": bundle.name,
        "onnx_sha256": bundle.onnx_sha256,
        "checkpoint_sha256": checkpoint.get("sha256"),
        "precision": bundle.precision,
        "spec": spec.to_dict(),
    }


def software() -> dict[str, str]:
    """Versions of what made the image."""
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
