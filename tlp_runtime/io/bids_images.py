"""Images in the ``anat`` folders of a BIDS dataset, and which others belong to which T1w."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tlp_runtime.errors import InputError
from tlp_runtime.files.atomic import entries
from tlp_runtime.io.nifti import SUFFIXES, stem

_INDICES = frozenset({"run", "echo", "flip", "inv", "split", "chunk"})
"""Entities whose value is a number, where ``1`` and ``01`` are the same."""
_LABEL = re.compile(r"[0-9a-zA-Z+]+")
_LEFT_OUT = ("ce", "desc", "space")
"""Entities of images that are not a plain one of the scanner: contrast given, derived, moved."""
_PARTS = ("phase", "real", "imag")
"""Values of ``part`` of images that do not show magnitudes."""
_OF_MASKS = frozenset({"desc", "label", "res", "den", "seg", "atlas"})
"""Entities that say what a mask is, not which image it belongs to."""

Entities = Mapping[str, str]
"""Values by key, in the order of the name; numbers without leading zeros."""


@dataclass(frozen=True, eq=False)
class BidsImage:
    """A file that is named as an image of an ``anat`` folder.

    Parameters
    ----------
    name
        Its name without suffix, such as ``sub-01_run-2`` of ``sub-01_run-2_T1w.nii.gz``.
    entities
        What is in its name; the session is its folder's where the name has none. Empty of a name
        that BIDS does not allow.
    problem
        What is wrong with its name, or with where it lies.
    """

    path: Path
    name: str
    entities: Entities
    problem: str = ""

    @property
    def own(self) -> Entities:
        """Of a mask, the entities that say which image it belongs to."""
        return {key: value for key, value in self.entities.items() if key not in _OF_MASKS}

    @property
    def of_brain(self) -> bool:
        """Whether it is a brain mask, if it is a mask."""
        return re.search("_(desc|label)-brain(_|$)", self.name) is not None

    @property
    def plain(self) -> bool:
        """Whether it shows magnitudes as acquired, without a contrast agent that it names."""
        return not any(f"_{key}-" in self.name for key in _LEFT_OUT) and not self._part

    @property
    def contrasted(self) -> bool:
        """Whether it would be plain but for the contrast agent in its name."""
        return "ce" in self.entities and not {"desc", "space"} & set(self.entities)

    @property
    def enhanced(self) -> bool:
        """Whether it shows magnitudes as acquired with the contrast agent that it names."""
        moved = re.search("_(desc|space)-", self.name) is not None
        return "_ce-" in self.name and not moved and not self._part

    @property
    def _part(self) -> bool:
        return any(f"_part-{part}_" in f"{self.name}_" for part in _PARTS)


def parse_entities(name: str) -> Entities:
    """Parse the entities of a name, such as ``sub-01_ses-a_run-2``.

    Raises
    ------
    ValueError
        BIDS does not allow the name; the text says why.
    """
    found: dict[str, str] = {}
    for part in name.split("_"):
        key, _, value = part.partition("-")
        if not value or not key.isalpha():
            raise ValueError(f"{part!r} is not an entity such as run-1 (values hold no underscore)")
        if not _LABEL.fullmatch(value):
            raise ValueError(f"the value of {part!r} holds more than letters and digits")
        if key in _INDICES and not value.isdecimal():
            raise ValueError(f"the value of {part!r} is not a number")
        if key in found:
            raise ValueError(f"it has {key!r} twice")
        found[key] = (value.lstrip("0") or "0") if key in _INDICES else value
    if next(iter(found)) != "sub":
        raise ValueError("it does not begin with sub-")
    return found


def images_of(folder: Path, *suffixes: str) -> list[BidsImage]:
    """The images of a folder whose names end in one of the suffixes, such as ``T1w``, sorted."""
    if not folder.is_dir():
        return []
    endings = tuple(f"_{suffix}{packing}" for suffix in suffixes for packing in SUFFIXES)
    return [_image(path) for path in entries(folder) if path.name.endswith(endings)]


def _image(path: Path) -> BidsImage:
    name = stem(path).rpartition("_")[0]
    try:
        entities = dict(parse_entities(name))
    except ValueError as error:
        return BidsImage(path, name, {}, f"BIDS does not allow its name: {error}")
    for folder in (path.parent.parent, path.parent.parent.parent):
        key, _, value = folder.name.partition("-")
        if key in ("sub", "ses") and entities.setdefault(key, value) != value:
            problem = f"it lies in {folder.name}, but its name says {key}-{entities[key]}"
            return BidsImage(path, name, {}, problem)
        if key != "ses":
            break
    return BidsImage(path, name, entities)


def companion_of(
    t1: BidsImage, t1s: Sequence[BidsImage], images: Sequence[BidsImage], kind: str
) -> Path | str:
    """The image of the same entities, else the session's only one unless it is another T1w's.

    ``ce``, which names a contrast agent, is not compared. Runs are numbered for each kind of image
    by itself, so that the only image of a session is right whatever its run. It belongs to another
    T1w if another entity, such as ``acq``, is that T1w's alone.

    Parameters
    ----------
    t1s
        The plain T1w images of the session.
    images
        Its images of another kind: T2w, or T1w with a contrast agent.
    kind
        What these are called in messages.

    Returns
    -------
    The file, or the reason why none is taken; an empty one where the session has none.
    """
    same = [image for image in images if _without_agent(image.entities) == t1.entities]
    if any(image.entities != same[0].entities for image in same):
        return f"several {kind} images have its entities ({_names(same)})"
    if same:
        return min((image.path for image in same), key=lambda path: path.suffix != ".gz")
    wrong = [f"{image.path.name}: {image.problem}" for image in images if image.problem]
    if wrong or not images:
        return "; ".join(wrong)
    if len(images) > 1:
        return f"none of the session's {kind} images has its entities ({_names(images)})"
    (only,) = images
    for key in only.entities.keys() - {"run", "ce"}:
        value = only.entities[key]
        if t1.entities.get(key) != value and any(one.entities.get(key) == value for one in t1s):
            return f"{only.path.name} belongs to the T1w with {key}-{value}"
    return only.path


def _without_agent(entities: Entities) -> Entities:
    return {key: value for key, value in entities.items() if key != "ce"}


def _names(images: Sequence[BidsImage]) -> str:
    return ", ".join(image.path.name for image in images)


def masks_of(
    t1: Entities, others: Sequence[Entities], masks: Sequence[BidsImage]
) -> tuple[list[Path], list[str]]:
    """The masks that belong to a T1w, and why others do not.

    A mask has the T1w's entities, besides those that say what it shows. One that lacks some of them
    belongs to the T1w if it fits no other; where there is one that has them all, it is left out.
    One with other values, or that was moved to another space, belongs elsewhere, even if it is the
    only one. Of several resolutions the mask without ``res`` and ``den`` is taken.

    Parameters
    ----------
    others
        Entities of the same subject's other T1w images.

    Raises
    ------
    InputError
        No mask has all entities, and one fits another T1w too.
    """
    against = {mask: mask.problem or _contradiction(mask.own, t1) for mask in masks}
    passed_over = [f"{mask.path.name}: {reason}" for mask, reason in against.items() if reason]
    fitting = [mask for mask, reason in against.items() if not reason]
    whole = [mask for mask in fitting if mask.own == t1]
    lone = [mask for mask in fitting if all(_contradiction(mask.own, other) for other in others)]
    if fitting and not whole and not lone:
        raise InputError(
            f"{fitting[0].path}: its name fits several T1w images of the subject.",
            fix="Add the entities of the one it belongs to, such as run or acq.",
        )
    found = whole or lone
    as_acquired = [mask for mask in found if not {"res", "den"} & set(mask.entities)]
    return [mask.path for mask in as_acquired or found], passed_over


def _contradiction(mask: Entities, image: Entities) -> str:
    """What a mask says of its image that is not true of this one; empty where there is nothing."""
    if "space" in mask:
        return f"it lies in the space {mask['space']}"
    other = [f"{key}-{value}" for key, value in mask.items() if image.get(key) != value]
    return f"it belongs to {', '.join(other)}" if other else ""
