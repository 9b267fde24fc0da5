"""What engines keep under ``TLP_HOME`` to be quicker the next time: never needed, always whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tlp_runtime.errors import OutputError
from tlp_runtime.files.atomic import atomic_file, make_folder
from tlp_runtime.models.store import home
from tlp_runtime.warnings import CACHE_NOT_KEPT, Warn

_SEAL_BYTES = hashlib.sha256().digest_size


def caches_folder() -> Path:
    """Where timings, compiled kernels, compiled graphs and proofs are kept."""
    return home() / "caches"


def keep(path: Path, content: bytes, *, warn: Warn) -> None:
    """Write a cache file, whole or not at all. A cache that cannot be kept is only slower."""
    try:
        make_folder(path.parent)
        with atomic_file(path, overwrite=True) as temporary:
            temporary.write_bytes(content)
    except OutputError as error:
        warn(CACHE_NOT_KEPT.warning(f"{error.problem} It is made again each time."))


def keep_sealed(path: Path, identity: Mapping[str, Any], content: bytes, *, warn: Warn) -> None:
    """Keep ``content``, to be had again under the same ``identity`` alone.

    Parameters
    ----------
    identity
        Values for JSON: everything that ``content`` was made of and for.
    """
    keep(path, _seal(identity, content) + content, warn=warn)


def kept_sealed(path: Path, identity: Mapping[str, Any]) -> bytes | None:
    """What :func:`keep_sealed` kept; None where there is none that is whole."""
    try:
        sealed = path.read_bytes()
    except OSError:
        return None
    seal, content = sealed[:_SEAL_BYTES], sealed[_SEAL_BYTES:]
    return content if seal == _seal(identity, content) else None


def _seal(identity: Mapping[str, Any], content: bytes) -> bytes:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode() + content).digest()
