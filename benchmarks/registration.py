"""The registration recipe of docs/geometry.md on real T2 scans that were moved.

    python -m benchmarks.registration --data ../shared/data/brats

Each T2 is turned by 10 degrees about (1, 1, 1), shifted by 12 mm and cut into 2 mm slices. The
error is the distance between where the recipe and where the movement puts a point of the T1's
brain; what the T2 differed from its T1 beforehand is in it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813
from scipy.spatial.transform import Rotation

from tlp_runtime.io.datasets import find_cases

PAGE = Path(__file__).resolve().parents[1] / "docs" / "geometry.md"
DEGREES, SHIFT_MM = 10.0, 12.0


def recipe() -> str:
    """The code of the page."""
    blocks: list[str] = re.findall(
        r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL
    )
    return next(block for block in blocks if "ImageRegistrationMethod" in block)


def moved(image: Any) -> tuple[Any, Any]:
    """The image in another position, and the transform from there to where it was."""
    size = np.array(image.GetSize())
    movement = sitk.Euler3DTransform()
    movement.SetCenter(image.TransformContinuousIndexToPhysicalPoint(((size - 1) / 2).tolist()))
    axis = np.ones(3) / np.sqrt(3)
    turned = Rotation.from_rotvec(np.deg2rad(DEGREES) * axis).as_matrix()
    movement.SetMatrix(turned.ravel().tolist())
    movement.SetTranslation((SHIFT_MM * axis).tolist())
    grid = sitk.Image([int(size[0]), int(size[1]), int(size[2] // 2)], sitk.sitkFloat32)
    grid.SetSpacing((1.0, 1.0, 2.0))
    grid.SetOrigin(image.GetOrigin())
    grid.SetDirection(image.GetDirection())
    return sitk.Resample(image, grid, movement), movement


def errors_mm(t1: Path, t2: Path) -> tuple[np.ndarray, float]:
    """Distance at points of the brain in mm, and seconds that the recipe took."""
    fixed = sitk.ReadImage(os.fspath(t1), sitk.sitkFloat32)
    away, movement = moved(sitk.ReadImage(os.fspath(t2), sitk.sitkFloat32))
    names: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        sitk.WriteImage(fixed, "t1.nii.gz")
        sitk.WriteImage(away, "t2.nii.gz")
        began = time.perf_counter()
        exec(recipe(), names)
        seconds = time.perf_counter() - began
    back, found = movement.GetInverse(), names["found"]
    brain = np.argwhere(sitk.GetArrayViewFromImage(fixed) > 0)[::997, ::-1]
    points = [fixed.TransformIndexToPhysicalPoint(index.tolist()) for index in brain]
    gaps = [np.subtract(found.TransformPoint(p), back.TransformPoint(p)) for p in points]
    return np.linalg.norm(gaps, axis=1), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    for case in find_cases(parser.parse_args().data, ("t1", "t2")):
        gaps, seconds = errors_mm(case.files["t1"], case.files["t2"])
        print(f"{case.name}: mean {gaps.mean():.2f} mm, largest {gaps.max():.2f}, {seconds:.0f} s")


if __name__ == "__main__":
    main()
