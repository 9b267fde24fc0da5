"""BIDS: the scans of a dataset, and a derivative dataset of syntheses.

Names and metadata follow the Brain Imaging Data Structure 1.10, derivatives included.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tlp_runtime.errors import ChooseAnother, InputError, InputMissing, OutputError
from tlp_runtime.files.atomic import make_folder, write_text
from tlp_runtime.io.bids_images import Entities, companion_of, images_of, masks_of

VERSION = "1.10.0"
DESCRIPTION_FILE = "dataset_description.json"
LINK = "raw"
"""Name of the source dataset in BIDS URIs."""

_SHOWN = 20
"""How many participants an error lists."""
_REGIONS = ("mask", "dseg", "roi")
_EXPECTED = (
    " Expected sub-*/anat/sub-*_T1w.nii.gz (with or without ses-*); images with the entities ce, "
    "desc or space, and phase, real and imaginary parts, are left out."
)

_ELSEWHERE = ChooseAnother("derivatives", "folder", "for the derivatives")


@dataclass(frozen=True)
class BidsScan:
    """One T1w image of a dataset and the T2w of the same session.

    Parameters
    ----------
    entities
        The name's entities in their order, such as ``sub-01_ses-1_run-2``.
    folder
        Folder of the image, relative to the dataset.
    labels
        The entities by key.
    others
        Entities of the same subject's other T1w images, by key.
    problem
        What is wrong with the image's name or place; empty where nothing is.
    t2_problem
        Why it has no T2w although the session has one.
    """

    entities: str
    folder: Path
    images: Mapping[str, Path]
    labels: Entities
    others: tuple[Entities, ...] = ()
    problem: str = ""
    t2_problem: str = ""

    def output(self, derivatives: Path) -> Path:
        """Where its synthesis belongs."""
        return derivatives / self.folder / f"{self.entities}_desc-synthT1ce_T1w.nii.gz"

    def sidecar(self, root: Path, used: Iterable[str]) -> dict[str, Any]:
        """The metadata that BIDS asks of a derived image.

        Parameters
        ----------
        used
            The images it was made from, of ``images``.
        """
        return {
            "Description": "Synthetic contrast-enhanced T1; no contrast agent was given",
            "SkullStripped": True,
            "Sources": [
                f"bids:{LINK}:{self.images[name].relative_to(root).as_posix()}" for name in used
            ],
        }


@dataclass(frozen=True)
class MaskMatch:
    """The mask or region of a scan in a derivative dataset.

    Parameters
    ----------
    path
        The file; None where there is none.
    passed_over
        Files next to where it was looked for that do not belong to the scan, with the reasons.
    """

    path: Path | None
    passed_over: tuple[str, ...] = ()


def find_scans(root: Path, participants: Sequence[str] = ()) -> list[BidsScan]:
    """Every plain T1w image of a raw dataset, with its session's T2w where there is one.

    Images with the entities ``ce``, ``desc`` or ``space``, and phase, real and imaginary parts,
    are left out. One whose name BIDS does not allow is a scan with a problem.

    Parameters
    ----------
    participants
        Labels of the subjects to take, with or without ``sub-``; by default all.

    Raises
    ------
    InputMissing
        No such folder or subject, or no T1w image.
    InputError
        No ``dataset_description.json``: not a BIDS dataset.
    """
    if not root.is_dir():
        raise InputMissing(f"{root}: is not a folder, expected a BIDS dataset.")
    if not (root / DESCRIPTION_FILE).is_file():
        raise InputError(f"{root}: has no {DESCRIPTION_FILE}, so it is not a BIDS dataset.")
    scans = []
    for subject in _subjects(root, participants):
        found = _scans_of(root, subject)
        if participants and not found:
            raise InputMissing(f"{root}: no T1w image of {subject.name} found.{_EXPECTED}")
        scans += found
    if not scans:
        raise InputMissing(f"{root}: no T1w image found.{_EXPECTED}")
    return scans


def _subjects(root: Path, participants: Sequence[str]) -> list[Path]:
    every = sorted(path for path in root.glob("sub-*") if path.is_dir())
    if not participants:
        return every
    chosen = {f"sub-{label.removeprefix('sub-')}" for label in participants}
    unknown = sorted(chosen - {path.name for path in every})
    if unknown:
        names = [path.name.removeprefix("sub-") for path in every]
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        raise InputMissing(
            f"{root}: has no {', '.join(unknown)}; the labels of its participants are "
            f"{', '.join(names[:_SHOWN]) or 'none'}{more}."
        )
    return [path for path in every if path.name in chosen]


def _scans_of(root: Path, subject: Path) -> list[BidsScan]:
    folders = sorted([*subject.glob("anat"), *subject.glob("ses-*/anat")])
    images = {folder: images_of(folder, "T1w") for folder in folders}
    every = [image for found in images.values() for image in found]
    known = [image for image in every if image.entities and (image.plain or image.contrasted)]
    names = Counter(image.name for image in every)
    scans = []
    for folder, found in images.items():
        plain = [image for image in found if image.plain]
        t2s = [image for image in images_of(folder, "T2w") if image.plain]
        for image in plain:
            t2 = companion_of(image, plain, t2s, "T2w")
            twice = "another T1w image of the subject has the same name"
            scans.append(
                BidsScan(
                    entities=image.name,
                    folder=folder.relative_to(root),
                    images={"t1": image.path} | ({"t2": t2} if isinstance(t2, Path) else {}),
                    labels=image.entities,
                    others=tuple(one.entities for one in known if one is not image),
                    problem=image.problem or (twice if names[image.name] > 1 else ""),
                    t2_problem=t2 if isinstance(t2, str) else "",
                )
            )
    return scans


def t1ce_of(root: Path, scan: BidsScan) -> Path | str:
    """The session's contrast-enhanced T1w that belongs to a scan.

    It has the entity ``ce``, and is matched as a T2w is
    (:func:`~tlp_runtime.io.bids_images.companion_of`).

    Returns
    -------
    The file, or why there is none: empty where the session has no such image.
    """
    found = images_of(root / scan.folder, "T1w")
    plain = [image for image in found if image.plain]
    (own,) = (image for image in plain if image.path == scan.images["t1"])
    enhanced = [image for image in found if image.enhanced]
    return companion_of(own, plain, enhanced, "contrast-enhanced T1w")


def find_mask(dataset: Path, scan: BidsScan, *, brain: bool) -> MaskMatch:
    """A scan's brain mask, or its drawn region, in a derivative dataset.

    A brain mask is ``…_desc-brain_mask`` (or ``label-brain``); a region is any other ``…_mask``,
    ``…_dseg`` or ``…_roi``. It lies in the scan's folder of that dataset, or in the subject's;
    :func:`~tlp_runtime.io.bids_images.masks_of` says which belongs to the scan.

    Raises
    ------
    InputError
        Several that fit equally well, or one that fits several scans.
    """
    subject = Path(f"sub-{scan.labels['sub']}", "anat")
    masks = [
        image
        for folder in dict.fromkeys((scan.folder, subject))
        for image in images_of(dataset / folder, *(("mask",) if brain else _REGIONS))
        if image.of_brain == brain
    ]
    found, passed_over = masks_of(scan.labels, scan.others, masks)
    if len(found) > 1:
        what = "brain mask" if brain else "prompt or segmentation"
        raise InputError(
            f"{dataset / scan.folder}: {len(found)} files could be the {what} of {scan.entities} "
            f"({', '.join(path.name for path in found)}), expected one."
        )
    return MaskMatch(found[0] if found else None, tuple(passed_over))


def start_derivatives(folder: Path, root: Path, version: str) -> None:
    """Make a derivative dataset, or go on with one that this software began.

    Raises
    ------
    OutputError
        The folder lies at the raw dataset itself, holds another dataset, or cannot be written.
    """
    if folder.resolve() == root.resolve():
        raise OutputError(f"{folder}: is the raw dataset", fix=_ELSEWHERE)
    description = folder / DESCRIPTION_FILE
    if description.exists():
        try:
            known = json.loads(description.read_text(encoding="utf-8"))
            makers = {maker["Name"] for maker in known["GeneratedBy"]}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise OutputError(f"{description}: cannot be read ({error!r}).") from error
        if "tlp-mri" not in makers:
            raise OutputError(
                f"{folder}: holds another dataset (made by {', '.join(sorted(makers))})",
                fix=_ELSEWHERE,
            )
        return
    make_folder(folder)
    source = os.path.relpath(root.resolve(), folder.resolve())
    record = {
        "Name": "Synthetic contrast-enhanced T1 images",
        "BIDSVersion": VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "tlp-mri", "Version": version}],
        "SourceDatasets": [{"URL": Path(source).as_posix()}],
        "DatasetLinks": {LINK: Path(source).as_posix()},
    }
    write_text(description, json.dumps(record, indent=2) + "\n")
    write_text(
        folder / "README",
        "Synthetic contrast-enhanced T1 images, made by tlp-mri from plain scans. They were not\n"
        "acquired, no contrast agent was given, and they are not for diagnosis. The JSON beside\n"
        "each image says from which files, by which model and with which prompt it was made.\n",
    )
