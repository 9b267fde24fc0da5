"""Printing, in one place: notes to people go to standard error, results to standard output."""

from __future__ import annotations

import importlib.util
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from tlp_runtime.errors import DependencyMissing, Install
from tlp_runtime.files.atomic import write_text
from tlp_runtime.warnings import TLPWarning

from .fixes import warning_text

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


def error_console() -> Console:
    """Standard error, as it is now (tests replace it)."""
    return Console(stderr=True, highlight=False)


def begin(quiet: bool, verbose: bool) -> Output:
    """Set up logging for this process, and what the command prints with."""
    level = logging.ERROR if quiet else logging.INFO if verbose else logging.WARNING
    handler = RichHandler(console=error_console(), show_time=False, show_path=False, markup=False)
    handler.setLevel(level)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    for name in ("tlp_runtime", "tlp_train", "tlp_export", "tlp_server"):
        logging.getLogger(name).setLevel(logging.INFO)
    # Headers that nibabel repairs while it reads are checked by tlp_runtime/io itself.
    logging.getLogger("nibabel").setLevel(logging.CRITICAL)
    return Output(quiet, verbose)


@dataclass(frozen=True)
class Output:
    """How much a command prints."""

    quiet: bool = False
    verbose: bool = False

    def note(self, text: str) -> None:
        """Print a line for people, unless quiet."""
        if not self.quiet:
            error_console().print(text, markup=False, soft_wrap=True)

    def warn(self, warning: TLPWarning) -> None:
        """Print a warning, unless quiet; records keep it either way."""
        if not self.quiet:
            text = warning_text(warning).replace("[", r"\[")
            error_console().print(f"[bold yellow]warning:[/] {text}", soft_wrap=True)

    def default(self, what: str, value: object, why: str = "") -> None:
        """Print which default was taken."""
        self.note(f"{what}: {value}{f' ({why})' if why else ''}")

    def done(self, made: str, following: str) -> None:
        """The last line of a verb: what it made and the next command."""
        self.note(f"made {made}\nnext: {following}")

    def table(self, renderable: Any) -> None:
        """Print a result to standard output."""
        Console(highlight=False).print(renderable)

    def aside(self, renderable: Any) -> None:
        """Show a person more than the result, unless quiet."""
        if not self.quiet:
            error_console().print(renderable)

    @contextmanager
    def progress(self, what: str, *, named: bool = False) -> Iterator[Progress]:
        """A progress bar on standard error, shown to people only.

        ``named`` shows each task's own description after ``what``.
        """
        console = error_console()
        with Progress(
            TextColumn(f"{what} {{task.description}}" if named else what),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=self.quiet or not console.is_terminal,
        ) as bar:
            yield bar


def write_json(path: str | None, data: Any, *, overwrite: bool = False) -> None:
    """Write a command's result as JSON where ``--json`` says.

    Raises :class:`OutputError` as every output does.
    """
    if path is None:
        return
    text = json.dumps(data, indent=2) + "\n"
    if path == "-":
        sys.stdout.write(text)
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
