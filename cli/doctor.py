"""`tlp doctor`: what can run here, and what would fix the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import RenderableType
from rich.text import Text

from .console import JsonPath, Overwrite, Quiet, Verbose, begin, literal, table, write_json
from .fixes import line

if TYPE_CHECKING:
    from tlp_runtime.doctor import Diagnosis, Finding


def command(
    model: Annotated[
        str | None,
        typer.Option("--model", help="Bundle folder or registered name; default: the default one."),
    ] = None,
    json_path: JsonPath = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Show which engines can run here, what is missing, and the command that installs it.

    The default model is opened and run on one slice; exit 5 if that fails.

    Example: tlp doctor --json doctor.json
    """
    output = begin(quiet, verbose)
    from tlp_runtime.doctor import examine
    from tlp_runtime.errors import EngineError

    report = examine(model)
    write_json(json_path, _record(report), overwrite=overwrite)
    if json_path != "-":
        output.table(_table(report))
    if report.runs is False:
        last = report.model[-1]
        raise EngineError(f"the model cannot run here: {last.detail}", fix=last.fixes)
    able = [finding.name for finding in report.engines if finding.state == "ok"]
    output.done(
        f"a diagnosis: {', '.join(able) or 'no engine'} can run",
        "tlp bench" if report.runs else "tlp train",
    )


def _table(report: Diagnosis) -> RenderableType:
    rows: list[tuple[str | Text, ...]] = []
    for findings in (report.machine, report.libraries, report.engines, report.model):
        rows += [(one.name, _state(one.state), one.detail, _lines(one)) for one in findings]
        if findings is report.machine:
            for gpu in report.gpus:
                detail = f"{gpu.name}, compute capability {gpu.capability}, {gpu.memory_mib} MiB"
                rows.append((f"cuda:{gpu.index}", _state("ok"), detail, ""))
            if not report.gpus:
                rows.append(("GPU", _state("missing"), "CUDA sees none", ""))
        rows.append(())
    heads = ("", "state", "", "fix it with")
    return table(heads, rows, title="tlp doctor", left=heads)


def _state(state: str) -> Text:
    colours = {"ok": "green", "missing": "yellow", "broken": "red", "unusable": "yellow"}
    return literal(state, colours[state])


def _record(report: Diagnosis) -> dict[str, Any]:
    """The findings as plain values, each with the line that fixes it."""
    record = report.to_dict()
    for name in ("machine", "libraries", "engines", "model"):
        for entry, finding in zip(record[name], getattr(report, name), strict=True):
            entry["fix"] = _lines(finding)
    return record


def _lines(finding: Finding) -> str:
    return "\n".join(line(fix) for fix in finding.fixes)
