"""The queue of an engine that interactive cases and tensors share."""

from __future__ import annotations

import threading
from collections.abc import Mapping

import numpy as np
import pytest

from tests.fakes.engine import FakeEngine, GatedEngine
from tests.readers import Reader
from tests.scans import SMALL, scan
from tlp_runtime.errors import EngineError, MemoryExhausted
from tlp_runtime.interactive.queue import EngineQueue, Level, Ticket
from tlp_runtime.warnings import BATCH_HALVED

BRAIN = scan()


def test_tickets_run_by_level_and_cases_share_batches() -> None:
    engine, order = GatedEngine(SMALL), []
    shape = (SMALL.crop.height, SMALL.crop.width)

    class Piece:
        count, window = 1, shape

        def __init__(self, name: str) -> None:
            self.name = name

        def fill(self, first: int, into: Mapping[str, np.ndarray]) -> None:
            order.append(self.name)
            for array in into.values():
                array[...] = 0

        def put(self, first: int, images: np.ndarray) -> None: ...

    finished = threading.Semaphore(0)

    def ticket(name: str, level: Level) -> Ticket:
        return Ticket(lambda: Piece(name), level, lambda _: finished.release())

    with EngineQueue(engine, batch=4) as queue:
        engine.gate.clear()
        queue.submit([ticket("blocks", Level.VISIBLE)])
        assert engine.entered.acquire(timeout=20)
        gone = ticket("gone", Level.STROKE)
        queue.submit([ticket("rest", Level.REST), ticket("a", Level.STROKE), gone])
        queue.submit([ticket("b", Level.STROKE), ticket("seen", Level.VISIBLE)])
        gone.cancelled = True
        assert queue.waiting == 4
        engine.gate.set()
        for _ in range(5):
            assert finished.acquire(timeout=20)
    assert order == ["blocks", "seen", "a", "b", "rest"]
    assert engine.seen == [1, 1, 3]
    with pytest.raises(EngineError, match="closed"):
        queue.submit([ticket("late", Level.REST)])


def test_closing_fails_what_waits() -> None:
    engine = GatedEngine(SMALL)
    queue = EngineQueue(engine, batch=1)
    reader = Reader({"t1": BRAIN}, queue, SMALL)
    engine.gate.clear()
    reader.case.go_on()
    assert engine.entered.acquire(timeout=20)
    threading.Timer(0.1, engine.gate.set).start()
    queue.close()
    reader.settle()
    assert "closed before" in str(reader.next().error)


def test_warnings_of_the_runs_are_kept_once() -> None:
    class Cramped(FakeEngine):
        def _run(self, tensors: Mapping[str, np.ndarray]) -> np.ndarray:
            if len(tensors["t1"]) > 1:
                raise MemoryExhausted("fake: no room.")
            return super()._run(tensors)

    with EngineQueue(Cramped(SMALL), batch=4) as queue:
        reader = Reader({"t1": BRAIN}, queue, SMALL)
        reader.case.go_on()
        reader.settle()
        assert [warning.code for warning in queue.warnings] == [BATCH_HALVED, BATCH_HALVED]
        assert [warning.numbers["batch"] for warning in queue.warnings] == [2, 1]
