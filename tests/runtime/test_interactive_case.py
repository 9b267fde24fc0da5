"""What an interactive case runs, in which order, and what it never runs."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import numpy as np
import pytest

from tests.fakes.engine import GatedEngine
from tests.readers import offline, opened
from tests.scans import SMALL, scan
from tlp_runtime.errors import EngineError
from tlp_runtime.interactive.parts import MaskBox
from tlp_runtime.synthesis.prepare import prepare
from tlp_runtime.synthesis.request import Request

BRAIN = scan()


def number_of(image: np.ndarray) -> int:
    """The k of a slice of BRAIN that an engine saw."""
    prepared = prepare(Request(images={"t1": BRAIN}), SMALL)
    assert prepared.placement.offset is not None
    (z,) = np.flatnonzero((prepared.tensors["t1"] == image).all(axis=(1, 2)))
    return int(z) + prepared.placement.offset[2]


def test_only_slices_that_were_drawn_in_change_and_undo_restores_them() -> None:
    engine = GatedEngine(SMALL)
    with opened({"t1": BRAIN}, engine) as reader:
        case = reader.case
        case.go_on()
        reader.settle()
        before, ran = case.shown("synthesis"), sum(engine.seen)
        i, j, _ = (n // 2 for n in case.grid.shape)
        k = case.first
        case.draw(MaskBox((i, j, k), (4, 4, 3)), np.ones((4, 4, 3), np.uint8), first=k + 1)
        assert reader.settle() == {k, k + 1, k + 2}
        assert sum(engine.seen) - ran == 3
        drawn = case.shown("synthesis")
        changed = np.flatnonzero((drawn != before).any(axis=(0, 1)))
        assert changed.tolist() == [k, k + 1, k + 2]
        case.draw(MaskBox((i, j, k), (4, 4, 3)), np.zeros((4, 4, 3), np.uint8), first=k)
        assert reader.settle() == {k, k + 1, k + 2}
        assert sum(engine.seen) - ran == 3  # the unprompted slices are known
        np.testing.assert_array_equal(case.shown("synthesis"), before)


def test_a_stroke_that_changes_nothing_runs_nothing() -> None:
    engine = GatedEngine(SMALL)
    with opened({"t1": BRAIN}, engine) as reader:
        reader.case.go_on()
        reader.settle()
        ran = sum(engine.seen)
        corner = MaskBox(
            (0, 0, 0), (2, 2, reader.case.grid.shape[2])
        )  # outside of the model's window
        reader.case.draw(corner, np.ones(corner.shape, np.uint8))
        assert reader.settle() == set()
        assert sum(engine.seen) == ran
        assert reader.case.revision == 1


def test_the_visible_slice_is_run_first_and_alone() -> None:
    engine = GatedEngine(SMALL)
    with opened({"t1": BRAIN}, engine) as reader:
        reader.case.go_on(first=20)
        reader.settle()
        assert engine.seen[0] == 1
        order = [number_of(image) for image in engine.images]
        assert order[0] == 20
        away = [abs(k - 20) for k in order]
        assert away == sorted(away)
        assert set(engine.seen[1:-1]) == {4}
        assert reader.next().seconds["engine"] > 0


def test_a_newer_stroke_takes_over_what_an_older_one_had_to_run() -> None:
    engine = GatedEngine(SMALL)
    with opened({"t1": BRAIN}, engine) as reader:
        case = reader.case
        case.go_on()
        reader.settle()
        ran = sum(engine.seen)
        i, j, k = (*(n // 2 for n in case.grid.shape[:2]), case.first)
        engine.gate.clear()
        for _ in range(10_000):
            if not engine.entered.acquire(blocking=False):
                break
        case.draw(MaskBox((i, j, k - 8), (3, 3, 16)), np.ones((3, 3, 16), np.uint8), first=k)
        assert engine.entered.acquire(timeout=20)  # the first slice of the old stroke runs
        case.draw(MaskBox((i, j, k - 8), (3, 3, 16)), np.full((3, 3, 16), 2, np.uint8), first=k)
        engine.gate.set()
        reader.settle()
        # 16 of the new stroke and the one that was under way.
        assert sum(engine.seen) - ran == 17
        mask = case.drawn()
        made = case.finished("synthesis")[0].data
        np.testing.assert_array_equal(made, offline({"t1": BRAIN}, mask, SMALL))


def test_what_the_engine_has_already_is_kept_when_another_slice_is_drawn_in() -> None:
    engine = GatedEngine(SMALL)
    with opened({"t1": BRAIN}, engine) as reader:
        case = reader.case
        case.go_on()
        reader.settle()
        del engine.images[:]
        i, j, k = (*(n // 2 for n in case.grid.shape[:2]), case.first)
        engine.gate.clear()
        while engine.entered.acquire(blocking=False):
            pass
        dot = np.ones((3, 3, 1), np.uint8)
        case.draw(MaskBox((i, j, k), (3, 3, 1)), dot, first=k)
        assert engine.entered.acquire(timeout=20)
        case.draw(MaskBox((i, j, k + 5), (3, 3, 1)), dot, first=k + 5)
        engine.gate.set()
        assert reader.settle() == {k, k + 5}
        assert [number_of(image) for image in engine.images] == [k, k + 5]


def test_strokes_before_the_first_synthesis_end_in_the_same_image() -> None:
    with opened({"t1": BRAIN}) as reader:
        case = reader.case
        i, j, k = (*(n // 2 for n in case.grid.shape[:2]), case.first)
        case.draw(MaskBox((i, j, k), (4, 4, 3)), np.ones((4, 4, 3), np.uint8), first=k)
        reader.settle()
        mask = case.drawn()
        made = case.finished("synthesis")[0].data
        np.testing.assert_array_equal(made, offline({"t1": BRAIN}, mask, SMALL))
        np.testing.assert_array_equal(
            case.finished("plain")[0].data, offline({"t1": BRAIN}, None, SMALL)
        )


def test_a_stroke_is_told_its_own_times_and_not_those_of_older_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine, now = GatedEngine(SMALL), 0.0
    clock = SimpleNamespace(perf_counter=lambda: now)
    monkeypatch.setattr("tlp_runtime.interactive.queue.time", clock)
    with opened({"t1": BRAIN}, engine) as reader:
        case = reader.case
        engine.gate.clear()
        case.go_on()
        assert engine.entered.acquire(timeout=20)
        now = 100.0  # the first synthesis waits
        i, j, k = (*(n // 2 for n in case.grid.shape[:2]), case.first + 9)
        case.draw(MaskBox((i, j, k), (3, 3, 1)), np.ones((3, 3, 1), np.uint8), first=k)
        engine.gate.set()
        reader.settle()
        seconds = reader.next().seconds
        assert (seconds["queue"], seconds["engine"]) == (0, 0)
        case.draw(MaskBox((i, j, k), (3, 3, 1)), np.zeros((3, 3, 1), np.uint8), first=k)
        reader.settle()
        assert "engine" not in reader.next().seconds  # nothing was run


def test_a_region_that_is_cleared_and_drawn_again_at_once_is_there() -> None:
    with opened({"t1": BRAIN}) as reader:
        case = reader.case
        case.go_on()
        i, j, k = (*(n // 2 for n in case.grid.shape[:2]), case.first)
        box = MaskBox((i, j, k), (4, 4, 1))
        for value in (1, 0, 1):
            case.draw(box, np.full((4, 4, 1), value, np.uint8), first=k)
            if value:
                reader.settle()
        case.draw(box, np.zeros((4, 4, 1), np.uint8))
        case.draw(box, np.full((4, 4, 1), 2, np.uint8))
        threading.Event().wait(0.3)  # until it ran, so that all is taken at once
        reader.settle()
        mask = case.drawn()
        made = case.finished("synthesis")[0].data
        np.testing.assert_array_equal(made, offline({"t1": BRAIN}, mask, SMALL))


def test_of_an_interpolated_scan_the_slice_that_is_looked_at_comes_first() -> None:
    oblique = scan(degrees=14, spacing=(1.1, 0.9, 2.0))
    with opened({"t1": oblique}) as reader:
        case = reader.case
        case.go_on()
        reader.settle()
        k = case.first + 2
        i, j = (n // 2 for n in case.grid.shape[:2])
        case.draw(MaskBox((i, j, k), (4, 4, 1)), np.ones((4, 4, 1), np.uint8), first=k)
        while not (update := reader.next()).groups:
            assert reader.news.wait(20)
            reader.news.clear()
        assert update.groups == ((("synthesis",), (k,)),)
        assert update.more
        assert len(reader.settle()) > 2  # its neighbours, as far as splines reach


def test_a_failed_run_is_told_and_the_next_stroke_tries_again() -> None:
    engine = GatedEngine(SMALL)
    engine.fails = EngineError("the device is gone")
    with opened({"t1": BRAIN}, engine) as reader:
        reader.case.go_on()
        reader.settle()
        update = reader.next()
        assert not update.running
        assert update.left > 0
        assert "the device is gone" in str(update.error)
        engine.fails = None
        reader.case.go_on()
        reader.settle()
        assert reader.next().error is None
        np.testing.assert_array_equal(
            reader.case.finished("plain")[0].data, offline({"t1": BRAIN}, None, SMALL)
        )


def test_a_defect_in_an_engine_does_not_end_the_queue() -> None:
    engine = GatedEngine(SMALL)
    engine.fails = ZeroDivisionError("defect")
    with opened({"t1": BRAIN}, engine) as reader:
        reader.case.go_on()
        reader.settle()
        assert "failed unexpectedly" in str(reader.next().error)
        engine.fails = None
        reader.case.go_on()
        reader.settle()
        assert reader.next().left == 0


def test_a_paused_case_goes_on_when_it_is_told() -> None:
    engine = GatedEngine(SMALL)
    with opened({"t1": BRAIN}, engine) as reader:
        engine.gate.clear()
        reader.case.go_on()
        assert engine.entered.acquire(timeout=20)
        reader.case.pause()
        engine.gate.set()
        reader.settle()
        left = reader.next().left
        assert left >= reader.case.count - 8  # one batch, and one that was being made
        reader.case.go_on()
        reader.settle()
        assert reader.next().left == 0
