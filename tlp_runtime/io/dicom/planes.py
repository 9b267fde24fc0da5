"""One image of a derived series: where it lies, and the slices that it was made from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tlp_runtime.geometry.grid import Grid
from tlp_runtime.io.dicom.attributes import PLANE, Attributes, decimal, set_value, valid_uid
from tlp_runtime.io.dicom.series import DicomSeries


def image_plane(
    attributes: Attributes, source: DicomSeries, others: Sequence[DicomSeries], index: int
) -> Any:
    """The attributes of one image alone: its plane, and the slices that it was made from.

    Parameters
    ----------
    index
        Of the slice, along the third axis of the source's volume.
    """
    import pydicom

    image = pydicom.Dataset()
    if source.frames:
        _place(image, source.volume.grid, index)
    else:  # as the source has it, to the last digit
        for keyword in PLANE:
            set_value(image, keyword, attributes.take(source.headers[index], keyword))
    places = [(source, index), *((other, _slice_at(other, source, index)) for other in others)]
    references = [_reference(attributes, series, at) for series, at in places if at is not None]
    made_from = [reference for reference in references if reference is not None]
    if made_from:
        image.SourceImageSequence = made_from
    return image


def _place(image: Any, grid: Grid, index: int) -> None:
    """The image plane of a slice, from the affine."""
    lps = np.diag([-1.0, -1.0, 1.0])
    dx, dy, dz = grid.spacing_mm
    first = lps @ grid.world(np.array([[0, 0, index]]))[0]
    directions = lps @ (grid.affine[:3, :3] / grid.spacing_mm)
    image.PixelSpacing = [decimal(dy), decimal(dx)]
    image.SliceThickness = image.SpacingBetweenSlices = decimal(dz)
    image.ImagePositionPatient = [decimal(v) for v in first]
    image.ImageOrientationPatient = [decimal(v) for v in (*directions[:, 0], *directions[:, 1])]
    image.SliceLocation = decimal(float(first @ directions[:, 2]))


def _slice_at(other: DicomSeries, source: DicomSeries, index: int) -> int | None:
    """The other series' slice that holds the middle of a slice of the source."""
    columns, rows, _ = source.volume.shape
    middle = source.volume.grid.world(np.array([[(columns - 1) / 2, (rows - 1) / 2, index]]))
    at = int(np.rint(other.volume.grid.voxels(middle)[0, 2]))
    return at if 0 <= at < other.volume.shape[2] else None


def _reference(attributes: Attributes, source: DicomSeries, index: int) -> Any:
    """A reference to a slice that an image was made from; None where its UIDs are not valid."""
    import pydicom
    from highdicom.sr.coding import CodedConcept

    header = source.headers[0 if source.frames else index]
    class_uid, instance_uid = (valid_uid(header, f"SOP{part}UID") for part in ("Class", "Instance"))
    if class_uid is None or instance_uid is None:
        attributes.left_out("SourceImageSequence")
        return None
    item = pydicom.Dataset()
    item.ReferencedSOPClassUID = class_uid
    item.ReferencedSOPInstanceUID = instance_uid
    if source.frames:
        item.ReferencedFrameNumber = source.frames[index]
    item.PurposeOfReferenceCodeSequence = [
        CodedConcept("121322", "DCM", "Source image for image processing operation")
    ]
    return item
