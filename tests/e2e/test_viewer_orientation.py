"""The spot that is drawn in the browser is the spot in the patient."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page

from tests.browser import viewing
from tests.fakes.engine import FakeEngine
from tests.scans import SMALL, scan
from tests.servers import case_of, running
from tlp_runtime.geometry.grid import Grid
from tlp_runtime.io.nifti import read_volume

pytestmark = pytest.mark.timeout(300)

ORIENTED = {
    "RAS": {"orientation": "RAS"},
    "LPS": {"orientation": "LPS"},
    "oblique": {"orientation": "PIR", "degrees": 17, "spacing": (1.1, 0.9, 1.6)},
}


@pytest.mark.parametrize("name", ORIENTED)
def test_the_spot_that_is_drawn_is_the_spot_in_the_world(
    chromium: Browser, name: str, tmp_path: Path
) -> None:
    """A bright ball is found on the screen, by eye as it were, and clicked on."""
    plain = scan(**ORIENTED[name])  # type: ignore[arg-type]
    grid = plain.grid.reoriented("RAS")
    voxel = np.array(
        [[round(grid.shape[0] * 0.66), round(grid.shape[1] * 0.4), grid.shape[2] // 2]]
    )
    (landmark,) = grid.world(voxel)
    t1 = scan(**ORIENTED[name], landmark=tuple(landmark))  # type: ignore[arg-type]
    with (
        running(FakeEngine(SMALL), case_of({"t1": t1})) as address,
        viewing(chromium, address) as viewer,
    ):
        viewer.opened()
        viewer.show_slice(int(voxel[0, 2]))
        viewer.press("h")  # no crosshair in the way
        for field, value in (("width", 1400), ("level", 700)):  # the ball alone is bright
            viewer.page.get_by_label(f"T1: window {field}").fill(str(value))
            viewer.page.keyboard.press("Tab")
        viewer.tool("brush")
        viewer.slider("brush_mm", 1)
        viewer.idle()
        x, y = bright_spot(viewer.page.screenshot(), viewer.page, "t1")
        viewer.page.mouse.click(x, y)
        viewer.idle()
        viewer.screenshot(f"orientation {name}")
        # Radiological: the patient's right is on the left. The spot is right of the brain's middle.
        middle = viewer.at("t1", tuple(grid.voxels(np.array([[0.0, 0.0, 0.0]]))[0]))[0]
        assert (x < middle) == (landmark[0] > 0)
        roi = read_volume(viewer.save("save-mask", tmp_path / "roi.nii.gz"))
    assert roi.grid.orientation == t1.grid.orientation
    drawn = roi.grid.world(np.argwhere(roi.data))
    assert 1 <= len(drawn) <= 4
    off = Grid(roi.shape, roi.affine).voxels(drawn.mean(axis=0)[None]) - roi.grid.voxels(
        landmark[None]
    )
    assert np.abs(off).max() <= 0.5, off


def bright_spot(png: bytes, page: Page, pane: str) -> tuple[float, float]:
    """The centre of what is brightest in a pane, in the page's pixels."""
    box = page.evaluate(
        """(pane) => {
            const box = window.tlp.panes[pane].canvas.getBoundingClientRect();
            return [box.left, box.top, box.right, box.bottom];
        }""",
        pane,
    )
    left, top, right, bottom = (round(edge) for edge in box)
    grey = np.asarray(Image.open(io.BytesIO(png)).convert("L"), float)[top:bottom, left:right]
    grey[:24] = grey[-24:] = grey[:, :24] = grey[:, -24:] = 0  # letters at the edges
    rows, columns = np.nonzero(grey >= 0.7 * grey.max())
    assert 30 < len(rows) < 6000
    return left + columns.mean() + 0.5, top + rows.mean() + 0.5
