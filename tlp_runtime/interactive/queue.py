"""One queue per engine: what somebody waits for first, in batches that cases share."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from tlp_runtime.engines.base import Engine
from tlp_runtime.errors import EngineError, TLPError
from tlp_runtime.synthesis.batches import Batcher, Work
from tlp_runtime.warnings import TLPWarning, WarningLog

logger = logging.getLogger(__name__)


class Level(IntEnum):
    """Priority of a ticket."""

    VISIBLE = 0
    """Somebody looks at it: run at once, without waiting for a batch to fill."""
    STROKE = 1
    REST = 2


class Ticket:
    """Work in a queue.

    Parameters
    ----------
    make
        Gives the work when its turn has come, so that what waits holds no arrays and what runs is
        of the latest state; None where it is not wanted any more.
    done
        Called by the engine's thread with the ticket, once it ran or failed; must not block.

    Attributes
    ----------
    work
        Once its turn has come.
    error
        Why it failed; None else.
    """

    def __init__(
        self, make: Callable[[], Work | None], level: Level, done: Callable[[Ticket], None]
    ) -> None:
        self.level = level
        self.work: Work | None = None
        self.error: TLPError | None = None
        self.cancelled = False
        self._make = make
        self._done = done
        self._left = 0
        self._queued = self._began = self._ended = time.perf_counter()

    @property
    def queue_s(self) -> float:
        """From :meth:`EngineQueue.submit` to the engine."""
        return self._began - self._queued

    @property
    def engine_s(self) -> float:
        """From the engine's thread taking the inputs to its answer."""
        return self._ended - self._began

    # What follows is the queue's to call.

    def wait(self) -> None:
        """Note that the ticket is queued."""
        self._queued = time.perf_counter()

    def begin(self) -> bool:
        """Make the work, unless it was cancelled or is not wanted any more: then False."""
        work = None if self.cancelled else self._make()
        if work is None:
            return False
        self.work = work
        self._left = work.count
        self._began = time.perf_counter()
        return True

    def finish(self, error: TLPError | None = None) -> None:
        """Note that the ticket ran, or failed."""
        self.error = error
        self._ended = time.perf_counter()
        self._done(self)

    # A ticket is the work that the batcher sees.

    @property
    def count(self) -> int:
        """Pieces."""
        return self._work.count

    @property
    def window(self) -> tuple[int, int]:
        """(height, width) of each."""
        return self._work.window

    def fill(self, first: int, into: Mapping[str, NDArray[np.float32]]) -> None:
        """Copy inputs."""
        self._work.fill(first, into)

    def put(self, first: int, images: NDArray[np.float32]) -> None:
        """Take answers."""
        self._work.put(first, images)
        self._left -= len(images)

    @property
    def complete(self) -> bool:
        """Whether every piece has its answer."""
        return self._left == 0

    @property
    def _work(self) -> Work:
        assert self.work is not None
        return self.work


class EngineQueue:
    """An engine with a thread that serves whoever submits. A context manager.

    Tickets are taken by their level, within a level in the order of submission; those of several
    cases share a batch. One that is :attr:`Level.VISIBLE` runs with its like and does not wait for
    more.

    Parameters
    ----------
    batch
        Pieces per run at most. Halved, with a warning, when the device's memory runs out.
    """

    def __init__(self, engine: Engine, *, batch: int) -> None:
        self.engine = engine
        self._batch = batch
        self._warnings = WarningLog()
        self._batcher = Batcher(engine, batch)
        self._waiting: list[tuple[Level, int, Ticket]] = []
        self._numbers = itertools.count()
        self._handed: dict[int, Ticket] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name="engine", daemon=True)
        self._thread.start()

    @property
    def warnings(self) -> tuple[TLPWarning, ...]:
        """Those of the engine, then those of its runs."""
        return (*self.engine.warnings, *self._warnings)

    @property
    def waiting(self) -> int:
        """Tickets that wait, those that were cancelled left out."""
        with self._changed:
            return sum(not ticket.cancelled for *_, ticket in self._waiting)

    def submit(self, tickets: Iterable[Ticket]) -> None:
        """Queue tickets, in this order within their levels.

        Raises
        ------
        EngineError
            The queue is closed.
        """
        with self._changed:
            if self._closed:
                raise EngineError("the engine is closed; nothing more can be run.")
            for ticket in tickets:
                ticket.wait()
                heapq.heappush(self._waiting, (ticket.level, next(self._numbers), ticket))
            self._changed.notify()

    def close(self) -> None:
        """Fail what waits, end the thread, release the engine."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            waiting, self._waiting = self._waiting, []
            self._changed.notify()
        for *_, ticket in waiting:
            if not ticket.cancelled:
                ticket.finish(EngineError("the engine was closed before this was run."))
        self._thread.join()
        self.engine.close()

    def __enter__(self) -> EngineQueue:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _serve(self) -> None:
        while not self._closed:
            try:
                for ran in self._batcher.run(self._works()):
                    for warning in ran.warnings:
                        if warning not in self._warnings:  # a server runs for months
                            self._warnings.add(warning)
                    self._finish(ticket for ticket in ran.works if isinstance(ticket, Ticket))
            except TLPError as error:
                self._fail(error)
            except Exception as error:  # a defect must not leave everybody waiting
                logger.exception("the engine's thread failed")
                self._fail(EngineError(f"{self.engine.name}: failed unexpectedly: {error}"))

    def _works(self) -> Iterator[Work | None]:
        """The batcher's source; ends when the queue is closed."""
        level: Level | None = None
        while True:
            with self._changed:
                self._drop_cancelled()
                while not self._waiting and not self._handed and not self._closed:
                    self._changed.wait()
                    self._drop_cancelled()
                if self._closed:
                    return
                # None: run what was handed over, now.
                flush = not self._waiting or (
                    level is Level.VISIBLE and self._waiting[0][0] is not Level.VISIBLE
                )
                ticket = None if flush else heapq.heappop(self._waiting)[2]
            if ticket is None:
                level = None
                yield None
                continue
            self._handed[id(ticket)] = ticket
            if ticket.begin():
                level = ticket.level
                yield ticket
            else:
                del self._handed[id(ticket)]

    def _drop_cancelled(self) -> None:
        while self._waiting and self._waiting[0][2].cancelled:
            heapq.heappop(self._waiting)

    def _finish(self, tickets: Iterable[Ticket]) -> None:
        for ticket in tickets:
            if ticket.complete:
                del self._handed[id(ticket)]
                ticket.finish()

    def _fail(self, error: TLPError) -> None:
        """End what was handed over; what waits may fare better, with a batcher that is empty."""
        handed, self._handed = self._handed, {}
        self._batcher = Batcher(self.engine, self._batch)
        for ticket in handed.values():
            ticket.finish(error)
