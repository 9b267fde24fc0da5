"""What the tests of the command line share."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def case(phantom_case: Path, tmp_path: Path) -> dict[str, Path]:
    """A T1, T2 and seg in a folder with a space and an accent in its name."""
    folder = tmp_path / "scän 1"
    folder.mkdir()
    paths = {}
    for kind in ("t1", "t2", "seg"):
        paths[kind] = folder / f"{kind}.nii.gz"
        shutil.copy(phantom_case / f"{phantom_case.name}_{kind}.nii.gz", paths[kind])
    return paths
