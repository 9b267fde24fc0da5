"""Files that desktops leave in folders, which are nobody's data."""

from __future__ import annotations

from pathlib import Path

_LITTER = frozenset({".ds_store", "thumbs.db", "ehthumbs.db", "desktop.ini"})
_APPLE_DOUBLE = "._"
"""Begins the name of a file in which macOS keeps the attributes of another file, on disks and in
archives of other systems: ``._t1.nii.gz`` next to ``t1.nii.gz``."""


def is_litter(path: Path) -> bool:
    """Whether a desktop left this file: ``._*``, ``.DS_Store``, ``Thumbs.db`` and the like.

    Wherever the files of a folder are listed, these are left out.
    """
    return path.name.startswith(_APPLE_DOUBLE) or path.name.lower() in _LITTER
