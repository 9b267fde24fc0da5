"""What the viewer's page shows, and what it must not cover, clip or decide too early."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from playwright.sync_api import Browser

from tests.browser import Viewer, viewing
from tests.fakes.engine import FakeEngine
from tests.scans import SMALL, scan
from tests.servers import case_of, running

pytestmark = pytest.mark.timeout(300)

BRAIN = scan()
SHAPE = BRAIN.grid.reoriented("RAS").shape
MIDDLE = tuple(n // 2 for n in SHAPE)
TABLET = {"width": 768, "height": 1024}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with running(FakeEngine(SMALL), case_of({"t1": BRAIN}), max_sessions=100) as address:
        yield address


def pixel(viewer: Viewer, pane: str, voxel: tuple[int, ...]) -> tuple[int, int, int]:
    """Colour (0 to 255) of a pane's image at a voxel of the slice that is shown."""
    x, y = viewer.at(pane, voxel)
    found: list[int] = viewer.page.evaluate(
        """async ([pane, x, y]) => {
            const {gl} = window.tlp.panes[pane];
            const rect = gl.canvas.getBoundingClientRect();
            const scale = gl.canvas.width / rect.width;
            window.tlp.panes[pane].drawScene();
            const out = new Uint8Array(4);
            gl.readPixels((x - rect.left) * scale, gl.canvas.height - (y - rect.top) * scale, 1, 1,
                gl.RGBA, gl.UNSIGNED_BYTE, out);
            return [...out.slice(0, 3)];
        }""",
        [pane, x, y],
    )
    return found[0], found[1], found[2]


def is_grey(colour: tuple[int, int, int]) -> bool:
    return max(colour) - min(colour) <= 3


