"""A training that is killed at any moment goes on to the weights of one that was not."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.train.runs import assert_equal_runs, new_run
from tlp_runtime.files.atomic import is_temporary
from tlp_train.resume import reopen
from tlp_train.runs import Run
from tlp_train.trainer import fit


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A folder on another file system than the temporary folder."""
    shared = Path("/dev/shm")
    if not os.access(shared, os.W_OK) or shared.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("a second file system that is writable was not found")
    folder = Path(tempfile.mkdtemp(prefix="tlp-test-", dir=shared))
    yield folder
    shutil.rmtree(folder)


def _train(folder: Path, cache: Path) -> None:
    part = reopen(folder, {})
    fit(part.run, cache, resume=part.resumes, progress=False)


def _kill(folder: Path, cache: Path, draw: random.Random, seconds: float) -> bool:
    """Train in a process that is killed at random; half of the times while a file is written."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload([__name__])
    process = server.Process(target=_train, args=(folder, cache))
    process.start()
    moment = time.monotonic() + draw.uniform(0, seconds)
    while process.is_alive() and time.monotonic() < moment:
        time.sleep(0.001)
    if draw.random() < 0.5:
        while process.is_alive() and not any(map(is_temporary, folder.iterdir())):
            pass
    process.kill()
    process.join()
    assert process.exitcode in (0, -9)
    return process.exitcode != 0


def _killed_at_random(straight: Run, data: Path, elsewhere: Path, *, seed: int, times: int) -> None:
    draw, early, cache = random.Random(seed), 0, elsewhere / "cache"
    began = time.monotonic()
    fit(new_run(elsewhere / "whole", data), cache, progress=False)
    seconds = time.monotonic() - began
    for number in range(times):
        run = new_run(elsewhere / f"run-{number}", data)
        for _ in range(draw.choice((1, 1, 2))):
            killed = _kill(run.folder, cache, draw, seconds)
            early += killed
            if not killed:
                break
        if Run.open(run.folder).status != "finished":
            _train(run.folder, cache)
        assert_equal_runs(Run.open(run.folder), straight)
        assert not list(filter(is_temporary, run.folder.iterdir()))
        shutil.rmtree(run.folder)
    assert early > times // 4, f"{early} of {times} were killed before their end"


def test_killed_at_any_moment_it_ends_with_the_same_weights(
    straight: Run, phantom_dir: Path, elsewhere: Path
) -> None:
    _killed_at_random(straight, phantom_dir, elsewhere, seed=1, times=2)


@pytest.mark.proof
@pytest.mark.timeout(1800)
def test_fifty_times_killed(straight: Run, phantom_dir: Path, elsewhere: Path) -> None:
    _killed_at_random(straight, phantom_dir, elsewhere, seed=2, times=50)
