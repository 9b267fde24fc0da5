"""The model bundle: a folder with one checkpoint at one precision, every file of it hashed.

::

    spec.json        what the model means
    manifest.json    hashes, precision, parity bounds, provenance
    generator.onnx   the network, weights inside
    parity.json      how close the graph came to its checkpoint
    proof.npz        a synthetic slice with its expected output
    MODEL_CARD.md    for people
    engines/         built engines, each under its fingerprint (not hashed: they carry their own)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tlp_runtime.errors import ModelDamaged, ModelMissing, RunTask
from tlp_runtime.files.hashes import sha256
from tlp_runtime.models.manifest import ONNX, SPEC, Manifest, Precision, read_manifest
from tlp_runtime.models.proof import Proof, read_proof
from tlp_runtime.spec.model import ModelSpec
from tlp_runtime.warnings import TLPWarning, WarningLog

MANIFEST = "manifest.json"
ENGINES = "engines"


@dataclass(frozen=True)
class Bundle:
    """An opened bundle; every file has been checked against its hash.

    Parameters
    ----------
    manifest
        ``manifest.json``.
    warnings
        What a newer version wrote and this one ignores.
    """

    path: Path
    spec: ModelSpec
    manifest: Manifest
    warnings: tuple[TLPWarning, ...] = ()

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.name

    @property
    def onnx(self) -> Path:
        """The network's file."""
        return self.path / ONNX

    @property
    def onnx_sha256(self) -> str:
        """Hash of the network's file."""
        return self.manifest.files[ONNX]

    @property
    def precision(self) -> Precision:
        """Precision of the convolutions; reductions are fp32 in every bundle."""
        return self.manifest.compute_precision

    def proof(self) -> Proof | None:
        """The proof slice; None for a bundle without one. Raises :class:`ModelDamaged`."""
        record = self.manifest.proof
        return None if record is None else read_proof(self.path / record.file, self.spec)

    @classmethod
    def open(cls, path: Path) -> Bundle:
        """Read and check a bundle.

        Raises
        ------
        ModelMissing
            No such folder, or a folder without a manifest.
        ModelDamaged
            A file is missing, altered, or its record cannot be read.
        ModelMismatch
            A bundle of another kind.
        SpecError
            A specification of another schema.
        """
        if not (path / MANIFEST).is_file():
            raise ModelMissing(
                f"{path}: is not a model bundle: {MANIFEST} is missing",
                fix=RunTask("export", purpose="to make one"),
            )
        heard = WarningLog()
        manifest = read_manifest(path / MANIFEST, warn=heard.add)
        for name, expected in manifest.files.items():
            file = path / name
            if not file.is_file():
                raise ModelDamaged(
                    f"{path}: {name} is missing.",
                    fix="Copy the bundle again, whole.",
                )
            found = sha256(file)
            if found != expected:
                raise ModelDamaged(
                    f"{path}: {name} was altered or damaged: SHA-256 {found[:16]}…, the manifest "
                    f"says {expected[:16]}….",
                    fix="Copy or export the bundle again.",
                )
        spec = ModelSpec.from_json((path / SPEC).read_text(encoding="utf-8"), warn=heard.add)
        return cls(path, spec, manifest, tuple(heard))
