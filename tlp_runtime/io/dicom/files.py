"""The DICOM files of a folder: images, files that should have been images, and the rest."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tlp_runtime.errors import InputMissing, InputUnreadable, first_line
from tlp_runtime.files.litter import is_litter
from tlp_runtime.files.pointers import not_fetched
from tlp_runtime.io.dicom.start import START, begins_as_dicom

logger = logging.getLogger(__name__)

_HEAD = 512


@dataclass(frozen=True)
class Unreadable:
    """A file that is not an image, though it seems that it should be.

    Parameters
    ----------
    reason
        Why it cannot be read, such as "is empty".
    series
        The series that its header names; empty where that cannot be read.
    certain
        It is of no use whatever it was: empty, not fetched, or a DICOM file that was cut short.
        Otherwise it is merely not DICOM, and its name has to tell whether it should be.
    """

    file: Path
    reason: str
    series: str = ""
    certain: bool = True


@dataclass(frozen=True)
class Listing:
    """The DICOM files at a path.

    Parameters
    ----------
    images
        The header of each image, without its pixels, in the order of the files' names.
    unreadable
        Files that may belong to a series but cannot be read.
    """

    images: dict[Path, Any]
    unreadable: tuple[Unreadable, ...]

    def lost(self, chosen: Iterable[Path], series: str) -> list[Unreadable]:
        """The unreadable files that belong to a series, by their header, place and name.

        Parameters
        ----------
        chosen
            The images of the series.
        """
        kin = [(file.parent, _pattern(file), _suffix(file)) for file in chosen]
        patterns = {(folder, pattern) for folder, pattern, _ in kin}
        suffixes = {(folder, suffix) for folder, _, suffix in kin}
        found = []
        for entry in self.unreadable:
            folder, suffix = entry.file.parent, _suffix(entry.file)
            alike = (folder, _pattern(entry.file)) in patterns or (
                (folder, suffix) in suffixes and (entry.certain or suffix != "")
            )
            # A header that was cut within the UID names the beginning of it.
            possible = series.startswith(entry.series)
            if entry.series == series or (alike and possible):
                found.append(entry)
        return found


def list_images(path: Path) -> Listing:
    """Every DICOM image at ``path``: a file, or a folder with its subfolders.

    Raises
    ------
    InputMissing
        There is no image, and nothing that looks as if it had been one.
    InputUnreadable
        There is none that can be read.
    """
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    images: dict[Path, Any] = {}
    unreadable, others = [], 0
    for file in files:
        if is_litter(file) or (file.is_dir() and file != path):
            continue
        found = _read(file)
        if isinstance(found, Unreadable):
            unreadable.append(found)
        elif found is None:
            others += 1
        else:
            images[file] = found
    if not images:
        bad = [entry for entry in unreadable if entry.certain]
        if bad:
            raise InputUnreadable(
                f"{path}: no DICOM image can be read: {listed(bad)}.", fix="Copy the files again."
            )
        raise InputMissing(
            f"{path}: holds no DICOM image ({others + len(unreadable)} other files), expected the "
            "files of one MR series, or one multi-frame file."
        )
    if others:
        # without the folder's name, which may be a patient's: a server logs this too
        logger.info("%d files are not DICOM images and are left out.", others)
    return Listing(images, tuple(unreadable))


def listed(entries: Iterable[Unreadable], shown: int = 6) -> str:
    """``a.dcm (is empty), b.dcm (is cut short) and 3 more``."""
    entries = list(entries)
    names = ", ".join(f"{entry.file.name} ({entry.reason})" for entry in entries[:shown])
    more = len(entries) - shown
    return names + (f" and {more} more" if more > 0 else "")


def _read(file: Path) -> Any | Unreadable | None:
    """The header of an image; None of a file that has no reason to be one."""
    import pydicom
    from pydicom.uid import UID

    try:
        if not file.is_file():
            reason = not_fetched(file)
            return None if reason is None else Unreadable(file, reason)
        with file.open("rb") as handle:
            start = handle.read(_HEAD)
    except OSError as error:
        return Unreadable(file, f"cannot be opened: {error.strerror}")
    if not start:
        return Unreadable(file, "is empty")
    if (reason := not_fetched(file, start)) is not None:
        return Unreadable(file, reason)
    if not begins_as_dicom(start[:START]):
        return Unreadable(file, "is not DICOM", certain=False)
    try:
        header = pydicom.dcmread(file, stop_before_pixels=True, force=True)
        series = str(header.get("SeriesInstanceUID", ""))
        image = "Rows" in header and "Columns" in header
        kind = header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID")
        kind = None if kind is None else UID(kind)
    except Exception as error:  # pydicom raises whatever a damaged file provokes
        return Unreadable(file, f"its header cannot be read: {first_line(error)}")
    if image and series:
        return header
    if image:
        return Unreadable(file, "names no series (SeriesInstanceUID)")
    if kind is None or kind.name == kind or "Image Storage" in kind.name:
        return Unreadable(file, "is cut short", series)
    return None  # a report, a presentation state, a directory


def _pattern(file: Path) -> str:
    """The name with every number replaced: what numbered files have in common."""
    return re.sub(r"\d+", "#", file.name)


def _suffix(file: Path) -> str:
    """The name's ending in small letters; empty of one that is a number, as in names of UIDs."""
    suffix = file.suffix.lower()
    return "" if suffix[1:].isdigit() else suffix
