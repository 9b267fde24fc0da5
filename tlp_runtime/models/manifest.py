"""``manifest.json``: what a bundle holds, how it was made, and what it was proven to keep.

Schema 2.1. Manifests of schema 2.0 do not say what a model was fine-tuned from. Manifests of schema
1.0 are read and converted: they have one precision, for which weights and arithmetic were the same,
and no proof slice.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePath
from typing import Any, Literal, get_args

from tlp_runtime.errors import ModelDamaged, ModelMismatch
from tlp_runtime.spec.reader import Contract, build, read_schema
from tlp_runtime.warnings import MANIFEST_NEWER, Warn

SCHEMA_MAJOR = 2
SCHEMA_MINOR = 1

SPEC = "spec.json"
ONNX = "generator.onnx"
PARITY = "parity.json"
MODEL_CARD = "MODEL_CARD.md"
PROOF = "proof.npz"

FILES = (SPEC, ONNX, PARITY, MODEL_CARD)
"""The files that every bundle has; the manifest holds their hashes, and those of further ones."""

Precision = Literal["fp32", "fp16", "bf16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

SYNTHESIS = "synthesis"
"""The kind of a bundle that makes a T1ce."""


@dataclass(frozen=True)
class Cost:
    """Cost of one slice: GFLOP (multiplications and additions), and operators that compute."""

    gflop: float
    operators: int


@dataclass(frozen=True)
class FoldLine:
    """What one folding of the graph did."""

    name: str
    what: str
    before: Cost
    after: Cost


@dataclass(frozen=True)
class LayerCost:
    """What quantising one layer alone costs.

    Parameters
    ----------
    psnr_db
        PSNR of the output against float32, peak 2, over the ranking slices.
    gflop
        GFLOP per slice in that layer: what int8 makes faster.
    """

    name: str
    psnr_db: float
    gflop: float


@dataclass(frozen=True)
class GraphReport:
    """What became of the network on its way into the graph.

    Parameters
    ----------
    before, after
        Cost of the network as published and as exported.
    nodes
        Nodes of the ONNX graph.
    folds
        Each pass.
    layers
        What int8 costs, layer by layer, the costliest first; empty for other precisions.
    excluded
        The layers that stayed in float32 as asked.
    """

    before: Cost
    after: Cost
    nodes: int
    folds: tuple[FoldLine, ...]
    layers: tuple[LayerCost, ...]
    excluded: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ParityRecord:
    """What the graph must keep against its checkpoint, and whether it did."""

    bounds: Mapping[str, float] = field(default_factory=dict)
    passed: bool = False


@dataclass(frozen=True, kw_only=True)
class ProofRecord:
    """The proof slice: a synthetic slice and the output that the checkpoint gives in float64.

    Parameters
    ----------
    torch_fp32_max_abs, torch_fp32_rms
        How far PyTorch's own fp32 is from that output: what rounding alone does.
    """

    file: str = PROOF
    torch_fp32_max_abs: float = 0.0
    torch_fp32_rms: float = 0.0


@dataclass(frozen=True, kw_only=True)
class CheckpointRecord:
    """The checkpoint a bundle was made of.

    Parameters
    ----------
    epoch
        Epochs that were finished; 0 for imported weights.
    """

    file: str
    sha256: str
    epoch: int = 0


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a bundle comes from.

    Parameters
    ----------
    checkpoint
        None where it was not recorded.
    imported
        ``file`` and ``sha256`` of the published weights the checkpoint was imported from, if any.
    ancestors
        The checkpoints it was fine-tuned from, the first first.
    differs
        Why its training may differ, in the last bits or more, from one without a stop.
    run
        Name of the run's folder.
    training_data
        What is known of it, as one phrase.
    created
        Local time with its offset, ISO 8601.
    versions
        Versions of the software that exported it.
    """

    checkpoint: CheckpointRecord | None = None
    imported: Mapping[str, str] | None = None
    ancestors: tuple[CheckpointRecord, ...] = ()
    differs: tuple[str, ...] = ()
    run: str = ""
    training_data: str = "not recorded"
    created: str = ""
    opset: int | None = None
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A bundle's manifest.

    Parameters
    ----------
    kind
        What the bundle is for.
    graph_dtype
        The type in which the graph holds the weights of its convolutions.
    compute_precision
        The precision in which convolutions are computed.
    files
        SHA-256 of each file of the bundle, by name.
    graph
        None where it was not recorded.
    proof
        None for bundles without a proof slice.
    training_voxels, truth_voxels
        Hashes of the volumes of its training and validation cases, and of those it is measured
        against; empty where they were not recorded.
    metrics
        Measured quality, by name, for the model card.
    learnt_factor
        What the histograms of its training cases tell of a T1ce
        (``tlp_train.reference_rows.learn``); None where it is not known.
    signature
        Signature of the bundle; None where it is not signed.
    """

    kind: str = SYNTHESIS
    graph_dtype: Precision
    compute_precision: Precision
    files: Mapping[str, str]
    parity: ParityRecord = field(default_factory=ParityRecord)
    graph: GraphReport | None = None
    provenance: Origin = field(default_factory=Origin)
    proof: ProofRecord | None = None
    training_voxels: tuple[str, ...] = ()
    truth_voxels: tuple[str, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    learnt_factor: tuple[float, ...] | None = None
    signature: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, with the schema version, ready for JSON."""
        return {"schema": {"major": SCHEMA_MAJOR, "minor": SCHEMA_MINOR}, **asdict(self)}

    def to_json(self) -> str:
        """The text of ``manifest.json``."""
        return json.dumps(self.to_dict(), indent=2) + "\n"


