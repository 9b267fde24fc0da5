"""NIfTI images as tests of the command line read and write them."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np


def image_of(path: Path) -> tuple[np.ndarray, nib.Nifti1Image]:
    image = nib.load(path)
    return np.asanyarray(image.dataobj).copy(), image


def save(path: Path, data: np.ndarray, affine: np.ndarray) -> Path:
    nib.save(nib.Nifti1Image(data, affine), path)
    return path
