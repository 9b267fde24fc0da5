"""A real server in a thread, and a client that speaks as the viewer's page does."""

from __future__ import annotations

import gzip
import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import uvicorn

from tests.scans import SMALL
from tlp_runtime.engines.base import Engine
from tlp_runtime.geometry.volume import Volume
from tlp_runtime.interactive.queue import EngineQueue
from tlp_runtime.spec.model import ModelSpec
from tlp_runtime.synthesis.request import Prompt, Request
from tlp_runtime.values.prompt import parse_labels
from tlp_server.app import create_app
from tlp_server.cases import ViewerCase, read_case
from tlp_server.run import listen
from tlp_server.settings import Settings

BATCH = 4
COMMAND = [sys.executable, "-c", "from tlp_cli.main import run; run()"]
"""`tlp`, by this interpreter."""


class ThreadedServer(uvicorn.Server):
    """Ends when it is told, not by signals."""

    def install_signal_handlers(self) -> None: ...


def case_of(
    images: Mapping[str, Volume],
    labels: Volume | None = None,
    *meaning: str,
    spec: ModelSpec = SMALL,
) -> ViewerCase:
    """What `tlp view` starts a server with."""
    request = Request(images=images, prompt=Prompt(labels, parse_labels(meaning)))
    return read_case("case", lambda: request, spec)


@contextmanager
def running(
    engine: Engine, case: ViewerCase | None = None, port: int = 0, **settings: Any
) -> Iterator[str]:
    """A server of that engine, without a token unless one is given; gives its address.

    The engine is closed with it.
    """
    open_to_all = {} if "token" in settings else {"no_token": True}
    given = Settings(**{"port": port, **open_to_all, **settings})
    with listen("127.0.0.1", given.port) as listener, EngineQueue(engine, batch=BATCH) as queue:
        config = uvicorn.Config(
            create_app(given, [queue], case),
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=1,
        )
        server = ThreadedServer(config)
        thread = threading.Thread(target=lambda: server.run(sockets=[listener]), daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()


@contextmanager
def served(*arguments: object, **environment: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A server as a process; gives the address it printed. Ended by SIGINT, as by Ctrl-C.

    It asks for no token unless the arguments or the environment say something of one.
    """
    texts = [str(argument) for argument in arguments]
    if "TLP_TOKEN" not in environment and not any("-token" in text for text in texts):
        texts.append("--no-token")
    process = subprocess.Popen(
        COMMAND + texts,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    try:
        assert address.startswith("http://"), process.communicate()[1]
        yield address.split("#")[0].rstrip("/"), process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


@dataclass(frozen=True)
class Frame:
    """One frame of a stroke's answer; ``values`` is (n, ny, nx)."""

    header: dict[str, Any]
    values: np.ndarray

    @property
    def state(self) -> str:
        return str(self.header["state"])


def frames(chunks: Iterator[bytes], plane: tuple[int, int]) -> Iterator[Frame]:
    """Take a stream apart."""
    held = b""
    for chunk in chunks:
        held += chunk
        while len(held) >= 4:
            (length,) = struct.unpack_from("<I", held)
            if len(held) < 4 + length:
                break
            header = json.loads(held[4 : 4 + length])
            end = 4 + length + header["bytes"]
            if len(held) < end:
                break
            values = np.frombuffer(held[4 + length : end], "<f4")
            yield Frame(header, values.reshape(-1, plane[1], plane[0]))
            held = held[end:]
    assert not held


@dataclass
class Page:
    """A session as a page holds it."""

    http: httpx.Client
    info: dict[str, Any]
    mask: np.ndarray = field(init=False)
    shown: dict[str, np.ndarray] = field(init=False)
    revision: int = 0
    serial: int = 0

    def __post_init__(self) -> None:
        shape = tuple(self.info["shape"])
        self.revision = self.info["revision"]
        self.mask = np.zeros(shape, np.uint8, order="F")
        self.shown = {name: np.zeros(shape, np.float32) for name in ("plain", "synthesis")}

    @classmethod
    def open(cls, http: httpx.Client, **paths: str) -> Page:
        answer = http.post("/api/sessions", json=paths)
        assert answer.status_code == 201, answer.text
        return cls(http, answer.json())

    @property
    def path(self) -> str:
        return f"/api/sessions/{self.info['id']}"

    def draw(
        self, start: Sequence[int], labels: np.ndarray, first: int | None = None
    ) -> list[Frame]:
        """Send a stroke and take its answer."""
        self.put(start, labels)
        return list(self.follow(self.query(start, labels, first), body_of(labels)))

    def put(self, start: Sequence[int], labels: np.ndarray) -> None:
        """Change the page's own mask."""
        box = tuple(slice(a, a + n) for a, n in zip(start, labels.shape, strict=True))
        self.mask[box] = labels
        self.revision += 1

    def query(
        self, start: Sequence[int], labels: np.ndarray, first: int | None = None
    ) -> dict[str, int]:
        names = ("x", "y", "z", "nx", "ny", "nz")
        query = dict(zip(names, (*map(int, start), *labels.shape), strict=True))
        return query if first is None else {**query, "first": first}

    def go_on(self) -> list[Frame]:
        """An empty stroke."""
        return list(self.follow({}, b""))

    def follow(self, query: dict[str, int], body: bytes) -> Generator[Frame, None, None]:
        """Post a stroke and put what comes into the images."""
        query = {"revision": self.revision, "since": self.serial, **query}
        headers = {"content-encoding": "gzip"} if body else {}
        address = f"{self.path}/strokes"
        with self.http.stream(
            "POST", address, params=query, content=body, headers=headers
        ) as answer:
            if answer.status_code != 200:
                answer.read()
                raise AssertionError(f"{answer.status_code}: {answer.text}")
            nx, ny, _ = self.info["shape"]
            for frame in frames(answer.iter_bytes(), (nx, ny)):
                for image in frame.header["images"]:
                    for k, values in zip(frame.header["slices"], frame.values, strict=True):
                        self.shown[image][:, :, k] = values.T
                self.serial = max(self.serial, frame.header["serial"])
                yield frame


def body_of(labels: np.ndarray) -> bytes:
    """A stroke's body."""
    return gzip.compress(labels.astype(np.uint8).tobytes(order="F"), 1, mtime=0)


def saved(volume: Volume, path: Path) -> Path:
    """Write a volume as NIfTI."""
    from tlp_runtime.io.nifti import nifti_bytes

    path.write_bytes(nifti_bytes(volume, description="test", packed=path.suffix == ".gz"))
    return path
