"""The model bundle: a folder with one checkpoint at one precision, every file of it hashed.

::

    spec.json        what the model means
    manifest.json    hashes, precision, parity bounds, provenance
    generator.onnx   the network, weights inside
    parity.json      how close the graph came to its checkpoint
    MODEL_CARD.md    for people
    engines/         built engines, each under its fingerprint (not hashed: they carry their own)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from tlp_runtime.errors import ModelDamaged, ModelMissing, RunTask
from tlp_runtime.files.hashes import sha256
from tlp_runtime.spec.model import ModelSpec
from tlp_runtime.warnings import TLPWarning, WarningLog

MANIFEST_MAJOR = 1

MANIFEST = "manifest.json"
SPEC = "spec.json"
ONNX = "generator.onnx"
PARITY = "parity.json"
MODEL_CARD = "MODEL_CARD.md"
ENGINES = "engines"

Precision = Literal["fp32", "fp16", "bf16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

FILES = (SPEC, ONNX, PARITY, MODEL_CARD)
"""The files whose hashes the manifest holds."""


@dataclass(frozen=True)
class Bundle:
    """An opened bundle; every file has been checked against its hash.

    Parameters
    ----------
    manifest
        The parsed ``manifest.json``.
    warnings
        What a newer version wrote and this one ignores.
    """

    path: Path
    spec: ModelSpec
    manifest: Mapping[str, Any]
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
        return str(self.manifest["files"][ONNX])

    @property
    def precision(self) -> Precision:
        """Precision of the convolutions; reductions are fp32 in every bundle."""
        precision: Precision = self.manifest["precision"]
        return precision

    @classmethod
    def open(cls, path: Path) -> Bundle:
        """Read and check a bundle.

        Raises
        ------
        ModelMissing
            No such folder, or a folder without a manifest.
        ModelDamaged
            A file is missing, altered, or its record cannot be read.
        SpecError
            A specification of another schema.
        """
        if not (path / MANIFEST).is_file():
            raise ModelMissing(
                f"{path}: is not a model bundle: {MANIFEST} is missing",
                fix=RunTask("export", purpose="to make one"),
            )
        manifest = _read_manifest(path / MANIFEST)
        for name in FILES:
            file = path / name
            if not file.is_file():
                raise ModelDamaged(
                    f"{path}: {name} is missing.",
                    fix="Copy the bundle again, whole.",
                )
            found, expected = sha256(file), manifest["files"][name]
            if found != expected:
                raise ModelDamaged(
                    f"{path}: {name} was altered or damaged: SHA-256 {found[:16]}…, the manifest "
                    f"says {str(expected)[:16]}….",
                    fix="Copy or export the bundle again.",
                )
        heard = WarningLog()
        spec = ModelSpec.from_json((path / SPEC).read_text(encoding="utf-8"), warn=heard.add)
        return cls(path, spec, manifest, tuple(heard))


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        major = manifest["schema"]["major"]
        complete = set(FILES) <= set(manifest["files"]) and manifest["precision"] in PRECISIONS
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelDamaged(
            f"{path}: cannot be read ({error!r}).",
            fix="Export the model again.",
        ) from error
    if major != MANIFEST_MAJOR:
        raise ModelDamaged(
            f"{path}: schema {major}, this version reads {MANIFEST_MAJOR}.",
            fix="Install a matching tlp-mri, or export the model again.",
        )
    if not complete:
        raise ModelDamaged(
            f"{path}: lacks file hashes, or a precision among {', '.join(PRECISIONS)}.",
            fix="Export the model again.",
        )
    return dict(manifest)
