"""Printing, in one place: notes to people go to standard error, results to standard output."""

from __future__ import annotations

import importlib.util
import json
import logging
import re
import shlex
import sys
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, Group, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from tlp_runtime.errors import DependencyMissing, Install
from tlp_runtime.files.atomic import write_text
from tlp_runtime.warnings import TLPWarning

from .fixes import warning_text
from .streams import encodable

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors and results only.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Print details.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace outputs that exist.", rich_help_panel="Output")
]
JsonPath = Annotated[
    str | None,
    typer.Option(
        "--json",
        metavar="PATH",
        help="Write the result as JSON; - for standard output.",
        rich_help_panel="Output",
    ),
]


_WIDE = 100_000
"""Columns where no terminal has a say: lines are as long as their content."""

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def error_console() -> Console:
    """Standard error, as it is now (tests replace it)."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    """A console that prints names as they are: no markup, no emoji codes."""
    console = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = _WIDE
    return console


def literal(text: str, style: str = "") -> Text:
    """Text as it is, with escapes for control characters and what cannot be encoded."""
    text = _CONTROLS.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
    return Text(encodable(text, sys.stdout), style, overflow="fold")


def command_line(*words: object) -> str:
    """Words as a command that a shell reads back: paths are quoted where they need it."""
    return shlex.join(map(str, words))


def table(
    columns: Iterable[str],
    rows: Iterable[Iterable[str | Text]],
    *,
    title: str = "",
    caption: str = "",
    left: Collection[str] = (),
) -> RenderableType:
    """Build a table whose cells fold where they do not fit, and are never cut.

    Parameters
    ----------
    columns
        Heads.
    rows
        Cells, shown as they are; a ``Text`` may have a style. A line follows an empty row.
    title, caption
        Lines above and below.
    left
        Heads of the columns of text. Numbers, the other columns, are aligned right.
    """
    grid = Table()
    for column in columns:
        justify: Any = "left" if column in left else "right"
        grid.add_column(literal(column), justify=justify, overflow="fold")
    for row in rows:
        cells = [cell if isinstance(cell, Text) else literal(cell) for cell in row]
        if cells:
            grid.add_row(*cells)
        else:
            grid.add_section()
    parts: list[RenderableType] = [literal(title, "italic")] if title else []
    parts += [grid, *([literal(caption, "dim")] if caption else [])]
    return Group(*parts)


def print_error(message: str) -> None:
    """Print why a command failed."""
    _labelled("error:", "bold red", message)


def _labelled(label: str, style: str, message: str) -> None:
    line = Text.assemble((label, style), " ", literal(message))
    error_console().print(line, soft_wrap=True)


class _LogHandler(logging.Handler):
    """Log records as lines of their level and text."""

    STYLES = ((logging.ERROR, "bold red"), (logging.WARNING, "bold yellow"), (0, "dim"))

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record."""
        style = next(style for level, style in self.STYLES if record.levelno >= level)
        _labelled(f"{record.levelname.lower()}:", style, self.format(record))


_OURS = ("tlp_runtime", "tlp_train", "tlp_export", "tlp_server")
_READERS = ("nibabel", "pydicom", "highdicom")
"""Libraries that report what they repair in a scan; tlp_runtime/io checks and words that itself."""


def begin(quiet: bool, verbose: bool) -> Output:
    """Set up logging for this process, and what the command prints with.

    Warnings of other libraries, Python's included, are details: printed with ``verbose`` alone.
    """
    level = logging.ERROR if quiet else logging.INFO if verbose else logging.WARNING
    handler = _LogHandler(level)
    if not verbose:
        handler.addFilter(_is_for_users)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    for name in _OURS:
        logging.getLogger(name).setLevel(logging.INFO)
    for name in _READERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return Output(quiet, verbose)


def _is_for_users(record: logging.LogRecord) -> bool:
    """Whether a record is an error, or from a package of this toolkit."""
    return record.levelno >= logging.ERROR or record.name.partition(".")[0] in _OURS


@dataclass(frozen=True)
class Output:
    """How much a command prints."""

    quiet: bool = False
    verbose: bool = False

    def note(self, text: str) -> None:
        """Print a line for people, unless quiet."""
        if not self.quiet:
            error_console().print(literal(text), soft_wrap=True)

    def warn(self, warning: TLPWarning) -> None:
        """Print a warning, unless quiet; records keep it either way."""
        if not self.quiet:
            _labelled("warning:", "bold yellow", warning_text(warning))

    def default(self, what: str, value: object, why: str = "") -> None:
        """Print which default was taken."""
        self.note(f"{what}: {value}{f' ({why})' if why else ''}")

    def done(self, made: str, following: str) -> None:
        """The last line of a verb: what it made and the next command."""
        self.note(f"made {made}\nnext: {following}")

    def table(self, result: RenderableType) -> None:
        """Print a result to standard output: a table, or one line of text."""
        _show(_console(stderr=False), result)

    def aside(self, table: RenderableType) -> None:
        """Show a person more than the result, unless quiet."""
        if not self.quiet:
            _show(error_console(), table)

    @contextmanager
    def progress(self, what: str, *, named: bool = False) -> Iterator[Progress]:
        """A progress bar on standard error, shown to people only.

        ``named`` shows each task's own description after ``what``.
        """
        console = error_console()
        with Progress(
            TextColumn(f"{what} {{task.description}}" if named else what, markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=self.quiet or not console.is_terminal,
        ) as bar:
            yield bar


def _show(console: Console, result: RenderableType) -> None:
    if isinstance(result, str):
        console.print(literal(result), soft_wrap=True)
    else:
        console.print(result)


def write_json(path: str | None, data: Any, *, overwrite: bool = False) -> None:
    """Write a command's result as JSON where ``--json`` says.

    Raises :class:`OutputError` as every output does.
    """
    if path is None:
        return
    text = json.dumps(data, indent=2) + "\n"
    if path == "-":
        print(text, end="", flush=True)
    else:
        write_text(Path(path), text, overwrite=overwrite)


def require(extra: str, *modules: str) -> None:
    """Raise with the line that installs ``extra`` unless every module of it can be imported."""
    missing = [name for name in modules if not _importable(name)]
    if missing:
        raise DependencyMissing(
            f"this command needs {', '.join(missing)}", fix=Install((f"tlp-mri[{extra}]",))
        )


def _importable(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False
