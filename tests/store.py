"""Files of the local store, and what it would use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tlp_runtime.models.choice import find_bundle

Place = Callable[[str], Path]
"""Makes a bundle of that name in the store; returns its folder."""


def entry(home: Path, name: str) -> Path:
    return home / "register" / "models" / f"{name}.json"


def default_file(home: Path) -> Path:
    return home / "register" / "default-model.json"


def used(*inputs: str) -> str:
    return find_bundle(None, inputs or None)[0].name
