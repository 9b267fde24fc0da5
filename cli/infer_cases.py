"""`tlp infer` of many cases: a table, a folder or a BIDS dataset, with a journal."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tlp_runtime.cohort.backend import Backend
from tlp_runtime.cohort.bids import JOURNAL, bids_cases
from tlp_runtime.cohort.cases import CohortCase, MakeRequest, folder_cases, read_table
from tlp_runtime.cohort.job import Outcome
from tlp_runtime.cohort.journal import NAME
from tlp_runtime.cohort.options import CohortOptions
from tlp_runtime.cohort.pipeline import Pipeline
from tlp_runtime.cohort.run import Summary, run_cohort
from tlp_runtime.engines.base import Opening
from tlp_runtime.engines.choice import EngineChoice
from tlp_runtime.engines.devices import choose_all, open_all
from tlp_runtime.engines.processor import cores
from tlp_runtime.errors import CasesFailed, ModelMismatch, UsageError
from tlp_runtime.files import gzip
from tlp_runtime.files.atomic import require_writable
from tlp_runtime.io.nifti import sidecar
from tlp_runtime.models.bundle import Bundle
from tlp_runtime.warnings import Warn, WarningLog

from .console import Output, command_line, write_json
from .model import BuildBar, choose_bundle, say_faster

LINE_EVERY_S = 30.0
"""Seconds between lines of progress where nobody watches a bar."""
_SHOWN = 20
MOST_WORKERS = 16


@dataclass(frozen=True, kw_only=True)
class CohortRun:
    """A run of many cases: what runs it, and where its outputs go.

    Parameters
    ----------
    options
        With a table, a folder or a dataset of cases.
    folder
        Receives the outputs.
    command
        The command line, for the journal.
    """

    options: CohortOptions
    folder: Path
    model: str | None
    choice: EngineChoice
    int16: bool
    overwrite: bool
    json_path: str | None
    command: str

    @property
    def journal(self) -> str:
        """Name of the journal below the folder."""
        return NAME if self.options.bids is None else JOURNAL


def infer_cohort(run: CohortRun, make: MakeRequest, output: Output) -> None:
    """Synthesize every case; one that fails is journaled, the others go on.

    Parameters
    ----------
    make
        Makes the request of a case.

    Raises
    ------
    CasesFailed
        Some cases failed, each with its reason.
    """
    heard = WarningLog(output.warn)
    cases = None if run.options.cases is None else _listed(run, make, output, heard.add)
    if run.json_path not in (None, "-"):
        require_writable(Path(run.json_path), overwrite=True)
    table = run.options.cases is not None and not run.options.cases.is_dir()
    inputs = _modalities(cases) if cases is not None and table else None
    bundle = choose_bundle(output, run.model, inputs)
    if cases is None:
        cases = bids_cases(run.options, bundle.spec.inputs, make=make, warn=heard.add)
    _require_prompts_taken(cases, bundle)
    began = time.perf_counter()
    with _backend(run, bundle, len(cases), output) as (backend, engine):
        about = {"command": run.command, "model": bundle.name, "onnx_sha256": bundle.onnx_sha256}
        doubts = [warning.to_dict() for warning in heard]
        with _Watched(output, len(cases)) as watch:
            summary = run_cohort(
                cases,
                run.folder,
                backend,
                int16=run.int16,
                about={**about, "engine": engine, "warnings": doubts},
                warn=output.warn,
                journal_name=run.journal,
                overwrite=run.overwrite,
                on_outcome=watch.count,
            )
    _report(run, summary, time.perf_counter() - began, output)


def _listed(run: CohortRun, make: MakeRequest, output: Output, warn: Warn) -> list[CohortCase]:
    """The cases of a table or a folder, none of whose files would be written over."""
    source, folder = run.options.cases, run.folder
    assert source is not None
    if not source.is_dir():
        cases = read_table(source, make=make, warn=warn)
    else:
        inside, whole = folder.resolve(), source.resolve()
        if inside == whole or whole in inside.parents:
            raise UsageError(
                f"--out {folder}: lies in the input folder {source}; choose one outside of it."
            )
        cases = folder_cases(source, prompts=run.options.prompts, make=make)
    asked = [case.asked for case in cases if case.asked is not None]
    prompted = sum(bool(request.prompt) for request in asked)
    output.note(f"{len(cases)} cases, {prompted} with a prompt")
    _require_apart(cases, folder)
    return cases


def _require_prompts_taken(cases: Sequence[CohortCase], bundle: Bundle) -> None:
    """Raise before any work where cases have prompts that the model does not take."""
    prompted = sum(bool(case.asked.prompt) for case in cases if case.asked is not None)
    if prompted and not bundle.spec.network.prompt:
        raise ModelMismatch(
            f"{bundle.name}: takes no prompt, but {prompted} of {len(cases)} cases have one",
            fix="Use --no-prompts for a folder; leave the prompts out of a table or a dataset.",
        )


def _modalities(cases: Sequence[CohortCase]) -> tuple[str, ...] | None:
    """What every case has, to choose a model by; None where they differ."""
    given = {tuple(case.asked.images) for case in cases if case.asked is not None}
    return given.pop() if len(given) == 1 else None


def _report(run: CohortRun, summary: Summary, seconds: float, output: Output) -> None:
    """Print how a run went; raise :class:`CasesFailed` if some of it did not."""
    journal = run.folder / run.journal
    result = {**summary.to_dict(), "seconds": seconds, "journal": str(journal)}
    write_json(run.json_path, result, overwrite=True)
    output.note(
        f"{summary.done} done, {summary.unchanged} unchanged since an earlier run, "
        f"{len(summary.failed)} failed, in {_duration(seconds)}"
        + (f"; {summary.warned} with warnings, in {journal}" if summary.warned else "")
    )
    if summary.failed:
        listed = [f"  {name}: {reason}" for name, reason in summary.failed.items()]
        more = [f"  … and {len(listed) - _SHOWN} more, in {journal}"] if listed[_SHOWN:] else []
        raise CasesFailed(
            f"{len(listed)} of {summary.cases} cases failed; the others are in {run.folder}. "
            "Fix what is wrong and run the same command: only these are done again.\n"
            + "\n".join(listed[:_SHOWN] + more)
        )
    output.done(f"{summary.finished} syntheses in {run.folder}", command_line("less", journal))


@contextmanager
def _backend(
    run: CohortRun, bundle: Bundle, cases: int, output: Output
) -> Iterator[tuple[Backend, str]]:
    """What runs jobs, and its engine's name."""
    choice, options = run.choice, run.options
    if options.ray is not None:
        from tlp_runtime.cohort.cluster import Cluster

        model = bundle.path.absolute()
        with Cluster(
            options.ray, model, choice, workers=options.workers, warn=output.warn
        ) as cluster:
            output.note(f"engine: {cluster.engine} on {cluster.size} workers of a Ray cluster")
            yield cluster, cluster.engine
        return
    workers = options.workers or min(cores(), MOST_WORKERS)
    selected = choose_all(choice.engine, choice.device, bundle)
    say_faster(output, selected[0], bundle, choice)
    with output.progress("building", named=True) as bar:
        opening = Opening(choice, BuildBar(bar), output.warn)
        engines = open_all(selected, bundle, opening, cases=cases)
    where = ", ".join(dict.fromkeys(engine.device for engine in engines))
    count = f"{len(engines)} engines" if len(engines) > 1 else "1 engine"
    output.note(
        f"engine: {selected[0].name} on {where} ({count}, {selected[0].reason}); {workers} "
        f"workers, gzip by {gzip.library()}"
    )
    with Pipeline(engines, batch=choice.batch, workers=workers, warn=output.warn) as pipeline:
        yield pipeline, selected[0].name


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
