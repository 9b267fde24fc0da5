"""Sessions over HTTP: opened, drawn on, kept, ended."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import logging
import threading
from pathlib import Path
from typing import Any

import httpx
import nibabel as nib
import numpy as np
import pytest

from tests.fakes.engine import FakeEngine, GatedEngine
from tests.readers import offline
from tests.scans import DUAL, SMALL, scan
from tests.servers import Frame, Page, body_of, case_of, frames, running, saved
from tlp_runtime import Volume
from tlp_runtime.interactive.parts import Update
from tlp_runtime.io.nifti import nifti_bytes, parse_volume
from tlp_server.sessions import Bell, Session

BALL = np.ones((5, 5, 3), np.uint8)


def fetched(http: httpx.Client, path: str) -> Volume:
    answer = http.get(path)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/gzip"
    return parse_volume(answer.content, "fetched", limit=2**28)


def test_the_server_says_what_it_is(http: httpx.Client) -> None:
    status = http.get("/api/status").json()
    labels = {"tumour": 1, "oedema": 2}
    assert status["model"] == {
        "name": "fake", "precision": "fp32", "inputs": ["t1"], "prompt": True, "labels": labels,
    }  # fmt: skip
    assert status["engines"] == [{"name": "fake", "device": "cpu", "library": "none"}]
    assert (status["case"], status["root"]) == (False, True)
    assert "not for diagnosis" in status["notice"]


@pytest.mark.parametrize("orientation", ["LPS", "AIR"])
def test_a_case_is_uploaded_drawn_on_and_kept(http: httpx.Client, orientation: str) -> None:
    t1 = scan(orientation=orientation)
    content = nifti_bytes(t1, description="test")
    answer = http.post("/api/sessions/upload", files={"t1": ("a b.nii.gz", content)})
    assert answer.status_code == 201, answer.text
    page = Page(http, answer.json())
    assert page.info["name"] == "a b.nii.gz"
    assert page.info["shape"] == list(t1.reoriented("RAS").shape)
    last = page.go_on()[-1]
    assert (last.state, last.header["left"], last.header["bytes"]) == ("done", 0, 0)
    k = page.info["first"]
    middle = [page.info["shape"][0] // 2, page.info["shape"][1] // 2, k - 1]
    stream = page.draw(middle, BALL, first=k)
    assert stream[0].header["images"] == ["synthesis"]
    assert {"prompt", "queue", "engine", "restore", "server"} <= set(stream[0].header["seconds"])
    assert sorted(k for frame in stream for k in frame.header["slices"]) == [k - 1, k, k + 1]
    # What the page shows is what the server has, what a file holds, and what tlp infer makes of it.
    prompt = fetched(http, f"{page.path}/files/prompt")
    kept = fetched(http, f"{page.path}/files/synthesis")
    for volume in (prompt, kept):
        assert volume.shape == t1.shape
        np.testing.assert_allclose(volume.affine, t1.affine, atol=1e-5)
    np.testing.assert_array_equal(kept.data, offline({"t1": t1}, prompt, SMALL))
    for image in ("synthesis", "plain"):
        served = fetched(http, f"{page.path}/images/{image}")
        np.testing.assert_array_equal(page.shown[image], served.data)
        assert "".join(nib.aff2axcodes(served.affine)) == "RAS"
    np.testing.assert_array_equal(kept.reoriented("RAS").data, page.shown["synthesis"])
    served = fetched(http, f"{page.path}/images/prompt")
    np.testing.assert_array_equal(served.data, page.mask)
    np.testing.assert_array_equal(prompt.reoriented("RAS").data, page.mask)
    assert http.get(page.path).json()["prompt"]


def test_kept_files_say_that_they_are_synthetic_and_how_they_were_made(http: httpx.Client) -> None:
    page = Page.open(http, t1="t1.nii")
    page.go_on()
    page.draw([30, 40, page.info["first"]], BALL)
    for name, prompted in (("synthesis", True), ("plain", False)):
        answer = http.get(f"{page.path}/files/{name}")
        assert "attachment" in answer.headers["content-disposition"]
        header = nib.Nifti1Image.from_bytes(gzip.decompress(answer.content)).header
        assert b"SYNTHETIC" in header["descrip"].item()
        (comment,) = header.extensions
        record = json.loads(comment.get_content())
        assert len(record["inputs"]["t1"]) == 64  # a hash, no name
        assert (record["prompt"] is not None) == prompted


def test_what_the_prompt_alone_made_is_measured_on_request(http: httpx.Client) -> None:
    page = Page.open(http, t1="t1.nii")
    assert http.get(f"{page.path}/evidence").status_code == 409
    page.go_on()
    assert http.get(f"{page.path}/evidence").json()["drawn_ml"] == 0
    page.draw([30, 40, page.info["first"]], BALL)
    found = http.get(f"{page.path}/evidence").json()
    plain, prompted = (page.shown[name] for name in ("plain", "synthesis"))
    brain = fetched(http, f"{page.path}/images/t1").data != 0
    assert found["brain_level"] == pytest.approx(float(np.median(plain[brain])), abs=1e-5)
    change = np.where(brain, (prompted - plain) / found["brain_level"], 0)
    assert found["drawn_ml"] == pytest.approx((change > found["threshold"]).sum() / 1000)
    assert found["drawn_ml"] == BALL.size / 1000
    kept = fetched(http, f"{page.path}/files/evidence")
    np.testing.assert_allclose(kept.reoriented("RAS").data, change, atol=1e-4)


def test_images_are_served_with_one_affine_whatever_the_file_had(tmp_path: Path) -> None:
    """A file with a qform alone, another with a sheared sform: the server's grid is what counts."""
    t1 = scan(degrees=10, orientation="LAS")
    assert t1.header is not None
    t1.header.set_sform(None, 0)
    case = case_of({"t1": t1})
    with running(FakeEngine(SMALL), case) as address, httpx.Client(base_url=address) as http:
        page = Page.open(http)
        content = http.get(f"{page.path}/images/t1").content
        header = nib.Nifti1Image.from_bytes(gzip.decompress(content)).header
        assert (header["sform_code"], header["qform_code"]) == (1, 1)
        np.testing.assert_allclose(header.get_sform(), header.get_qform(), atol=1e-4)
        np.testing.assert_allclose(header.get_sform(), page.info["affine"], atol=1e-4)
        np.testing.assert_allclose(header.get_sform(), t1.grid.reoriented("RAS").affine, atol=1e-4)


