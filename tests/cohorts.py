"""Small cohorts in BraTS layout, and engines to run them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from tests.fakes.engine import FakeEngine
from tests.scans import SMALL
from tlp_runtime.cohort.cases import CohortCase, folder_cases
from tlp_runtime.cohort.job import Outcome
from tlp_runtime.cohort.pipeline import Pipeline
from tlp_runtime.cohort.run import Summary, run_cohort
from tlp_runtime.engines.base import Engine, Slices
from tlp_runtime.errors import EngineError
from tlp_runtime.synthesis.request import Request
from tlp_runtime.warnings import Warn

AFFINE = np.diag([-1.0, -1.0, 1.0, 1.0])


def write_cases(
    folder: Path, count: int, *, slices: int = 6, plane: tuple[int, int] = (80, 96)
) -> Path:
    """Cases of a few slices, the first without brain, in a plane that holds the model's crop."""
    x, y = plane[0] // 2, plane[1] // 2
    for number in range(count):
        rng = np.random.default_rng(number)
        t1 = np.zeros((*plane, slices + number % 3), np.int16)
        brain = t1[x - 24 : x + 24, y - 28 : y + 28, 1:]
        brain[...] = rng.integers(100, 900, brain.shape)
        seg = np.zeros(t1.shape, np.uint8)
        seg[x - 10 : x, y : y + 10, 2:4], seg[x : x + 4, y : y + 10, 2:4] = 1, 2
        case = folder / f"case-{number:03}"
        case.mkdir(parents=True)
        for kind, data in (("t1", t1), ("seg", seg)):
            image = nib.Nifti1Image(data, AFFINE)
            image.set_sform(AFFINE, 1)
            nib.save(image, case / f"{case.name}_{kind}.nii.gz")
    return folder


class SlowEngine(FakeEngine):
    """Takes a fixed time a batch, leaving the cores free."""

    def __init__(self, seconds: float = 0.0, number: int = 0) -> None:
        super().__init__(SMALL)
        self.device = f"cuda:{number}"
        self.seconds = seconds

    def _run(self, tensors: Mapping[str, Slices]) -> Slices:
        time.sleep(self.seconds)
        return super()._run(tensors)


class FailingEngine(SlowEngine):
    """Breaks down at its n-th batch, and at every one after it."""

    def __init__(self, good: int, number: int = 0) -> None:
        super().__init__(0.0, number)
        self.good = good

    def _run(self, tensors: Mapping[str, Slices]) -> Slices:
        if len(self.batches) >= self.good:
            raise EngineError("fake: the device fell off the bus")
        return super()._run(tensors)


def run(
    data: Path | list[CohortCase],
    out: Path,
    *engines: Engine,
    int16: bool = False,
    batch: int = 4,
    workers: int = 2,
    overwrite: bool = False,
    warn: Warn | None = None,
    on_outcome: Callable[[Outcome, Summary], None] | None = None,
    **options: Any,
) -> Summary:
    """A whole run, as the command line makes it; ``options`` are those of every request."""
    make = partial(Request, **options)
    cases = folder_cases(data, prompts=True, make=make) if isinstance(data, Path) else data
    pipeline = Pipeline(engines or [FakeEngine(SMALL)], batch=batch, workers=workers, warn=warn)
    with pipeline:
        return run_cohort(
            cases,
            out,
            pipeline,
            int16=int16,
            about={"model": "fake"},
            warn=warn,
            overwrite=overwrite,
            on_outcome=on_outcome,
        )


def outputs(out: Path) -> dict[str, bytes]:
    """Every file of a run but its journal."""
    return {
        path.name: path.read_bytes()
        for path in sorted(out.iterdir())
        if path.is_file() and "journal" not in path.name
    }
