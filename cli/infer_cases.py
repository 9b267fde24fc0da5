"""`tlp infer` of many cases: a table, a folder or a BIDS dataset, at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tlp_runtime.cohort.backend import Backend
from tlp_runtime.cohort.cases import CohortCase, MakeRequest, folder_cases, read_table
from tlp_runtime.cohort.job import Outcome
from tlp_runtime.cohort.journal import NAME
from tlp_runtime.cohort.pipeline import Pipeline
from tlp_runtime.cohort.run import Summary, run_cohort
from tlp_runtime.engines.base import Opening
from tlp_runtime.engines.devices import choose_all, cores, open_all
from tlp_runtime.errors import CasesFailed, UsageError
from tlp_runtime.files import gzip
from tlp_runtime.files.atomic import require_writable
from tlp_runtime.io.nifti import sidecar
from tlp_runtime.models.bundle import Bundle
from tlp_runtime.warnings import TLPWarning, Warn

from .console import Output, write_json
from .model import BuildBar, choose_bundle

LINE_EVERY_S = 30.0
"""Seconds between lines of progress where nobody watches a bar."""
_SHOWN = 20
MOST_WORKERS = 16


@dataclass(frozen=True, kw_only=True)
class Machines:
    """What runs the cases.

    Parameters
    ----------
    workers
        Threads that read, and threads that write; None takes one per core.
    ray
        Address of a Ray cluster; None runs here.
    """

    model: str | None
    engine: str
    device: str
    batch: int
    threads: int | None
    no_build: bool
    workers: int | None
    ray: str | None


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """Cases and where their outputs go.

    Parameters
    ----------
    journal
        Its name below the folder.
    warnings
        About the list of cases.
    """

    cases: Sequence[CohortCase]
    folder: Path
    int16: bool
    overwrite: bool
    journal: str = NAME
    warnings: Sequence[TLPWarning] = ()


def cases_of(
    source: Path,
    folder: Path,
    make: MakeRequest,
    *,
    prompts: bool,
    output: Output,
    warn: Warn,
) -> list[CohortCase]:
    """The cases of a table or a folder, none of whose files would be written over."""
    if not source.is_dir():
        cases = read_table(source, make=make, warn=warn)
    else:
        inside, whole = folder.resolve(), source.resolve()
        if inside == whole or whole in inside.parents:
            raise UsageError(
                f"--out {folder}: lies in the input folder {source}; choose one outside of it."
            )
        cases = folder_cases(source, prompts=prompts, make=make)
    asked = [case.asked for case in cases if case.asked is not None]
    prompted = sum(request.prompt is not None for request in asked)
    output.note(f"{len(cases)} cases, {prompted} with a prompt")
    _require_apart(cases, folder)
    return cases


def modalities(cases: Sequence[CohortCase]) -> tuple[str, ...] | None:
    """What every case has, to choose a model by; None where they differ."""
    given = {tuple(case.asked.images) for case in cases if case.asked is not None}
    return given.pop() if len(given) == 1 else None


def infer_cohort(
    make: Callable[[Bundle], Cohort],
    inputs: Sequence[str] | None,
    machines: Machines,
    output: Output,
    json_path: str | None,
    command: str,
) -> None:
    """Synthesize every case; one that fails is journaled, the others go on.

    Parameters
    ----------
    make
        The cases, for the model that was chosen.
    inputs
        The modalities to choose a model by; None takes any.

    Raises
    ------
    CasesFailed
        Some cases failed, each with its reason.
    """
    if json_path not in (None, "-"):
        require_writable(Path(json_path), overwrite=True)
    bundle = choose_bundle(output, machines.model, inputs)
    cohort = make(bundle)
    began = time.perf_counter()
    with _backend(machines, bundle, len(cohort.cases), output) as (backend, engine):
        about = {"command": command, "model": bundle.name, "onnx_sha256": bundle.onnx_sha256}
        doubts = [warning.to_dict() for warning in cohort.warnings]
        with _Watched(output, len(cohort.cases)) as watch:
            summary = run_cohort(
                cohort.cases,
                cohort.folder,
                backend,
                int16=cohort.int16,
                about={**about, "engine": engine, "warnings": doubts},
                warn=output.warn,
                journal_name=cohort.journal,
                overwrite=cohort.overwrite,
                on_outcome=watch.count,
            )
    seconds = time.perf_counter() - began
    journal = cohort.folder / cohort.journal
    result = {**summary.to_dict(), "seconds": seconds, "journal": str(journal)}
    write_json(json_path, result, overwrite=True)
    output.note(
        f"{summary.done} done, {summary.unchanged} unchanged since an earlier run, "
        f"{len(summary.failed)} failed, in {_duration(seconds)}"
        + (f"; {summary.warned} with warnings, in {journal}" if summary.warned else "")
    )
    if summary.failed:
        listed = [f"  {name}: {reason}" for name, reason in summary.failed.items()]
        more = [f"  … and {len(listed) - _SHOWN} more, in {journal}"] if listed[_SHOWN:] else []
        raise CasesFailed(
            f"{len(listed)} of {summary.cases} cases failed; the others are in {cohort.folder}. "
            "Fix what is wrong and run the same command: only these are done again.\n"
            + "\n".join(listed[:_SHOWN] + more)
        )
    output.done(f"{summary.finished} syntheses in {cohort.folder}", f"less {journal}")


@contextmanager
def _backend(
    machines: Machines, bundle: Bundle, cases: int, output: Output
) -> Iterator[tuple[Backend, str]]:
    """What runs jobs, and its engine's name."""
    if machines.ray is not None:
        from tlp_runtime.cohort.cluster import Cluster, Setup

        setup = Setup(
            model=bundle.path.absolute(),
            engine=machines.engine,
            device=machines.device,
            batch=machines.batch,
            threads=machines.threads,
            build=not machines.no_build,
            workers=machines.workers,
        )
        with Cluster(machines.ray, setup, warn=output.warn) as cluster:
            output.note(f"engine: {cluster.engine} on {cluster.size} workers of a Ray cluster")
            yield cluster, cluster.engine
        return
    workers = machines.workers or min(cores(), MOST_WORKERS)
    choices = choose_all(machines.engine, machines.device)
    with output.progress("building", named=True) as bar:
        opening = Opening(machines.threads, not machines.no_build, BuildBar(bar), output.warn)
        engines = open_all(choices, bundle, opening, cases=cases)
    where = ", ".join(dict.fromkeys(engine.device for engine in engines))
    count = f"{len(engines)} engines" if len(engines) > 1 else "1 engine"
    output.note(
        f"engine: {choices[0].name} on {where} ({count}, {choices[0].reason}); {workers} workers, "
        f"gzip by {gzip.library()}"
    )
    with Pipeline(engines, batch=machines.batch, workers=workers, warn=output.warn) as pipeline:
        yield pipeline, choices[0].name


