"""Draw and see, in a real browser."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser
from tlp_cli.main import main

from tests.browser import SIZE, changed, drawn_in, viewing
from tests.fakes.engine import FakeEngine
from tests.scans import SMALL, scan
from tests.servers import case_of, running, saved, served
from tests.support import TinyModel
from tlp_runtime import Volume
from tlp_runtime.engines.base import Slices
from tlp_runtime.io.nifti import read_volume

pytestmark = pytest.mark.timeout(300)

BRAIN = scan()
GRID = BRAIN.grid.reoriented("RAS")
SHAPE = GRID.shape
MIDDLE = tuple(n // 2 for n in SHAPE)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A server with a case, of an engine that answers at once."""
    with running(FakeEngine(SMALL), case_of({"t1": BRAIN}), max_sessions=100) as address:
        yield address


@pytest.fixture
def slab(phantom_case: Path, tmp_path: Path) -> Path:
    """The T1 of a phantom case, twelve slices of it about the middle of the brain."""
    t1 = read_volume(phantom_case / f"{phantom_case.name}_t1.nii.gz")
    affine = t1.affine.copy()
    affine[:3, 3] = t1.grid.world(np.array([[0, 0, 70]]))[0]
    return saved(Volume(np.asfortranarray(t1.data[:, :, 70:82]), affine), tmp_path / "t1.nii.gz")


def test_a_phantom_case_from_the_first_stroke_to_the_saved_mask(
    chromium: Browser, tiny: TinyModel, slab: Path, tmp_path: Path
) -> None:
    """`tlp view` with a real model; what the page shows is what `tlp infer` makes of its mask."""
    command = ("view", "--t1", slab, "--model", tiny.bundle.path, "--no-open")
    with served(*command) as (address, _), viewing(chromium, address) as viewer:
        viewer.opened()
        shape = read_volume(slab).grid.reoriented("RAS").shape
        before = viewer.array("synthesis", shape)
        np.testing.assert_array_equal(before, viewer.array("plain", shape))
        assert before.any()
        # A stroke by the mouse, in one slice.
        i, j, k = shape[0] // 2 - 20, shape[1] // 2, 5
        viewer.show_slice(k)
        viewer.tool("brush")
        viewer.drag("t1", (i, j, k), (i + 12, j + 8, k), (i + 20, j, k))
        viewer.idle()
        mask, after = viewer.array("mask", shape), viewer.array("synthesis", shape)
        assert drawn_in(mask) == [k]
        assert set(np.unique(mask)) == {0, 1}
        assert mask[i, j, k] == mask[i + 12, j + 8, k] == mask[i + 20, j, k] == 1
        assert changed(before, after) == [k]
        np.testing.assert_array_equal(viewer.array("plain", shape), before)
        text = viewer.page.inner_text("footer")
        for part in ("page", "network", "queue", "engine", "paint"):
            assert re.search(rf"{part}\D*\d", text), text
        # A ball over several slices, in the other pane, of the other class.
        viewer.tool("sphere")
        viewer.click("label-2")
        viewer.drag("synthesis", (i + 60, j + 20, k))
        viewer.idle()
        ball = viewer.array("mask", shape)
        slices = drawn_in(ball == 2)
        assert len(slices) > 5
        assert changed(after, viewer.array("synthesis", shape)) == slices
        viewer.screenshot("phantom case, brush and sphere")
        # Saved, and run by the command line.
        roi = viewer.save("save-mask", tmp_path / "roi.nii.gz")
        kept = viewer.save("save-synthesis", tmp_path / "kept.nii.gz")
        out = tmp_path / "out.nii.gz"
        arguments = ("infer", "--t1", slab, "--prompt", roi, "--out", out, "-q")
        assert main([*map(str, arguments), "--model", str(tiny.bundle.path)]) == 0
        made = read_volume(out)
        np.testing.assert_array_equal(read_volume(kept).data, made.data)
        shown = viewer.array("synthesis", shape)
        np.testing.assert_array_equal(made.reoriented("RAS").data, shown)
        # Undone, step by step, to the bit; and done again.
        viewer.press("Control+z")
        viewer.idle()
        np.testing.assert_array_equal(viewer.array("mask", shape), mask)
        np.testing.assert_array_equal(viewer.array("synthesis", shape), after)
        viewer.click("undo")
        viewer.idle()
        assert not viewer.array("mask", shape).any()
        np.testing.assert_array_equal(viewer.array("synthesis", shape), before)
        viewer.press("y", "y")
        viewer.idle()
        np.testing.assert_array_equal(viewer.array("synthesis", shape), shown)
    assert main(["infer", "--t1", str(slab), "--out", str(out), "--overwrite", "-q", "--model",
                 str(tiny.bundle.path)]) == 0  # fmt: skip
    np.testing.assert_array_equal(read_volume(out).reoriented("RAS").data, before)


