"""`tlp models`: the local store."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .console import JsonPath, Output, Overwrite, Quiet, Verbose, begin, table, write_json
from .fixes import line, message_of
from .help import Verb, Verbs
from .model import infer_line

if TYPE_CHECKING:
    from tlp_runtime.models.bundle import Bundle
    from tlp_runtime.models.registered import Registration

app = typer.Typer(
    help="List, show, choose, add and remove registered models.",
    invoke_without_command=True,
    cls=Verbs,
)

Name = Annotated[str, typer.Argument(help="Registered name.")]


@app.callback()
def _default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        list_(json_path=None, quiet=False, verbose=False)


@app.command("list", cls=Verb)
def list_(json_path: JsonPath = None, quiet: Quiet = False, verbose: Verbose = False) -> None:
    """List the registered models, oldest first; * marks the default for its inputs.

    --verbose shows their folders too. Example: tlp models list
    """
    output = begin(quiet, verbose)
    rows = _rows()
    write_json(json_path, rows)
    if json_path == "-":
        return
    shown = ["name", "inputs", "precision", "engines", "state", *(["path"] if verbose else [])]
    heads = ("", "model", *shown[1:5], *(["folder"] if verbose else []))
    lines = [["*" if row["default"] else "", *(_cell(row[name]) for name in shown)] for row in rows]
    output.table(table(heads, lines, left=heads))
    for row in rows:
        if row["problem"]:
            output.note(f"{row['name']}: {row['problem']}")
    for inputs, name in _lost_defaults(rows).items():
        output.note(
            f"the default model for {inputs}, {name}, cannot be used; "
            "tlp models default NAME sets another"
        )
    if not rows:
        output.note("no model is registered yet; next: tlp train, then tlp export")


@app.command("show", cls=Verb)
def show(
    name: Annotated[str, typer.Argument(help="Registered name, or a bundle's folder.")],
    json_path: JsonPath = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Show what a model is: inputs, precision, hashes, provenance, engines, folder, and its worth.

    Its worth is what `tlp evaluate --card` measured, reference rows and limits included.

    Example: tlp models show t1-demo-1a2b3c4d-fp32
    """
    from tlp_runtime.models.choice import default_name, find_bundle, models
    from tlp_runtime.models.measured import read_measured

    output = begin(quiet, verbose)
    bundle, _ = find_bundle(name, None)
    place = bundle.path.resolve()
    registered = [entry.name for entry in models() if entry.path.resolve() == place]
    provenance = asdict(bundle.manifest.provenance)
    record = {
        "name": registered[0] if registered else bundle.name,
        "path": str(place),
        "inputs": list(bundle.spec.inputs),
        "default": default_name(bundle.spec.inputs) in registered,
        "precision": bundle.precision,
        "files": dict(bundle.manifest.files),
        "engines": _engines(bundle),
        "provenance": provenance,
    }
    measured = read_measured(bundle.path)
    every = {**record, "measured": [asdict(one) for one in measured]}
    write_json(json_path, every, overwrite=overwrite)
    if json_path == "-":
        return
    output.table(table(("what", "value"), _lines(record), left=("what", "value")))
    for one in measured:
        for shown in one.tables:
            title = f"{shown.title} · {one.title}"
            output.table(table(shown.head, shown.rows, title=title, left=("",)))
        output.table("what this does not show:\n" + "\n".join(f"- {text}" for text in one.limits))
    if not measured:
        output.note("what it is worth was not measured yet; next: tlp evaluate --card")


