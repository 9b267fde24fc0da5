"""`tlp models`: the local store."""

from __future__ import annotations

import shutil
from typing import Annotated, Any

import typer
from rich.table import Table

from .console import JsonPath, Quiet, Verbose, begin, write_json

app = typer.Typer(help="List, choose and remove registered models.", invoke_without_command=True)


@app.callback()
def _default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        list_(json_path=None, quiet=False, verbose=False)


@app.command("list")
def list_(json_path: JsonPath = None, quiet: Quiet = False, verbose: Verbose = False) -> None:
    """List the registered models, oldest first. Example: tlp models list"""
    output = begin(quiet, verbose)
    rows = _rows()
    write_json(json_path, rows)
    if json_path == "-":
        return
    table = Table()
    for column in ("", "model", "inputs", "precision", "engines", "state", "folder"):
        table.add_column(column)
    for row in rows:
        table.add_row(
            "*" if row["default"] else "",
            row["name"],
            ",".join(row["inputs"]),
            row["precision"],
            str(row["engines"]),
            row["state"],
            row["path"],
        )
    output.table(table)
    if not rows:
        output.note("no model is registered yet; next: tlp train, then tlp export")


@app.command("default")
def default(
    name: Annotated[str | None, typer.Argument(help="Registered name.")] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Set no default.")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Set, show or clear the default model. Example: tlp models default t1-demo-1a2b3c4d-fp32"""
    from tlp_runtime.errors import UsageError
    from tlp_runtime.models.choice import default_name, set_default

    output = begin(quiet, verbose)
    if name is not None and clear:
        raise UsageError("give a model's name or --clear, not both.")
    if name is None and not clear:
        output.table(default_name() or "none: the newest model that fits is used")
        return
    set_default(None if clear else name)
    output.note("default cleared" if clear else f"default model: {name}")


@app.command("remove")
def remove(
    name: Annotated[str, typer.Argument(help="Registered name.")],
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Unregister a model; its folder is deleted only inside the local store.

    Example: tlp models remove t1-demo-1a2b3c4d-fp32
    """
    from tlp_runtime.models.choice import default_name, models, models_folder, set_default

    output = begin(quiet, verbose)
    entry = models().find(name)
    if default_name() == name:
        set_default(None)
    models().remove(name)
    inside = entry.path.resolve().parent == models_folder().resolve()
    if inside and entry.path.is_dir():
        shutil.rmtree(entry.path)
    output.note(f"removed {name}" + ("" if inside else f"; its folder {entry.path} was left"))


def _rows() -> list[dict[str, Any]]:
    from tlp_runtime.errors import ModelError
    from tlp_runtime.models.bundle import ENGINES, Bundle
    from tlp_runtime.models.choice import default_name, models

    rows = []
    for entry in models():
        try:
            bundle = Bundle.open(entry.path)
            inputs, precision, state = list(bundle.spec.inputs), str(bundle.precision), "sound"
        except ModelError as error:
            inputs, precision, state = [], "", str(error)
        engines = entry.path / ENGINES
        rows.append(
            {
                "name": entry.name,
                "default": entry.name == default_name(),
                "inputs": inputs,
                "precision": precision,
                "engines": len([p for p in engines.iterdir() if not p.name.startswith(".")])
                if engines.is_dir()
                else 0,
                "state": state,
                "path": str(entry.path),
            }
        )
    return rows
