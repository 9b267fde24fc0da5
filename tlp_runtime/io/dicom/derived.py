"""A synthesis as a derived MR series in the study of the scan it was made from.

Every attribute is set here or copied by name from the source, so nothing private, no text burned
into pixels and no contrast agent can come along.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from tlp_runtime.errors import GeometryError
from tlp_runtime.files.atomic import atomic_folder, entries, require_folder
from tlp_runtime.geometry.grid import Grid, shape_text
from tlp_runtime.geometry.volume import Volume
from tlp_runtime.io.dicom.series import DicomSeries

DESCRIPTION = "SYNTHETIC T1ce (TLP), not for diagnosis"
"""Series description; at most 64 characters."""

MAXIMUM = 4095
"""Stored value of 1.0: 12 bits, as scanners store."""

SERIES_OFFSET = 9000
"""Added to the source's series number."""

_COPIED = (
    # patient
    "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex",
    "PatientAge", "PatientSize", "PatientWeight",
    # study
    "StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "StudyDescription",
    "AccessionNumber", "ReferringPhysicianName",
    # place
    "FrameOfReferenceUID", "PositionReferenceIndicator", "PatientPosition", "BodyPartExamined",
    # acquisition of the source, which is what its timing describes
    "AcquisitionDate", "AcquisitionTime", "AcquisitionNumber", "ScanningSequence",
    "SequenceVariant", "ScanOptions", "MRAcquisitionType", "RepetitionTime", "EchoTime",
    "EchoTrainLength", "MagneticFieldStrength", "SpecificCharacterSet",
)  # fmt: skip

_EMPTY_ALLOWED = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime",
    "StudyID", "AccessionNumber", "ReferringPhysicianName", "PositionReferenceIndicator",
    "PatientPosition", "ScanOptions", "MRAcquisitionType", "RepetitionTime", "EchoTime",
    "EchoTrainLength",
)  # fmt: skip
"""Attributes that the standard wants present, if need be without a value."""

_PLANE = (
    "PixelSpacing", "SliceThickness", "SpacingBetweenSlices", "ImagePositionPatient",
    "ImageOrientationPatient", "SliceLocation",
)  # fmt: skip

_EQUIPMENT = (
    "Manufacturer", "ManufacturerModelName", "InstitutionName", "StationName", "SoftwareVersions",
)  # fmt: skip


def require_series_folder(folder: Path, *, overwrite: bool) -> None:
    """Raise before any work is done when a derived series could not be written to ``folder``.

    A folder that exists is replaced only if all it holds is a series that this module wrote.

    Raises
    ------
    OutputError
        The folder cannot be written, exists without ``overwrite``, or holds anything else.
    """
    require_folder(folder, overwrite=overwrite, foreign=_foreign)


def _foreign(folder: Path) -> Iterator[Path]:
    """What a folder holds besides a series that this module wrote."""
    import pydicom
    from pydicom.errors import InvalidDicomError

    for path in entries(folder):
        try:
            header = pydicom.dcmread(path, specific_tags=["SeriesDescription"])
            ours = header.get("SeriesDescription") == DESCRIPTION
        except (InvalidDicomError, OSError):
            ours = False
        if not ours:
            yield path


def write_derived(
    volume: Volume,
    source: DicomSeries,
    folder: Path,
    record: Mapping[str, Any],
    *,
    others: Sequence[DicomSeries] = (),
    overwrite: bool = False,
) -> None:
    """Write a folder with one MR image per slice of the source series.

    Parameters
    ----------
    volume
        float32 in [0, 1] on the grid of ``source.volume``.
    record
        The provenance (:mod:`tlp_runtime.synthesis.provenance`): model and versions go into the
        images.
    others
        Further series it was made from; each image refers to their slices at its place.

    Raises
    ------
    GeometryError
        A volume on another grid than the source.
    OutputError
        As :func:`require_series_folder`, or when writing fails half-way.
    """
    import pydicom.uid

    require_series_folder(folder, overwrite=overwrite)

    if volume.shape != source.volume.shape:
        raise GeometryError(
            f"{volume.name}: {shape_text(volume.shape)} is not the grid of the source series, "
            f"{shape_text(source.volume.shape)}"
        )
    common = _common(source, record)
    common.SeriesInstanceUID = pydicom.uid.generate_uid(prefix=None)
    pixels = np.rint(np.clip(volume.data, 0, 1) * MAXIMUM).astype("<u2")
    with atomic_folder(folder, overwrite=overwrite, foreign=_foreign) as temporary:
        for index in range(volume.shape[2]):
            image = _slice(common, source, index)
            places = [_slice_at(other, source, index) for other in others]
            image.SourceImageSequence += [
                _reference(other, at)
                for other, at in zip(others, places, strict=True)
                if at is not None
            ]
            image.PixelData = np.ascontiguousarray(pixels[:, :, index].T).tobytes()
            image.save_as(temporary / f"IM{index + 1:05d}.dcm", enforce_file_format=True)