class _Watched:
    """Progress of a run: a bar on a terminal, a line now and then in a log."""

    def __init__(self, output: Output, cases: int) -> None:
        self._output, self._cases = output, cases
        self._bar = output.progress("cases", named=True)

    def __enter__(self) -> _Watched:
        self._progress = self._bar.__enter__()
        self._task = self._progress.add_task("", total=self._cases)
        self._began = self._said = time.perf_counter()
        self._summary = Summary(self._cases)
        return self

    def count(self, outcome: Outcome, summary: Summary) -> None:
        """A case has its outcome."""
        self._summary = summary
        now = time.perf_counter()
        rate = summary.finished / max(now - self._began, 1e-9)
        failed = f", {len(summary.failed)} failed" if summary.failed else ""
        said = f"{60 * rate:.1f} a minute{failed}"
        self._progress.update(self._task, completed=summary.finished, description=said)
        if self._progress.disable and now - self._said >= LINE_EVERY_S:
            self._said = now
            left = _duration((self._cases - summary.finished) / rate)
            self._output.note(f"{summary.finished} of {self._cases} cases, {said}, {left} left")

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._bar.__exit__(kind, *rest)  # type: ignore[arg-type]
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            self._output.note(
                f"{self._summary.finished} of {self._cases} cases are finished; the same command "
                "goes on from here."
            )


def _require_apart(cases: Sequence[CohortCase], folder: Path) -> None:
    """Refuse outputs that are an input of any case, or lie in a folder that is one."""
    asked = [case.asked for case in cases if case.asked is not None]
    given = {path.resolve() for request in asked for path in request.paths()}
    for case in cases:
        image = folder / case.output
        for target in (image, sidecar(image)):
            place = target.resolve()
            if place in given or given.intersection(place.parents):
                raise UsageError(
                    f"{target}: is an input of the run, or lies in one; choose another --out."
                )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"
