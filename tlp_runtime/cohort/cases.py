"""The cases of a run: from a CSV table or a folder in BraTS layout."""

from __future__ import annotations

import codecs
import csv
import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

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
_SAVE_AGAIN = "Save it as a CSV file in UTF-8."
_QUOTES = "Close its quotation marks, or leave them out."


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
            f"{where}: {some(unfit)} cannot name a file. Expected case names of 1 to "
            f"{_LONGEST_NAME} characters without slashes, not beginning with a dot."
        )
    if twice:
        raise InputError(
            f"{where}: case names must differ, also where capitals do not count: {some(twice)}.",
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
        A table that cannot be read, without a column it must have, with one that has no name or
        whose name looks mistyped, with lines of another length, or with names that are not
        distinct.
    """
    rows, delimiter = _rows(_text(path), path)
    if not rows:
        raise InputError(f"{path}: is empty, expected column names and one line per case.")
    columns = [name.strip().lower() for name in rows[0].cells]
    _require_columns(columns, path, delimiter, warn)
    if len(rows) == 1:
        raise InputMissing(f"{path}: has column names but no case.")
    cases = []
    for row in rows[1:]:
        if len(row.cells) != len(columns):
            raise _wrong_length(row, len(columns), path, delimiter)
        cells = {name: cell.strip() for name, cell in zip(columns, row.cells, strict=True)}
        if any("\n" in cells.get(name, "") for name in COLUMNS):
            raise _unclosed(row.line, path)
        cases.append(_of_row(cells, path.absolute().parent, make))
    require_distinct(cases, path)
    return cases


class _Row(NamedTuple):
    """Cells of a table, and the number of the line they begin in."""

    line: int
    cells: list[str]


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise InputMissing(f"{path}: does not exist, expected a CSV table of cases.") from error
    except OSError as error:
        raise InputUnreadable(
            f"{path}: cannot be read ({error}). Expected a CSV table of cases."
        ) from error
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise InputUnreadable(f"{path}: is a text in UTF-16, expected UTF-8.", fix=_SAVE_AGAIN)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputUnreadable(
            f"{path}: line {line} is not UTF-8 text (byte 0x{content[error.start]:02x}).",
            fix=_SAVE_AGAIN,
        ) from error
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise InputUnreadable(
            f"{path}: line {line} holds a NUL character, so it is not a CSV table in UTF-8.",
            fix=_SAVE_AGAIN,
        )
    return text


def _rows(text: str, path: Path) -> tuple[list[_Row], str]:
    """The lines that are not empty, and what separates their cells."""
    lines = [f"{line}\n" for line in text.split("\n")]
    first = next((line for line in lines if line.strip()), "")
    delimiter = max(_DELIMITERS, key=first.count)
    reader = csv.reader(lines, delimiter=delimiter)
    rows: list[_Row] = []
    line = 1
    while True:
        try:
            cells = next(reader, None)
        except csv.Error:
            raise InputUnreadable(
                f"{path}: line {line} holds a cell of more than {csv.field_size_limit()} "
                "characters.",
                fix=_QUOTES,
            ) from None
        if cells is None:
            return rows, delimiter
        if any("\n" in cell for cell in cells) and not _is_closed(
            lines[line - 1 : reader.line_num], delimiter
        ):
            raise _unclosed(line, path)
        if any(cell.strip() for cell in cells):
            rows.append(_Row(line, cells))
        line = reader.line_num + 1


def _is_closed(lines: list[str], delimiter: str) -> bool:
    """Whether quotation marks surround whole cells and are closed."""
    try:
        list(csv.reader(lines, delimiter=delimiter, strict=True))
    except csv.Error:
        return False
    return True


def _unclosed(line: int, path: Path) -> InputUnreadable:
    return InputUnreadable(
        f"{path}: line {line} begins a cell in quotation marks that does not end in that line.",
        fix=_QUOTES,
    )


def _wrong_length(row: _Row, expected: int, path: Path, delimiter: str) -> InputError:
    """The error of a line with more or fewer cells than there are columns."""
    count = len(row.cells)
    fix = f"Put cells that hold a {_name(delimiter)} into quotation marks."
    others = [one for one in _DELIMITERS if one != delimiter and one in row.cells[0]]
    if count > expected and not any(row.cells[expected:]):
        fix = f"Remove the {_name(delimiter)} at its end, or name a column for it."
    elif count == 1 and others:
        fix = f"Separate its cells by a {_name(delimiter)}, as in the first line."
    return InputError(
        f"{path}: line {row.line} ({row.cells[0]!r}) has {count} cell{'s' * (count != 1)}, "
        f"expected {expected}.",
        fix=fix,
    )


def _name(delimiter: str) -> str:
    return {",": "comma", ";": "semicolon", "\t": "tab"}[delimiter]


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
    for one in case_folders(folder.absolute()):
        name, found = one.name, one.found
        several = [key for key in (*MODALITIES, "seg") if len(found[key]) > 1]
        images = {key: found[key][0] for key in MODALITIES if len(found[key]) == 1}
        request: Request | InputError
        if several:
            files = ", ".join(path.name for key in several for path in found[key])
            request = InputError(
                f"{name}: {one.path}: several files for {', '.join(several)}: {files}."
            )
        elif not images:
            expected = " or ".join(f"{end}.nii.gz" for key in MODALITIES for end in SUFFIXES[key])
            request = InputError(f"{name}: {one.path}: neither T1 nor T2 (…{expected}).")
        else:
            seg = found["seg"][0] if prompts and len(found["seg"]) == 1 else None
            request = make(images=images, prompt=Prompt(seg))
        cases.append(CohortCase.named(name, request))
    require_distinct(cases, folder)
    return cases


def _require_columns(columns: list[str], path: Path, delimiter: str, warn: Warn | None) -> None:
    got = f"got the columns {', '.join(repr(name) for name in columns)}"
    nameless = [str(number) for number, name in enumerate(columns, start=1) if not name]
    if nameless:
        which = (
            f"columns {', '.join(nameless)} have" if nameless[1:] else f"column {nameless[0]} has"
        )
        raise InputError(
            f"{path}: {which} no name ({got}).",
            fix=f"Name each column, and remove the {_name(delimiter)} at the ends of lines.",
        )
    mixed = [name for name in columns if set(name) & set(_DELIMITERS)]
    if mixed:
        raise InputError(
            f"{path}: the column name {mixed[0]!r} holds a delimiter ({got}).",
            fix=f"Separate all cells by a {_name(delimiter)}.",
        )
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


def some(items: Sequence[str]) -> str:
    """The first few, and how many more there are."""
    more = len(items) - _SHOWN
    return ", ".join(items[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
