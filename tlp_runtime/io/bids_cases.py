"""Cases of a BIDS dataset with acquired T1ce images, for training and evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tlp_runtime.errors import InputError, InputMissing, SetOption
from tlp_runtime.files.atomic import entries
from tlp_runtime.io.bids import BidsScan, find_mask, find_scans, t1ce_of
from tlp_runtime.io.case_files import CaseFiles, require_complete

_ELSEWHERE = SetOption("segmentations", "FOLDER")


def bids_cases(
    root: Path,
    arrays: Sequence[str],
    optional: Sequence[str] = (),
    *,
    segmentations: Path | None = None,
) -> list[CaseFiles]:
    """Every plain T1w of a dataset as a case, called by its entities, sorted by name.

    ``t2`` and ``t1ce`` are the T2w and the contrast-enhanced T1w (entity ``ce``) of its session
    that belong to it; ``seg`` is its ``…_dseg``, ``…_mask`` or ``…_roi`` in a derivative dataset
    that is not a brain mask.

    Parameters
    ----------
    arrays
        The arrays each case must have.
    optional
        Those it may have.
    segmentations
        The derivative dataset; by default the only one with segmentations below ``derivatives``.

    Raises
    ------
    InputMissing
        No T1w image; no segmentations, where they are needed.
    InputError
        Cases without an image that they need, or with several that fit equally well, every one
        named; several derivative datasets with segmentations.
    """
    asked = (*arrays, *optional)
    scans = find_scans(root)
    if "seg" in asked:
        segmentations = segmentations or derived_segmentations(root)
        if segmentations is None and "seg" in arrays:
            raise InputMissing(
                f"{root}: no dataset in its derivatives folder has segmentations (…_dseg, …_mask "
                "or …_roi) of its scans",
                fix=_ELSEWHERE,
            )
    cases, problems = [], []
    for scan in scans:
        files, bad = _files_of(root, scan, segmentations, arrays, optional)
        if bad:
            problems.append(f"{scan.entities}: {'; '.join(bad)}")
        else:
            cases.append(CaseFiles(scan.entities, files))
    require_complete(root, problems, cases, arrays)
    return sorted(cases, key=lambda case: case.name)


def derived_segmentations(root: Path) -> Path | None:
    """The dataset in a dataset's derivatives folder with segmentations of its scans, if any.

    Raises
    ------
    InputError
        Several have such segmentations.
    """
    folder = root / "derivatives"
    scans = [scan for scan in find_scans(root) if not scan.problem]
    below = [path for path in entries(folder) if path.is_dir()] if folder.is_dir() else []
    fitting = [path for path in below if any(_has_segmentation(path, scan) for scan in scans)]
    if len(fitting) > 1:
        raise InputError(
            f"{folder}: {len(fitting)} datasets have segmentations of the scans: "
            f"{', '.join(path.name for path in fitting)}; expected one",
            fix=_ELSEWHERE,
        )
    return fitting[0] if fitting else None


def _has_segmentation(dataset: Path, scan: BidsScan) -> bool:
    try:
        return find_mask(dataset, scan, brain=False).path is not None
    except InputError:  # several that fit, say; refused where they are used
        return True


def _files_of(
    root: Path,
    scan: BidsScan,
    segmentations: Path | None,
    arrays: Sequence[str],
    optional: Sequence[str],
) -> tuple[dict[str, Path], list[str]]:
    """The files of a case, and what is wrong with it."""
    if scan.problem:
        return {}, [f"{scan.images['t1'].name}: {scan.problem}"]
    files: dict[str, Path] = {}
    problems = []
    for name in (*arrays, *optional):
        try:
            found = _file_of(name, root, scan, segmentations)
        except InputError as error:
            problems.append(f"{name}: {error}")
            continue
        if isinstance(found, Path):
            files[name] = found
        elif name in arrays:
            problems.append(f"{name} is missing ({found or 'none in its session'})")
    return files, problems


def _file_of(name: str, root: Path, scan: BidsScan, segmentations: Path | None) -> Path | str:
    """The file of an array, or why there is none: empty where nothing could be meant."""
    if name == "t1ce":
        return t1ce_of(root, scan)
    if name != "seg":
        return scan.images.get(name, scan.t2_problem)
    if segmentations is None:
        return ""
    found = find_mask(segmentations, scan, brain=False)
    return found.path or "; ".join(found.passed_over) or f"none in {segmentations}"