@app.command("default", cls=Verb)
def default(
    name: Annotated[str | None, typer.Argument(help="Registered name.")] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Forget every default.")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Set the default model for its inputs; without a name, show the defaults.

    The first model registered for given inputs is their default until another is set.

    Example: tlp models default t1-demo-1a2b3c4d-fp32
    """
    from tlp_runtime.errors import UsageError
    from tlp_runtime.models.choice import models

    output = begin(quiet, verbose)
    if name is not None and clear:
        raise UsageError("give a model's name or --clear, not both.")
    if clear:
        models().clear_defaults()
        output.note("defaults cleared: the first registered model that fits is used")
    elif name is not None:
        registration = models().set_default(name)
        output.note(f"default model for {_said(registration.inputs)}: {name}")
    else:
        _show_defaults(output)


@app.command("add", cls=Verb)
def add(
    path: Annotated[Path, typer.Argument(help="A bundle's folder.")],
    link: Annotated[
        bool, typer.Option("--link", help="Register it where it lies; copy nothing.")
    ] = False,
    name: Annotated[
        str | None, typer.Option("--name", help="Name to register it under; default: the folder's.")
    ] = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Check a bundle's hashes and copy it with its engines into the local store.

    Example: tlp models add /media/stick/t1-demo-1a2b3c4d-fp32
    """
    from tlp_runtime.models.choice import models

    output = begin(quiet, verbose)
    registration = models().copy_in(path, name, link=link)
    say_default(output, registration)
    output.done(
        f"model {registration.name} in {models().find(registration.name).path}",
        infer_line(registration.inputs, prompt=True),
    )


@app.command("remove", cls=Verb)
def remove(name: Name, quiet: Quiet = False, verbose: Verbose = False) -> None:
    """Unregister a model; its folder is deleted only inside the local store.

    Example: tlp models remove t1-demo-1a2b3c4d-fp32
    """
    from tlp_runtime.models.choice import models

    output = begin(quiet, verbose)
    removal = models().take_out(name)
    output.note(
        f"removed {name}" + (f"; its folder {removal.left} was left" if removal.left else "")
    )
    if removal.foreign:
        output.note(
            "the folder holds files that this toolkit did not write: "
            + ", ".join(file.name for file in removal.foreign)
        )
    if removal.default_of:
        output.note(
            f"{name} was the default model for {_said(removal.default_of)}; no other one takes its "
            f"place until you set it: {_command(removal.others[0])}"
        )


def say_default(output: Output, registration: Registration) -> None:
    """Say which model is the default for a new one's inputs, and how to change that."""
    if registration.default is None:
        return
    inputs = _said(registration.inputs)
    if registration.is_default:
        output.note(f"{registration.name} is the default model for {inputs}")
    else:
        output.note(
            f"the default model for {inputs} is still {registration.default}; "
            f"to use the new one: {_command(registration.name)}"
        )


def _command(name: str) -> str:
    from tlp_runtime.errors import RunTask

    return line(RunTask("models default", arguments=(name,)))


def _said(inputs: Any) -> str:
    return " and ".join(name.upper() for name in inputs)


def _cell(value: Any) -> str:
    return ",".join(value) if isinstance(value, list) else str(value)


def _rows() -> list[dict[str, Any]]:
    """The registered models, and the entries that cannot be read."""
    from tlp_runtime.errors import ModelDamaged, ModelError, ModelMissing
    from tlp_runtime.models.bundle import Bundle
    from tlp_runtime.models.choice import default_name, models

    def row(name: str, state: str, problem: str, path: str) -> dict[str, Any]:
        empty = {"default": False, "inputs": [], "precision": "", "engines": 0}
        return {"name": name, **empty, "state": state, "problem": problem, "path": path}

    rows = []
    for entry in models():
        path = str(entry.path)
        try:
            bundle = Bundle.open(entry.path)
        except ModelMissing as error:
            rows.append(row(entry.name, "missing", message_of(error), path))
            continue
        except ModelError as error:
            rows.append(row(entry.name, "damaged", message_of(error), path))
            continue
        try:
            is_default = default_name(bundle.spec.inputs) == entry.name
        except ModelDamaged:  # the record of defaults
            is_default = False
        rows.append(
            row(entry.name, "sound", "", path)
            | {
                "default": is_default,
                "inputs": list(bundle.spec.inputs),
                "precision": str(bundle.precision),
                "engines": len(_engines(bundle)),
            }
        )
    for name, damage in models().damaged.items():
        rows.append(row(name, "damaged", message_of(damage), ""))
    return rows


def _engines(bundle: Bundle) -> list[str]:
    """Fingerprints of the engines in a bundle."""
    from tlp_runtime.files.atomic import entries
    from tlp_runtime.models.bundle import ENGINES

    folder = bundle.path / ENGINES
    return [path.name for path in entries(folder)] if folder.is_dir() else []


def _lines(record: dict[str, Any], indent: str = "") -> list[tuple[str, str]]:
    """A record for people: a line for each value, what is nested indented below its name."""
    lines = []
    for key, value in record.items():
        if isinstance(value, dict):
            lines += [(f"{indent}{key}", ""), *_lines(value, indent + "  ")]
        elif isinstance(value, list):
            lines.append((f"{indent}{key}", ", ".join(map(str, value)) or "none"))
        elif isinstance(value, bool):
            lines.append((f"{indent}{key}", "yes" if value else "no"))
        elif value is None:
            lines.append((f"{indent}{key}", "none"))
        else:
            lines.append((f"{indent}{key}", str(value)))
    return lines


def _lost_defaults(rows: list[dict[str, Any]]) -> dict[str, str]:
    """Defaults that were recorded and cannot be used now, by their inputs."""
    from tlp_runtime.errors import ModelDamaged
    from tlp_runtime.models.choice import models

    sound = {row["name"] for row in rows if row["state"] == "sound"}
    try:
        defaults = models().defaults()
    except ModelDamaged:
        return {}
    names = {_said(inputs.split(",")): name for inputs, name in defaults.names.items()}
    if defaults.unplaced and defaults.chosen is not None:
        names["inputs without another"] = defaults.chosen
    return {inputs: name for inputs, name in names.items() if name not in sound}


def _show_defaults(output: Output) -> None:
    """Print the default for each inputs that there are models for."""
    from tlp_runtime.models.choice import default_name, models
    from tlp_runtime.models.registered import inputs_of

    store = models()
    defaults = store.defaults()
    known = {tuple(sorted(inputs)) for entry in store if (inputs := inputs_of(entry.path))}
    known |= {tuple(inputs.split(",")) for inputs in defaults.names}
    heads = ("inputs", "default model")
    rows = [(",".join(inputs), default_name(inputs) or "none") for inputs in sorted(known)]
    output.table(table(heads, rows, left=heads))
    if not known:
        output.note("no model is registered yet; next: tlp train, then tlp export")
