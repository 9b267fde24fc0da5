"""Writes phantom cases to disk in the layout of BraTS 2021."""

from __future__ import annotations

import gzip
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from tlp_train.phantom.case import MAX_INDEX, PhantomCase, case_name, make_case

COMPRESS_LEVEL = 1


def write_case(case: PhantomCase, out: Path) -> Path:
    """Write one case as ``<name>/<name>_{t1,t2,t1ce,seg}.nii.gz``.

    The folder gets its name only when all files are in it, so a case is complete or absent.
    Equal cases give equal bytes.

    Parameters
    ----------
    case
        What to write.
    out
        Folder of the cohort; made if missing.

    Returns
    -------
    The case's folder.

    Raises
    ------
    FileExistsError
        If the cohort already has a case of that name; it is left as it is.
    """
    target = out / case.name
    _refuse_existing(target)
    out.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{case.name}.", dir=out))
    try:
        staging.chmod(0o755)
        for modality in ("t1", "t2", "t1ce", "seg"):
            path = staging / f"{case.name}_{modality}.nii.gz"
            path.write_bytes(_nifti_gz(case, getattr(case, modality)))
        _refuse_existing(target)
        staging.rename(target)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return target


def write_cohort(
    out: Path,
    *,
    cases: int,
    seed: int,
    first: int = 0,
    workers: int | None = None,
    on_case: Callable[[str], None] | None = None,
) -> list[Path]:
    """Make and write the cases ``first .. first + cases - 1``.

    The files do not depend on the number of workers.

    Parameters
    ----------
    out
        Folder of the cohort; made if missing.
    cases
        How many, at least 1.
    seed
        Seed of the cohort, at least 0.
    first
        Index of the first case, at least 0.
    workers
        Processes; by default one a core, at most one a case.
    on_case
        Called in this process with the name of each case once it is written, in order.

    Returns
    -------
    The folders of the cases, in order.

    Raises
    ------
    ValueError
        If a number is out of range.
    FileExistsError
        If any of the cases is already there; then none is written.
    """
    if cases < 1:
        raise ValueError(f"a cohort has at least 1 case, got {cases}")
    if seed < 0:
        raise ValueError(f"a seed is at least 0, got {seed}")
    if first < 0 or first + cases - 1 > MAX_INDEX:
        raise ValueError(f"cases are numbered 0 to {MAX_INDEX}, got {first} to {first + cases - 1}")
    if workers is not None and workers < 1:
        raise ValueError(f"at least 1 worker is needed, got {workers}")
    indices = range(first, first + cases)
    for index in indices:
        _refuse_existing(out / case_name(index))

    processes = min(workers or os.cpu_count() or 1, cases)
    make = partial(_make_and_write, seed, out)
    if processes == 1:
        return [_reported(make(index), on_case) for index in indices]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        return [_reported(path, on_case) for path in pool.imap(make, indices)]


def _make_and_write(seed: int, out: Path, index: int) -> Path:
    """What a worker does for one case."""
    return write_case(make_case(seed, index), out)


def _reported(path: Path, on_case: Callable[[str], None] | None) -> Path:
    """The path, after it was reported."""
    if on_case is not None:
        on_case(path.name)
    return path


def _refuse_existing(target: Path) -> None:
    """Raise FileExistsError if there is something under that name."""
    if target.exists():
        raise FileExistsError(f"{target} already exists; choose another folder or remove it")


def _nifti_gz(case: PhantomCase, data: NDArray[np.int16] | NDArray[np.uint8]) -> bytes:
    """A compressed NIfTI-1 file, without the time of writing in its gzip header."""
    image = nib.Nifti1Image(data, case.affine)
    image.header.set_sform(case.affine, code=1)
    image.header.set_qform(case.affine, code=1)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = f"TLP physics phantom seed {case.seed} case {case.index}".encode()
    return gzip.compress(image.to_bytes(), compresslevel=COMPRESS_LEVEL, mtime=0)
