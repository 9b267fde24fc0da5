"""Scans of any geometry with a landmark, and how tests run them."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations, product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from scipy.spatial.transform import Rotation

from tests.fakes.engine import TINY_NETWORK, FakeEngine
from tlp_runtime import Synthesizer, Volume
from tlp_runtime.geometry.grid import Grid
from tlp_runtime.spec.model import CropSpec, ModelSpec
from tlp_runtime.synthesis.request import Request

SMALL = ModelSpec(
    inputs=("t1",),
    network=TINY_NETWORK,
    crop=CropSpec(rows=(8, 88), columns=(8, 72), slices=(0, 4)),
)
DUAL = replace(SMALL, inputs=("t1", "t2"))
ORDERS = ["".join(codes) for axes in permutations(("LR", "AP", "IS")) for codes in product(*axes)]
SEMIAXES_MM = np.array([26.0, 34.0, 30.0])


def rotation(axis: np.ndarray, degrees: float) -> np.ndarray:
    """(3, 3) rotation about an axis."""
    vector = np.deg2rad(degrees) * axis / np.linalg.norm(axis)
    matrix: np.ndarray = Rotation.from_rotvec(vector).as_matrix()
    return matrix


def scan(
    *,
    spacing: tuple[float, float, float] = (1, 1, 1),
    degrees: float = 0.0,
    axis: tuple[float, float, float] = (1, 2, 3),
    centre: tuple[float, float, float] = (0, 0, 0),
    orientation: str = "LPS",
    landmark: tuple[float, float, float] | None = None,
    name: str = "t1",
) -> Volume:
    """An ellipsoidal brain about ``centre`` (mm RAS), with a bright ball at a landmark."""
    columns = rotation(np.array(axis), degrees) @ np.diag([-1.0, -1.0, 1.0]) * spacing
    # Off its middle by a fraction of a voxel, as scans are.
    shape = [int(n) for n in np.ceil(2 * (SEMIAXES_MM + 12) / spacing)]
    affine = np.eye(4)
    affine[:3, :3] = columns
    affine[:3, 3] = np.array(centre) - columns @ ((np.array(shape) - 1) / 2 + 0.3)
    grid = Grid((shape[0], shape[1], shape[2]), affine).reoriented(orientation)
    points = grid.world(np.indices(grid.shape).reshape(3, -1).T)
    away = (points - centre) / SEMIAXES_MM
    values = np.where((away**2).sum(axis=1) < 1, 300.0, 0.0)
    values[values > 0] += 60 * np.cos(points[values > 0] @ np.array([0.11, 0.07, 0.09]))
    if landmark is not None:
        squared = ((points - landmark) ** 2).sum(axis=1)
        values += np.where(values > 0, 900 * np.exp(-squared / (2 * 4.0**2)), 0)
    data = values.reshape(grid.shape).astype(np.float32)
    header = nib.Nifti1Header()
    header.set_data_shape(grid.shape)
    header.set_zooms(grid.spacing_mm)
    header.set_sform(grid.affine, 1)
    header.set_qform(grid.affine, 1)
    header.set_xyzt_units("mm")
    return Volume(data, header.get_sform(), header, name=name)


def run(t1: Volume, spec: ModelSpec = SMALL, **options: Any) -> Volume:
    with Synthesizer(FakeEngine(spec)) as synthesizer:
        return synthesizer.run(Request(images={"t1": t1}, **options)).volume


def peak(volume: Volume) -> np.ndarray:
    """Voxel indices of the bright ball's centre of mass."""
    weight = np.clip(volume.data - 0.75 * volume.data.max(), 0, None)
    indices = np.indices(volume.shape).reshape(3, -1)
    centre: np.ndarray = indices @ weight.ravel() / weight.sum()
    return centre


def slab(case: Path, folder: Path, half: int) -> dict[str, Path]:
    """T1, T2 and seg of a BraTS case, ``half`` slices to either side of its tumour's middle."""
    seg = nib.load(case / f"{case.name}_seg.nii.gz")
    middle = int(np.median(np.nonzero(np.asanyarray(seg.dataobj) == 1)[2]))
    paths = {}
    for kind in ("t1", "t2", "seg"):
        paths[kind] = folder / f"{kind}.nii.gz"
        image = nib.load(case / f"{case.name}_{kind}.nii.gz")
        nib.save(image.slicer[:, :, middle - half : middle + half], paths[kind])
    return paths
