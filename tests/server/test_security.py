"""Safe by default, line by line."""

from __future__ import annotations

import gzip
import io
import json
import logging
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
from tlp_runtime.errors import InputMissing, InputTooLarge, UsageError
from tlp_runtime.files.gzip import inflate
from tlp_runtime.io.nifti import nifti_bytes, parse_volume
from tlp_server.memory import resident_bytes
from tlp_server.run import listen
from tlp_server.settings import MIB, Settings

TOKEN = "a-token-of-sufficient-length"
API = ("/api/status", "/api/files", "/api/openapi.json", "/v2", "/v2/models/fake")


# Addresses and tokens


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.1.2.3"])
def test_a_token_is_made_unless_loopback_is_told_to_do_without(host: str) -> None:
    """Every account of this machine reaches loopback."""
    settings = Settings(host=host)
    assert settings.loopback
    assert settings.token
    assert len(settings.token) >= 32
    assert Settings(host=host).token != settings.token
    assert Settings(host=host, no_token=True).token is None
    with pytest.raises(UsageError, match="token and no_token were given"):
        Settings(host=host, token=TOKEN, no_token=True)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_anything_else_demands_a_token_of_some_length(host: str) -> None:
    with pytest.raises(UsageError, match="a token is required"):
        Settings(host=host, no_token=True)
    assert Settings(host=host).token
    for token in ("short", "short===========", "words with spaces", "percent%20percent", "ü" * 16):
        with pytest.raises(UsageError, match="16 characters at least"):
            Settings(host=host, token=token)
    assert not Settings(host=host, token=TOKEN).loopback


def test_a_root_must_be_a_folder(tmp_path: Path) -> None:
    with pytest.raises(InputMissing, match="is not a folder"):
        Settings(root=tmp_path / "none")


@pytest.fixture(scope="module")
def guarded(root: Path) -> Iterator[str]:
    with running(FakeEngine(SMALL), root=root, token=TOKEN) as address:
        yield address


def test_the_api_demands_the_token(guarded: str) -> None:
    with httpx.Client(base_url=guarded) as http:
        for path in API:
            for given in (b"", b"Bearer wrong", f"Basic {TOKEN}".encode(), b"Bearer \xff\xfe"):
                answer = http.get(path, headers={b"authorization": given})
                assert answer.status_code == 401, path
                assert "requires a token" in answer.text
            answer = http.get(path, headers={"authorization": f"Bearer {TOKEN}"})
            assert answer.status_code == 200, path
        assert http.get(f"/api/status?token={TOKEN}").status_code == 401
        assert http.post("/v2/models/fake/infer", content=b"{}").status_code == 401
        # What a supervisor asks tells nothing.
        assert http.get("/v2/health/live").json() == {"live": True}
        assert http.get("/v2/health/ready").json() == {"ready": True}


# Hosts, origins


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:80", "localhost.evil.example", "", "[", "127.0.0.1.nip.io"],
)
def test_other_names_of_the_server_are_refused(http: httpx.Client, host: str) -> None:
    """DNS rebinding: the page of another site asks this address by its own name."""
    answer = http.get("/api/status", headers={"host": host})
    assert answer.status_code == 421, answer.text
    assert http.get("/api/status", headers={"host": "localhost:9"}).status_code == 200


def test_names_of_a_server_that_others_reach() -> None:
    settings = Settings(host="0.0.0.0", token=TOKEN, allowed_hosts=("tlp.example",))
    for name in ("tlp.example", "192.0.2.7", "::1", socket.gethostname().lower()):
        assert settings.allows_host(name), name
    for name in ("evil.example", "localhost.evil.example", ""):
        assert not settings.allows_host(name), name


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://127.0.0.1:1", "http://["]
)
def test_pages_of_other_origins_change_nothing_and_read_nothing(
    http: httpx.Client, origin: str
) -> None:
    for method, path in (
        ("POST", "/api/sessions"),
        ("PUT", "/api/sessions/x/prompt"),
        ("DELETE", "/api/sessions/x"),
        ("POST", "/v2/models/fake/infer"),
    ):
        answer = http.request(method, path, headers={"origin": origin}, content=b"")
        assert answer.status_code == 403, answer.text
    answer = http.get("/api/status", headers={"origin": origin})
    assert "access-control-allow-origin" not in answer.headers
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"


