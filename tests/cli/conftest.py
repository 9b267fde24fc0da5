"""What the tests of the command line share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.scans import slab


@pytest.fixture
def case(phantom_case: Path, tmp_path: Path) -> dict[str, Path]:
    """A T1, T2 and seg in a folder with a space and an accent in its name.

    24 slices about the middle of the tumour: a scan of few slices is a scan.
    """
    folder = tmp_path / "scän 1"
    folder.mkdir()
    return slab(phantom_case, folder, 12)
