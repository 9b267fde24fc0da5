"""Where a synthesis came from: written next to every output, in short into its header too."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tlp_runtime.engines.base import Engine
from tlp_runtime.errors import InputMissing, InputUnreadable, fix_to_dict
from tlp_runtime.geometry.placement import Placement
from tlp_runtime.geometry.volume import Volume
from tlp_runtime.spec.model import ModelSpec
from tlp_runtime.spec.reader import Contract, build
from tlp_runtime.synthesis.evidence import EvidenceRecord
from tlp_runtime.synthesis.region import Region
from tlp_runtime.synthesis.request import Request
from tlp_runtime.values.prompt import label_texts
from tlp_runtime.warnings import TLPWarning

SCHEMA = 1
DESCRIPTION = "SYNTHETIC T1ce by TLP, not acquired, no contrast agent; not for diagnosis"
LIBRARIES = ("tlp-mri", "numpy", "scipy", "nibabel", "pydicom", "highdicom")


@dataclass(frozen=True, kw_only=True)
class SourceRecord:
    """A file that was read; both are None for an array in memory."""

    file: str | None
    sha256: str | None


@dataclass(frozen=True, kw_only=True)
class PromptRecord:
    """Labels and shapes of a prompt, as they were asked for, and what they mark on the scan.

    Parameters
    ----------
    region
        None where it was not measured: in records of older versions, and of sessions.
    """

    labels: tuple[str, ...]
    shapes: tuple[str, ...]
    region: Region | None = None


@dataclass(frozen=True, kw_only=True)
class ModelRecord:
    """The model: its name, the hashes of graph and checkpoint, and what it means."""

    name: str
    onnx_sha256: str
    checkpoint_sha256: str | None
    precision: str
    spec: ModelSpec


@dataclass(frozen=True, kw_only=True)
class EngineRecord:
    """The engine that ran; which of several equal GPUs it used is left out."""

    name: str
    device: str
    library: str


@dataclass(frozen=True, kw_only=True)
class GeometryRecord:
    """Where the network looked at the scan: the grid, and the windows in its slices."""

    interpolated: bool
    shape: tuple[int, ...]
    affine: tuple[tuple[float, ...], ...]
    window: tuple[int, ...]
    windows: tuple[tuple[int, ...], ...]
    all_slices: bool


@dataclass(frozen=True, kw_only=True)
class WarningRecord:
    """A warning of the case, with its fixes as plain values."""

    code: str
    kind: str
    text: str
    numbers: Mapping[str, float | str]
    fixes: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, kw_only=True)
class SynthesisRecord:
    """How an image was made; it does not change from run to run.

    Parameters
    ----------
    inputs
        The files of each image, of the prompt and of the brain mask, by name.
    prompt
        None where no prompt was given.
    software
        Versions by name.
    evidence
        What the prompt made of the image; None where it was not asked for.
    """

    description: str
    inputs: Mapping[str, SourceRecord]
    prompt: PromptRecord | None
    model: ModelRecord
    engine: EngineRecord
    software: Mapping[str, str]
    geometry: GeometryRecord
    warnings: tuple[WarningRecord, ...]
    evidence: EvidenceRecord | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        plain: dict[str, Any] = {"schema": SCHEMA, **_lists(asdict(self))}
        plain["model"]["spec"] = self.model.spec.to_dict()
        if self.evidence is None:  # a record without it stays what it always was
            del plain["evidence"]
        return plain

    def in_short(self) -> dict[str, Any]:
        """What fits a file's header: hashes and versions, no paths, which may name a patient."""
        plain, model = self.to_dict(), self.model
        asked = plain["prompt"] and {name: plain["prompt"][name] for name in ("labels", "shapes")}
        return {
            "description": self.description,
            "inputs": {name: source.sha256 for name, source in self.inputs.items()},
            "prompt": asked,
            "model": {
                "name": model.name,
                "onnx_sha256": model.onnx_sha256,
                "precision": model.precision,
            },
            "engine": self.engine.name,
            "software": plain["software"],
        }


