"""A scan or a label map, whatever its format."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from tlp_runtime.errors import InputUnreadable, UsageError
from tlp_runtime.geometry.volume import Volume
from tlp_runtime.io.contrast import contrast_doubts
from tlp_runtime.io.dicom import is_dicom, require_dicom
from tlp_runtime.io.dicom.files import list_images
from tlp_runtime.io.dicom.seg import read_segmentation
from tlp_runtime.io.dicom.series import DicomSeries, read_series
from tlp_runtime.io.nifti import read_volume
from tlp_runtime.spec.model import PromptSpec


@dataclass(frozen=True)
class Scan:
    """An image that was read.

    Parameters
    ----------
    series
        The DICOM series it is; None of a NIfTI file.
    """

    volume: Volume
    series: DicomSeries | None = None


def read_scan(path: Path, series_uid: str | None = None, *, allow_incomplete: bool = False) -> Scan:
    """Read a NIfTI file, a DICOM folder or a multi-frame DICOM file.

    The volume has a warning where its file, or a sidecar of it, names a contrast agent.

    Parameters
    ----------
    series_uid, allow_incomplete
        As of :func:`~tlp_runtime.io.dicom.series.read_series`.

    Raises
    ------
    InputError
        As :func:`~tlp_runtime.io.nifti.read_volume` and
        :func:`~tlp_runtime.io.dicom.series.read_series`.
    UsageError
        A series was named, but the file is not DICOM.
    """
    if is_dicom(path):
        series = read_series(path, series_uid, allow_incomplete=allow_incomplete)
        return Scan(series.volume, series)
    if series_uid is not None:
        raise UsageError(f"series {series_uid} was named, but {path} is not DICOM.")
    volume = read_volume(path)
    return Scan(replace(volume, warnings=(*volume.warnings, *contrast_doubts(path))))


def read_labels(path: Path, scan: Scan, *, by_number: bool) -> Volume:
    """Read a label map: NIfTI, or DICOM SEG whose segments become BraTS labels.

    Parameters
    ----------
    path
        A file, or a folder that holds one DICOM file.
    scan
        The scan that a SEG was drawn on, whose slices it takes where it lies on them.
    by_number
        Keep the numbers of a SEG's segments, since the user says what they mean.
    """
    if not is_dicom(path):
        return read_volume(path)
    require_dicom()
    file = path
    if path.is_dir():
        images = list(list_images(path).images)
        if len(images) != 1:
            raise InputUnreadable(
                f"{path}: holds {len(images)} DICOM files, expected one segmentation (SEG)."
            )
        file = images[0]
    grid = scan.volume.grid
    found = read_segmentation(file, PromptSpec(), grid, scan.series, by_number=by_number)
    return replace(found, coded=not by_number)
