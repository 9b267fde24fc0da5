"""A server of a fake engine, and scans to send to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fakes.engine import FakeEngine
from tests.scans import SMALL, scan
from tests.servers import running, saved


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a scan, and one beside it that is nobody's business."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "served" / "päti ent").mkdir(parents=True)
    saved(scan(), folder / "served" / "päti ent" / "t1.nii.gz")
    saved(scan(), folder / "served" / "t1.nii")
    saved(scan(), folder / "secret.nii")
    (folder / "served" / "notes.txt").write_text("no scan")
    (folder / "served" / ".hidden").mkdir()
    (folder / "served" / "out").symlink_to(folder)
    (folder / "served" / "out.nii").symlink_to(folder / "secret.nii")
    (folder / "served" / "in.nii").symlink_to(folder / "served" / "t1.nii")
    return folder / "served"


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[str]:
    """Its address."""
    limits: dict[str, Any] = {
        "max_sessions": 500,
        "max_upload_mib": 8,
        "max_volume_mib": 16,
        "timeout_s": 20,
    }
    with running(FakeEngine(SMALL), root=root, **limits) as address:
        yield address


@pytest.fixture
def http(server: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server, timeout=30) as client:
        yield client