def test_every_tool_by_the_mouse(chromium: Browser, address: str) -> None:
    i, j, k = MIDDLE
    with viewing(chromium, address) as viewer:
        viewer.opened()
        viewer.show_slice(k)

        def mask() -> np.ndarray:
            return viewer.idle().array("mask", SHAPE)

        viewer.tool("contour")
        viewer.drag(
            "t1", (i - 8, j - 8, k), (i + 8, j - 8, k), (i + 8, j + 8, k), (i - 8, j + 8, k)
        )
        contour = mask()
        assert drawn_in(contour) == [k]
        assert contour[i, j, k] == 1  # filled
        assert 200 < contour.sum() < 340
        viewer.tool("eraser")
        viewer.slider("brush_mm", 5)
        viewer.drag("synthesis", (i, j, k))
        erased = mask()
        assert erased[i, j, k] == 0
        assert 12 < contour.sum() - erased.sum() < 32
        viewer.tool("brush")
        viewer.drag("t1", (i - 6, j - 6, k), button="right")  # erases too
        assert mask().sum() < erased.sum()
        viewer.press("z", "z")
        viewer.click("label-2")
        viewer.tool("box")
        viewer.slider("depth_mm", 5)
        viewer.drag("t1", (i - 10, j + 12, k), (i - 4, j + 16, k))
        box = mask()
        assert set(drawn_in(box == 2)) == {k - 2, k - 1, k, k + 1, k + 2}
        assert (box == 2).sum() == 7 * 5 * 5
        viewer.tool("sphere")
        viewer.click("label-1")
        viewer.slider("radius_mm", 4)
        viewer.drag("synthesis", (i + 12, j + 14, k))
        ball = mask()
        inside = GRID.world(np.argwhere(ball != box)) - GRID.world(np.array([[i + 12, j + 14, k]]))
        assert 3 < np.linalg.norm(inside, axis=1).max() <= 4.5
        viewer.tool("fill")
        viewer.slider("tolerance", 40)
        viewer.drag("t1", (i, j - 20, k))
        filled = mask()
        assert drawn_in(filled != ball) == [k]
        assert (filled != ball).sum() > 300
        viewer.screenshot("every tool")
        viewer.click("clear")
        assert not mask().any()
        assert changed(viewer.array("synthesis", SHAPE), viewer.array("plain", SHAPE)) == []
        viewer.press("Control+z")
        np.testing.assert_array_equal(mask(), filled)


def test_everything_by_the_keyboard_alone(chromium: Browser, address: str) -> None:
    with viewing(chromium, address) as viewer:
        viewer.opened()
        viewer.press("s", "2", *["ArrowRight"] * 3, "ArrowUp", "PageUp", " ")
        viewer.idle()
        mask = viewer.array("mask", SHAPE)
        x, y, z = viewer.state["cross"]
        assert mask[x, y, z] == 2
        assert len(drawn_in(mask)) > 5
        viewer.press("b", "1", "Shift+ArrowLeft", "Shift+ArrowLeft", "Enter")
        viewer.idle()
        assert (viewer.array("mask", SHAPE) == 1).any()
        for key, expected in (("p", "plain"), ("p", "synthesis"), ("d", "difference")):
            viewer.press(key)
            assert viewer.idle().state["shown"] == expected
        viewer.screenshot("difference")
        viewer.press("m")
        viewer.idle().screenshot("multiplanar")
        viewer.press("?")
        assert viewer.page.is_visible("dialog")
        viewer.screenshot("help")


