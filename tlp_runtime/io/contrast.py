"""Whether a NIfTI image is said to show a contrast agent: by its name or by a JSON sidecar."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

from tlp_runtime.errors import first_line
from tlp_runtime.io.nifti import sidecar, stem
from tlp_runtime.warnings import CONTRAST_AGENT, SIDECAR_UNREADABLE, TLPWarning

_KEYS = ("ContrastBolusIngredient", "ContrastBolusAgent")
"""Of BIDS sidecars, and of those that repeat DICOM's names."""
_NONE = ("", "none", "no", "n/a", "na", "null")
_MOST_ENTITIES = 10
"""Names have a few; each doubles the sidecars that may be meant."""


def contrast_doubts(path: Path) -> tuple[TLPWarning, ...]:
    """A warning where a contrast agent is named by an image's BIDS name or its sidecars.

    Sidecars are those of the same name and, in a BIDS dataset, those that the image inherits from:
    of the folders up to the dataset's, with the same suffix and some of its entities. The nearest
    that has the field decides. One that cannot be read is a warning of its own.
    """
    agent, where = _in_name(path), "its name"
    doubts = []
    for file in [] if agent else filter(Path.is_file, _sidecars(path)):
        try:
            said = _in_sidecar(file)
        except (OSError, ValueError) as error:
            doubts.append(
                SIDECAR_UNREADABLE.warning(
                    f"{file}: cannot be read as JSON ({first_line(error)}), so it is unknown "
                    f"whether it names a contrast agent for {path.name}."
                )
            )
            continue
        if said is not None:
            agent, where = said, file.name
            break
    if agent.lower() not in _NONE:
        doubts.append(
            CONTRAST_AGENT.warning(
                f"{path}: {where} names a contrast agent ({agent}); the model expects a scan "
                "without one.",
                agent=agent,
            )
        )
    return tuple(doubts)


def _in_name(path: Path) -> str:
    parts = stem(path).split("_")
    given = [part.removeprefix("ce-") for part in parts[1:] if part.startswith("ce-")]
    return given[0] if given and parts[0].startswith("sub-") else ""


def _in_sidecar(file: Path) -> str | None:
    """The agent that a sidecar names, empty where it says none, None where it does not say."""
    fields = json.loads(file.read_text(encoding="utf-8-sig"))
    if not isinstance(fields, dict):
        return None
    said = [fields[key] for key in _KEYS if key in fields]
    return None if not said else next((str(one).strip() for one in said if one), "")


def _sidecars(path: Path) -> Iterator[Path]:
    """Files that may describe an image, the nearest first."""
    path = path.absolute()
    yield sidecar(path)
    *entities, suffix = stem(path).split("_")
    if not path.name.startswith("sub-") or len(entities) > _MOST_ENTITIES:
        return
    names = [
        "_".join([*some, suffix]) + ".json"
        for count in range(len(entities), -1, -1)
        for some in combinations(entities, count)
    ]
    for folder in _levels(path.parent):
        yield from (folder / name for name in names)


def _levels(folder: Path) -> Iterator[Path]:
    """The folder of an image, and those above it up to its dataset's."""
    yield folder
    while not folder.name.startswith("sub-"):
        folder = folder.parent
        if not folder.name.startswith(("sub-", "ses-")):
            return
        yield folder
    yield folder.parent
