"""`tlp view` and `tlp serve`: what they print, refuse, and how they end."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from tlp_cli.main import main

from tests.scans import scan
from tests.servers import COMMAND, Page, saved, served
from tests.support import TinyModel


def serve(tiny: TinyModel, *arguments: object) -> list[object]:
    return ["serve", "--model", tiny.bundle.path, "--engine", "ort-cpu", *arguments]


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


@contextmanager
def started(*arguments: object) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A server as it starts without an option about tokens; gives the whole address."""
    process = subprocess.Popen(
        COMMAND + [str(argument) for argument in arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip(), process
    finally:
        if process.poll() is None:
            ended(process)


def test_serve_prints_its_address_and_ends_by_ctrl_c(
    tiny: TinyModel, case: dict[str, Path]
) -> None:
    command = serve(tiny, "--port", 0, "--root", case["t1"].parent, "-v")
    with served(*command) as (address, process), httpx.Client(base_url=address) as http:
        page = Page.open(http, t1="t1.nii.gz")
        assert page.info["engine"]["name"] == "ort-cpu"
        code, errors = ended(process)
    assert code == 0
    assert "Traceback" not in errors
    assert "POST /api/sessions 201" in errors
    assert "t1.nii.gz" not in errors  # a file's name is the patient's business


def test_ctrl_c_during_a_stream_ends_the_server_soon(
    tiny: TinyModel, case: dict[str, Path]
) -> None:
    command = ("view", "--t1", case["t1"], "--no-open", "--model", tiny.bundle.path)
    with served(*command) as (address, process), httpx.Client(base_url=address) as http:
        page = Page.open(http)
        stream = page.follow({}, b"")
        next(stream)
        process.send_signal(signal.SIGINT)
        process.wait(timeout=20)
        stream.close()


def test_a_token_is_made_and_stands_in_the_address_alone(tiny: TinyModel) -> None:
    with started(*serve(tiny, "--port", 0)) as (shown, process):
        address, _, token = shown.partition("#token=")
        assert len(token) >= 32
        assert httpx.get(f"{address}api/status").status_code == 401
        bearer = {"authorization": f"Bearer {token}"}
        assert httpx.get(f"{address}api/status", headers=bearer).status_code == 200
        assert token not in ended(process)[1]


def test_the_browser_gets_the_token_by_a_file_that_only_its_owner_reads(
    tiny: TinyModel, case: dict[str, Path], tmp_path: Path
) -> None:
    """Not as an argument, which every account of the machine sees in the list of processes."""
    seen = tmp_path / "seen"
    browser = tmp_path / "browser.sh"
    browser.write_text(
        f'#!/bin/sh\nfile="${{1#file://}}"\nstat -c %a "$file" > {seen}.mode\n'
        f'cp "$file" {seen}.page\necho "$@" > {seen}.arguments\n'
    )
    browser.chmod(0o700)
    command = ("view", "--t1", case["t1"], "--model", tiny.bundle.path, "--token", "auto")
    with served(*command, BROWSER=f"{browser} %s") as (address, _):
        for _ in range(200):
            if Path(f"{seen}.arguments").is_file():
                break
            time.sleep(0.05)
        arguments = Path(f"{seen}.arguments").read_text().strip()
        page = Path(f"{seen}.page").read_text()
        found = re.search(r'location\.replace\("([^"]+)#token=([^"]+)"\)', page)
        assert found
        assert found[1] == f"{address}/"
        assert found[2] not in arguments
        assert Path(f"{seen}.mode").read_text().strip() == "600"
        private = Path(arguments.removeprefix("file://"))
        assert private.is_file()
        assert httpx.get(f"{address}/api/status").status_code == 401
        assert private.is_file()
        bearer = {"authorization": f"Bearer {found[2]}"}
        assert httpx.get(f"{address}/api/status", headers=bearer).status_code == 200
        assert not private.exists()  # it has been used


def test_a_page_that_nobody_opened_ends_with_the_server(
    tiny: TinyModel, case: dict[str, Path], tmp_path: Path
) -> None:
    command = ("view", "--t1", case["t1"], "--model", tiny.bundle.path, "--token", "auto")
    with served(*command, BROWSER="true %s", TMPDIR=str(tmp_path)) as (_, process):
        while not list(tmp_path.glob("tlp-view-*.html")):
            time.sleep(0.05)
        assert ended(process)[0] == 0
    assert not list(tmp_path.glob("tlp-view-*"))


def test_a_case_that_is_viewed_again_has_the_address_it_had(
    tiny: TinyModel, case: dict[str, Path], tmp_path: Path, tlp_home: Path
) -> None:
    """So that a page that is still open finds it; another case, or another account, does not."""
    command = ("view", "--t1", case["t1"], "--model", tiny.bundle.path, "--no-open")

    def address(*arguments: object) -> str:
        with started(*command, *arguments) as (shown, process):
            assert ended(process)[0] == 0
        return shown

    first = address()
    (kept,) = (tlp_home / "views").iterdir()
    assert kept.stat().st_mode & 0o777 == 0o600
    assert kept.parent.stat().st_mode & 0o777 == 0o700
    assert "#token=" in first
    assert address() == first
    assert address("--token", "another-token-altogether") == (
        first.partition("#")[0] + "#token=another-token-altogether"
    )
    with started(*command) as (one, _), started(*command) as (other, _):
        assert one.partition("#")[0] != other.partition("#")[0]
    kept.chmod(0o644)  # others may have read it
    assert address().partition("#")[2] != one.partition("#")[2]
    kept.write_text("{")
    address()


def test_memory_that_the_model_alone_takes_is_refused(tiny: TinyModel) -> None:
    process = subprocess.run(
        [*COMMAND, *map(str, serve(tiny, "--port", 0, "--memory", 20))],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert process.returncode == 2
    assert "before any case is open, of the 20 MiB" in process.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["view"], 2, "at least one image. Use --t1 FILE"),
        (["view", "--t1", "none.nii.gz", "--model", "{model}"], 3, "does not exist"),
        (["view", "--t1", "{t1}", "--model", "{model}", "--prompt", "none.nii.gz"], 3, "does not"),
        (["view", "--t1", "{t1}", "--model", "{model}", "--prompt", "{t1}"], 3, "as a scan does"),
        (["view", "--t1", "{t1}", "--model", "{model}", "--prompt", "{far}"], 3, "grid"),
        (["view", "--t1", "{t1}", "--model", "none"], 4, "none"),
        (["view", "--t1", "{t1}", "--host", "0.0.0.0", "--no-token"], 2, "a token is required"),
        (["serve", "--token", "auto", "--no-token"], 2, "choose one of them"),
        (["serve", "--root", "none"], 3, "is not a folder"),
        (["serve", "--host", "0.0.0.0", "--port", "0", "--no-token"], 2, "a token is required"),
        (["serve", "--token", "short"], 2, "16 characters at least"),
        (["serve", "--host", "192.0.2.1", "--token", "auto"], 2, "cannot be served on"),
    ],
)
def test_what_cannot_be_served_is_refused(
    case: dict[str, Path],
    tiny: TinyModel,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    """Before a server is there: what cannot be opened is not left to the page to say."""
    far = tmp_path / "far.nii.gz"
    if "{far}" in arguments:
        saved(scan(), far)
    given = [arg.format(t1=case["t1"], model=tiny.bundle.path, far=far) for arg in arguments]
    assert main(given) == code
    errors = capfd.readouterr().err
    assert message in errors
    assert "Traceback" not in errors


def test_an_address_that_is_taken_is_refused(
    tiny: TinyModel, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        command = serve(tiny, "--port", taken.getsockname()[1])
        assert main([str(argument) for argument in command]) == 2
    assert "Choose another --port" in capfd.readouterr().err


def test_a_checkout_without_the_page_says_how_to_build_it(
    case: dict[str, Path], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tlp_server.app.PAGE", case["t1"].parent)
    assert main(["view", "--t1", str(case["t1"])]) == 5
    assert "make page" in capfd.readouterr().err


def test_without_the_extra_the_line_that_installs_it_is_told(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tlp_cli import console

    monkeypatch.setattr(console, "_importable", lambda name: name != "uvicorn")
    for command in (["serve"], ["view", "--t1", "a.nii.gz"]):
        assert main(command) == 5
        assert "pip install 'tlp-mri[serve]'" in capfd.readouterr().err