def test_the_window_follows_an_oblique_scan_until_it_is_complete(chromium: Browser) -> None:
    """Its first slices are interpolated from what is not there yet, and nearly black."""
    oblique = scan(degrees=25)
    shape = oblique.grid.reoriented("RAS").shape
    with (
        running(FakeEngine(SMALL), case_of({"t1": oblique})) as address,
        viewing(chromium, address) as viewer,
    ):
        viewer.opened()
        assert viewer.page.is_visible("#interpolated")
        plain = viewer.array("plain", shape)
        top = 2 * np.quantile(plain[plain > plain.max() / 10], 0.95)
        width = viewer.page.get_by_label("Synthetic T1ce: window width")
        assert float(width.input_value()) == pytest.approx(min(top, 1), rel=0.05)
        width.fill("0.4")
        width.press("Enter")
        viewer.page.get_by_label("Synthetic T1ce: reset the window").click()
        assert float(width.input_value()) == pytest.approx(min(top, 1), rel=0.05)
        # It stays there when a prompt brightens the image.
        viewer.tool("sphere")
        viewer.drag("t1", tuple(n // 2 for n in shape))
        viewer.idle()
        assert float(width.input_value()) == pytest.approx(min(top, 1), rel=0.05)


def test_a_scan_on_the_model_s_grid_is_not_called_interpolated(
    chromium: Browser, address: str
) -> None:
    with viewing(chromium, address) as viewer:
        viewer.opened()
        assert not viewer.page.is_visible("#interpolated")


def test_each_pane_shows_the_mask_in_its_own_way(chromium: Browser, address: str) -> None:
    """Filled over the scan; the synthesis and the difference are what is to be looked at."""
    i, j, k = MIDDLE
    with viewing(chromium, address) as viewer:
        page = viewer.opened().page
        viewer.show_slice(k)
        viewer.press("h")  # no crosshair
        viewer.tool("sphere")
        viewer.slider("radius_mm", 12)
        viewer.drag("t1", (i, j, k))
        viewer.idle()
        page.mouse.move(5, 5)
        within = (i + 4, j + 4, k)
        choice = {
            name: page.get_by_label(f"{title}: overlay of the mask")
            for name, title in (("t1", "T1"), ("synthesis", "Synthetic T1ce"))
        }
        assert choice["t1"].input_value() == "fill"
        assert not is_grey(pixel(viewer, "t1", within))
        assert choice["synthesis"].input_value() == "outline"
        assert is_grey(pixel(viewer, "synthesis", within))
        viewer.press("d")
        assert choice["synthesis"].input_value() == "none"
        viewer.press("d")
        assert choice["synthesis"].input_value() == "outline"
        # By hand, one pane at a time.
        choice["synthesis"].select_option("fill")
        viewer.idle()
        assert not is_grey(pixel(viewer, "synthesis", within))
        choice["t1"].select_option("none")
        viewer.idle()
        assert is_grey(pixel(viewer, "t1", within))
        assert choice["synthesis"].input_value() == "fill"
        page.mouse.click(*viewer.at("synthesis", (2, 2, k)), button="middle")
        viewer.press("o")
        assert choice["synthesis"].input_value() == "outline"
        assert choice["t1"].input_value() == "none"


def test_the_difference_of_a_core_that_did_not_change_is_black(chromium: Browser) -> None:
    """The mask is not painted over it as if it were a difference."""

    class Deaf(FakeEngine):
        def _run(self, tensors):  # type: ignore[no-untyped-def]
            return super()._run({**tensors, "prompt": tensors["prompt"] * 0})

    i, j, k = MIDDLE
    with (
        running(Deaf(SMALL), case_of({"t1": BRAIN})) as address,
        viewing(chromium, address) as viewer,
    ):
        viewer.opened()
        viewer.show_slice(k)
        viewer.press("h")
        viewer.tool("sphere")
        viewer.drag("t1", (i, j, k))
        viewer.idle()
        viewer.press("d")
        viewer.page.mouse.move(5, 5)
        viewer.idle()
        assert max(pixel(viewer, "synthesis", (i, j, k))) <= 6


@pytest.mark.parametrize("inputs", [("t1",), ("t1", "t2")], ids=" and ".join)
def test_nothing_is_clipped_on_a_tablet_held_upright(
    chromium: Browser, inputs: tuple[str, ...]
) -> None:
    from dataclasses import replace

    engine = FakeEngine(replace(SMALL, inputs=inputs))
    case = case_of({name: replace(BRAIN, name=name) for name in inputs}, spec=engine.spec)
    with running(engine, case) as address, viewing(chromium, address, TABLET) as viewer:
        page = viewer.opened().page
        for tool in ("brush", "fill", "box"):
            viewer.tool(tool)
            clipped = page.evaluate(
                """() => [
                    ...document.querySelectorAll("button, input, select, h2, span, p, output")]
                .filter((one) => one.checkVisibility() && !one.matches(".sr, [type=file]"))
                .filter((one) => {
                    const box = one.getBoundingClientRect();
                    if (box.width === 0) return false;
                    let inside = box.left >= -1 && box.right <= innerWidth + 1;
                    for (let up = one.parentElement; up; up = up.parentElement) {
                        const held = up.getBoundingClientRect();
                        const hides = getComputedStyle(up).overflowX !== "visible";
                        if (hides && (box.right > held.right + 1 || box.left < held.left - 1))
                            inside = false;
                    }
                    return !inside || (one.scrollWidth > one.clientWidth + 1 &&
                        getComputedStyle(one).overflowX !== "visible" &&
                        !one.matches("input, select"));
                })
                .map((one) => one.outerHTML.slice(0, 120))"""
            )
            assert clipped == []
        size = page.evaluate("() => [document.documentElement.scrollWidth, innerWidth]")
        assert size[0] <= size[1]
        canvases = page.evaluate(
            "() => [...document.querySelectorAll('.canvas-box')].map((one) => one.clientHeight)"
        )
        assert min(canvases) > 120
        viewer.screenshot(f"tablet {' '.join(inputs)}")


def test_a_fill_has_a_reach_and_leaves_the_other_class(chromium: Browser, address: str) -> None:
    i, j, k = MIDDLE
    with viewing(chromium, address) as viewer:
        viewer.opened()
        viewer.show_slice(k)
        viewer.click("label-2")
        viewer.tool("brush")
        viewer.drag("t1", (i, j + 6, k))
        viewer.click("label-1")
        viewer.tool("fill")
        viewer.slider("tolerance", 50)
        viewer.slider("reach_mm", 10)
        oedema = viewer.idle().array("mask", SHAPE) == 2
        assert oedema.any()
        viewer.drag("t1", (i, j, k))
        mask = viewer.idle().array("mask", SHAPE)
        np.testing.assert_array_equal(mask == 2, oedema)
        x, y, _ = np.nonzero(mask == 1)
        assert len(x) > 100
        assert np.hypot(x - i, y - j).max() <= 10
        assert (y > j + 7).any()  # it went on behind the other class
        viewer.press("z")
        viewer.page.check("#fill-over")
        viewer.drag("t1", (i, j, k))
        mask = viewer.idle().array("mask", SHAPE)
        assert (mask == 2).sum() < oedema.sum()
        # Erasing takes only the class that is chosen, unless it is told otherwise.
        viewer.press("z")
        viewer.page.uncheck("#fill-over")
        viewer.drag("t1", (i, j, k), button="right")
        np.testing.assert_array_equal(viewer.idle().array("mask", SHAPE) == 2, oedema)
