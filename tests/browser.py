"""The viewer's page in a real browser, driven by its mouse and keyboard."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import Browser, Page, sync_playwright

from tests.support import need_tool

SIZE = {"width": 1280, "height": 720}
ARGUMENTS = (
    "--no-sandbox",
    "--use-angle=swiftshader",  # WebGL 2 without a GPU
    "--enable-unsafe-swiftshader",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
SCREENSHOTS = Path(__file__).resolve().parents[1] / "build" / "screenshots"
"""What a run of the tests saw; kept after it, and not committed."""


@contextmanager
def browser() -> Iterator[Browser]:
    """Headless Chromium."""
    program = need_tool("chromium", "chromium")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=list(ARGUMENTS))
        try:
            yield chromium
        finally:
            chromium.close()


@contextmanager
def viewing(
    chromium: Browser, address: str, size: dict[str, int] | None = None
) -> Iterator[Viewer]:
    """The page at an address; what its console calls an error fails the test."""
    context = chromium.new_context(viewport=size or SIZE, accept_downloads=True)  # type: ignore[arg-type]
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
    viewer = Viewer(page, wrong)
    page.goto(address)
    try:
        yield viewer
    finally:
        context.close()
    assert not wrong, wrong


@dataclass
class Viewer:
    """What a reader does, and what the page holds (``window.tlp``)."""

    page: Page
    wrong: list[str]

    def opened(self) -> Viewer:
        """Wait for a case and its first synthesis."""
        self.until("() => !!window.tlp && window.tlp.state.open")
        return self.idle()

    def idle(self) -> Viewer:
        """Wait until everything drawn is run and painted."""
        self.page.evaluate("() => window.tlp.idle()")
        return self

    def idle_view(self) -> None:
        """Wait for the next frame, in the middle of a gesture."""
        self.page.evaluate(
            "() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))"
        )

    def until(self, condition: str, seconds: float = 60) -> None:
        """Wait for a function of the page (by polling: its policy forbids what Playwright does)."""
        end = time.monotonic() + seconds
        while not self.page.evaluate(condition):
            assert time.monotonic() < end, f"not within {seconds} s: {condition}"
            time.sleep(0.05)

    @property
    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = self.page.evaluate("() => ({...window.tlp.state})")
        return state

    def array(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """``mask``, ``synthesis`` or ``plain`` as an (x, y, z) array."""
        text = self.page.evaluate(
            """(name) => {
                const held = window.tlp[name];
                const bytes = new Uint8Array(held.buffer, held.byteOffset, held.byteLength);
                let text = "";
                for (let at = 0; at < bytes.length; at += 32768)
                    text += String.fromCharCode(...bytes.subarray(at, at + 32768));
                return btoa(text);
            }""",
            name,
        )
        kind = np.uint8 if name == "mask" else np.float32
        return np.frombuffer(base64.b64decode(text), kind).reshape(shape, order="F")

    def show_slice(self, z: int) -> None:
        self.page.evaluate("(z) => window.tlp.showSlice(z)", z)

    def at(self, pane: str, voxel: tuple[float, ...]) -> tuple[float, float]:
        """Where a voxel's centre is on the screen."""
        place = self.page.evaluate(
            "([pane, x, y, z]) => window.tlp.screenOf(pane, x, y, z)", [pane, *map(float, voxel)]
        )
        return place["x"], place["y"]

    def drag(self, pane: str, *voxels: tuple[float, ...], button: Any = "left") -> None:
        """Press at the first voxel, move over the others, release."""
        mouse = self.page.mouse
        first, *others = (self.at(pane, voxel) for voxel in voxels)
        mouse.move(*first)
        mouse.down(button=button)
        for place in others:
            mouse.move(*place, steps=4)
        mouse.up(button=button)

    def tool(self, name: str) -> None:
        self.page.click(f"#tool-{name}")

    def click(self, name: str) -> None:
        """A button, by its id."""
        self.page.click(f"#{name}")

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def slider(self, name: str, value: int) -> None:
        """Set a slider as its user does, by the keyboard."""
        self.page.focus(f"#{name}")
        now = int(self.page.input_value(f"#{name}"))
        self.press(*["ArrowRight" if value > now else "ArrowLeft"] * abs(value - now))
        assert self.page.input_value(f"#{name}") == str(value)
        self.page.evaluate("() => document.activeElement.blur()")

    def load_mask(self, path: Path) -> None:
        """Choose a file where the page asks for a mask."""
        with self.page.expect_file_chooser() as chooser:
            self.click("load-mask")
        chooser.value.set_files(path)

    def save(self, button: str, path: Path) -> Path:
        """Click a button that downloads."""
        with self.page.expect_download() as download:
            self.click(button)
        download.value.save_as(path)
        return path

    def screenshot(self, name: str) -> Path:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        path = SCREENSHOTS / f"{re.sub(r'[^a-z0-9]+', '-', name.lower())}.png"
        self.page.screenshot(path=path)
        return path

    def forgive(self) -> None:
        """Forget errors that were expected (a server that was away)."""
        self.wrong.clear()


def changed(before: np.ndarray, after: np.ndarray) -> list[int]:
    """Slices (z) that differ."""
    slices: list[int] = np.flatnonzero((before != after).any(axis=(0, 1))).tolist()
    return slices


def drawn_in(mask: np.ndarray) -> list[int]:
    slices: list[int] = np.flatnonzero(mask.any(axis=(0, 1))).tolist()
    return slices
