"""The viewer's page when things come and go: servers, sessions, tabs, files."""

from __future__ import annotations

from pathlib import Path

import httpx
import numpy as np
import pytest
from playwright.sync_api import Browser, Dialog

from tests.browser import changed, drawn_in, viewing
from tests.cohorts import SlowEngine
from tests.fakes.engine import FakeEngine
from tests.scans import SMALL, scan
from tests.servers import case_of, running, saved, served
from tests.support import TinyModel
from tlp_runtime import Volume
from tlp_runtime.io.nifti import parse_volume, read_volume

pytestmark = pytest.mark.timeout(300)

BRAIN = scan()
GRID = BRAIN.grid.reoriented("RAS")
SHAPE = GRID.shape
MIDDLE = tuple(n // 2 for n in SHAPE)


def test_a_reload_goes_on_and_nothing_unsaved_is_dropped_unasked(
    chromium: Browser, tmp_path: Path
) -> None:
    i, j, k = MIDDLE
    t1 = saved(BRAIN, tmp_path / "t1.nii")
    asked: list[str] = []

    def answer(dialog: Dialog) -> None:
        asked.append(dialog.type)
        dialog.accept() if dialog.type == "beforeunload" else dialog.dismiss()

    with running(FakeEngine(SMALL)) as address, viewing(chromium, address) as viewer:
        viewer.page.on("dialog", answer)
        viewer.page.set_input_files("#upload-t1", t1)
        viewer.page.click("button.go")
        viewer.opened()
        viewer.show_slice(k)
        viewer.drag("t1", (i, j, k))
        viewer.idle()
        session, mask = viewer.state["session"], viewer.array("mask", SHAPE)
        synthesis = viewer.array("synthesis", SHAPE)

        def same() -> None:
            viewer.opened()
            assert viewer.state["session"] == session
            np.testing.assert_array_equal(viewer.array("mask", SHAPE), mask)
            np.testing.assert_array_equal(viewer.array("synthesis", SHAPE), synthesis)

        viewer.page.reload()
        same()
        assert asked == ["beforeunload"]
        viewer.click("open-other")  # asks, and is told no
        same()
        assert asked == ["beforeunload", "confirm"]
        # The browser takes the graphics; the page is loaded anew, at first without an answer.
        viewer.page.evaluate(
            "() => window.tlp.panes.t1.gl.getExtension('WEBGL_lose_context').loseContext()"
        )
        viewer.page.get_by_text("taken the graphics away").wait_for()
        viewer.page.route("**/images/t1", lambda route: route.abort(), times=1)
        with viewer.page.expect_navigation():
            viewer.click("alert-retry")
        viewer.page.get_by_role("button", name="Try again").click()
        viewer.forgive()
        same()
        assert asked == ["beforeunload", "confirm"]
        viewer.save("save-mask", tmp_path / "roi.nii.gz")
        viewer.page.reload()
        same()
        viewer.click("open-other")
        viewer.page.wait_for_selector("#upload-t1")
        assert asked == ["beforeunload", "confirm"]


def test_a_mask_with_other_numbers_is_loaded_by_what_they_mean(
    chromium: Browser, tmp_path: Path
) -> None:
    i, j, k = MIDDLE
    labels = np.zeros(BRAIN.shape, np.uint8)
    labels[i : i + 4, j, k] = 9
    path = saved(Volume(labels, BRAIN.affine), tmp_path / "labels.nii.gz")
    asked: list[str] = []

    def answer(dialog: Dialog) -> None:
        asked.append(dialog.message)
        dialog.accept("tumour=9")

    with (
        running(FakeEngine(SMALL), case_of({"t1": BRAIN})) as address,
        viewing(chromium, address) as viewer,
    ):
        viewer.opened()
        viewer.page.on("dialog", answer)
        viewer.load_mask(path)
        viewer.until("() => window.tlp.state.revision === 1")
        viewer.forgive()
        viewer.idle()
        assert "labels 9 have no meaning here" in asked[0]
        expected = Volume(labels // 9, BRAIN.affine).reoriented("RAS").data
        np.testing.assert_array_equal(viewer.array("mask", SHAPE), expected)


def test_strokes_faster_than_the_engine_end_in_the_same_image(
    chromium: Browser, tmp_path: Path
) -> None:
    i, j, k = MIDDLE
    with (
        running(SlowEngine(0.05), case_of({"t1": BRAIN})) as address,
        viewing(chromium, address) as viewer,
        httpx.Client(base_url=address) as http,
    ):
        viewer.until("() => !!window.tlp && window.tlp.state.open")
        viewer.show_slice(k)
        viewer.tool("sphere")
        for n in range(6):  # while the first synthesis is still being made
            viewer.drag("t1", (i - 12 + 4 * n, j, k))
        viewer.press("z")
        kept = viewer.save("save-synthesis", tmp_path / "kept.nii.gz")  # waits
        viewer.idle()
        session = viewer.state["session"]
        shown = viewer.array("synthesis", SHAPE)
        np.testing.assert_array_equal(read_volume(kept).reoriented("RAS").data, shown)
        for name in ("synthesis", "plain"):
            answer = http.get(f"/api/sessions/{session}/images/{name}")
            served_image = parse_volume(answer.content, name, limit=2**28).data
            np.testing.assert_array_equal(viewer.array(name, SHAPE), served_image)
        status = http.get(f"/api/sessions/{session}").json()
        assert status["revision"] == viewer.state["revision"]


def test_a_restart_of_the_server_loses_nothing(chromium: Browser) -> None:
    i, j, k = MIDDLE
    case = case_of({"t1": BRAIN})
    with running(FakeEngine(SMALL), case) as address:
        port = int(address.rsplit(":", 1)[1])
        context = viewing(chromium, address)
        viewer = context.__enter__()
        viewer.opened()
        viewer.show_slice(k)
        viewer.tool("sphere")
        viewer.drag("t1", (i, j, k))
        viewer.idle()
        first = viewer.state["session"]
    try:
        viewer.drag("t1", (i + 12, j, k))  # nobody is there
        viewer.until("() => /server/i.test(document.body.innerText) && window.tlp.state.busy")
        viewer.screenshot("server away")
        mask = viewer.array("mask", SHAPE)
        with running(FakeEngine(SMALL), case, port=port):
            viewer.until("() => !window.tlp.state.busy && window.tlp.state.phase === 'live'")
            viewer.idle()
            assert viewer.state["session"] != first
            np.testing.assert_array_equal(viewer.array("mask", SHAPE), mask)
            slices = drawn_in(mask)
            plain, synthesis = (viewer.array(name, SHAPE) for name in ("plain", "synthesis"))
            assert changed(plain, synthesis) == slices
            # A session that expired is made anew at the next stroke.
            with httpx.Client(base_url=address) as http:
                assert http.delete(f"/api/sessions/{viewer.state['session']}").status_code == 204
            viewer.drag("t1", (i - 12, j, k))
            viewer.until("() => !window.tlp.state.busy && window.tlp.state.phase === 'live'")
            viewer.idle()
            grown = viewer.array("mask", SHAPE)
            assert (grown >= mask).all()
            assert grown.sum() > mask.sum()
            assert changed(plain, viewer.array("synthesis", SHAPE)) == drawn_in(grown)
    finally:
        viewer.forgive()
        context.__exit__(None, None, None)


def test_cases_are_uploaded_or_picked_and_the_token_is_hidden(
    chromium: Browser, tmp_path: Path
) -> None:
    (tmp_path / "study" / "one").mkdir(parents=True)
    saved(BRAIN, tmp_path / "study" / "one" / "scan.nii.gz")
    (tmp_path / "bad.nii.gz").write_bytes(b"no scan")
    token = "a+token/of+what-openssl.makes==="
    i, j, k = MIDDLE
    with running(FakeEngine(SMALL), root=tmp_path / "study", token=token) as address:
        with viewing(chromium, f"{address}/#token={token}") as viewer:
            page = viewer.page
            page.wait_for_selector("#upload-t1")
            assert "token" not in page.url
            viewer.screenshot("opening")
            page.set_input_files("#upload-t1", tmp_path / "bad.nii.gz")
            page.click("button.go")
            page.get_by_text("is not a NIfTI image").first.wait_for()
            viewer.forgive()
            page.set_input_files("#upload-t1", tmp_path / "study" / "one" / "scan.nii.gz")
            page.click("button.go")
            viewer.opened()
            viewer.show_slice(k)
            viewer.drag("t1", (i, j, k))
            viewer.idle()
            assert drawn_in(viewer.array("mask", SHAPE)) == [k]
            roi = viewer.save("save-mask", tmp_path / "roi.nii.gz")
            # Another case, from the folder; the mask is loaded again.
            viewer.click("open-other")
            page.locator("li", has_text="one").get_by_role("button").click()
            page.click("button[data-path='one/scan.nii.gz']")
            page.click("button.go")
            viewer.until("() => !!window.tlp && window.tlp.state.open && !window.tlp.state.busy")
            viewer.opened()
            assert not viewer.array("mask", SHAPE).any()
            viewer.load_mask(roi)
            viewer.until("() => window.tlp.state.revision > 0")
            viewer.idle()
            assert drawn_in(viewer.array("mask", SHAPE)) == [k]
            assert changed(viewer.array("plain", SHAPE), viewer.array("synthesis", SHAPE)) == [k]
        with viewing(chromium, address) as viewer:
            viewer.page.get_by_text("token").first.wait_for()
            viewer.forgive()


def test_warnings_and_refusals_advise_nothing_that_the_page_does_not_have(
    chromium: Browser, tmp_path: Path
) -> None:
    head = np.pad(np.random.default_rng(0).uniform(1, 2, (150, 150, 150)).astype(np.float32), 3)
    t1 = saved(Volume(head, BRAIN.affine), tmp_path / "head.nii.gz")
    elsewhere = saved(Volume(np.ones((9, 9, 9), np.uint8), BRAIN.affine), tmp_path / "roi.nii.gz")
    with running(FakeEngine(SMALL)) as address, viewing(chromium, address) as viewer:
        viewer.page.set_input_files("#upload-t1", t1)
        viewer.page.click("button.go")
        viewer.opened()
        listed = viewer.page.inner_text("#warning-list")
        assert "3375 ml are not background" in listed
        viewer.load_mask(elsewhere)
        viewer.page.get_by_text("The mask was not loaded").wait_for()
        alert = viewer.page.inner_text("#alert-text")
        viewer.forgive()
        assert "lies on another grid" in alert
        for text in (listed, alert):
            assert "--" not in text
            assert "brain_mask" not in text
            assert "resample" not in text.lower()


def test_a_scan_loaded_as_a_mask_is_refused_by_what_it_is(
    chromium: Browser, tmp_path: Path
) -> None:
    """Not by asking what its hundreds of labels mean."""
    path = saved(BRAIN, tmp_path / "t1.nii.gz")
    counted = saved(
        Volume(np.rint(BRAIN.data).astype(np.int16), BRAIN.affine), tmp_path / "int16.nii.gz"
    )
    asked: list[str] = []
    with (
        running(FakeEngine(SMALL), case_of({"t1": BRAIN})) as address,
        viewing(chromium, address) as viewer,
    ):
        viewer.opened()
        viewer.page.on("dialog", lambda dialog: asked.append(dialog.message))
        for file in (path, counted):
            viewer.load_mask(file)
            viewer.page.get_by_text("as a scan does").wait_for()
            assert "Choose another mask" in viewer.page.inner_text("#alert-text")
            viewer.click("alert-close")
        viewer.forgive()
        assert asked == []
        assert not viewer.array("mask", SHAPE).any()


def test_a_mask_is_saved_while_the_server_is_away(chromium: Browser, tmp_path: Path) -> None:
    i, j, k = MIDDLE
    turned = scan(orientation="AIR")
    shape = turned.reoriented("RAS").shape
    with running(FakeEngine(SMALL), case_of({"t1": turned})) as address:
        context = viewing(chromium, address)
        viewer = context.__enter__()
        viewer.opened()
        viewer.show_slice(k)
        viewer.tool("sphere")
        viewer.drag("t1", (i, j, k))
        viewer.idle()
    try:
        viewer.click("label-2")
        viewer.drag("t1", (i + 12, j, k))  # nobody is there
        viewer.until("() => window.tlp.state.phase === 'offline'")
        mask = viewer.array("mask", shape)
        with viewer.page.expect_download() as download:
            viewer.click("save-mask")
        assert download.value.suggested_filename == "case_prompt.nii.gz"
        path = tmp_path / "roi.nii.gz"
        download.value.save_as(path)
        viewer.page.get_by_text("saved all the same, by this page").wait_for()
        np.testing.assert_array_equal(read_volume(path).data, mask)
        # It is a prompt of that scan, whatever the order of the scan's own axes.
        again = case_of({"t1": turned}, read_volume(path))
        np.testing.assert_array_equal(again.mask, mask)
    finally:
        viewer.forgive()
        context.__exit__(None, None, None)


def test_a_reload_keeps_the_slice_the_tool_and_the_convention(chromium: Browser) -> None:
    i, j, k = MIDDLE
    with (
        running(FakeEngine(SMALL), case_of({"t1": BRAIN})) as address,
        viewing(chromium, address) as viewer,
    ):
        page = viewer.opened().page
        page.on("dialog", lambda dialog: dialog.accept())
        viewer.show_slice(k + 7)
        viewer.tool("sphere")
        viewer.click("label-2")
        viewer.slider("radius_mm", 9)
        viewer.click("convention")
        viewer.click("crosshair")
        page.get_by_label("T1: overlay of the mask").select_option("outline")
        width = page.get_by_label("T1: window width")
        width.fill("123")
        width.press("Enter")
        viewer.drag("t1", (i, j, k + 7))
        viewer.idle()
        mask, cross = viewer.array("mask", SHAPE), viewer.state["cross"]
        page.reload()
        viewer.opened()
        assert viewer.state["cross"] == cross
        np.testing.assert_array_equal(viewer.array("mask", SHAPE), mask)
        for button in ("tool-sphere", "label-2"):
            assert page.get_attribute(f"#{button}", "aria-pressed") == "true"
        assert page.get_attribute("#crosshair", "aria-pressed") == "false"
        assert page.input_value("#radius_mm") == "9"
        assert "Neurological" in page.inner_text("#convention-text")
        assert page.get_by_label("T1: overlay of the mask").input_value() == "outline"
        assert width.input_value().startswith("123")
        assert page.title() == "case · TLP viewer"


def test_a_view_that_is_started_again_is_found_with_all_that_was_drawn(
    chromium: Browser, tiny: TinyModel, phantom_case: Path, tmp_path: Path
) -> None:
    """By a page that stayed open, and by one that is loaded again afterwards."""
    t1 = read_volume(phantom_case / f"{phantom_case.name}_t1.nii.gz")
    (tmp_path / "patient 7").mkdir()
    small = Volume(np.asfortranarray(t1.data[:, :, 70:76]), t1.affine)
    scan_file = saved(small, tmp_path / "patient 7" / "t1.nii.gz")
    command = ("view", "--t1", scan_file, "--model", tiny.bundle.path, "--no-open")
    shape = small.reoriented("RAS").shape
    i, j, k = shape[0] // 2, shape[1] // 2, 3
    with served(*command) as (address, _):
        context = viewing(chromium, address)
        viewer = context.__enter__()
        viewer.page.on("dialog", lambda dialog: dialog.accept())
        viewer.opened()
        viewer.show_slice(k)
        viewer.drag("t1", (i, j, k))
        viewer.idle()
        first = viewer.state["session"]
    try:
        viewer.drag("t1", (i + 20, j, k))
        viewer.until("() => window.tlp.state.phase === 'offline'")
        mask = viewer.array("mask", shape)
        with served(*command) as (again, _):
            assert again == address
            viewer.until("() => !window.tlp.state.busy && window.tlp.state.phase === 'live'")
            assert viewer.state["session"] != first
            np.testing.assert_array_equal(viewer.idle().array("mask", shape), mask)
            with viewer.page.expect_download() as download:
                viewer.click("save-synthesis")
            assert download.value.suggested_filename == "patient_7_t1_synth-t1ce.nii.gz"
            assert viewer.page.title() == "patient 7/t1 · TLP viewer"
        with served(*command) as (again, _):  # loaded again, of a server that knows nothing of it
            viewer.page.reload()
            viewer.opened()
            np.testing.assert_array_equal(viewer.array("mask", shape), mask)
            assert viewer.state["cross"][2] == k
            assert drawn_in(viewer.array("mask", shape)) == [k]
    finally:
        viewer.forgive()
        context.__exit__(None, None, None)


def test_the_address_pasted_into_the_tab_that_asks_for_it_works(chromium: Browser) -> None:
    """That changes only the address's fragment, by which no page is loaded again."""
    tokens = ["first-token-of-the-server", "second-token-of-the-server"]
    i, j, k = MIDDLE
    case = case_of({"t1": BRAIN})
    with running(FakeEngine(SMALL), case, token=tokens[0]) as address:
        port = int(address.rsplit(":", 1)[1])
        context = viewing(chromium, address)
        viewer = context.__enter__()
        viewer.page.get_by_text("asks for its token").wait_for()
        viewer.forgive()
        viewer.page.evaluate("(hash) => void (location.hash = hash)", f"token={tokens[0]}")
        viewer.opened()
        assert "token" not in viewer.page.url
        viewer.show_slice(k)
        viewer.drag("t1", (i, j, k))
        viewer.idle()
        mask = viewer.array("mask", SHAPE)
    try:
        with running(FakeEngine(SMALL), case, port=port, token=tokens[1]):
            viewer.drag("t1", (i + 12, j, k))
            viewer.page.get_by_text("asks for its token").wait_for()
            viewer.page.evaluate("(hash) => void (location.hash = hash)", f"token={tokens[1]}")
            viewer.until("() => !window.tlp.state.busy && window.tlp.state.phase === 'live'")
            assert "token" not in viewer.page.url
            grown = viewer.idle().array("mask", SHAPE)
            assert (grown >= mask).all()
            assert grown.sum() > mask.sum()
    finally:
        viewer.forgive()
        context.__exit__(None, None, None)
