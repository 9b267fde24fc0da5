"""What a request may take: bytes, memory, time, numbers."""

from __future__ import annotations

import gzip
import socket
import struct
import time
import tracemalloc
import zlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import nibabel as nib
import numpy as np
import pytest

from tests.fakes.engine import FakeEngine, GatedEngine
from tests.scans import SMALL, scan
from tests.servers import Page, running
from tlp_runtime.errors import InputTooLarge
from tlp_runtime.files.gzip import inflate
from tlp_runtime.io.nifti import nifti_bytes, parse_volume
from tlp_server.memory import resident_bytes
from tlp_server.run import listen
from tlp_server.settings import MIB


def test_a_body_that_is_too_large_is_refused_said_or_unsaid(http: httpx.Client) -> None:
    answer = http.post("/api/sessions/upload", files={"t1": ("a.nii", bytes(9 << 20))})
    assert answer.status_code == 413
    assert "8 MiB allowed" in answer.json()["error"]["message"]

    def chunks() -> Iterator[bytes]:
        for _ in range(9):
            yield bytes(1 << 20)

    answer = http.post("/v2/models/fake/infer", content=chunks())
    assert answer.status_code == 413
    page = Page.open(http, t1="t1.nii")
    assert http.put(f"{page.path}/prompt", content=chunks()).status_code == 413


@pytest.mark.parametrize("path", ["/api/sessions", "/api/sessions/x", "/v2/models/fake"])
def test_json_of_a_few_paths_is_bounded_to_that(http: httpx.Client, path: str) -> None:
    """It is taken apart where nothing else runs; 57 MiB of lists held everybody up for 6 s."""
    for content in (b"[" + b"[]," * (1 << 20) + b"[]]", b'{"t1": "' + b"x" * (1 << 20) + b'"}'):
        answer = http.post(path, content=content, headers={"content-type": "application/json"})
        assert answer.status_code == 413, answer.text
        assert "larger than 65536 bytes" in answer.text


def test_unfinished_bodies_are_bounded_together(root: Path) -> None:
    """Each of them is small enough; all of them together are more than the server may take."""
    limit = resident_bytes() // MIB + 64
    with running(FakeEngine(SMALL), root=root, memory_mib=limit, max_upload_mib=32) as address:
        host, port = urlsplit(address).hostname, urlsplit(address).port
        head = (
            b"POST /api/sessions/upload HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 33000000\r\n\r\n"
            b'--x\r\nContent-Disposition: form-data; name="t1"; filename="a"\r\n\r\n'
        )
        clients = [socket.create_connection((host, port), timeout=20) for _ in range(6)]
        try:
            refused = 0
            for client in clients:
                client.sendall(head)
                try:
                    client.sendall(bytes(24 << 20))
                except OSError:  # the server has closed it
                    refused += 1
            first = clients[-1].recv(4096) if not refused else b" 429 "
            assert b" 429 " in first.splitlines()[0]
            with httpx.Client(base_url=address) as http:
                assert http.get("/api/status").status_code == 200
        finally:
            for client in clients:
                client.close()
        # What was taken is given back.
        with httpx.Client(base_url=address) as http:
            for _ in range(100):
                if http.post("/api/sessions", json={"t1": "t1.nii"}).status_code == 201:
                    return
                time.sleep(0.05)
        pytest.fail("the memory of bodies that ended is still counted")


def test_a_box_beyond_the_image_is_refused_before_it_is_unpacked(http: httpx.Client) -> None:
    page = Page.open(http, t1="t1.nii")
    content = gzip.compress(bytes(1 << 28), 9)
    for box in (
        {"x": 0, "y": 0, "z": 0, "nx": 2048, "ny": 2048, "nz": 64},
        {"x": 60000, "y": 0, "z": 0, "nx": 65535, "ny": 65535, "nz": 1},
    ):
        tracemalloc.start()
        answer = http.post(
            f"{page.path}/strokes", params={"revision": 1, **box}, content=content,
            headers={"content-encoding": "gzip"},
        )  # fmt: skip
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert answer.status_code == 422, answer.text
        assert "is not on the grid" in answer.text
        assert peak < 16 << 20
    box = {"x": 0, "y": 0, "z": 0, "nx": 4, "ny": 4, "nz": 4}
    answer = http.post(
        f"{page.path}/strokes", params={"revision": 1, **box}, content=content,
        headers={"content-encoding": "gzip"},
    )  # fmt: skip
    assert answer.status_code == 413, answer.text
    assert "unpacks to more than the 64 bytes" in answer.text


@pytest.mark.parametrize("value", [10**30, 2**63, 2**64])
def test_counters_beyond_every_integer_are_refused(http: httpx.Client, value: int) -> None:
    page = Page.open(http, t1="t1.nii")
    for query in ({"revision": value}, {"revision": 0, "since": value}):
        assert http.post(f"{page.path}/strokes", params=query).status_code == 422


@pytest.mark.parametrize("offset", [1e30, float("inf"), float("nan"), -1e30])
def test_voxels_that_begin_nowhere_are_refused_or_warned_of(
    http: httpx.Client, offset: float
) -> None:
    content = bytearray(nifti_bytes(scan(), description="test", packed=False))
    struct.pack_into("<f", content, 108, offset)
    answer = http.post("/api/sessions/upload", files={"t1": ("a.nii", bytes(content))})
    assert answer.status_code in (201, 422), answer.text
    page = Page.open(http, t1="t1.nii")
    answer = http.put(f"{page.path}/prompt", content=bytes(content))
    assert answer.status_code == 422, answer.text


