"""Machines that several tests of the runtime share."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import dicom_series
from tests.fakes.engine import FakeEngine
from tests.fakes.machine import Machine
from tests.fakes.tensorrt_binding import VERSIONS
from tests.scans import SMALL, scan
from tests.support import TinyModel
from tlp_runtime import Request, Synthesizer


@pytest.fixture(params=VERSIONS)
def machine(request: pytest.FixtureRequest, tiny: TinyModel, tmp_path: Path) -> Machine:
    return Machine(request.param, tmp_path, tiny.bundle)


@pytest.fixture
def rtx(tiny: TinyModel, tmp_path: Path) -> Machine:
    return Machine("1.7.1", tmp_path, tiny.bundle)


@pytest.fixture
def enterprise(tiny: TinyModel, tmp_path: Path) -> Machine:
    return Machine("11.4.0", tmp_path, tiny.bundle)


@pytest.fixture
def series(tmp_path: Path) -> Path:
    """A folder with a DICOM series of :func:`~tests.fakes.dicom_series.head`."""
    return dicom_series.write(dicom_series.datasets(dicom_series.head()), tmp_path / "sérïes 1")


@pytest.fixture
def place(tiny: TinyModel, tlp_home: Path) -> Callable[[str], Path]:
    """Puts a T1 model of a name of its own into the store's folder; registers nothing."""

    def one(name: str) -> Path:
        target = tlp_home / "models" / name
        shutil.copytree(tiny.bundle.path, target)
        manifest = json.loads((target / "manifest.json").read_text())
        manifest["provenance"]["run"] = name
        (target / "manifest.json").write_text(json.dumps(manifest))
        return target

    return one


@pytest.fixture(scope="session")
def record() -> dict[str, Any]:
    """The record of a synthesis, for derived series of which its names and versions matter."""
    with Synthesizer(FakeEngine(SMALL)) as synthesizer:
        return synthesizer.run(Request(images={"t1": scan()})).record.to_dict()
