"""The cases of a run: from a CSV table or a folder in BraTS layout."""

from __future__ import annotations

import csv
import difflib
import io
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tlp_runtime.errors import InputError, InputMissing, InputUnreadable
from tlp_runtime.io.brats import SUFFIXES, case_folders

logger = logging.getLogger(__name__)

IMAGES = ("t1", "t2")
COLUMNS = ("case", *IMAGES, "prompt", "brain_mask")
"""What a table may say; the first and one of the images it must."""

_SHOWN = 8
_LONGEST_NAME = 200
_DELIMITERS = ",;\t"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One case of many.

    Parameters
    ----------
    name
        Unlike every other of the run.
    output
        Where its synthesis goes, below the run's folder.
    extra
        Further keys of the JSON beside its output.
    problem
        Why it cannot be run, if that is known before.
    """

    name: str
    output: str
    images: Mapping[str, Path] = field(default_factory=dict)
    prompt: Path | None = None
    brain_mask: Path | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    problem: str | None = None

    @classmethod
    def named(cls, name: str, **fields: Any) -> Case:
        """With the output of a run that is no BIDS dataset."""
        return cls(name=name, output=f"{name}_synth-t1ce.nii.gz", **fields)


def require_distinct(cases: Iterable[Case], where: Path) -> None:
    """Refuse names that would be the same file, or no file name.

    Raises
    ------
    InputError
        Naming every such case.
    """
    seen: dict[str, str] = {}
    twice, unfit = [], []
    for case in cases:
        folded = case.output.casefold()
        if folded in seen:
            twice.append(f"{seen[folded]!r} and {case.name!r}")
        seen[folded] = case.name
        if not _is_file_name(case.name):
            unfit.append(repr(case.name))
    if unfit:
        raise InputError(
            f"{where}: {_some(unfit)} cannot name a file. Expected case names of 1 to "
            f"{_LONGEST_NAME} characters without slashes, not beginning with a dot."
        )
    if twice:
        raise InputError(
            f"{where}: case names must differ, also where capitals do not count: {_some(twice)}. "
            "Rename one of each."
        )


def read_table(path: Path) -> list[Case]:
    """The cases of a CSV file: UTF-8, columns separated by commas, semicolons or tabs.

    The first line names the columns: ``case``, ``t1`` and/or ``t2``, ``prompt``, ``brain_mask``.
    Relative paths are meant from the table's folder; an empty cell is none. Other columns are left
    out, with a warning.

    Raises
    ------
    InputError
        A table that cannot be read, without a column it must have, with one whose name looks
        mistyped, with lines of another length, or with names that are not distinct.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise InputMissing(f"{path}: does not exist, expected a CSV table of cases.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputUnreadable(
            f"{path}: cannot be read as a UTF-8 text ({error}). Expected a CSV table of cases."
        ) from error
    first = text.split("\n", 1)[0]
    delimiter = max(_DELIMITERS, key=first.count)
    rows = [row for row in csv.reader(io.StringIO(text), delimiter=delimiter) if any(row)]
    if not rows:
        raise InputError(f"{path}: is empty, expected a line of column names and one a case.")
    columns = [name.strip().lower() for name in rows[0]]
    _require_columns(columns, path)
    if len(rows) == 1:
        raise InputMissing(f"{path}: has column names and no case.")
    cases = []
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(columns):
            raise InputError(
                f"{path}: case {number - 1} ({row[0]!r}) has {len(row)} cells, expected "
                f"{len(columns)}. Put cells that hold a {delimiter!r} into quotation marks."
            )
        cells = {name: cell.strip() for name, cell in zip(columns, row, strict=True)}
        cases.append(_of_row(cells, path.absolute().parent))
    require_distinct(cases, path)
    return cases


def find_cases(folder: Path, *, prompts: bool) -> list[Case]:
    """The case folders of a folder in BraTS layout; those that lack an image have a problem.

    Parameters
    ----------
    prompts
        Take a case's segmentation as its prompt.

    Raises
    ------
    InputMissing
        No such folder, or no case in it.
    InputError
        Names that are not distinct.
    """
    cases = []
    for name, found in case_folders(folder.absolute()):
        several = [key for key in (*IMAGES, "seg") if len(found[key]) > 1]
        images = {key: found[key][0] for key in IMAGES if len(found[key]) == 1}
        problem = None
        if several:
            files = ", ".join(path.name for key in several for path in found[key])
            problem = f"{folder / name}: several files for {', '.join(several)}: {files}."
        elif not images:
            expected = " or ".join(f"{end}.nii.gz" for key in IMAGES for end in SUFFIXES[key])
            problem = f"{folder / name}: neither T1 nor T2 (…{expected})."
        prompt = found["seg"][0] if prompts and len(found["seg"]) == 1 else None
        cases.append(Case.named(name, images=images, prompt=prompt, problem=problem))
    require_distinct(cases, folder)
    return cases


def _require_columns(columns: list[str], path: Path) -> None:
    got = f"got the columns {', '.join(repr(name) for name in columns)}"
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        raise InputError(f"{path}: {got}; {', '.join(twice)} more than once.")
    others = [name for name in columns if name not in COLUMNS]
    for name in others:
        meant = difflib.get_close_matches(name, COLUMNS, n=1, cutoff=0.7)
        if meant and meant[0] not in columns:
            raise InputError(
                f"{path}: {got}; is {name!r} meant to be {meant[0]!r}? Rename it, or give it a "
                "name that is less alike."
            )
    if "case" not in columns or not set(columns) & set(IMAGES):
        raise InputError(
            f"{path}: {got}; expected 'case' and at least one of {', '.join(IMAGES)}; prompt and "
            "brain_mask may follow."
        )
    if others:
        logger.warning("%s: columns that are not used: %s.", path, ", ".join(others))


def _of_row(cells: Mapping[str, str], folder: Path) -> Case:
    paths = {key: folder / cells[key] for key in COLUMNS[1:] if cells.get(key)}
    images = {key: paths[key] for key in IMAGES if key in paths}
    return Case.named(
        cells["case"],
        images=images,
        prompt=paths.get("prompt"),
        brain_mask=paths.get("brain_mask"),
        problem=None if images else "its line names no image.",
    )


def _is_file_name(name: str) -> bool:
    return (
        0 < len(name.encode()) <= _LONGEST_NAME
        and not name.startswith(".")
        and not set(name) & set("/\\")
        and name.isprintable()
    )


def _some(items: list[str]) -> str:
    more = len(items) - _SHOWN
    return ", ".join(items[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