def test_the_server_s_own_page_and_programs_are_let_in(http: httpx.Client) -> None:
    own = str(http.base_url).rstrip("/")
    for headers in ({"origin": own}, {}):
        answer = http.post("/api/sessions", json={"t1": "t1.nii"}, headers=headers)
        assert answer.status_code == 201


def test_an_origin_that_was_allowed_may_use_the_api(root: Path) -> None:
    origin = "https://viewer.example"
    with (
        running(FakeEngine(SMALL), root=root, token=TOKEN, allow_origins=(origin,)) as address,
        httpx.Client(base_url=address) as http,
    ):
        preflight = {
            "origin": origin,
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization",
        }
        answer = http.options("/api/sessions", headers=preflight)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == origin
        headers = {"origin": origin, "authorization": f"Bearer {TOKEN}"}
        answer = http.post("/api/sessions", json={"t1": "t1.nii"}, headers=headers)
        assert answer.status_code == 201
        evil = headers | {"origin": "https://evil.example"}
        assert http.post("/api/sessions", json={"t1": "t1.nii"}, headers=evil).status_code == 403
        preflight["origin"] = evil["origin"]
        answer = http.options("/api/sessions", headers=preflight)
        assert "access-control-allow-origin" not in answer.headers


def test_pages_are_told_to_run_nothing_foreign(http: httpx.Client) -> None:
    headers = http.get("/api/status").headers
    policy = headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe-eval" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert headers["referrer-policy"] == "no-referrer"


# Files


@pytest.mark.parametrize(
    "path",
    [
        "../secret.nii",
        "..",
        "/etc/passwd",
        "päti ent/../../secret.nii",
        "out/secret.nii",
        "out.nii",
        "..\\secret.nii",
        "t1.nii\0.png",
    ],
)
def test_no_path_leads_out_of_the_root(http: httpx.Client, path: str) -> None:
    answer = http.post("/api/sessions", json={"t1": path})
    assert answer.status_code == 403, answer.text
    assert http.get("/api/files", params={"path": path}).status_code == 403


@pytest.mark.parametrize("path", ["none.nii", "none/t1.nii", "t1.nii/x", "päti ent"])
def test_what_is_not_there_is_missing(http: httpx.Client, path: str) -> None:
    answer = http.post("/api/sessions", json={"t1": path})
    assert answer.status_code == 404, answer.text


def test_a_listing_shows_scans_and_folders_within_the_root(http: httpx.Client) -> None:
    listing = http.get("/api/files").json()
    assert listing["folders"] == ["päti ent"]
    assert listing["files"] == ["in.nii", "t1.nii"]  # no links out, nothing hidden, no other files
    assert http.get("/api/files", params={"path": "päti ent"}).json()["files"] == ["t1.nii.gz"]
    assert http.post("/api/sessions", json={"t1": "in.nii"}).status_code == 201


@pytest.mark.parametrize(
    "path", [".hidden/t1.nii", ".t1.nii", "päti ent/../.t1.nii", "seen.nii", "seen/t1.nii"]
)
def test_what_is_hidden_is_neither_listed_nor_opened(
    http: httpx.Client, root: Path, path: str
) -> None:
    """By its name, or by a link that is not hidden itself."""
    content = (root / "t1.nii").read_bytes()
    (root / ".hidden" / "t1.nii").write_bytes(content)
    (root / ".t1.nii").write_bytes(content)
    (root / "seen.nii").symlink_to(root / ".t1.nii")
    (root / "seen").symlink_to(root / ".hidden")
    try:
        listing = http.get("/api/files").json()
        assert listing["folders"] == ["päti ent"]
        assert listing["files"] == ["in.nii", "t1.nii"]
        assert http.get("/api/files", params={"path": ".hidden"}).status_code == 404
        assert http.get("/api/files", params={"path": "seen"}).status_code == 404
        assert http.post("/api/sessions", json={"t1": path}).status_code in (403, 404)
    finally:
        for made in ("seen", "seen.nii", ".t1.nii", ".hidden/t1.nii"):
            (root / made).unlink()


