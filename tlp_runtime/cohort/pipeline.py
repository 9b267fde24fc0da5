"""Files and engines at the same time: while one case is run, others are read and written.

::

    readers   read, check, prepare          threads
    engines   batches that cases share      one thread per engine, one queue for all
    writers   restore, deflate, write       threads

Threads serve, since nearly all of the work (inflating, NumPy on whole volumes, the engine itself)
releases Python's lock (docs/adr/0013-cohorts.md). Cases are handed to engines in the order of
their submission. The caller bounds how many are under way, by :attr:`Pipeline.room`.
"""

from __future__ import annotations

import ctypes
import itertools
import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

from tlp_runtime.cohort.backend import Backend
from tlp_runtime.cohort.job import Job, Outcome, key_of
from tlp_runtime.engines.base import Engine
from tlp_runtime.errors import EngineError, NoSpace, TLPError
from tlp_runtime.synthesis.batches import Batcher, SliceWork, Work, works_of
from tlp_runtime.synthesis.prepare import PreparedCase, prepare
from tlp_runtime.synthesis.request import read
from tlp_runtime.synthesis.result import Synthesis
from tlp_runtime.warnings import ENGINE_LOST, TLPWarning, Warn

logger = logging.getLogger(__name__)

SWITCH_S = 0.0005
"""How long a thread keeps Python's lock when others want it: a tenth of Python's own setting, so
that an engine's thread does not wait 5 ms for its turn at every batch."""

TRIM_EVERY = 4
"""Cases after which freed memory is given back to the system: glibc keeps, in pieces, what threads
freed, and that adds up over thousands of cases."""

AHEAD = 2
"""Cases that wait, prepared, for each engine."""


@dataclass(frozen=True)
class Span:
    """What a thread did and when, by ``time.perf_counter``.

    Parameters
    ----------
    stage
        ``read``, ``prepare``, ``engine`` (one batch), ``write``.
    case
        None of a batch, which several cases may share.
    """

    stage: str
    case: str | None
    thread: str
    began: float
    ended: float


@dataclass(eq=False)
class _Entry:
    """A case on its way through.

    Attributes
    ----------
    prepared
        Settled by a reader: None of a case whose outcome is settled already.
    warnings
        Those that arose so far, so that a case that fails keeps them.
    """

    job: Job
    outcome: Future[Outcome] = field(default_factory=Future)
    prepared: Future[PreparedCase | None] = field(default_factory=Future)
    key: str = ""
    warnings: list[TLPWarning] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(eq=False)
class _Flight:
    """A case that an engine is running."""

    entry: _Entry
    prepared: PreparedCase
    works: tuple[SliceWork, ...]
    engine_s: float = 0.0

    @property
    def left(self) -> int:
        """Pieces without an answer yet."""
        return sum(work.left for work in self.works)


