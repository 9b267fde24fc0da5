"""One image of a derived series: where it lies, and the slices that it was made from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tlp_runtime.geometry.grid import Grid
from tlp_runtime.io.dicom.attributes import PLANE, Attributes, decimal, set_value, valid_uid
from tlp_runtime.io.dicom.series import DicomSeries
from tlp_runtime.io.dicom.stack import Plane


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
    own = source.planes[index]
    if own is None or own.frame is not None:
        _place(image, source.volume.grid, index)
    else:  # as the source has it, to the last digit
        for keyword in PLANE:
            set_value(image, keyword, attributes.take(own.header, keyword))
    places = [(other, _slice_at(other, source, index)) for other in others]
    planes = [own, *(other.planes[at] for other, at in places if at is not None)]
    references = [_reference(attributes, plane) for plane in planes if plane is not None]
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


def _reference(attributes: Attributes, plane: Plane) -> Any:
    """A reference to an image that another was made from; None where its UIDs are not valid."""
    import pydicom
    from highdicom.sr.coding import CodedConcept

    class_uid, instance_uid = (
        valid_uid(plane.header, f"SOP{part}UID") for part in ("Class", "Instance")
    )
    if class_uid is None or instance_uid is None:
        attributes.left_out("SourceImageSequence")
        return None
    item = pydicom.Dataset()
    item.ReferencedSOPClassUID = class_uid
    item.ReferencedSOPInstanceUID = instance_uid
    if plane.frame is not None:
        item.ReferencedFrameNumber = plane.frame
    item.PurposeOfReferenceCodeSequence = [
        CodedConcept("121322", "DCM", "Source image for image processing operation")
    ]
    return item
