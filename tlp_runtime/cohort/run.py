"""A run over many cases: journal, work, and its summary."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from tlp_runtime.cohort.backend import Backend
from tlp_runtime.cohort.cases import CohortCase
from tlp_runtime.cohort.job import Job, Outcome, options_of
from tlp_runtime.cohort.journal import NAME, SCHEMA, Journal
from tlp_runtime.errors import ChooseAnother, OutputError, SetOption, TLPError
from tlp_runtime.files.atomic import clear_temporaries
from tlp_runtime.io.nifti import sidecar
from tlp_runtime.synthesis.evidence import evidence_path
from tlp_runtime.synthesis.provenance import now
from tlp_runtime.warnings import TLPWarning, Warn

_SHOWN = 5


@dataclass
class Summary:
    """The outcome of a run.

    Parameters
    ----------
    failed
        The message of each case that failed.
    warned
        Cases with a warning about their scan; the journal has them.
    """

    cases: int
    done: int = 0
    unchanged: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    warned: int = 0

    def count(self, outcome: Outcome) -> None:
        """Count a case."""
        self.warned += any(warning.kind == "input" for warning in outcome.warnings)
        if outcome.status == "failed":
            self.failed[outcome.case] = str(outcome.message)
        elif outcome.status == "done":
            self.done += 1
        else:
            self.unchanged += 1

    @property
    def finished(self) -> int:
        """Cases with an outcome."""
        return self.done + self.unchanged + len(self.failed)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def run_cohort(
    cases: Sequence[CohortCase],
    folder: Path,
    backend: Backend,
    *,
    int16: bool = False,
    about: dict[str, Any],
    warn: Warn | None = None,
    journal_name: str = NAME,
    overwrite: bool = False,
    on_outcome: Callable[[Outcome, Summary], None] | None = None,
) -> Summary:
    """Run every case that is not done yet, and keep the journal.

    A case that fails is journaled with its message and the others go on. Whatever ends the run
    early, files being written are finished first, and every finished case is journaled.

    Parameters
    ----------
    folder
        Where the outputs and the journal go.
    int16
        As of :func:`~tlp_runtime.io.nifti.write_volume`.
    about
        Model and engine, for the journal.
    warn
        Called with each warning about the journal.
    overwrite
        Replace outputs that are there and not of this journal.
    on_outcome
        Called with each case's outcome and the summary so far.

    Raises
    ------
    OutputError
        Outputs that are there and not of this journal, another run in the folder, or a disk that
        takes nothing more.
    DeviceError, MemoryExhausted
        No engine is left.
    """
    folder = folder.absolute()
    summary = Summary(len(cases))
    with Journal(folder / journal_name) as journal:
        new = _claim(cases, folder, journal, overwrite=overwrite)
        run = {"event": "run", "schema": SCHEMA, "time": now(), **about}
        asked = next((case.asked for case in cases if case.asked is not None), None)
        options = None if asked is None else options_of(asked, int16=int16)
        run |= {"options": options, "cases": len(cases)}
        planned = [{"event": "planned", "case": one.name, "output": one.output} for one in new]
        if warn is not None:
            for warning in journal.warnings:
                warn(warning)
        journal.write(run, *planned, *map(_warning_line, journal.warnings))
        jobs = (Job(case, folder, int16, journal.finished.get(case.name)) for case in cases)
        pending: set[Future[Outcome]] = set()
        journaled = 0

        def journal_warnings() -> None:
            """Journal what the backend has warned of since the last call."""
            nonlocal journaled
            warnings = tuple(backend.warnings)[journaled:]
            journaled += len(warnings)
            journal.write(*map(_warning_line, warnings))

        def settle(futures: Collection[Future[Outcome]]) -> None:
            """Journal finished cases: one line each, one wait for the disk for all.

            They are pending until their lines are written, so that Ctrl-C meanwhile loses none.
            """
            journal_warnings()
            outcomes, errors = [], []
            for future in futures:
                try:
                    outcomes.append(future.result())
                except TLPError as error:
                    errors.append(error)
            lines = [_line(one) for one in outcomes if one.status != "unchanged"]
            journal.append(*lines)
            pending.difference_update(futures)
            if lines:
                journal.sync()
            for outcome in outcomes:
                summary.count(outcome)
                if on_outcome is not None:
                    on_outcome(outcome, summary)
            if errors:
                raise errors[0]

        try:
            while True:
                pending.update(backend.submit(j) for j in islice(jobs, backend.room - len(pending)))
                if not pending:
                    break
                settle(wait(pending, return_when=FIRST_COMPLETED).done)
        except BaseException:
            backend.stop()
            with contextlib.suppress(TLPError):  # the error that came first is the one to report
                settle([one for one in pending if one.done() and not one.cancelled()])
            raise
        journal_warnings()
        ends = {"event": "end", "time": now(), "done": summary.done}
        journal.write({**ends, "unchanged": summary.unchanged, "failed": len(summary.failed)})
    return summary


def _claim(
    cases: Sequence[CohortCase], folder: Path, journal: Journal, *, overwrite: bool
) -> list[CohortCase]:
    """Sweep up after a killed run, and return the cases whose outputs the journal does not know.

    Raises :class:`OutputError` when such an output is there, unless it may be replaced.
    """
    new = [case for case in cases if journal.planned.get(case.name) != case.output]
    if not overwrite:
        there = [
            path
            for output in (folder / case.output for case in new)
            for path in (output, sidecar(output))
            if path.exists()
        ] + [
            path
            for case in new
            if case.asked is not None and case.asked.evidence
            for path in (evidence_path(folder / case.output),)
            if path.exists()
        ]
        if there:
            more = f" and {len(there) - _SHOWN} more" if len(there) > _SHOWN else ""
            raise OutputError(
                f"{folder}: {', '.join(path.name for path in there[:_SHOWN])}{more} are there "
                "already, and not by a run that the journal knows",
                fix=(
                    ChooseAnother("out", "output folder"),
                    SetOption("overwrite", purpose="to replace them"),
                ),
            )
    for place in {(folder / case.output).parent for case in cases}:
        clear_temporaries(place)
    return new


def _line(outcome: Outcome) -> dict[str, Any]:
    """What the journal keeps of a case."""
    line: dict[str, Any] = {"event": outcome.status, "case": outcome.case, "time": now()}
    if outcome.status == "failed":
        line |= {"error": outcome.error, "message": outcome.message}
    else:
        line |= {"key": outcome.key, "sha256": outcome.sha256, "slices": outcome.slices}
        line |= {"seconds": dict(outcome.seconds), "worker": outcome.worker}
        if outcome.drawn_ml is not None:
            line["drawn_ml"] = outcome.drawn_ml
    warnings = [warning.to_dict() for warning in outcome.warnings]
    return line | ({"warnings": warnings} if warnings else {})


def _warning_line(warning: TLPWarning) -> dict[str, Any]:
    """What the journal keeps of a warning about the run as a whole."""
    return {"event": "warning", "time": now(), **warning.to_dict()}
