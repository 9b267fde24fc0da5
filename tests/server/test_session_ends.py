"""How sessions end: closed, left, idle, or for want of room."""

from __future__ import annotations

import threading
from pathlib import Path

import httpx
import pytest

from tests.fakes.engine import FakeEngine
from tests.scans import SMALL
from tests.servers import Page, running


def test_sessions_end(http: httpx.Client) -> None:
    page = Page.open(http, t1="t1.nii")
    assert http.delete(page.path).status_code == 204
    for answer in (
        http.get(page.path),
        http.delete(page.path),
        http.post(f"{page.path}/strokes", params={"revision": 0}),
        http.get(f"{page.path}/images/t1"),
    ):
        assert answer.status_code == 404
        assert answer.json()["error"]["kind"] == "SessionGone"


class Clock:
    """The sessions' time, which stands still unless it is moved."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr("tlp_server.sessions.monotonic", lambda: self.now)
        monkeypatch.setattr("tlp_server.sessions.EXPIRY_EVERY_S", 0.05)

    def until_open(self, http: httpx.Client, count: int) -> None:
        """Wait until the server has dropped all sessions but so many."""
        for _ in range(400):
            if http.get("/api/status").json()["sessions"] == count:
                return
            threading.Event().wait(0.05)
        pytest.fail(f"there are never {count} sessions")


def test_a_session_that_was_left_is_kept_for_who_comes_back(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    with (
        running(FakeEngine(SMALL), root=root) as address,
        httpx.Client(base_url=address) as http,
    ):
        back, away = (Page.open(http, t1="t1.nii") for _ in range(2))
        for page in (back, away):
            assert http.delete(page.path, params={"after_s": 60}).status_code == 204
        clock.now += 59
        assert http.get(back.path).status_code == 200
        assert http.get("/api/status").json()["sessions"] == 2
        clock.now += 2
        clock.until_open(http, 1)
        assert http.get(back.path).status_code == 200
        assert http.get(away.path).status_code == 404
        assert http.delete(back.path, params={"after_s": -1}).status_code == 422
        # Where room is needed, it goes at once.
        http.delete(back.path, params={"after_s": 60})
        full = [Page.open(http, t1="t1.nii") for _ in range(16)]
        assert http.get(back.path).status_code == 404
        assert all(http.get(page.path).status_code == 200 for page in full)


def test_idle_sessions_expire_and_number_and_memory_are_bounded(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    with (
        running(FakeEngine(SMALL), root=root, max_sessions=2, idle_s=600) as address,
        httpx.Client(base_url=address) as http,
    ):
        pages = []
        for _ in range(2):
            pages.append(Page.open(http, t1="t1.nii"))
            clock.now += 30
        answer = http.post("/api/sessions", json={"t1": "t1.nii"})
        assert answer.status_code == 429
        assert "2 sessions are open" in answer.json()["error"]["message"]
        assert answer.headers["retry-after"]
        clock.now += 10
        Page.open(http, t1="t1.nii")  # the one that was idle for more than a minute makes room
        assert http.get(pages[0].path).status_code == 404
        assert http.get(pages[1].path).status_code == 200
        clock.now += 601
        clock.until_open(http, 0)
        assert http.get(pages[1].path).status_code == 404
    with (
        running(FakeEngine(SMALL), root=root, memory_mib=1) as address,
        httpx.Client(base_url=address) as http,
    ):
        answer = http.post("/api/sessions", json={"t1": "t1.nii"})
        assert answer.status_code == 413
        assert "of the 1 MiB that the server may take" in answer.json()["error"]["message"]
