"""CSV tables of cases: encodings, delimiters, quotation marks, and columns that are mistyped."""

from __future__ import annotations

import codecs
import csv
import difflib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tlp_runtime.errors import InputError, InputMissing, InputUnreadable
from tlp_runtime.warnings import COLUMNS_UNUSED, Warn

_DELIMITERS = ",;\t"
_SAVE_AGAIN = "Save it as a CSV file in UTF-8."
_QUOTES = "Close its quotation marks, or leave them out."


class TableRow(NamedTuple):
    """A line of a table.

    Parameters
    ----------
    line
        Its number in the file, from 1; where it takes several, of the first.
    cells
        By column, without spaces at their ends.
    """

    line: int
    cells: Mapping[str, str]


def read_rows(
    path: Path,
    columns: Sequence[str],
    *,
    required: Sequence[Collection[str]],
    expected: str,
    warn: Warn | None = None,
) -> list[TableRow]:
    """The lines of a CSV file: UTF-8, columns separated by commas, semicolons or tabs.

    The first line names the columns. Columns that are not known are left out, with a warning.

    Parameters
    ----------
    columns
        Those that are known, in lower case.
    required
        Sets of columns; the table must have at least one of each.
    expected
        The same in words, for the error.
    warn
        Called when columns are left out.

    Raises
    ------
    InputError
        A table that cannot be read, without a column it must have, with one that has no name or
        whose name looks mistyped, or with lines of another length.
    """
    rows, delimiter = _rows(_text(path), path)
    if not rows:
        raise InputError(f"{path}: is empty, expected column names and one line per case.")
    found = [name.strip().lower() for name in rows[0].cells]
    _require_named(found, path, delimiter)
    unused = _unused(found, columns, path)
    if not all(set(one) & set(found) for one in required):
        raise InputError(f"{path}: {_got(found)}; expected {expected}.")
    if unused and warn is not None:
        names = ", ".join(unused)
        warn(COLUMNS_UNUSED.warning(f"{path}: columns that are not used: {names}.", columns=names))
    if len(rows) == 1:
        raise InputMissing(f"{path}: has column names but no case.")
    read = []
    for row in rows[1:]:
        if len(row.cells) != len(found):
            raise _wrong_length(row, len(found), path, delimiter)
        cells = {name: cell.strip() for name, cell in zip(found, row.cells, strict=True)}
        if any("\n" in cells.get(name, "") for name in columns):
            raise _unclosed(row.line, path)
        read.append(TableRow(row.line, cells))
    return read


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


def _require_named(found: list[str], path: Path, delimiter: str) -> None:
    """Raise where a column has no name, the name of another one, or a delimiter in it."""
    nameless = [str(number) for number, name in enumerate(found, start=1) if not name]
    if nameless:
        which = (
            f"columns {', '.join(nameless)} have" if nameless[1:] else f"column {nameless[0]} has"
        )
        raise InputError(
            f"{path}: {which} no name ({_got(found)}).",
            fix=f"Name each column, and remove the {_name(delimiter)} at the ends of lines.",
        )
    mixed = [name for name in found if set(name) & set(_DELIMITERS)]
    if mixed:
        raise InputError(
            f"{path}: the column name {mixed[0]!r} holds a delimiter ({_got(found)}).",
            fix=f"Separate all cells by a {_name(delimiter)}.",
        )
    twice = sorted({name for name in found if found.count(name) > 1})
    if twice:
        raise InputError(f"{path}: {_got(found)}; {', '.join(twice)} more than once.")


def _unused(found: list[str], columns: Sequence[str], path: Path) -> list[str]:
    """The columns that are not known; raises where one looks like a known one that is missing."""
    others = [name for name in found if name not in columns]
    for name in others:
        meant = difflib.get_close_matches(name, columns, n=1, cutoff=0.7)
        if meant and meant[0] not in found:
            raise InputError(
                f"{path}: {_got(found)}; is {name!r} meant to be {meant[0]!r}?",
                fix="Rename it, or give it a name that is less alike.",
            )
    return others


def _got(found: Sequence[str]) -> str:
    return f"got the columns {', '.join(map(repr, found))}"