def test_what_is_drawn_and_not_seen_is_outlined_on_demand(chromium: Browser, address: str) -> None:
    yellow = """() => {
        const over = [...document.querySelectorAll('[data-pane=synthesis] canvas')].at(-1);
        const {data} = over.getContext("2d").getImageData(0, 0, over.width, over.height);
        let count = 0;
        for (let i = 0; i < data.length; i += 4)
            count += data[i] > 200 && data[i + 1] > 160 && data[i + 2] < 120 && data[i + 3] > 200;
        return count;
    }"""
    with viewing(chromium, address) as viewer:
        viewer.opened()
        viewer.click("evidence")
        said = "() => document.getElementById('evidence-text').textContent"
        viewer.until(f"() => ({said})().startsWith('0.0 ml')")
        assert viewer.page.evaluate(yellow) == 0
        viewer.press("s", " ")
        viewer.idle()
        ball = (viewer.array("mask", SHAPE) == 1) & (BRAIN.reoriented("RAS").data != 0)
        expected = f"{ball.sum() * GRID.voxel_ml:.1f} ml are drawn, not seen"
        viewer.until(f"() => ({said})() === '{expected}'")
        assert viewer.page.evaluate(yellow) > 100
        viewer.screenshot("drawn, not seen")
        viewer.press("v")
        viewer.until(f"() => ({said})() === ''")
        viewer.page.evaluate("() => new Promise(requestAnimationFrame)")
        assert viewer.page.evaluate(yellow) == 0


def test_the_page_fits_a_small_screen_and_says_what_it_is(chromium: Browser, address: str) -> None:
    with viewing(chromium, address) as viewer:
        viewer.opened()
        size = viewer.page.evaluate(
            "() => [document.documentElement.scrollWidth, document.documentElement.scrollHeight]"
        )
        assert size == [SIZE["width"], SIZE["height"]]
        text = viewer.page.inner_text("body")
        assert "not for diagnosis" in text
        assert "Radiological: patient's right on the left" in text
        assert "fake" in text  # the engine
        unnamed = viewer.page.evaluate(
            """() => [...document.querySelectorAll("button, input")].filter((element) =>
                !(element.textContent || "").trim() && !element.getAttribute("aria-label")
                && !element.labels?.length && !element.getAttribute("aria-labelledby"))
                .map((element) => element.outerHTML)"""
        )
        assert unnamed == []


class DarkEngine(FakeEngine):
    """Its brightest voxels are far below 1, as of a scan in which one vessel outshines the rest."""

    def _run(self, tensors: Mapping[str, Slices]) -> Slices:
        return super()._run(tensors) * np.float32(0.4) - np.float32(0.7)


def test_a_dark_synthesis_is_seen_until_somebody_sets_its_window(chromium: Browser) -> None:
    with (
        running(DarkEngine(SMALL), case_of({"t1": BRAIN})) as address,
        viewing(chromium, address) as viewer,
    ):
        viewer.opened()
        plain = viewer.array("plain", SHAPE)
        top = 2 * np.quantile(plain[plain > plain.max() / 10], 0.95)
        assert top < 0.8
        width, level = (
            viewer.page.get_by_label(f"Synthetic T1ce: window {field}")
            for field in ("width", "level")
        )

        def window() -> tuple[float, float]:
            return float(width.input_value()), float(level.input_value())

        assert window() == pytest.approx((top, top / 2), abs=0.01)
        width.fill("0.3")
        level.fill("")  # is no level
        viewer.drag("t1", MIDDLE)
        viewer.press("d", "d", "p")
        viewer.idle()
        assert window() == pytest.approx((0.3, top / 2), abs=0.01)
        viewer.page.get_by_label("Synthetic T1ce: reset the window").click()
        assert window() == pytest.approx((top, top / 2), abs=0.01)


@pytest.mark.parametrize("inputs", [("t1", "t2"), ("t2",)], ids=" and ".join)
def test_a_pane_for_each_image_of_the_model(chromium: Browser, inputs: tuple[str, ...]) -> None:
    i, j, k = MIDDLE
    images = {name: replace(BRAIN, name=name) for name in inputs}
    engine = FakeEngine(replace(SMALL, inputs=inputs))
    with (
        running(engine, case_of(images, spec=engine.spec)) as address,
        viewing(chromium, address) as viewer,
    ):
        viewer.opened()
        viewer.show_slice(k)
        for n, pane in enumerate((*inputs, "synthesis")):
            viewer.drag(pane, (i - 12 + 12 * n, j, k))
            viewer.idle()
            assert viewer.array("mask", SHAPE)[i - 12 + 12 * n, j, k] == 1
        assert changed(viewer.array("plain", SHAPE), viewer.array("synthesis", SHAPE)) == [k]
        viewer.screenshot(f"panes {' '.join(inputs)}")
