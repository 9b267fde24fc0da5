"""Help texts: options under the headings of their groups, folded to any width, in any encoding.

Typer's own tables cut names that do not fit with an ellipsis.
"""

from __future__ import annotations

import inspect
import re
import sys
from typing import Any

import typer.core

from .streams import encodable

MOST_COLUMNS = 100


class Verb(typer.core.TyperCommand):
    """A command whose help shows its options by group, and its examples as they are typed."""

    def get_help(self, ctx: Any) -> str:
        """The help, in characters that standard output can show."""
        return encodable(super().get_help(ctx), sys.stdout)

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        """Write what the command does, then its examples, which are never folded."""
        text = inspect.cleandoc(self.help or "")
        said, _, examples = re.split(r"(\bExamples?:)", text + " Example:", maxsplit=1)
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text(said.strip())
        lines = [line.strip() for line in examples.removesuffix("Example:").split("·")]
        if any(lines):
            with formatter.section("Examples" if len(lines) > 1 else "Example"):
                for line in lines:
                    formatter.write(f"{'':{formatter.current_indent}}{line}\n")

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write each group of options under its heading."""
        _write_groups(self, ctx, formatter)


class Verbs(typer.core.TyperGroup):
    """A group of commands whose help says in full what each does."""

    def get_help(self, ctx: Any) -> str:
        """The help, in characters that standard output can show."""
        return encodable(super().get_help(ctx), sys.stdout)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options, then the commands."""
        _write_groups(self, ctx, formatter)
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [
            (name, (command.help or "").strip().split("\n")[0])
            for name, command in commands
            if command is not None and not command.hidden
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def _write_groups(command: Any, ctx: Any, formatter: Any) -> None:
    groups: dict[str, list[tuple[str, str]]] = {}
    others: list[tuple[str, str]] = []
    for parameter in command.get_params(ctx):
        record = parameter.get_help_record(ctx)
        title = getattr(parameter, "rich_help_panel", None)
        if parameter.param_type_name == "argument":
            title = "Arguments"
        if record is not None:
            (groups.setdefault(title, []) if title else others).append(record)
    for heading, rows in (*groups.items(), ("Other options" if groups else "Options", others)):
        if rows:
            with formatter.section(heading):
                formatter.write_dl(rows)
