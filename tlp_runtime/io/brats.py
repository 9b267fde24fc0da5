"""Layouts of data sets with one folder per case and one NIfTI per modality, as BraTS has them.

Folders may lie in others (BraTS 2018: ``HGG``, ``LGG``). UCSF-PDGM and UPENN-GBM have other names,
and UPENN-GBM keeps segmentations in folders of their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from tlp_runtime.errors import InputError, InputMissing
from tlp_runtime.files.atomic import entries
from tlp_runtime.io.case_files import CaseFiles, require_complete

SUFFIXES: Mapping[str, tuple[str, ...]] = {
    "t1": ("_t1", "-t1n"),
    "t2": ("_t2", "-t2w"),
    "t1ce": ("_t1ce", "-t1c", "_t1c", "_t1gd"),
    "seg": ("_seg", "-seg", "_tumor_segmentation", "_segm", "_automated_approx_segm"),
}
"""File name endings of each array, matched whatever their case.

Of BraTS to 2021, BraTS from 2023, UCSF-PDGM and UPENN-GBM. Of two segmentations that lie elsewhere,
the earlier ending is taken: one that a reader corrected.
"""

_DEPTH = 3
"""Folders down to a case's own."""


@dataclass(frozen=True)
class CaseFolder:
    """A folder with files of a case, the files of each array."""

    path: Path
    found: Mapping[str, list[Path]]

    @property
    def name(self) -> str:
        """The case."""
        return self.path.name


def brats_cases(
    data: Path,
    arrays: Sequence[str],
    optional: Sequence[str] = (),
    *,
    segmentations: Path | None = None,
) -> list[CaseFiles]:
    """Every case below ``data``, sorted by name.

    A folder is a case when it holds at least one file of an ending of :data:`SUFFIXES`.

    Parameters
    ----------
    arrays
        The arrays each case must have, of ``t1``, ``t2``, ``t1ce`` and ``seg``.
    optional
        Those it may have; of two files of one, none is taken.
    segmentations
        Folder of the segmentations, in which a file's name is the case's and an ending, and which
        may have folders of its own; by default they lie with the images.

    Raises
    ------
    InputMissing
        ``data`` is not a folder or holds no case.
    InputError
        Cases with missing or several matching files; every one is named.
    """
    cases, problems = [], []
    for folder in case_folders(data, segmentations):
        case, found = folder.name, folder.found
        bad = [
            f"{name} has {len(found[name])} files ({', '.join(p.name for p in found[name])})"
            if found[name]
            else f"{name} is missing ({' or '.join(SUFFIXES[name])}.nii.gz)"
            for name in arrays
            if len(found[name]) != 1
        ]
        if bad:
            problems.append(f"{case}: {'; '.join(bad)}")
        else:
            there = [name for name in optional if len(found[name]) == 1]
            cases.append(CaseFiles(case, {name: found[name][0] for name in (*arrays, *there)}))
    require_complete(data, problems, cases, arrays)
    return cases


def case_folders(data: Path, segmentations: Path | None = None) -> list[CaseFolder]:
    """Every folder below ``data`` with a case's files, sorted by name.

    Parameters
    ----------
    segmentations
        As of :func:`brats_cases`.

    Raises
    ------
    InputMissing
        ``data`` is not a folder or holds no such folder.
    InputError
        Two of one name.
    """
    if not data.is_dir():
        raise InputMissing(f"{data}: is not a folder, expected one with BraTS case folders.")
    every = list(_folders(data, _DEPTH))
    elsewhere = [folder for folder in every if _of_other_cases(folder)]
    cases = sorted((one for one in every if one not in elsewhere), key=lambda one: one.name)
    if not cases:
        raise InputMissing(
            f"{data}: no case found. Expected folders such as BraTS2021_00000 holding "
            "BraTS2021_00000_t1.nii.gz, _t2, _t1ce and _seg (or the names of BraTS 2023, UCSF-PDGM "
            "or UPENN-GBM)."
        )
    for one, other in pairwise(cases):
        if one.name == other.name:
            raise InputError(
                f"{data}: two folders are called {one.name}: {one.path} and {other.path}. Give one "
                "another name, or move it away."
            )
    if segmentations is not None:
        drawn = _masks((_folder(segmentations), *_folders(segmentations, _DEPTH)))
        return [replace(one, found={**one.found, "seg": drawn.get(one.name, [])}) for one in cases]
    masks = _masks(elsewhere)
    return [
        replace(one, found={**one.found, "seg": masks[one.name]})
        if not one.found["seg"] and one.name in masks
        else one
        for one in cases
    ]


def _folders(data: Path, depth: int) -> Iterator[CaseFolder]:
    """Folders with files of cases; what lies in one of them is not looked at."""
    for folder in (path for path in entries(data) if path.is_dir()):
        if folder.name.startswith("."):
            continue
        one = _folder(folder)
        if any(one.found.values()):
            yield one
        elif depth > 1:
            yield from _folders(folder, depth - 1)


def _folder(path: Path) -> CaseFolder:
    found = {name: _matching(path, endings) for name, endings in SUFFIXES.items()}
    return CaseFolder(path, found)


def _of_other_cases(folder: CaseFolder) -> bool:
    """Whether a folder holds nothing but segmentations, of cases with other names."""
    images = any(files for name, files in folder.found.items() if name != "seg")
    return not images and not any(p.name.startswith(folder.name) for p in folder.found["seg"])


def _masks(folders: Iterable[CaseFolder]) -> dict[str, list[Path]]:
    """Segmentations by the case that their names begin with, one each where an ending decides."""
    ranked: dict[str, dict[int, list[Path]]] = {}
    endings = SUFFIXES["seg"]
    pattern = re.compile(
        rf"(.+?)({'|'.join(map(re.escape, endings))})\.nii(?:\.gz)?", re.IGNORECASE
    )
    for path in (path for folder in folders for path in folder.found["seg"]):
        match = pattern.fullmatch(path.name)
        if match is not None:
            rank = endings.index(match[2].lower())
            ranked.setdefault(match[1], {}).setdefault(rank, []).append(path)
    return {case: held[min(held)] for case, held in ranked.items()}


def _matching(folder: Path, endings: tuple[str, ...]) -> list[Path]:
    pattern = re.compile(
        rf".*({'|'.join(map(re.escape, endings))})\.nii(\.gz)?", re.IGNORECASE | re.DOTALL
    )
    return [path for path in entries(folder) if pattern.fullmatch(path.name)]