def test_a_name_that_is_not_utf_8_hides_no_other(http: httpx.Client, root: Path) -> None:
    import os

    names = [os.fsencode(root) + b"/caf\xe9.nii", os.fsencode(root) + b"/caf\xe9"]
    Path(os.fsdecode(names[0])).write_bytes((root / "t1.nii").read_bytes())
    Path(os.fsdecode(names[1])).mkdir()
    try:
        listing = http.get("/api/files").json()
        assert listing["files"] == ["in.nii", "t1.nii"]
        assert listing["folders"] == ["päti ent"]
        assert listing["unnamed"] == 2
    finally:
        Path(os.fsdecode(names[0])).unlink()
        Path(os.fsdecode(names[1])).rmdir()


@pytest.mark.parametrize("path", ["\ud800.nii", "\udce9", "a\udfff/b.nii"])
def test_a_path_that_is_not_text_is_refused(http: httpx.Client, path: str) -> None:
    body = json.dumps({"t1": path}).encode()
    answer = http.post("/api/sessions", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422), answer.text


def test_a_pipe_under_the_root_holds_nobody_up(http: httpx.Client, root: Path) -> None:
    import os

    pipe = root / "pipe.nii"
    os.mkfifo(pipe)
    try:
        answer = http.post("/api/sessions", json={"t1": "pipe.nii"}, timeout=5)
        assert answer.status_code == 404
    finally:
        pipe.unlink()


# Sizes and times


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


# Logs


def test_no_log_names_a_patient(root: Path) -> None:
    class Broken(FakeEngine):
        def close(self) -> None: ...

    lines = io.StringIO()
    handler = logging.StreamHandler(lines)
    handler.addFilter(lambda record: not record.name.startswith(("httpx", "httpcore")))
    root_logger, own = logging.getLogger(), logging.getLogger("tlp_server")
    root_logger.addHandler(handler)
    own.setLevel(logging.INFO)
    try:
        with (
            running(Broken(SMALL), root=root) as address,
            httpx.Client(base_url=address) as http,
            pytest.MonkeyPatch.context() as patch,
        ):
            page = Page.open(http, t1="päti ent/t1.nii.gz")
            page.go_on()
            http.get("/api/files", params={"path": "päti ent"})
            http.get("/api/files", params={"path": "Doe/John"})
            http.get("/Doe/John")
            content = nifti_bytes(scan(), description="test")
            http.post("/api/sessions/upload", files={"t1": ("Doe.nii", content)})
            http.post("/api/sessions/upload", files={"t1": ("Doe.nii", b"damaged")})

            def broken(*_: object) -> None:
                raise RuntimeError("Doe, John")

            patch.setattr("tlp_server.files.Root.listing", broken)
            answer = http.get("/api/files", params={"path": "Doe"})
            assert answer.status_code == 500
            assert answer.json()["error"]["kind"] == "InternalError"
            assert "Doe" not in answer.text
            private = [page.info["id"], "Doe", "ent/t1", "p%C3%A4ti", "päti"]
    finally:
        root_logger.removeHandler(handler)
        own.setLevel(logging.NOTSET)
    text = lines.getvalue()
    assert "GET /api/files 200" in text
    assert "POST /api/sessions/{session_id}/strokes 200" in text
    assert "RuntimeError in /api/files" in text
    assert "in broken" in text  # where, though not with what
    for name in private:
        assert name not in text, name


def test_uploads_leave_no_file_behind(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even for a moment: a scan is not spooled to a temporary file."""
    import tempfile

    rolled: list[object] = []
    rollover = tempfile.SpooledTemporaryFile.rollover

    def told(self: tempfile.SpooledTemporaryFile[bytes]) -> None:
        rolled.append(self)
        rollover(self)

    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", told)
    with running(FakeEngine(SMALL)) as address, httpx.Client(base_url=address) as http:
        content = nifti_bytes(scan(), description="test", packed=False)
        assert len(content) > 2 << 20
        answer = http.post("/api/sessions/upload", files={"t1": ("a.nii", content)})
        assert answer.status_code == 201
    assert not rolled


def test_a_nifti_of_any_kind_is_parsed_within_its_limit() -> None:
    data = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    for kind in (nib.Nifti1Image, nib.Nifti2Image):
        content = kind(data, np.eye(4)).to_bytes()
        for sent in (content, gzip.compress(content)):
            np.testing.assert_array_equal(parse_volume(sent, "x", limit=4096).data, data)
        with pytest.raises(InputTooLarge):
            parse_volume(content, "x", limit=191)
