"""DICOM series made from volumes: what a scanner would have sent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from tests.scans import scan
from tlp_runtime import Volume
from tlp_runtime.geometry.grid import Grid

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])

Change = Callable[[list[pydicom.Dataset]], object]


def datasets(volume: Volume, **attributes: Any) -> list[pydicom.Dataset]:
    """One MR image a slice of the third axis, with what scanners add and archives should not get.

    The volume's first axis runs along rows of the image, its second along columns.
    """
    affine = LPS @ volume.affine
    spacing = volume.grid.spacing_mm
    directions = affine[:3, :3] / spacing
    study, series, frame = (generate_uid(prefix=None) for _ in range(3))
    made = []
    for index in range(volume.shape[2]):
        image = pydicom.Dataset()
        image.file_meta = pydicom.dataset.FileMetaDataset()
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID = MRImageStorage
        image.SOPInstanceUID = generate_uid(prefix=None)
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
        image.SpecificCharacterSet = "ISO_IR 192"
        image.StudyInstanceUID, image.SeriesInstanceUID = study, series
        image.FrameOfReferenceUID = frame
        image.PatientName, image.PatientID = "Müster^Änne", "4711"
        image.PatientBirthDate, image.PatientSex = "19600101", "F"
        image.StudyDate, image.StudyTime = "20260102", "101112"
        image.AcquisitionDate, image.AcquisitionTime = "20260102", "101500"
        image.AcquisitionNumber, image.InstanceNumber = 1, index + 1
        image.StudyID, image.AccessionNumber, image.ReferringPhysicianName = "1", "A1", "Dr^X"
        image.SeriesNumber, image.SeriesDescription = 3, "T1 MPRAGE"
        image.Modality, image.Manufacturer = "MR", "ACME"
        image.ManufacturerModelName, image.SoftwareVersions = "Magnet 3000", "v1"
        image.InstitutionName, image.PatientPosition = "Hospital", "HFS"
        image.ImageType = ["ORIGINAL", "PRIMARY", "M"]
        image.ScanningSequence, image.SequenceVariant = "GR", "SP"
        image.ScanOptions, image.MRAcquisitionType = "", "3D"
        image.RepetitionTime, image.EchoTime, image.EchoTrainLength = 2000.0, 2.5, 1
        image.InversionTime, image.MagneticFieldStrength = 900.0, 3.0
        image.PositionReferenceIndicator = ""
        image.add_new(0x00290010, "LO", "ACME PRIVATE")
        image.add_new(0x00291001, "LO", "secret of Müster")
        image.Rows, image.Columns = volume.shape[1], volume.shape[0]
        image.PixelSpacing = [f"{spacing[1]:.12g}", f"{spacing[0]:.12g}"]
        image.SliceThickness = f"{spacing[2]:.12g}"
        image.ImageOrientationPatient = [
            f"{v:.12g}"[:16] for v in (*directions[:, 0], *directions[:, 1])
        ]
        first = affine @ [0, 0, index, 1]
        image.ImagePositionPatient = [f"{v:.10g}" for v in first[:3]]
        image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
        image.BitsAllocated, image.BitsStored, image.HighBit = 16, 16, 15
        image.PixelRepresentation = 1
        plane = np.ascontiguousarray(volume.data[:, :, index].T.astype("<i2"))
        image.PixelData = plane.tobytes()
        for keyword, value in attributes.items():
            setattr(image, keyword, value)
        made.append(image)
    return made


def spoil(images: list[pydicom.Dataset], **values: bytes) -> list[pydicom.Dataset]:
    """Put bytes in the place of attributes' values, as they are, whatever pydicom says to them."""
    for image in images:
        for keyword, value in values.items():
            tag = pydicom.tag.Tag(keyword)
            padded = value + b" " * (len(value) % 2)
            image[tag] = RawDataElement(
                tag, dictionary_VR(tag), len(padded), padded, 0, False, True
            )
    return images


def write(images: list[pydicom.Dataset], folder: Path) -> Path:
    """Write them in an order that is not theirs, with a file that is no DICOM."""
    folder.mkdir(parents=True)
    for number, image in enumerate(reversed(images)):
        image.save_as(folder / f"{number:04d}", enforce_file_format=True)
    (folder / "notes.txt").write_text("no image")
    return folder


def write_multi_frame(images: list[pydicom.Dataset], path: Path) -> Path:
    """The same as one legacy converted enhanced MR file, frames in another order."""
    from highdicom.legacy import LegacyConvertedEnhancedMRImage

    converted = LegacyConvertedEnhancedMRImage(
        images[::-1],
        series_instance_uid=generate_uid(prefix=None),
        series_number=4,
        sop_instance_uid=generate_uid(prefix=None),
        instance_number=1,
    )
    converted.save_as(path)
    return path


def write_frames(images: list[pydicom.Dataset], folder: Path) -> Path:
    """The same as enhanced MR files of one frame each."""
    from pydicom.uid import EnhancedMRImageStorage

    folder.mkdir(parents=True)
    path = write_multi_frame(images, folder.with_suffix(".dcm"))
    whole = pydicom.dcmread(path)
    size = whole.Rows * whole.Columns * 2
    for number, groups in enumerate(whole.PerFrameFunctionalGroupsSequence):
        part = pydicom.dcmread(path)
        part.SOPInstanceUID = part.file_meta.MediaStorageSOPInstanceUID = generate_uid(prefix=None)
        part.SOPClassUID = part.file_meta.MediaStorageSOPClassUID = EnhancedMRImageStorage
        part.NumberOfFrames = 1
        part.PerFrameFunctionalGroupsSequence = [groups]
        part.PixelData = whole.PixelData[number * size : (number + 1) * size]
        part.save_as(folder / f"{number}.dcm")
    return folder


def head() -> Volume:
    """An oblique scan of 2 mm slices, whole numbers."""
    made = scan(spacing=(0.9, 1.1, 2.0), degrees=17, landmark=(5, 5, 5))
    return Volume(np.rint(made.data).astype(np.int16), made.affine)


def require_same_place(affine: NDArray[np.float64], scanned: Volume, tolerance_mm: float) -> None:
    """Fail unless an affine puts the scan's corners where they are."""
    corners = Grid(scanned.shape, affine).corners_ras
    np.testing.assert_allclose(corners, scanned.grid.corners_ras, atol=tolerance_mm)
