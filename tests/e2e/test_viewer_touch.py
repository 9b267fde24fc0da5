"""Fingers, palms and pens, as Chromium's own input gives them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, CDPSession

from tests.browser import Viewer, drawn_in, viewing
from tests.fakes.engine import FakeEngine
from tests.scans import SMALL, scan
from tests.servers import case_of, running

pytestmark = pytest.mark.timeout(300)

BRAIN = scan()
SHAPE = BRAIN.grid.reoriented("RAS").shape
X, Y, Z = (n // 2 for n in SHAPE)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with running(FakeEngine(SMALL), case_of({"t1": BRAIN}), max_sessions=100) as address:
        yield address


@pytest.fixture
def viewer(chromium: Browser, address: str) -> Iterator[Viewer]:
    with viewing(chromium, address) as viewer:
        viewer.opened()
        viewer.show_slice(Z)
        yield viewer


class Hand:
    """Contacts with the screen, by their numbers."""

    def __init__(self, viewer: Viewer) -> None:
        self.devtools: CDPSession = viewer.page.context.new_cdp_session(viewer.page)
        self.down: dict[int, dict[str, Any]] = {}

    def touch(self, number: int, place: tuple[float, float], radius: float = 6) -> None:
        self.down[number] = {
            "x": place[0], "y": place[1], "id": number, "radiusX": radius, "radiusY": radius,
        }  # fmt: skip
        self._send("touchStart")

    def move(self, **places: tuple[float, float]) -> None:
        """Move contacts together: ``_1=(x, y)``."""
        for name, (x, y) in places.items():
            self.down[int(name.removeprefix("_"))] |= {"x": x, "y": y}
        self._send("touchMove")

    def lift(self, number: int) -> None:
        del self.down[number]
        self._send("touchEnd")

    def _send(self, kind: str) -> None:
        points = list(self.down.values())
        self.devtools.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})


def zoom(viewer: Viewer) -> float:
    found: float = viewer.page.evaluate("() => window.tlp.panes.t1.scene.pan2Dxyzmm[3]")
    return found


def test_one_finger_draws(viewer: Viewer) -> None:
    hand = Hand(viewer)
    hand.touch(1, viewer.at("t1", (X, Y, Z)))
    hand.move(_1=viewer.at("t1", (X + 8, Y, Z)))
    hand.lift(1)
    mask = viewer.idle().array("mask", SHAPE)
    assert drawn_in(mask) == [Z]
    assert mask[X, Y, Z] == mask[X + 8, Y, Z] == 1


def test_two_fingers_zoom_and_move_and_draw_nothing(viewer: Viewer) -> None:
    """Not even what the first one had drawn before the second came, nor after one is lifted."""
    hand = Hand(viewer)
    a, b = viewer.at("t1", (X - 6, Y, Z)), viewer.at("t1", (X + 6, Y, Z))
    hand.touch(1, a)
    hand.move(_1=(a[0] + 2, a[1]))
    hand.touch(2, b)
    left = min(a[0], b[0]), a[1]
    right = max(a[0], b[0]), a[1]
    middle = ((a[0] + b[0]) / 2, a[1])
    reach = (right[0] - left[0]) / 2
    for factor in (1.2, 1.6, 2.0):
        places = {
            "_1": (middle[0] + factor * (a[0] - middle[0]), a[1]),
            "_2": (middle[0] + factor * (b[0] - middle[0]), a[1]),
        }
        hand.move(**places)
    viewer.idle_view()
    assert zoom(viewer) == pytest.approx(2, rel=0.1)
    held = viewer.at("t1", (X, Y, Z))  # what lay between the fingers stays there
    assert held == pytest.approx(middle, abs=0.2 * reach)
    # Two fingers, as far apart as they are, move it.
    moved = {n: (p["x"] + 30, p["y"] + 20) for n, p in hand.down.items()}
    hand.move(_1=moved[1], _2=moved[2])
    viewer.idle_view()
    assert zoom(viewer) == pytest.approx(2, rel=0.1)
    now = viewer.at("t1", (X, Y, Z))
    assert np.subtract(now, held) == pytest.approx((30, 20), abs=4)
    hand.lift(2)
    hand.move(_1=(moved[1][0], moved[1][1] + 40))
    hand.lift(1)
    assert not viewer.idle().array("mask", SHAPE).any()
    assert viewer.state["revision"] == 0
    # The next single finger draws again.
    hand.touch(1, viewer.at("t1", (X, Y, Z)))
    hand.lift(1)
    assert viewer.idle().array("mask", SHAPE).any()


def test_a_palm_draws_nothing_and_disturbs_no_stroke(viewer: Viewer) -> None:
    hand = Hand(viewer)
    hand.touch(1, viewer.at("t1", (X, Y - 10, Z)), radius=40)
    hand.move(_1=viewer.at("t1", (X + 5, Y - 10, Z)))
    hand.lift(1)
    assert not viewer.idle().array("mask", SHAPE).any()
    hand.touch(1, viewer.at("t1", (X, Y, Z)))
    hand.touch(2, viewer.at("t1", (X, Y - 14, Z)), radius=40)
    hand.move(_1=viewer.at("t1", (X + 8, Y, Z)))
    hand.lift(2)
    hand.lift(1)
    mask = viewer.idle().array("mask", SHAPE)
    assert mask[X, Y, Z] == mask[X + 8, Y, Z] == 1
    assert not mask[:, : Y - 8].any()


def test_once_a_pen_is_used_a_finger_draws_no_more(viewer: Viewer) -> None:
    hand = Hand(viewer)
    x, y = viewer.at("t1", (X, Y, Z))
    for kind in ("mousePressed", "mouseReleased"):
        hand.devtools.send(
            "Input.dispatchMouseEvent",
            {"type": kind, "x": x, "y": y, "button": "left", "clickCount": 1, "pointerType": "pen"},
        )
    mask = viewer.idle().array("mask", SHAPE)
    assert mask[X, Y, Z] == 1
    hand.touch(1, viewer.at("t1", (X, Y - 15, Z)))
    hand.move(_1=viewer.at("t1", (X + 5, Y - 15, Z)))
    hand.lift(1)
    np.testing.assert_array_equal(viewer.idle().array("mask", SHAPE), mask)


def test_fingers_on_different_panes_are_no_pinch(viewer: Viewer) -> None:
    hand = Hand(viewer)
    hand.touch(1, viewer.at("t1", (X, Y, Z)))
    hand.touch(2, viewer.at("synthesis", (X, Y, Z)))
    hand.move(_2=viewer.at("synthesis", (X + 8, Y, Z)))
    hand.lift(2)
    hand.lift(1)
    mask = viewer.idle().array("mask", SHAPE)
    assert zoom(viewer) == 1
    assert mask[X + 8, Y, Z] == 0
