"""The BraTS folder layout: one folder per case, one NIfTI per modality."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tlp_runtime.errors import InputError, InputMissing
from tlp_runtime.files.atomic import entries

SUFFIXES: Mapping[str, tuple[str, str]] = {
    "t1": ("_t1", "-t1n"),
    "t2": ("_t2", "-t2w"),
    "t1ce": ("_t1ce", "-t1c"),
    "seg": ("_seg", "-seg"),
}
"""File name endings of each array, BraTS 2021 and BraTS 2023, matched whatever their case."""


@dataclass(frozen=True)
class CaseFiles:
    """One case: its folder's name and the file of each array that was asked for."""

    name: str
    files: Mapping[str, Path]


def find_cases(data: Path, arrays: Iterable[str], optional: Iterable[str] = ()) -> list[CaseFiles]:
    """Every case folder below ``data``, sorted by name.

    A folder is a case when it holds at least one file with a BraTS ending.

    Parameters
    ----------
    arrays
        The arrays each case must have, of ``t1``, ``t2``, ``t1ce`` and ``seg``.
    optional
        Those it may have; of two files of one, none is taken.

    Raises
    ------
    InputMissing
        ``data`` is not a folder or holds no case.
    InputError
        Cases with missing or several matching files; every one is named.
    """
    arrays, optional = list(arrays), list(optional)
    cases, problems = [], []
    for case, found in case_folders(data):
        bad = [
            f"{name} has {len(found[name])} files ({', '.join(p.name for p in found[name])})"
            if found[name]
            else f"{name} is missing ({' or '.join(SUFFIXES[name])}.nii.gz)"
            for name in arrays
            if len(found[name]) != 1
        ]
        if bad:
            problems.append(f"  {case}: {'; '.join(bad)}")
        else:
            there = [name for name in optional if len(found[name]) == 1]
            cases.append(CaseFiles(case, {name: found[name][0] for name in (*arrays, *there)}))
    if problems:
        raise InputError(
            f"{data}: {len(problems)} of {len(problems) + len(cases)} cases are not complete; "
            "expected one file each of "
            + ", ".join(arrays)
            + ". Complete or move them away:\n"
            + "\n".join(problems)
        )
    return cases


def case_folders(data: Path) -> list[tuple[str, Mapping[str, list[Path]]]]:
    """Every folder of ``data`` with a file of a BraTS ending: its name, the files of each array.

    Raises
    ------
    InputMissing
        ``data`` is not a folder or holds no such folder.
    """
    if not data.is_dir():
        raise InputMissing(f"{data}: is not a folder, expected one with BraTS case folders.")
    cases: list[tuple[str, Mapping[str, list[Path]]]] = []
    for folder in (path for path in entries(data) if path.is_dir()):
        found = {name: _matching(folder, endings) for name, endings in SUFFIXES.items()}
        if not folder.name.startswith(".") and any(found.values()):
            cases.append((folder.name, found))
    if not cases:
        raise InputMissing(
            f"{data}: no case found. Expected folders such as BraTS2021_00000 holding "
            "BraTS2021_00000_t1.nii.gz, _t2, _t1ce and _seg (or the 2023 names)."
        )
    return cases


def _matching(folder: Path, endings: tuple[str, ...]) -> list[Path]:
    pattern = re.compile(
        rf".*({'|'.join(map(re.escape, endings))})\.nii(\.gz)?", re.IGNORECASE | re.DOTALL
    )
    return [path for path in entries(folder) if pattern.fullmatch(path.name)]