def read_record(path: Path) -> SynthesisRecord:
    """Read the JSON next to an output.

    Raises
    ------
    InputMissing, InputUnreadable
        There is none, or it is not such a record.
    SpecError
        The model's specification in it cannot be read.
    """
    contract = Contract(what=str(path), error=InputUnreadable, defaults=True)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputMissing(f"{path}: no such file.") from error
    except (OSError, ValueError) as error:
        raise InputUnreadable(f"{path}: cannot be read ({error}).") from error
    if not isinstance(data, Mapping) or data.get("schema") != SCHEMA:
        contract.refuse(f"is not a record of a synthesis of schema {SCHEMA}")
    # Next to ours, the file holds keys of the run (output, time) and those of BIDS.
    ours = {field.name for field in fields(SynthesisRecord)}
    body = {name: value for name, value in data.items() if name in ours}
    extra: list[str] = []
    record = build(SynthesisRecord, body, contract, extra)
    if extra:
        contract.refuse(f"unknown keys {', '.join(sorted(extra))}")
    return record


def describe(
    request: Request,
    placement: Placement,
    engine: Engine,
    warnings: Iterable[TLPWarning],
    region: Region | None = None,
    evidence: EvidenceRecord | None = None,
) -> SynthesisRecord:
    """Say how an image was made.

    Parameters
    ----------
    request
        What was asked, its files in memory.
    region
        What its prompt marks.
    evidence
        What its prompt made of the image.
    """
    volumes = request.volumes
    sources = {name: volumes[name] for name in (*engine.spec.inputs, "prompt", "brain_mask")
               if name in volumes}  # fmt: skip
    prompt = PromptRecord(
        labels=tuple(label_texts(request.prompt.labels)),
        shapes=tuple(str(shape) for shape in request.prompt.shapes),
        region=region,
    )
    return SynthesisRecord(
        description=DESCRIPTION,
        inputs={name: _source(volume) for name, volume in sources.items()},
        prompt=prompt if request.prompt else None,
        model=_model(engine),
        engine=EngineRecord(
            name=engine.name, device=engine.device.partition(":")[0], library=engine.library
        ),
        software=software(),
        geometry=GeometryRecord(
            interpolated=placement.offset is None,
            shape=tuple(placement.grid.shape),
            affine=tuple(tuple(row) for row in placement.grid.affine.tolist()),
            window=tuple(placement.window),
            windows=tuple(tuple(corner) for corner in placement.corners),
            all_slices=request.all_slices,
        ),
        warnings=tuple(_warning(warning) for warning in warnings),
        evidence=evidence,
    )


def _model(engine: Engine) -> ModelRecord:
    bundle = engine.bundle
    checkpoint = bundle.manifest.provenance.checkpoint
    return ModelRecord(
        name=bundle.name,
        onnx_sha256=bundle.onnx_sha256,
        checkpoint_sha256=None if checkpoint is None else checkpoint.sha256,
        precision=bundle.precision,
        spec=engine.spec,
    )


def _warning(warning: TLPWarning) -> WarningRecord:
    return WarningRecord(
        code=warning.code.name,
        kind=warning.kind,
        text=warning.text,
        numbers=dict(warning.numbers),
        fixes=tuple(fix_to_dict(fix) for fix in warning.fixes),
    )


def software() -> dict[str, str]:
    """Versions of the software that made the image."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def now() -> str:
    """The local time with its offset, ISO 8601."""
    return datetime.now().astimezone().isoformat(timespec="seconds")


def _source(volume: Volume) -> SourceRecord:
    origin = volume.origin
    if origin is None:
        return SourceRecord(file=None, sha256=None)
    return SourceRecord(file=origin.path, sha256=origin.sha256)


def _lists(value: Any) -> Any:
    """Plain values with lists in the place of tuples, as they are read back from JSON."""
    if isinstance(value, Mapping):
        return {name: _lists(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_lists(item) for item in value]
    return value