def _common(source: DicomSeries, record: Mapping[str, Any]) -> Any:
    """The attributes that every image of the new series shares."""
    import pydicom
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

    header = source.headers[0]
    moment = datetime.now()
    model, versions = record["model"], record["software"]
    image = pydicom.Dataset()
    image.file_meta = pydicom.dataset.FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.file_meta.MediaStorageSOPClassUID = MRImageStorage
    for keyword in _COPIED:
        if keyword in header and header[keyword].value not in (None, ""):
            setattr(image, keyword, header[keyword].value)
        elif keyword in _EMPTY_ALLOWED:
            setattr(image, keyword, None)
    for keyword, value in (
        ("ScanningSequence", "RM"), ("SequenceVariant", "NONE"), ("BodyPartExamined", "BRAIN"),
    ):  # fmt: skip
        if keyword not in image:
            setattr(image, keyword, value)
    if "IR" in image.ScanningSequence and header.get("InversionTime"):
        image.InversionTime = header.InversionTime
    image.SOPClassUID = MRImageStorage
    image.Modality = "MR"
    image.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
    image.SeriesDescription = DESCRIPTION
    image.SeriesNumber = SERIES_OFFSET + int(header.get("SeriesNumber") or 0)
    image.SeriesDate = image.ContentDate = image.InstanceCreationDate = moment.strftime("%Y%m%d")
    image.SeriesTime = image.ContentTime = image.InstanceCreationTime = moment.strftime("%H%M%S")
    image.Manufacturer = "TLP toolkit"
    image.ManufacturerModelName = "tlp-mri"
    image.SoftwareVersions = versions.get("tlp-mri", "")
    image.ContributingEquipmentSequence = _contributors(header, model, versions, moment)
    image.DerivationDescription = (
        "Synthetic contrast-enhanced T1 made by a neural network from "
        f"{', '.join(name.upper() for name in model['spec']['inputs'])}"
        f"{' and a marked region' if record['prompt'] else ''}; no contrast agent was given, not "
        f"for diagnosis. Model {model['name']}, weights SHA-256 {model['onnx_sha256']}, "
        f"engine {record['engine']['name']}."
    )[:1024]
    image.BurnedInAnnotation = "NO"
    image.LossyImageCompression = "00"
    image.Columns, image.Rows, _ = source.volume.shape
    image.SamplesPerPixel = 1
    image.PhotometricInterpretation = "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit = 16, 12, 11
    image.PixelRepresentation = 0
    image.WindowCenter, image.WindowWidth = (MAXIMUM + 1) / 2, MAXIMUM + 1
    return image


def _contributors(
    header: Any, model: Mapping[str, Any], versions: Mapping[str, str], moment: datetime
) -> list[Any]:
    """The scanner, and this software with its weights."""
    from highdicom import ContributingEquipment
    from pydicom.sr.coding import Code

    ours = ContributingEquipment(
        manufacturer="TLP toolkit",
        purpose_of_reference=Code("109102", "DCM", "Processing Equipment"),
        manufacturer_model_name="tlp-mri",
        software_versions=[
            f"tlp-mri {versions.get('tlp-mri', '?')}",
            f"weights {model['onnx_sha256'][:48]}",
        ],
        contribution_datetime=moment,
        contribution_description="Synthesis of a contrast-enhanced T1 by a neural network",
    )
    scanner: dict[str, Any] = {
        keyword: header[keyword].value for keyword in _EQUIPMENT if header.get(keyword)
    }
    if "Manufacturer" not in scanner:
        return [ours]
    acquired = ContributingEquipment(
        manufacturer=scanner["Manufacturer"],
        purpose_of_reference=Code("109101", "DCM", "Acquisition Equipment"),
        manufacturer_model_name=scanner.get("ManufacturerModelName"),
        software_versions=scanner.get("SoftwareVersions"),
        institution_name=scanner.get("InstitutionName"),
    )
    return [acquired, ours]


def _slice(common: Any, source: DicomSeries, index: int) -> Any:
    """One image of the series, without its pixels."""
    import copy

    import pydicom.uid

    image = copy.deepcopy(common)
    image.SOPInstanceUID = pydicom.uid.generate_uid(prefix=None)
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    image.InstanceNumber = index + 1
    if source.frames:
        _place(image, source.volume.grid, index)
    else:  # as the source has it, to the last digit
        for keyword in _PLANE:
            if keyword in source.headers[index]:
                setattr(image, keyword, source.headers[index][keyword].value)
    image.SourceImageSequence = [_reference(source, index)]
    return image


def _place(image: Any, grid: Grid, index: int) -> None:
    """The image plane of a slice, from the affine."""
    lps = np.diag([-1.0, -1.0, 1.0])
    dx, dy, dz = grid.spacing_mm
    first = lps @ grid.world(np.array([[0, 0, index]]))[0]
    directions = lps @ (grid.affine[:3, :3] / grid.spacing_mm)
    image.PixelSpacing = [_decimal(dy), _decimal(dx)]
    image.SliceThickness = image.SpacingBetweenSlices = _decimal(dz)
    image.ImagePositionPatient = [_decimal(v) for v in first]
    image.ImageOrientationPatient = [_decimal(v) for v in (*directions[:, 0], *directions[:, 1])]
    image.SliceLocation = _decimal(float(first @ directions[:, 2]))


def _slice_at(other: DicomSeries, source: DicomSeries, index: int) -> int | None:
    """The other series' slice that holds the middle of a slice of the source."""
    columns, rows, _ = source.volume.shape
    middle = source.volume.grid.world(np.array([[(columns - 1) / 2, (rows - 1) / 2, index]]))
    at = int(np.rint(other.volume.grid.voxels(middle)[0, 2]))
    return at if 0 <= at < other.volume.shape[2] else None


def _reference(source: DicomSeries, index: int) -> Any:
    import pydicom
    from highdicom.sr.coding import CodedConcept

    header = source.headers[0 if source.frames else index]
    item = pydicom.Dataset()
    item.ReferencedSOPClassUID = header.SOPClassUID
    item.ReferencedSOPInstanceUID = header.SOPInstanceUID
    if source.frames:
        item.ReferencedFrameNumber = source.frames[index]
    item.PurposeOfReferenceCodeSequence = [
        CodedConcept("121322", "DCM", "Source image for image processing operation")
    ]
    return item


def _decimal(value: float) -> Any:
    """A decimal string of at most 16 characters, as exact as those allow."""
    from pydicom.valuerep import DSfloat

    return DSfloat(float(value) + 0.0, auto_format=True)
