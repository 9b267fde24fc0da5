"""How sessions end: closed, left, idle, or for want of room."""

from __future__ import annotations

import gc
import socket
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.fakes.engine import FakeEngine, GatedEngine
from tests.scans import SMALL, scan
from tests.servers import Page, case_of, running
from tlp_runtime.interactive.case import InteractiveCase
from tlp_runtime.interactive.queue import EngineQueue


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


def test_a_reader_that_stalls_does_not_hold_its_session(root: Path) -> None:
    """It asks for slices and takes none; its session ends as if nobody used it."""
    with (
        running(FakeEngine(SMALL), root=root, idle_s=1) as address,
        pytest.MonkeyPatch.context() as patch,
        httpx.Client(base_url=address) as http,
    ):
        patch.setattr("tlp_server.sessions.EXPIRY_EVERY_S", 0.05)
        page = Page.open(http, t1="t1.nii")
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with client:
            client.connect((urlsplit(address).hostname, urlsplit(address).port))
            client.sendall(
                f"POST {page.path}/strokes?revision=0 HTTP/1.1\r\nHost: localhost\r\n"
                "Content-Length: 0\r\n\r\n".encode()
            )
            time.sleep(0.3)
            assert http.get("/api/status").json()["sessions"] == 1
            deadline = time.monotonic() + 15
            while http.get("/api/status").json()["sessions"]:
                assert time.monotonic() < deadline, "the session is still held"
                time.sleep(0.05)


def test_a_session_that_ends_in_the_middle_of_its_work_leaves_nothing_behind() -> None:
    """No cycle of references that waits for the garbage collector, no work that keeps the case."""
    engine = GatedEngine(SMALL)
    with EngineQueue(engine, batch=2) as queue:
        prepared = case_of({"t1": scan()}).prepared
        gc.disable()
        try:
            engine.gate.clear()
            case = InteractiveCase(prepared, SMALL, queue)
            case.go_on()
            assert engine.entered.acquire(timeout=10)
            gone = weakref.ref(case)
            case.pause()
            del case
            assert gone() is None
            engine.gate.set()
        finally:
            gc.enable()


MEMORY_SCRIPT = """
import sys
import httpx
import numpy as np
from tests.fakes.engine import FakeEngine
from tests.scans import SMALL, scan
from tests.servers import Page, running
from tlp_runtime import Volume
from tlp_runtime.io.nifti import nifti_bytes
from tlp_server.memory import resident_bytes, return_freed_memory

assert return_freed_memory()
sessions, shape = int(sys.argv[1]), tuple(map(int, sys.argv[2].split("x")))
small = scan()
data = np.zeros(shape, np.float32, order="F")
middle = tuple(slice(n // 4, -n // 4) for n in shape)
data[middle] = np.random.default_rng(0).uniform(0.2, 1, data[middle].shape)
content = nifti_bytes(Volume(data, small.affine), description="test")
limit = int(sys.argv[3])
with (
    running(FakeEngine(SMALL), memory_mib=limit, max_volume_mib=1024) as address,
    httpx.Client(base_url=address, timeout=120) as http,
):
    for number in range(sessions):
        answer = http.post("/api/sessions/upload", files={"t1": ("a.nii.gz", content)})
        assert answer.status_code == 201, answer.text
        page = Page(http, answer.json())
        page.go_on()
        page.draw([n // 2 for n in shape], np.ones((5, 5, 3), np.uint8))
        assert http.get(f"{page.path}/files/synthesis").status_code == 200
        assert http.delete(page.path).status_code == 204
        del page
        print(resident_bytes() >> 20, flush=True)
"""


@pytest.mark.parametrize(
    ("sessions", "shape"),
    [(24, "160x160x80"), pytest.param(200, "240x240x155", marks=pytest.mark.proof)],
)
@pytest.mark.timeout(1800)
def test_memory_stays_as_sessions_come_and_go(sessions: int, shape: str) -> None:
    limit = 1024
    process = subprocess.run(
        [sys.executable, "-c", MEMORY_SCRIPT, str(sessions), shape, str(limit)],
        capture_output=True, text=True, timeout=1500,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr[-2000:]
    mib = [int(line) for line in process.stdout.split()]
    assert len(mib) == sessions
    early, late = sorted(mib[2 : sessions // 3]), sorted(mib[-sessions // 3 :])
    assert late[len(late) // 2] < 1.2 * early[len(early) // 2]
    assert max(mib) < limit
