"""What a model was measured to be worth: the tables of evaluations, kept in its bundle.

``measured.json`` holds, for each use of the prompt, the latest evaluation as its tables print it.
No case is named in it, for bundles travel further than data.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tlp_runtime.errors import ModelDamaged
from tlp_runtime.files.markdown import markdown_table
from tlp_runtime.spec.reader import Contract, build, read_schema

MEASURED = "measured.json"
HEADING = "## Measured"
SCHEMA_MAJOR = 1
SCHEMA_MINOR = 0


@dataclass(frozen=True, kw_only=True)
class MeasuredTable:
    """One table.

    Parameters
    ----------
    head
        Titles of the columns; the first is empty.
    rows
        The synthesis, then the reference rows.
    """

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One evaluation of the model.

    Parameters
    ----------
    prompt
        What the model was told.
    data
        Name of the folder of cases.
    created
        Local time with its offset, ISO 8601.
    cases
        How many.
    limits
        What the figures do not show, a sentence each.
    """

    prompt: str
    data: str
    engine: str
    created: str
    cases: int
    tables: tuple[MeasuredTable, ...]
    limits: tuple[str, ...]

    @property
    def title(self) -> str:
        """What was evaluated, in one line."""
        plural = "" if self.cases == 1 else "s"
        return f"{self.cases} case{plural} of {self.data}, prompt: {self.prompt}"


@dataclass(frozen=True)
class _Record:
    measurements: tuple[Measurement, ...]


def read_measured(bundle: Path) -> tuple[Measurement, ...]:
    """The evaluations that a bundle holds; none where it was not measured.

    Raises
    ------
    ModelDamaged
        The record cannot be read.
    """
    path = bundle / MEASURED
    if not path.is_file():
        return ()
    contract = Contract(
        what=str(path), error=ModelDamaged, fix="Evaluate the model again, or export it again."
    )
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelDamaged(f"{path}: cannot be read ({error!r}).", fix=contract.fix) from error
    if not isinstance(data, dict):
        contract.refuse(f"holds {type(data).__name__}, expected an object")
    major, minor = read_schema(data, contract)
    if major != SCHEMA_MAJOR:
        contract.refuse(f"schema {major}.{minor}, this version reads {SCHEMA_MAJOR}.x")
    body = {key: value for key, value in data.items() if key != "schema"}
    return build(_Record, body, contract, []).measurements


def measured_json(measurements: Sequence[Measurement]) -> str:
    """The text of ``measured.json``."""
    schema = {"major": SCHEMA_MAJOR, "minor": SCHEMA_MINOR}
    return json.dumps({"schema": schema, **asdict(_Record(tuple(measurements)))}, indent=2) + "\n"


def with_measured(card: str, measurements: Sequence[Measurement]) -> str:
    """A model card with its tables, in the place of those it had."""
    before = card.partition(f"\n{HEADING}\n")[0].rstrip()
    parts = [before, HEADING]
    if not measurements:
        parts.append("Not yet: nobody has put an evaluation of this model here.")
    for one in measurements:
        parts.append(f"### {one.title}")
        parts.append(
            f"On {one.created[:10]} in {one.engine}: mean ± s.d. over slices or cases, in brackets "
            "the 95 % interval of the mean over cases. The rows below the synthesis hold no "
            "network: a model is worth what it adds to them."
        )
        for shown in one.tables:
            parts.append(f"**{shown.title}**")
            parts.append(markdown_table(shown.head, shown.rows))
        parts.append("What this does not show:")
        parts.append("\n".join(f"- {limit}" for limit in one.limits))
    return "\n\n".join(parts) + "\n"
