"""How surely a T2 that does not lie on its T1 is noticed, on real cases: one run, one table.

    python -m benchmarks.alignment --data ../shared/data/brats --json alignment.json

Of BraTS cases: every right pair as it is and made worse (thick slices, noise, a bias field, a
smaller mask, a field of view that is cut), turned, moved and mirrored; and the T2 of every other
case. Each is measured as `tlp infer` does it (tlp_runtime/values/alignment.py).
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import scipy
from scipy import ndimage
from scipy.spatial.transform import Rotation

from tlp_runtime import Volume
from tlp_runtime.bench.machine import environment
from tlp_runtime.geometry.grid import Grid
from tlp_runtime.geometry.resample import resampled
from tlp_runtime.io.datasets import find_cases
from tlp_runtime.io.nifti import read_volume
from tlp_runtime.values.alignment import Alignment, alignment

AXES = ((1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1))
Pair = tuple[Volume, Volume]


def turned(volume: Volume, degrees: float, axis: tuple[int, int, int]) -> Volume:
    """Turned about the middle of its brain."""
    vector = np.radians(degrees) * np.array(axis) / np.linalg.norm(axis)
    move = np.eye(4)
    move[:3, :3] = Rotation.from_rotvec(vector).as_matrix()
    centre = volume.grid.world(np.argwhere(volume.data[::4, ::4, ::4]) * 4.0).mean(axis=0)
    move[:3, 3] = centre - move[:3, :3] @ centre
    return Volume(volume.data, move @ volume.affine, name=volume.name)


def moved(volume: Volume, mm: float, axis: tuple[int, int, int]) -> Volume:
    """Moved along an axis of the world."""
    affine = volume.affine.copy()
    affine[:3, 3] += mm * np.array(axis) / np.linalg.norm(axis)
    return Volume(volume.data, affine, name=volume.name)


def thick(volume: Volume, axis: int) -> Volume:
    """With slices of 5 mm."""
    shape, affine = list(volume.shape), volume.affine.copy()
    shape[axis] //= 5
    affine[:3, axis] *= 5
    grid = Grid((shape[0], shape[1], shape[2]), affine)
    return Volume(resampled(volume, grid), affine, name=volume.name)


def noisy(volume: Volume) -> Volume:
    """With noise of half the standard deviation of the brain's values."""
    brain = volume.data != 0
    noise = np.random.default_rng(0).normal(0, volume.data[brain].std() / 2, brain.sum())
    data = volume.data.astype(np.float32)
    data[brain] = np.maximum(data[brain] + noise, 1)
    return Volume(data, volume.affine, name=volume.name)


def biased(volume: Volume) -> Volume:
    """With a field that makes one side e times as bright as the other."""
    along = np.linspace(-0.5, 0.5, volume.shape[0], dtype=np.float32)
    data = volume.data * np.exp(along)[:, None, None]
    return Volume(data, volume.affine, name=volume.name)


def peeled(volume: Volume) -> Volume:
    """With a mask that is smaller by 3 mm."""
    brain = ndimage.binary_erosion(volume.data != 0, iterations=3)
    return Volume(np.where(brain, volume.data, 0), volume.affine, name=volume.name)


def cut(volume: Volume) -> Volume:
    """Without its lowest 50 slices."""
    data = volume.data.copy()
    data[:, :, :50] = 0
    return Volume(data, volume.affine, name=volume.name)


def mirrored(volume: Volume) -> Volume:
    """Left and right exchanged."""
    return Volume(volume.data[::-1], volume.affine, name=volume.name)


WORSE: dict[str, Callable[[Volume, Volume], Pair]] = {
    "right": lambda a, b: (a, b),
    "right, T2 of 5 mm slices": lambda a, b: (a, thick(b, 2)),
    "right, T1 sagittal and T2 axial, 5 mm": lambda a, b: (thick(a, 0), thick(b, 2)),
    "right, noisy": lambda a, b: (noisy(a), noisy(b)),
    "right, bias field": lambda a, b: (biased(a), b),
    "right, T2 mask smaller by 3 mm": lambda a, b: (a, peeled(b)),
    "right, T2 without its lowest 50 slices": lambda a, b: (a, cut(b)),
    "mirrored": lambda a, b: (a, mirrored(b)),
}


def pairs(volumes: dict[str, Pair]) -> Iterator[tuple[str, str, Volume, Volume]]:
    """Kind, name and the two images of every pair."""
    for name, (t1, t2) in volumes.items():
        for kind, make in WORSE.items():
            yield kind, name, *make(t1, t2)
        for axis in AXES:
            for degrees in (5, 10):
                yield (
                    f"turned by {degrees} degrees",
                    f"{name} {axis}",
                    t1,
                    turned(t2, degrees, axis),
                )
            for mm in (2, 5, 10):
                yield f"moved by {mm} mm", f"{name} {axis}", t1, moved(t2, mm, axis)
        for other in volumes:
            if other != name:
                yield "another patient", f"{name} {other}", t1, volumes[other][1]


def row(kind: str, found: list[Alignment]) -> str:
    """One kind of pairs as a line of the table."""
    caught = sum(not one.is_good for one in found)
    agreement = [one.agreement for one in found]
    away = [one.displacement_mm for one in found]
    return (
        f"| {kind} | {caught} of {len(found)} | {min(agreement):.2f} to {max(agreement):.2f} "
        f"| {min(away):.1f} to {max(away):.1f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="BraTS cases")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    volumes = {
        case.name: (read_volume(case.files["t1"]), read_volume(case.files["t2"]))
        for case in find_cases(options.data, ("t1", "t2"))
    }
    kinds: dict[str, list[Alignment]] = {}
    seconds, records = [], []
    for kind, name, t1, t2 in pairs(volumes):
        began = time.perf_counter()
        found = alignment(t1, t2)
        seconds.append(time.perf_counter() - began)
        assert found is not None, f"{name}: too little brain"
        kinds.setdefault(kind, []).append(found)
        records.append({"kind": kind, "pair": name, **asdict(found)})
    print("| pair | warned of | agreement of edges | displacement, mm |")
    print("|---|---:|---:|---:|")
    for kind, several in kinds.items():
        print(row(kind, several))
    median = float(np.median(seconds))
    print(f"median {median:.2f} s, longest {max(seconds):.2f} s, {len(seconds)} pairs")
    if options.json:
        about: dict[str, Any] = {
            "date": date.today().isoformat(),
            "machine": environment(f"scipy {scipy.__version__}"),
            "threads": os.environ.get("OMP_NUM_THREADS"),
            "median_s": median,
            "longest_s": max(seconds),
            "pairs": records,
        }
        options.json.write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
