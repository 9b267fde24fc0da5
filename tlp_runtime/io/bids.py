"""BIDS: the scans of a dataset, and a derivative dataset of syntheses.

Names and metadata follow the Brain Imaging Data Structure 1.10, derivatives included.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tlp_runtime.errors import ChooseAnother, InputError, InputMissing, OutputError
from tlp_runtime.files.atomic import make_folder, write_text

VERSION = "1.10.0"
DESCRIPTION_FILE = "dataset_description.json"
LINK = "raw"
"""Name of the source dataset in BIDS URIs."""

_T1W = re.compile(r"(sub-[a-zA-Z0-9]+(?:_[a-z]+-[a-zA-Z0-9]+)*)_T1w\.nii(\.gz)?")
_LEFT_OUT = ("ce", "desc", "space")
"""Entities of images that are not a plain T1 of the scanner: contrast given, derived, moved."""

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
    """

    entities: str
    folder: Path
    images: Mapping[str, Path]

    @property
    def session(self) -> str:
        """``sub-01`` or ``sub-01_ses-1``."""
        parts = self.entities.split("_")
        return "_".join(part for part in parts if part.startswith(("sub-", "ses-")))

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


def find_scans(root: Path) -> list[BidsScan]:
    """Every plain T1w image of a raw dataset, with its session's T2w where there is one.

    Raises
    ------
    InputMissing
        No such folder, or no T1w in it.
    InputError
        No ``dataset_description.json``: not a BIDS dataset.
    """
    if not root.is_dir():
        raise InputMissing(f"{root}: is not a folder, expected a BIDS dataset.")
    if not (root / DESCRIPTION_FILE).is_file():
        raise InputError(f"{root}: has no {DESCRIPTION_FILE}, so it is not a BIDS dataset.")
    scans = []
    for file in sorted([*root.glob("sub-*/anat/sub-*_T1w.nii*"),
                        *root.glob("sub-*/ses-*/anat/sub-*_T1w.nii*")]):  # fmt: skip
        match = _T1W.fullmatch(file.name)
        if match is None or any(f"_{key}-" in file.name for key in _LEFT_OUT):
            continue
        images = {"t1": file}
        t2 = _t2_of(file, match[1])
        if t2 is not None:
            images["t2"] = t2
        scans.append(BidsScan(match[1], file.parent.relative_to(root), images))
    if not scans:
        raise InputMissing(
            f"{root}: no T1w image found. Expected sub-*/anat/sub-*_T1w.nii.gz (with or without "
            "ses-*); images with the entities ce, desc or space are left out."
        )
    return scans


def _t2_of(t1: Path, entities: str) -> Path | None:
    """The T2w of the same entities, else the session's only one."""
    for ending in (".nii.gz", ".nii"):
        exact = t1.with_name(f"{entities}_T2w{ending}")
        if exact.is_file():
            return exact
    session = "_".join(p for p in entities.split("_") if p.startswith(("sub-", "ses-")))
    every = sorted(t1.parent.glob(f"{session}_*T2w.nii*"))
    every = [p for p in every if not any(f"_{key}-" in p.name for key in _LEFT_OUT)]
    return every[0] if len(every) == 1 else None


def find_mask(dataset: Path, scan: BidsScan, *, brain: bool) -> Path | None:
    """A scan's brain mask, or its drawn region, in a derivative dataset.

    A brain mask is ``…_desc-brain_mask``; a region is any other ``…_mask``, ``…_dseg`` or
    ``…_roi``. Of several, the one whose name begins with all of the scan's entities.

    Raises
    ------
    InputError
        Several that fit equally well.
    """
    folder = dataset / scan.folder
    found = [
        path
        for kind in ("mask", "dseg", "roi")
        for path in sorted(folder.glob(f"{scan.session}*_{kind}.nii*"))
        if ("_desc-brain_" in path.name) == brain
    ]
    if len(found) > 1:
        found = [path for path in found if path.name.startswith(f"{scan.entities}_")]
        if len(found) != 1:
            raise InputError(
                f"{folder}: {len(found)} files could be the "
                f"{'brain mask' if brain else 'prompt'} of {scan.entities}, expected one."
            )
    return found[0] if found else None


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
