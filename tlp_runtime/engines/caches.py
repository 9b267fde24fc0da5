"""What engines keep under ``TLP_HOME`` to be quicker the next time: never needed, always whole."""

from __future__ import annotations

from pathlib import Path

from tlp_runtime.errors import OutputError
from tlp_runtime.files.atomic import atomic_file, make_folder
from tlp_runtime.models.store import home
from tlp_runtime.warnings import CACHE_NOT_KEPT, Warn


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