def test_masks_are_accepted_on_the_served_grid_alone(http: httpx.Client, tmp_path: Path) -> None:
    t1 = scan()
    page = Page.open(http, t1="t1.nii")
    labels = np.zeros(t1.shape, np.uint8)
    labels[30:35, 40:45, 40] = 3
    moved = t1.affine.copy()
    moved[2, 3] += 0.5
    for volume, status in (
        (Volume(labels, moved), 422),
        (Volume(labels[:-1], t1.affine), 422),
        (Volume(labels * 3, t1.affine), 422),
        (Volume(labels, t1.affine), 200),
    ):
        file = saved(volume, tmp_path / "mask.nii.gz")
        answer = http.put(f"{page.path}/prompt", content=file.read_bytes())
        assert answer.status_code == status, answer.text
        if status == 422:
            assert answer.json()["error"]["kind"] in ("GeometryError", "UnknownLabels")
            assert http.get(page.path).json()["revision"] == 0
    assert answer.json() == {"revision": 1}
    mask = fetched(http, f"{page.path}/images/prompt")
    np.testing.assert_array_equal(
        mask.reoriented("LPS").data, Volume(labels // 3, t1.affine).reoriented("LPS").data
    )
    meaning = {"labels": ["oedema=3"]}
    assert http.put(f"{page.path}/prompt", content=file.read_bytes(), params=meaning).is_success
    assert fetched(http, f"{page.path}/images/prompt").data.max() == 2


def test_a_stroke_that_does_not_follow_is_refused_and_the_whole_mask_taken(
    http: httpx.Client,
) -> None:
    page = Page.open(http, t1="t1.nii")
    page.go_on()
    for query in ({"revision": 5}, page.query([0, 0, 0], BALL) | {"revision": 5}):
        body = body_of(BALL) if "x" in query else b""
        answer = http.post(
            f"{page.path}/strokes", params=query, content=body, headers={"content-encoding": "gzip"}
        )
        assert answer.status_code == 409
        assert answer.json()["revision"] == 0
    page.mask[30:35, 40:45, 40:43] = 1
    page.draw([0, 0, 0], page.mask)
    assert http.get(page.path).json()["revision"] == 1


@pytest.mark.parametrize(
    ("query", "body", "status", "message"),
    [
        ({"x": 0}, b"", 400, "some are missing"),
        ({}, b"abc", 400, "a body without a box"),
        ({"box": (500, 0, 0)}, b"", 422, "not on the grid"),
        ({"box": (0, 0, 0)}, body_of(np.ones((2, 2, 2), np.uint8)), 422, "holds 8 values"),
        ({"box": (0, 0, 0)}, body_of(np.full((5, 5, 3), 7, np.uint8)), 422, "the mask holds 7"),
        ({"box": (0, 0, 0)}, b"no gzip", 422, "is damaged"),
        ({"box": (0, 0, 0)}, body_of(np.zeros((99, 99, 99), np.uint8)), 413, "unpacks to more"),
    ],
    ids=["half a box", "no box", "beyond", "too few", "value", "no gzip", "too many"],
)
def test_strokes_that_make_no_sense_are_refused(
    http: httpx.Client, query: dict[str, Any], body: bytes, status: int, message: str
) -> None:
    page = Page.open(http, t1="t1.nii")
    query = dict(query)
    if "box" in query:
        query = page.query(query.pop("box"), BALL)
        body = body or body_of(BALL)
    headers = {"content-encoding": "gzip"} if "nx" in query else {}
    answer = http.post(
        f"{page.path}/strokes", params={"revision": 1, **query}, content=body, headers=headers
    )
    assert answer.status_code == status, answer.text
    assert message in answer.json()["error"]["message"]
    assert http.get(page.path).json()["revision"] == 0


def test_a_newer_stroke_ends_the_stream_of_the_older_one(root: Path) -> None:
    engine = GatedEngine(SMALL)
    engine.gate.clear()
    with running(engine, root=root) as address, httpx.Client(base_url=address) as http:
        page = Page.open(http, t1="t1.nii")
        states: list[str] = []

        def first() -> None:
            with httpx.Client(base_url=address) as other:
                older = Page(other, page.info)
                states.extend(frame.state for frame in older.go_on())

        thread = threading.Thread(target=first)
        thread.start()
        assert engine.entered.acquire(timeout=20)
        threading.Event().wait(0.2)  # until its stream stands
        threading.Timer(0.5, engine.gate.set).start()
        stream = page.draw([30, 40, page.info["first"]], BALL)
        thread.join(20)
        assert states[-1] == "superseded"
        assert stream[-1].state == "done"
        np.testing.assert_array_equal(
            page.shown["synthesis"], fetched(http, f"{page.path}/images/synthesis").data
        )


def test_a_stream_that_is_superseded_claims_no_serial_that_it_did_not_bring() -> None:
    async def last() -> Frame:
        class Superseding:
            revision = 1

            def update(self, since: int) -> Update:
                session.stream(0, 0.0, 1.0)  # a newer stroke, at the worst moment
                groups: Any = ((("plain",), (4,)),)
                return Update(9, groups, left=0, running=False, more=False, error=None, seconds={})

            def slices(self, image: str, numbers: tuple[int, ...]) -> np.ndarray:
                return np.zeros((1, 2, 2), np.float32)

        case: Any = Superseding()
        session = Session("x", case, Bell(asyncio.get_running_loop()))
        chunks = [chunk async for chunk in session.stream(3, 0.0, 1.0)]
        return list(frames(iter(chunks), (2, 2)))[-1]

    frame = asyncio.run(last())
    assert (frame.state, frame.header["serial"]) == ("superseded", 3)


def test_a_client_that_comes_back_gets_what_it_missed(http: httpx.Client) -> None:
    page = Page.open(http, t1="t1.nii")
    page.go_on()
    serial = page.serial
    page.draw([30, 40, page.info["first"]], BALL)
    again = Page(http, http.get(page.path).json())
    again.serial = serial
    (frame, last) = again.go_on()
    assert frame.header["slices"] == [page.info["first"] + n for n in range(3)]
    assert last.state == "done"


@pytest.mark.parametrize("taken", [1, 2, 3])
def test_a_client_that_stops_anywhere_misses_nothing(http: httpx.Client, taken: int) -> None:
    page = Page.open(http, t1="t1.nii")
    page.go_on()
    rod = np.ones((3, 3, page.info["shape"][2]), np.uint8)
    start = [page.info["shape"][0] // 2, page.info["shape"][1] // 2, 0]
    page.put(start, rod)
    stream = page.follow(page.query(start, rod), body_of(rod))
    for _ in range(taken):
        next(stream)
    stream.close()
    page.go_on()
    for image in ("synthesis", "plain"):
        served = fetched(http, f"{page.path}/images/{image}")
        np.testing.assert_array_equal(page.shown[image], served.data)


def test_a_synthesis_is_kept_when_it_is_up_to_date_and_not_before(http: httpx.Client) -> None:
    page = Page.open(http, t1="t1.nii")
    for name in ("synthesis", "plain"):
        answer = http.get(f"{page.path}/files/{name}")
        assert answer.status_code == 409
        assert answer.json()["error"]["kind"] == "Unfinished"
        assert f"{page.info['slices']} slices are still to be run" in answer.text
    assert http.get(f"{page.path}/files/prompt").status_code == 200
    page.go_on()
    assert http.get(f"{page.path}/files/synthesis").status_code == 200


def test_the_case_of_the_server_needs_no_name_and_brings_its_prompt(tmp_path: Path) -> None:
    t1 = scan()
    labels = np.zeros(t1.shape, np.uint8)
    labels[30:35, 40:45, 40] = 5
    case = case_of({"t1": t1}, Volume(labels, t1.affine), "tumour=5")
    with running(FakeEngine(SMALL), case) as address, httpx.Client(base_url=address) as http:
        page = Page.open(http)
        assert (page.info["name"], page.info["prompt"], page.revision) == ("case", True, 1)
        page.go_on()
        expected = offline({"t1": t1}, Volume(labels // 5, t1.affine), SMALL)
        kept = fetched(http, f"{page.path}/files/synthesis")
        np.testing.assert_array_equal(kept.data, expected)
        page.draw((5, 5, 40), np.ones((9, 9, 2), np.uint8))  # and nobody else sees it
        other = Page.open(http)
        assert other.revision == 1
        other.go_on()
        kept = fetched(http, f"{other.path}/files/synthesis")
        np.testing.assert_array_equal(kept.data, expected)
        answer = http.post("/api/sessions", json={"t1": "t1.nii"})
        assert answer.status_code == 403
        error = answer.json()["error"]
        assert error["problem"] == "this server opens no files"
        assert "Whoever runs the server can set root" in error["message"]
        assert [fix["kind"] for fix in error["fixes"]] == ["advice", "set-option"]


def test_what_the_model_does_not_take_is_refused(http: httpx.Client) -> None:
    assert http.post("/api/sessions", json={}).status_code == 400
    answer = http.post("/api/sessions", json={"t1": "t1.nii", "t2": "t1.nii"})
    assert answer.status_code == 422
    assert "this model takes t1; got t1 and t2" in answer.json()["error"]["message"]
    answer = http.post("/api/sessions/upload", files={"t2": ("a.nii", b"x")})
    assert answer.status_code == 422
    answer = http.post("/api/sessions/upload", files={"t1": ("a.nii", b"x")})
    assert answer.status_code == 422
    assert answer.json()["error"]["kind"] == "InputUnreadable"
    page = Page.open(http, t1="t1.nii")
    assert http.get(f"{page.path}/images/t2").status_code == 422
    assert http.get(f"{page.path}/images/other").status_code == 422


def test_two_images_are_shown_and_must_lie_on_one_grid(tmp_path: Path) -> None:
    saved(scan(), tmp_path / "t1.nii")
    saved(scan(orientation="RAS"), tmp_path / "t2.nii")
    saved(scan(centre=(3, 0, 0)), tmp_path / "far.nii")
    with (
        running(FakeEngine(DUAL), root=tmp_path) as address,
        httpx.Client(base_url=address) as http,
    ):
        page = Page.open(http, t1="t1.nii", t2="t2.nii")
        assert page.info["images"] == ["t1", "t2"]
        t1, t2 = (fetched(http, f"{page.path}/images/{name}") for name in ("t1", "t2"))
        np.testing.assert_array_equal(t1.affine, t2.affine)
        np.testing.assert_array_equal(t1.data, t2.data)
        answer = http.post("/api/sessions", json={"t1": "t1.nii", "t2": "far.nii"})
        assert answer.status_code == 422
        assert answer.json()["error"]["kind"] == "GeometryError"


class Console(logging.Handler):
    """What the root logger would print."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text += self.format(record) + "\n"


def test_warnings_about_a_scan_go_to_its_reader_and_not_to_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    console = Console()
    logging.getLogger().addHandler(console)
    try:
        with (
            caplog.at_level(logging.DEBUG, "tlp_server"),
            caplog.at_level(logging.DEBUG, "tlp_runtime"),
            running(FakeEngine(SMALL)) as address,
            httpx.Client(base_url=address, timeout=30) as http,
        ):
            content = io.BytesIO(nifti_bytes(scan(), description="test"))
            answer = http.post("/api/sessions/upload", files={"t1": ("Doe^John.nii", content)})
    finally:
        logging.getLogger().removeHandler(console)
    (warning,) = answer.json()["warnings"]
    assert warning["code"] == "brain-too-small"
    assert warning["kind"] == "input"
    assert "ml are not background" in warning["text"]
    assert "Doe" in warning["text"]
    assert warning["numbers"]["volume_ml"] < 700
    # A request's line is written after its answer: only the server's end is after all of them.
    assert "POST /api/sessions/upload 201" in console.text
    assert "Doe" not in console.text
    assert "ml are" not in console.text
