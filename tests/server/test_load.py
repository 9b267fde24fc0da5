"""Many readers at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.fakes.engine import FakeEngine
from tests.scans import SMALL, scan
from tests.servers import Page, running, saved, served
from tests.support import TinyModel
from tlp_runtime import Synthesizer, Volume
from tlp_runtime.engines.base import Engine
from tlp_runtime.engines.onnx import OnnxEngine
from tlp_runtime.interactive.canvas import SHOWN
from tlp_runtime.io.nifti import read_volume
from tlp_runtime.synthesis.request import Prompt, Request


@dataclass
class Reader:
    """Somebody who draws; every answer is compared with the offline result.

    Attributes
    ----------
    began
        Met by all readers when their first synthesis is there.
    """

    address: str
    engine: Engine
    image: Volume
    seed: int
    strokes: int
    began: threading.Barrier
    wrong: list[str] = field(default_factory=list)
    compared: int = 0

    def read(self) -> None:
        try:
            with httpx.Client(base_url=self.address, timeout=120) as http:
                self._read(http)
        except Exception as error:
            self.wrong.append(f"reader {self.seed}: {error!r}")
            self.began.abort()

    def _read(self, http: httpx.Client) -> None:
        page, rng = Page.open(http, t1="t1.nii.gz"), np.random.default_rng(self.seed)
        page.go_on()
        self.began.wait(240)
        for number in range(self.strokes):
            extent = (*rng.integers(2, 9, 2), rng.integers(1, 4))
            start = [
                int(rng.integers(n // 3, 2 * n // 3 - e))
                for n, e in zip(page.info["shape"], extent, strict=True)
            ]
            before = page.mask.copy()
            labels = rng.integers(0, 3, extent, dtype=np.uint8)
            stream = page.draw(start, labels, first=start[2])
            drawn = set(np.flatnonzero((page.mask != before).any(axis=(0, 1))).tolist())
            came = {k for frame in stream for k in frame.header["slices"]}
            if stream[-1].state != "done" or not came <= drawn:
                self.wrong.append(f"reader {self.seed}, stroke {number}: {stream[-1].header}")
            mask = Volume(page.mask, np.array(page.info["affine"]))
            expected = (
                Synthesizer(self.engine)
                .run(Request(images={"t1": self.image}, prompt=Prompt(mask)))
                .volume
            )
            if not np.array_equal(expected.reoriented(SHOWN).data, page.shown["synthesis"]):
                self.wrong.append(f"reader {self.seed}, stroke {number}: differs")
            self.compared += 1
        http.delete(page.path)


def load(
    address: str,
    own: Engine,
    folder: Path,
    sessions: int,
    strokes: int,
    meanwhile: Callable[[], None] = lambda: None,
) -> None:
    """Run readers side by side; raise unless every answer was right.

    Parameters
    ----------
    own
        Makes the offline results.
    meanwhile
        Called once all sessions are open and have their first synthesis.
    """
    image = read_volume(folder / "t1.nii.gz")
    began = threading.Barrier(sessions, action=meanwhile)
    readers = [Reader(address, own, image, seed, strokes, began) for seed in range(sessions)]
    threads = [threading.Thread(target=reader.read) for reader in readers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(3000)
    wrong = [line for reader in readers for line in reader.wrong]
    assert not wrong, wrong[:5]
    assert sum(reader.compared for reader in readers) == sessions * strokes
    assert httpx.get(f"{address}/api/status").json()["sessions"] == 0


def test_readers_side_by_side_get_the_offline_result(tmp_path: Path) -> None:
    saved(scan(orientation="RAS"), tmp_path / "t1.nii.gz")
    with running(FakeEngine(SMALL), root=tmp_path) as address:
        load(address, FakeEngine(SMALL), tmp_path, sessions=8, strokes=4)


@pytest.mark.proof
@pytest.mark.timeout(3600)
def test_fifty_readers_of_twenty_strokes(
    tiny: TinyModel, phantom_case: Path, tmp_path: Path
) -> None:
    """`tlp serve` in a process of its own, whose memory stays."""
    t1 = read_volume(phantom_case / f"{phantom_case.name}_t1.nii.gz")
    affine = t1.affine.copy()
    affine[:3, 3] = t1.grid.world(np.array([[0, 0, 70]]))[0]
    saved(Volume(np.asfortranarray(t1.data[:, :, 70:82]), affine), tmp_path / "t1.nii.gz")
    command = ["serve", "--root", tmp_path, "--port", 0, "--model", tiny.bundle.path]
    limits = ["--max-sessions", 50, "--timeout", 600, "--engine", "ort-cpu", "--threads", 1]
    with served(*command, *limits) as (address, process):
        samples: list[float] = []

        def sample() -> None:
            status = Path(f"/proc/{process.pid}/status").read_text()
            samples.append(int(status.split("VmRSS:")[1].split()[0]) / 1024)

        own = OnnxEngine(tiny.bundle, threads=1)
        load(address, own, tmp_path, sessions=50, strokes=20, meanwhile=sample)
        sample()
        assert samples[1] < samples[0] * 1.1, samples
