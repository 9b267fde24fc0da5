"""Helpers of several tests."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tlp_runtime.models.bundle import Bundle
from tlp_runtime.models.choice import models

if TYPE_CHECKING:
    from tlp_train.runs import Run

DATA_DIR = Path(__file__).parent / "data"
PHANTOM, RUN, TINY, DUAL = "phantom", "run", "tiny-t1", "tiny-t1-t2"
"""Folders of what :mod:`tests.assets` makes."""
REAL_CASES = Path(__file__).resolve().parents[2] / "shared" / "data" / "brats"


def need_tool(name: str, package: str) -> str:
    """A program's path; the test is skipped where it is not installed, but fails in CI."""
    found = shutil.which(name)
    if found is None:
        message = f"{name} is not installed (Debian: apt-get install {package})"
        if os.environ.get("TLP_CI"):
            pytest.fail(message)
        pytest.skip(message)
    return found


@contextmanager
def public_folder() -> Iterator[Path]:
    """A temporary folder that every user of this machine can reach."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        folder.chmod(0o755)
        yield folder


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Take away the right to change ``folder`` and what is below it, from root too."""
    places = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    for place in places:
        place.chmod(0o555)
    root = os.geteuid() == 0  # whom no mode keeps out
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        for place in places:
            place.chmod(0o755)


@dataclass(frozen=True)
class TinyModel:
    """A T1 model of a few parameters, trained for a moment, and its exported bundle."""

    assets: Path

    @cached_property
    def bundle(self) -> Bundle:
        """The bundle made of its run."""
        return Bundle.open(self.assets / TINY)

    @property
    def run_folder(self) -> Path:
        """The finished run's folder."""
        return self.assets / RUN

    @cached_property
    def run(self) -> Run:
        """The finished run; needs PyTorch."""
        from tlp_train.runs import Run

        return Run.open(self.run_folder)

    def register(self) -> None:
        """Make it known under the current ``TLP_HOME``."""
        models().add(self.bundle.name, self.bundle.path)

    def copy(self, folder: Path) -> Path:
        """A copy of the bundle that a test may damage."""
        target = folder / "bundle copy"
        shutil.copytree(self.bundle.path, target)
        return target


def as_schema_1(spec: dict[str, Any]) -> dict[str, Any]:
    """A specification of the TLP network as it was written before schema 2."""
    network = dict(spec["network"]["options"])
    return {**spec, "schema": {"major": 1, "minor": 3}, "network": network}