def test_an_answer_of_two_parts_is_not_held_back() -> None:
    """Nagle's algorithm and delayed receipts made 44 ms of every small request."""
    with (
        listen("127.0.0.1", 0) as listener,
        socket.create_connection(listener.getsockname()) as client,
        listener.accept()[0] as accepted,
    ):
        assert client
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def bomb(size: int) -> bytes:
    """A small gzip of many zeros behind a sound NIfTI header."""
    header = nifti_bytes(scan(), description="bomb", packed=False)[:352]
    stream = zlib.compressobj(9, zlib.DEFLATED, 31)
    parts = [stream.compress(header)]
    parts += [stream.compress(bytes(1 << 20)) for _ in range(size >> 20)]
    return b"".join([*parts, stream.flush()])


def test_a_gzip_bomb_is_not_unpacked(http: httpx.Client) -> None:
    content = bomb(1 << 28)
    assert len(content) < 2 << 20
    answer = http.post("/api/sessions/upload", files={"t1": ("a.nii.gz", content)})
    assert answer.status_code == 413
    assert "unpacks to more than the 16 MiB" in answer.json()["error"]["message"]
    page = Page.open(http, t1="t1.nii")
    assert http.put(f"{page.path}/prompt", content=content).status_code == 413
    for packed in ("gzip", "deflate"):
        body = content if packed == "gzip" else zlib.compress(bytes(1 << 26), 9)
        answer = http.post(
            "/v2/models/fake/infer", content=body, headers={"content-encoding": packed}
        )
        assert answer.status_code == 413, answer.text
    tracemalloc.start()
    with pytest.raises(InputTooLarge):
        inflate(content, 1 << 20)
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


def test_bounded_unpacking_gives_what_unbounded_gives() -> None:
    rng = np.random.default_rng(0)
    parts = [rng.integers(0, 4, n, dtype=np.uint8).tobytes() for n in (0, 1, 70_000, 300_000)]
    packed = b"".join(gzip.compress(part) for part in parts)
    whole = b"".join(parts)
    for content in (packed, packed + bytes(100)):
        assert inflate(content, len(whole)) == whole == inflate(content)
    with pytest.raises(InputTooLarge):
        inflate(packed, len(whole) - 1)
    for damaged in (packed[:-5], b"", packed[:3], packed + b"rest"):
        with pytest.raises((OSError, EOFError)):
            inflate(damaged, 1 << 30)
    endless = gzip.compress(b"") * 70_000
    with pytest.raises(OSError, match="more than 65536 parts"):
        inflate(endless, 1 << 30)


@pytest.mark.parametrize("dims", [(3, 30000, 30000, 30000), (7, *[1000] * 7), (3, -5, 10, 10)])
def test_a_header_that_promises_too_much_allocates_nothing(dims: tuple[int, ...]) -> None:
    content = bytearray(nifti_bytes(scan(), description="test", packed=False)[:1000])
    struct.pack_into(f"<{len(dims)}h", content, 40, *dims)
    tracemalloc.start()
    with pytest.raises(Exception) as caught:  # noqa: PT011
        parse_volume(bytes(content), "lies.nii", limit=1 << 24)
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()
    assert getattr(caught.value, "exit_code", None) == 3
    assert "lies.nii" in str(caught.value)


def test_a_file_under_the_root_is_bounded_too(http: httpx.Client, root: Path) -> None:
    try:
        (root / "bomb.nii.gz").write_bytes(bomb(1 << 28))
        assert http.post("/api/sessions", json={"t1": "bomb.nii.gz"}).status_code == 413
        (root / "bomb.nii.gz").write_bytes(bytes(9 << 20))
        assert http.post("/api/sessions", json={"t1": "bomb.nii.gz"}).status_code == 413
    finally:
        (root / "bomb.nii.gz").unlink()


def test_a_body_that_does_not_come_is_not_waited_for(root: Path) -> None:
    with running(FakeEngine(SMALL), root=root, timeout_s=0.5) as address:
        host, port = urlsplit(address).hostname, urlsplit(address).port
        with socket.create_connection((host, port), timeout=10) as client:
            client.sendall(
                b"POST /api/sessions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json"
                b"\r\nContent-Length: 100\r\n\r\n{"
            )
            answer = client.recv(4096)
        assert b" 408 " in answer.splitlines()[0]


def test_an_engine_that_is_silent_is_not_waited_for(root: Path) -> None:
    engine = GatedEngine(SMALL)
    engine.gate.clear()
    with (
        running(engine, root=root, timeout_s=3) as address,
        httpx.Client(base_url=address, timeout=20) as http,
    ):
        page = Page.open(http, t1="t1.nii")
        last = page.go_on()[-1]
        assert last.state == "failed"
        assert "silent for 3 s" in last.header["error"]
        tensor = {"datatype": "FP32", "shape": [1, 1, 80, 64], "data": [0.0] * 5120}
        inputs = [{"name": name, **tensor} for name in ("t1", "prompt")]
        answer = http.post("/v2/models/fake/infer", json={"inputs": inputs})
        assert answer.status_code == 503
        engine.gate.set()


def test_a_nifti_of_any_kind_is_parsed_within_its_limit() -> None:
    data = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    for kind in (nib.Nifti1Image, nib.Nifti2Image):
        content = kind(data, np.eye(4)).to_bytes()
        for sent in (content, gzip.compress(content)):
            np.testing.assert_array_equal(parse_volume(sent, "x", limit=4096).data, data)
        with pytest.raises(InputTooLarge):
            parse_volume(content, "x", limit=191)
