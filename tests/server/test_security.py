"""Safe by default, line by line."""

from __future__ import annotations

import io
import json
import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.fakes.engine import FakeEngine
from tests.scans import SMALL, scan
from tests.servers import Page, running
from tlp_runtime.errors import InputMissing, UsageError
from tlp_runtime.io.nifti import nifti_bytes
from tlp_server.settings import Settings

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
