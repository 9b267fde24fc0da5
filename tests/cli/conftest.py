"""What the tests of the command line share."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest


@pytest.fixture
def case(phantom_case: Path, tmp_path: Path) -> dict[str, Path]:
    """A T1, T2 and seg in a folder with a space and an accent in its name.

    24 slices about the middle of the tumour: a scan of few slices is a scan.
    """
    folder = tmp_path / "scän 1"
    folder.mkdir()
    seg = nib.load(phantom_case / f"{phantom_case.name}_seg.nii.gz")
    middle = int(np.median(np.nonzero(np.asanyarray(seg.dataobj) == 1)[2]))
    paths = {}
    for kind in ("t1", "t2", "seg"):
        paths[kind] = folder / f"{kind}.nii.gz"
        image = nib.load(phantom_case / f"{phantom_case.name}_{kind}.nii.gz")
        nib.save(image.slicer[:, :, middle - 12 : middle + 12], paths[kind])
    return paths
