"""Does an engine compute here what its model promises? Asked at its first opening.

A driver, a processor or a library that computes something else gives an image all the same. So the
bundle's proof slice is run, in the batch that will be used, and its answer is compared with the
checkpoint's. What was proven is remembered under ``TLP_HOME``, and not asked again until the
engine, its library, the device or the model is another.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tlp_runtime.engines.base import Engine, Slices
from tlp_runtime.engines.caches import caches_folder, keep
from tlp_runtime.errors import ChooseAnother, MemoryExhausted, ParityError, RunTask
from tlp_runtime.models.manifest import PROOF, ProofRecord
from tlp_runtime.models.proof import Proof
from tlp_runtime.warnings import ENGINE_UNPROVEN

_proven: set[str] = set()
"""In this process: several engines of one run, and a ``TLP_HOME`` that cannot be written."""


@dataclass(frozen=True)
class Deviation:
    """How far an engine is from the checkpoint, on the network's [-1, 1] scale.

    Parameters
    ----------
    psnr_db
        Peak to peak 2; infinite where both are equal.
    """

    max_abs: float
    rms: float
    psnr_db: float

    @classmethod
    def of(cls, got: Slices, want: Slices) -> Deviation:
        """Of the slice that is furthest from ``want``; NaN where it has one."""
        gap = np.abs(got.astype(np.float64) - want)
        rms = float(np.sqrt(np.square(gap).mean(axis=(1, 2, 3)).max()))
        with np.errstate(divide="ignore"):
            psnr = float(20 * np.log10(2 / np.float64(rms)))
        return cls(float(gap.max()), rms, psnr)

    def keeps(self, bounds: Mapping[str, float], own: ProofRecord) -> bool:
        """Whether every bound is kept; a NaN keeps none."""
        if "psnr_db" in bounds:
            return self.psnr_db >= bounds["psnr_db"]
        factor = bounds["torch_fp32_factor"]
        return self.max_abs <= max(
            bounds["max_abs"], factor * own.torch_fp32_max_abs
        ) and self.rms <= max(bounds["rms"], factor * own.torch_fp32_rms)

    def __str__(self) -> str:
        return f"max {self.max_abs:.1e}, RMS {self.rms:.1e}, PSNR {self.psnr_db:.1f} dB"


def prove(engine: Engine, *, batch: int = 1) -> None:
    """Run the proof slice, unless that was done for such an engine before.

    Parameters
    ----------
    batch
        Slices per run: some libraries have other kernels for every batch.

    Raises
    ------
    ParityError
        The answer is wrong.
    EngineError
        The engine cannot run it.
    """
    bundle = engine.bundle
    proof, record = bundle.proof(), bundle.manifest.proof
    bounds = bundle.manifest.parity.bounds
    if proof is None or record is None or not bounds:
        engine.warnings.add(
            ENGINE_UNPROVEN.warning(
                f"{bundle.name} has no proof slice: what {engine.name} computes here was not "
                "checked.",
                fix=RunTask("export", purpose="to make a bundle that has one"),
                model=bundle.name,
            )
        )
        return
    identity = _identity(engine, batch)
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    remembered = caches_folder() / "proofs" / f"{key[:32]}.json"
    if key in _proven or _remembers(remembered, key):
        return
    found = Deviation.of(_run(engine, proof, batch), proof.expected)
    if not found.keeps(bounds, record):
        allowed = ", ".join(f"{name} {value:g}" for name, value in bounds.items())
        raise ParityError(
            f"{engine.name} on {engine.device} ({engine.library}) computes something else than "
            f"{bundle.name} promises: on its proof slice {found}; allowed: {allowed}. Nothing was "
            "made with it",
            fix=(
                ChooseAnother("engine", "engine"),
                RunTask("verify", purpose="to check the model itself", arguments=(bundle.name,)),
                "Install the version of the library that the manual names.",
            ),
        )
    _proven.add(key)
    text = json.dumps({"key": key, **identity, "found": asdict(found)}, indent=2)
    keep(remembered, text.encode(), warn=lambda warning: None)  # it is only asked again


def _run(engine: Engine, proof: Proof, batch: int) -> Slices:
    while True:
        try:
            return engine.run(
                {name: np.repeat(array, batch, axis=0) for name, array in proof.inputs.items()}
            )
        except MemoryExhausted:
            if batch == 1:
                raise
            batch //= 2


def _identity(engine: Engine, batch: int) -> dict[str, Any]:
    manifest = engine.bundle.manifest
    return {
        "engine": engine.name,
        "library": engine.library,
        "machine": engine.machine(),
        "variant": engine.variant,
        "onnx": engine.bundle.onnx_sha256,
        "proof": manifest.files[manifest.proof.file if manifest.proof else PROOF],
        "precision": engine.bundle.precision,
        "bounds": dict(manifest.parity.bounds),
        "batch": batch,
    }


def _remembers(path: Path, key: str) -> bool:
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(said, Mapping) and said.get("key") == key
