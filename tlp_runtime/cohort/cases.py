"""The cases of a run: from a CSV table or a folder in BraTS layout."""

from __future__ import annotations

import csv
import difflib
import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tlp_runtime.errors import InputError, InputMissing, InputUnreadable
from tlp_runtime.io.brats import SUFFIXES, case_folders
from tlp_runtime.spec.model import MODALITIES
from tlp_runtime.synthesis.request import Prompt, Request
from tlp_runtime.warnings import COLUMNS_UNUSED, Warn

COLUMNS = ("case", *MODALITIES, "prompt", "brain_mask")
"""Columns of a table; the first and one of the images are required."""

MakeRequest = Callable[..., Request]
"""Makes the request of a case from its images, prompt and brain mask; the options that hold for
every case are bound to it."""

_SHOWN = 8
_LONGEST_NAME = 200
_DELIMITERS = ",;\t"


@dataclass(frozen=True, kw_only=True)
class CohortCase:
    """One case of many.

    Parameters
    ----------
    name
        Unique within the run.
    output
        Where its synthesis goes, below the run's folder.
    request
        What is asked, or why nothing can be asked.
    extra
        Further keys of the JSON next to its output.
    """

    name: str
    output: str
    request: Request | InputError
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def named(cls, name: str, request: Request | InputError) -> CohortCase:
        """With the output of a run that is not a BIDS dataset."""
        return cls(name=name, output=f"{name}_synth-t1ce.nii.gz", request=request)

    @property
    def asked(self) -> Request | None:
        """Its request, if it has one."""
        return self.request if isinstance(self.request, Request) else None


def require_distinct(cases: Iterable[CohortCase], where: Path) -> None:
    """Refuse names that would be the same file, or cannot be a file name.

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
            f"{where}: case names must differ, also where capitals do not count: {_some(twice)}.",
            fix="Rename one of each.",
        )


def read_table(
    path: Path, *, make: MakeRequest = Request, warn: Warn | None = None
) -> list[CohortCase]:
    """The cases of a CSV file: UTF-8, columns separated by commas, semicolons or tabs.

    The first line names the columns: ``case``, ``t1`` and/or ``t2``, ``prompt``, ``brain_mask``.
    Relative paths start at the table's folder; an empty cell is none. Other columns are left
    out, with a warning.

    Parameters
    ----------
    make
        Makes the request of a case.
    warn
        Called when columns are left out.

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
        raise InputError(f"{path}: is empty, expected column names and one line per case.")
    columns = [name.strip().lower() for name in rows[0]]
    _require_columns(columns, path, warn)
    if len(rows) == 1:
        raise InputMissing(f"{path}: has column names but no case.")
    cases = []
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(columns):
            raise InputError(
                f"{path}: case {number - 1} ({row[0]!r}) has {len(row)} cells, expected "
                f"{len(columns)}.",
                fix=f"Put cells that hold a {delimiter!r} into quotation marks.",
            )
        cells = {name: cell.strip() for name, cell in zip(columns, row, strict=True)}
        cases.append(_of_row(cells, path.absolute().parent, make))
    require_distinct(cases, path)
    return cases


def folder_cases(folder: Path, *, prompts: bool, make: MakeRequest = Request) -> list[CohortCase]:
    """The case folders of a folder in BraTS layout; those that lack an image have an error.

    Parameters
    ----------
    prompts
        Take a case's segmentation as its prompt.
    make
        Makes the request of a case.

    Raises
    ------
    InputMissing
        No such folder, or no case in it.
    InputError
        Names that are not distinct.
    """
    cases = []
    for name, found in case_folders(folder.absolute()):
        several = [key for key in (*MODALITIES, "seg") if len(found[key]) > 1]
        images = {key: found[key][0] for key in MODALITIES if len(found[key]) == 1}
        request: Request | InputError
        if several:
            files = ", ".join(path.name for key in several for path in found[key])
            request = InputError(
                f"{name}: {folder / name}: several files for {', '.join(several)}: {files}."
            )
        elif not images:
            expected = " or ".join(f"{end}.nii.gz" for key in MODALITIES for end in SUFFIXES[key])
            request = InputError(f"{name}: {folder / name}: neither T1 nor T2 (…{expected}).")
        else:
            seg = found["seg"][0] if prompts and len(found["seg"]) == 1 else None
            request = make(images=images, prompt=Prompt(seg))
        cases.append(CohortCase.named(name, request))
    require_distinct(cases, folder)
    return cases


def _require_columns(columns: list[str], path: Path, warn: Warn | None) -> None:
    got = f"got the columns {', '.join(repr(name) for name in columns)}"
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        raise InputError(f"{path}: {got}; {', '.join(twice)} more than once.")
    others = [name for name in columns if name not in COLUMNS]
    for name in others:
        meant = difflib.get_close_matches(name, COLUMNS, n=1, cutoff=0.7)
        if meant and meant[0] not in columns:
            raise InputError(
                f"{path}: {got}; is {name!r} meant to be {meant[0]!r}?",
                fix="Rename it, or give it a name that is less alike.",
            )
    if "case" not in columns or not set(columns) & set(MODALITIES):
        raise InputError(
            f"{path}: {got}; expected 'case' and at least one of {', '.join(MODALITIES)}; prompt "
            "and brain_mask may follow."
        )
    if others and warn is not None:
        names = ", ".join(others)
        warn(COLUMNS_UNUSED.warning(f"{path}: columns that are not used: {names}.", columns=names))


def _of_row(cells: Mapping[str, str], folder: Path, make: MakeRequest) -> CohortCase:
    paths = {key: folder / cells[key] for key in COLUMNS[1:] if cells.get(key)}
    images = {key: paths[key] for key in MODALITIES if key in paths}
    name = cells["case"]
    if not images:
        return CohortCase.named(name, InputError(f"{name}: its line names no image."))
    prompt, mask = Prompt(paths.get("prompt")), paths.get("brain_mask")
    return CohortCase.named(name, make(images=images, prompt=prompt, brain_mask=mask))


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
