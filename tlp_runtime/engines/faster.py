"""Is a model registered that gives the same, proven, in less time?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tlp_runtime.engines.choice import AUTO
from tlp_runtime.engines.select import SelectedEngine, choose
from tlp_runtime.errors import TLPError
from tlp_runtime.models.bundle import MANIFEST, Bundle
from tlp_runtime.models.manifest import SPEC, Precision, read_manifest
from tlp_runtime.models.registered import models
from tlp_runtime.spec.model import ModelSpec

ON_CPU: tuple[Precision, ...] = ("fp32", "bf16", "int8")
ON_GPU: tuple[Precision, ...] = ("fp32", "fp16")
"""From slow to fast, as measured (docs/measured.md); what stands in neither is not recommended."""


@dataclass(frozen=True)
class Faster:
    """A registered model: its name, and what its convolutions are computed in."""

    name: str
    precision: Precision


def faster_model(bundle: Bundle, selected: SelectedEngine) -> Faster | None:
    """The fastest registered model of the same checkpoint that is faster than ``bundle`` here.

    It was proven on export, has a proof slice, and an engine on the same device runs it. None where
    there is none.
    """
    order = ON_CPU if selected.cuda_index is None else ON_GPU
    if bundle.precision not in order:
        return None
    faster = [
        Faster(entry.name, other.precision)
        for entry in models()
        if (other := _related(bundle, entry.path)) is not None
        and other.precision in order[order.index(bundle.precision) + 1 :]
        and _runs(other, selected)
    ]
    return max(faster, key=lambda found: order.index(found.precision), default=None)


def _related(bundle: Bundle, folder: Path) -> Bundle | None:
    """The bundle there, if it was made of the same checkpoint for the same slices, and proven."""
    try:
        manifest = read_manifest(folder / MANIFEST)
        spec = ModelSpec.from_json((folder / SPEC).read_text(encoding="utf-8"))
    except (TLPError, OSError):
        return None
    ours, theirs = bundle.manifest.provenance.checkpoint, manifest.provenance.checkpoint
    if ours is None or theirs is None or ours.sha256 != theirs.sha256 or spec != bundle.spec:
        return None
    return Bundle(folder, spec, manifest) if manifest.parity.passed and manifest.proof else None


def _runs(bundle: Bundle, selected: SelectedEngine) -> bool:
    device = "cpu" if selected.cuda_index is None else f"cuda:{selected.cuda_index}"
    try:
        return choose(AUTO, device, bundle).cuda_index == selected.cuda_index
    except TLPError:
        return False
