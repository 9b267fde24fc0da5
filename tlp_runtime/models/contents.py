"""The files of a bundle: which ones belong to it, and which ones are foreign to its folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tlp_runtime.files.atomic import entries
from tlp_runtime.models.bundle import ENGINES, MANIFEST
from tlp_runtime.models.manifest import FILES, SPEC

ENGINE_FILES = ("generator.engine", "engine.json", "build.log")
"""TensorRT's bytes, the sidecar, and the builder's log."""


def bundle_files(folder: Path) -> list[Path]:
    """Every file of the bundle in ``folder``, engines included, relative to it; foreign ones not.

    What does not hold a manifest or a specification of ours holds no bundle, whatever its files
    are called.
    """
    named = _named(folder)
    if not named:
        return []
    files = [Path(name) for name in sorted(named) if (folder / name).is_file()]
    engines = folder / ENGINES
    for engine in entries(engines) if engines.is_dir() else ():
        if engine.is_dir() and not list(foreign_in_engine(engine)):
            files += [file.relative_to(folder) for file in entries(engine)]
    return files


def foreign_in_bundle(folder: Path) -> Iterator[Path]:
    """What a folder holds besides a bundle."""
    named = _named(folder)
    for path in entries(folder):
        if path.name == ENGINES and path.is_dir() and named:
            for engine in entries(path):
                yield from foreign_in_engine(engine) if engine.is_dir() else (engine,)
        elif path.name not in named or not path.is_file():
            yield path


def foreign_in_engine(folder: Path) -> Iterator[Path]:
    """What the folder of an engine holds besides that engine."""
    for path in entries(folder):
        if path.name not in ENGINE_FILES or not path.is_file():
            yield path


def _named(folder: Path) -> set[str]:
    """Names of a bundle's files; none where the folder is not a bundle's."""
    manifest, spec = _record(folder / MANIFEST), _record(folder / SPEC)
    precision = {"precision", "compute_precision"} & manifest.keys()
    if precision and {"schema", "files"} <= manifest.keys():
        more = {name for name in manifest["files"] if Path(name).name == name}
    elif {"schema", "inputs", "network", "crop"} <= spec.keys():  # the manifest is damaged
        more = set()
    else:
        return set()
    return {MANIFEST, *FILES, *more}


def _record(file: Path) -> dict[str, Any]:
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}