def read_manifest(path: Path, *, warn: Warn | None = None) -> Manifest:
    """Read ``manifest.json`` of this version or an older one.

    Parameters
    ----------
    warn
        Called when keys of a newer minor version are ignored.

    Raises
    ------
    ModelDamaged
        It cannot be read, is of a newer major version, has keys or values that its version does
        not have, or lacks the hash of a file.
    ModelMismatch
        A bundle of another kind.
    """
    contract = Contract(what=str(path), error=ModelDamaged, fix="Export the model again.")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelDamaged(f"{path}: cannot be read ({error!r}).", fix=contract.fix) from error
    if not isinstance(data, Mapping):
        contract.refuse(f"holds {type(data).__name__}, expected an object")
    major, minor = read_schema(data, contract)
    body = {key: value for key, value in data.items() if key != "schema"}
    if major == 1:
        contract = Contract(what=str(path), error=ModelDamaged, fix=contract.fix, defaults=True)
        body = _converted(body)
    elif (major, minor) == (2, 0) and isinstance(body.get("provenance"), Mapping):
        body["provenance"] = {"ancestors": (), "differs": (), **body["provenance"]}
    elif major != SCHEMA_MAJOR:
        raise ModelDamaged(
            f"{path}: schema {major}.{minor}, this version reads {SCHEMA_MAJOR}.x and 1.x.",
            fix="Install a matching tlp-mri, or export the model again.",
        )
    if body.get("kind") not in (SYNTHESIS, None):
        raise ModelMismatch(
            f"{path}: a bundle of kind {body['kind']!r}, expected {SYNTHESIS}.",
            fix="Install a newer tlp-mri, or choose another bundle.",
        )
    extra: list[str] = []
    manifest = build(Manifest, body, contract, extra)
    if extra and (major, minor) <= (SCHEMA_MAJOR, SCHEMA_MINOR):
        contract.refuse(f"unknown keys {', '.join(sorted(extra))}, which its schema does not have")
    if extra and warn is not None:
        keys = ", ".join(sorted(extra))
        warn(
            MANIFEST_NEWER.warning(
                f"the bundle comes from a newer version; ignored: {keys}", keys=keys
            )
        )
    _require_files(manifest, contract)
    return manifest


def _converted(body: Mapping[str, Any]) -> dict[str, Any]:
    """The body of a manifest of schema 1 as one of schema 2."""
    values = dict(body)
    precision = values.pop("precision", None)
    return {"graph_dtype": precision, "compute_precision": precision, **values}


def _require_files(manifest: Manifest, contract: Contract) -> None:
    """Every file has its hash, and every name is that of a file in the folder."""
    needed = FILES if manifest.proof is None else (*FILES, manifest.proof.file)
    missing = [name for name in needed if name not in manifest.files]
    if missing:
        contract.refuse(f"lacks file hashes: {', '.join(missing)}")
    outside = [name for name in manifest.files if PurePath(name).name != name or "\\" in name]
    if outside:
        contract.refuse(f"names files outside of the bundle: {', '.join(outside)}")