class Pipeline(Backend):
    """Runs jobs in threads of this process.

    Parameters
    ----------
    engines
        Engines of one model. They share the jobs; one that fails leaves its jobs to the others.
    batch
        Slices per run.
    workers
        Threads that read, and threads that write.
    warn
        As of :class:`~tlp_runtime.cohort.backend.Backend`.
    on_span
        Called with every piece of work, by the thread that did it.
    """

    def __init__(
        self,
        engines: Sequence[Engine],
        *,
        batch: int,
        workers: int,
        warn: Warn | None = None,
        on_span: Callable[[Span], None] | None = None,
    ) -> None:
        super().__init__(warn)
        self.engines = tuple(engines)
        self.room = workers + (AHEAD + 1) * len(engines)
        self._on_span = on_span or (lambda span: None)
        self._readers = ThreadPoolExecutor(workers, thread_name_prefix="read")
        self._writers = ThreadPoolExecutor(workers, thread_name_prefix="write")
        self._queue: deque[_Entry] = deque()
        self._changed = threading.Condition()
        self._closing = self._stopping = False
        self._broken: TLPError | None = None
        self._running = len(engines)
        self._written = itertools.count(1)
        self._switch_before = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_S)
        self._threads = [
            threading.Thread(
                target=self._run, args=(engine, batch), name=f"engine-{number}", daemon=True
            )
            for number, engine in enumerate(engines)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, job: Job) -> Future[Outcome]:
        """Start on a job."""
        entry = _Entry(job)
        self._readers.submit(self._read, entry)
        with self._changed:
            if self._broken is not None:
                entry.outcome.set_exception(self._broken)
                return entry.outcome
            self._queue.append(entry)
            self._changed.notify_all()
        return entry.outcome

    def close(self) -> None:
        """Wait for what was submitted, and release the engines."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._end()

    def stop(self) -> None:
        """Drop what was not run yet, wait for what is being written, and release the engines."""
        with self._changed:
            self._closing = self._stopping = True
            self._changed.notify_all()
        self._end()

    def _end(self) -> None:
        for thread in self._threads:
            thread.join()
        self._readers.shutdown(cancel_futures=self._stopping)
        self._writers.shutdown()
        sys.setswitchinterval(self._switch_before)
        for engine in self.engines:
            engine.close()

    def _read(self, entry: _Entry) -> None:
        """Settle ``entry.prepared``."""
        prepared = None
        try:
            if not self._stopping:
                prepared = self._prepared(entry)
        except Exception as error:
            entry.outcome.set_result(_failed(entry, error))
        finally:
            entry.prepared.set_result(prepared)

    def _prepared(self, entry: _Entry) -> PreparedCase | None:
        """A case that can be run; None of one that is done already, whose outcome is then set."""
        engine, job = self.engines[0], entry.job
        with self._spanned("read", entry):
            request = read(job.request(engine.spec.inputs))
            entry.key = key_of(request, engine, int16=job.int16)
            if job.is_done(entry.key, strict=request.strict):
                entry.outcome.set_result(Outcome(job.case.name, "unchanged", entry.key))
                return None
        with self._spanned("prepare", entry):
            return prepare(request, engine.spec, warn=entry.warnings.append)

    def _run(self, engine: Engine, batch: int) -> None:
        """One engine's thread: slices in, slices out, until there are no more."""
        mine: dict[int, _Flight] = {}
        thread = threading.current_thread().name
        try:
            for ran in Batcher(engine, batch).run(self._works(mine)):
                self._on_span(Span("engine", None, thread, ran.began, ran.ended))
                if self._stopping:
                    break
                flights = dict.fromkeys(mine[id(work)] for work in ran.works)
                for flight in flights:
                    flight.engine_s += ran.seconds / len(flights)
                    flight.entry.warnings += ran.warnings
                    if not flight.left:
                        for work in flight.works:
                            del mine[id(work)]
                        self._writers.submit(self._write, flight, engine)
        except Exception as error:
            entries = dict.fromkeys(flight.entry for flight in mine.values())
            self._lost(engine, list(entries), error)
            return
        with self._changed:
            self._running -= 1

    def _works(self, mine: dict[int, _Flight]) -> Iterator[Work | None]:
        """The next cases of the queue; None while there is none."""
        while True:
            with self._changed:
                entry = self._queue.popleft() if self._queue else None
            if self._stopping:
                return
            if entry is not None:
                prepared = entry.prepared.result()
                if prepared is not None:
                    works = works_of(prepared)
                    flight = _Flight(entry, prepared, works)
                    mine |= {id(work): flight for work in works}
                    yield from works
                continue
            yield None  # runs what is left of the cases before
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._closing)
                if not self._queue:
                    return

    def _write(self, flight: _Flight, engine: Engine) -> None:
        entry, job = flight.entry, flight.entry.job
        try:
            with self._spanned("write", entry):
                result = Synthesis.of(
                    flight.prepared,
                    flight.works,
                    engine,
                    engine_s=flight.engine_s,
                    warnings=entry.warnings[len(flight.prepared.warnings) :],
                )
                digest = job.save(result)
                evidence = result.record.evidence
        except NoSpace as error:
            entry.outcome.set_exception(error)
            return
        except Exception as error:
            entry.outcome.set_result(_failed(entry, error))
            return
        seconds = {**result.seconds, "write": entry.seconds["write"] - result.seconds["restore"]}
        entry.outcome.set_result(
            Outcome(
                job.case.name,
                "done",
                key=entry.key,
                sha256=digest,
                slices=result.slices_run,
                seconds={name: round(value, 4) for name, value in seconds.items()},
                worker=engine.device,
                drawn_ml=None if evidence is None else evidence.drawn_ml,
                warnings=result.warnings,
            )
        )
        if next(self._written) % TRIM_EVERY == 0:
            _give_back_memory()

    def _lost(self, engine: Engine, entries: list[_Entry], error: Exception) -> None:
        """Handle an engine that failed: its cases go to the others; without others the run ends."""
        known = error if isinstance(error, TLPError) else _unexpected(engine, error)
        with self._changed:
            self._running -= 1
            if self._running:
                self._queue.extendleft(reversed(entries))
                self._changed.notify_all()
                self.warnings.add(
                    ENGINE_LOST.warning(
                        f"{engine.name} on {engine.device} failed and is given up; "
                        f"{self._running} go on: {known}",
                        engine=engine.name,
                        device=engine.device,
                        left=self._running,
                    )
                )
                return
            self._broken = known
            entries += self._queue
            self._queue.clear()
        for entry in entries:
            if not entry.outcome.done():
                entry.outcome.set_exception(known)

    @contextmanager
    def _spanned(self, stage: str, entry: _Entry) -> Iterator[None]:
        """Measure what follows."""
        began = time.perf_counter()
        yield
        ended = time.perf_counter()
        entry.seconds[stage] = ended - began
        thread = threading.current_thread().name
        self._on_span(Span(stage, entry.job.case.name, thread, began, ended))


def _give_back_memory() -> None:
    """Return freed memory to the system, which only glibc needs to be asked for."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def _failed(entry: _Entry, error: Exception) -> Outcome:
    if not isinstance(error, TLPError):
        logger.info("%s: unexpected error", entry.job.case.name, exc_info=error)
    message = str(error) if isinstance(error, TLPError) else f"unexpected: {error!r}"
    return Outcome(
        entry.job.case.name,
        "failed",
        key=entry.key or None,
        error=type(error).__name__,
        message=message,
        warnings=tuple(entry.warnings),
    )


def _unexpected(engine: Engine, error: Exception) -> EngineError:
    known = EngineError(f"{engine.name} on {engine.device}: unexpected {error!r}")
    known.__cause__ = error
    return known
