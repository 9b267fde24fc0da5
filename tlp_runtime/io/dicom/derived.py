"""A synthesis as a derived MR series in the study of the scan it was made from.

Every attribute is set here or copied by name from the source, so nothing private, no text burned
into pixels and no contrast agent can come along.
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tlp_runtime.errors import ContentError, GeometryError, SetOption
from tlp_runtime.files.atomic import atomic_folder, entries, require_folder
from tlp_runtime.geometry.grid import shape_text
from tlp_runtime.geometry.volume import Volume
from tlp_runtime.io.dicom.attributes import (
    CONDITIONAL,
    COPIED,
    DEFAULTS,
    EQUIPMENT,
    Attributes,
    lossy_compression,
    set_value,
    several,
)
from tlp_runtime.io.dicom.derived_image import image_plane
from tlp_runtime.io.dicom.series import DicomSeries
from tlp_runtime.io.dicom.values import text
from tlp_runtime.warnings import TLPWarning

DESCRIPTION = "SYNTHETIC T1ce (TLP), not for diagnosis"
"""Series description; at most 64 characters."""

MAXIMUM = 4095
"""Stored value of 1.0: 12 bits, as scanners store."""

SERIES_OFFSET = 9000
"""Added to the source's series number."""

_LARGEST_INTEGER = 2**31 - 1
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://pypi.org/project/tlp-mri/")


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


def require_derivable(
    source: DicomSeries, others: Sequence[DicomSeries] = ()
) -> tuple[TLPWarning, ...]:
    """Raise before any work is done when no derived series could be made of ``source``.

    Parameters
    ----------
    others
        Further series that it is going to be made from.

    Returns
    -------
    Which attributes of the sources are not valid and will not be copied as they are.

    Raises
    ------
    ContentError
        It names no study that a derived series could belong to.
    """
    return _Template.of(source, others).warnings


def write_derived(
    volume: Volume,
    source: DicomSeries,
    folder: Path,
    record: Mapping[str, Any],
    *,
    others: Sequence[DicomSeries] = (),
    request: str = "",
    overwrite: bool = False,
) -> tuple[TLPWarning, ...]:
    """Write a folder with one MR image per slice of the source series.

    The files hold neither the time nor anything random: the same sources, model and request give
    the same bytes, and what differs in any of them has other UIDs.

    Parameters
    ----------
    volume
        float32 in [0, 1] on the grid of ``source.volume``.
    record
        The provenance (:mod:`tlp_runtime.synthesis.provenance`): model and versions go into the
        images.
    others
        Further series it was made from; each image refers to their slices at its place.
    request
        What tells this request from others of the same sources and model, such as a hash.

    Returns
    -------
    As :func:`require_derivable`.

    Raises
    ------
    GeometryError
        A volume on another grid than the source.
    ContentError
        As :func:`require_derivable`.
    OutputError
        As :func:`require_series_folder`, or when writing fails half-way.
    """
    require_series_folder(folder, overwrite=overwrite)

    if volume.shape != source.volume.shape:
        raise GeometryError(
            f"{volume.name}: {shape_text(volume.shape)} is not the grid of the source series, "
            f"{shape_text(source.volume.shape)}"
        )
    template = _Template.of(source, others)
    common = _described(template, record)
    pixels = np.rint(np.clip(volume.data, 0, 1) * MAXIMUM).astype("<u2")
    common.SeriesInstanceUID = _series_uid(common, pixels, (source, *others), record, request)
    with atomic_folder(folder, overwrite=overwrite, foreign=_foreign) as temporary:
        for index, slice_ in enumerate(template.slices):
            image = copy.deepcopy(common)
            image.update(slice_)
            image.InstanceNumber = index + 1
            image.SOPInstanceUID = derived_uid(common.SeriesInstanceUID, str(index + 1))
            image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
            image.PixelData = np.ascontiguousarray(pixels[:, :, index].T).tobytes()
            image.save_as(temporary / f"IM{index + 1:05d}.dcm", enforce_file_format=True)
    return template.warnings


@dataclass(frozen=True)
class _Template:
    """What a derived series takes from its sources.

    Parameters
    ----------
    common
        The attributes that every image shares.
    slices
        Those of each image: its plane, and the slices that it was made from.
    scanner
        Attributes of the equipment that acquired the source.
    warnings
        Which attributes of the sources are not valid.
    """

    common: Any
    slices: tuple[Any, ...]
    scanner: Mapping[str, Any]
    warnings: tuple[TLPWarning, ...]

    @classmethod
    def of(cls, source: DicomSeries, others: Sequence[DicomSeries]) -> Self:
        """Take what is valid. Raises as :func:`require_derivable`."""
        header = source.headers[0]
        attributes = Attributes(header)
        common = _common(attributes, header, source.volume)
        every = [one for series in (source, *others) for one in series.headers]
        for keyword, value in lossy_compression(attributes, every).items():
            setattr(common, keyword, value)
        slices = tuple(
            image_plane(attributes, source, others, index)
            for index in range(source.volume.shape[2])
        )
        taken = {keyword: attributes.take(header, keyword) for keyword in EQUIPMENT}
        scanner = {keyword: value for keyword, value in taken.items() if value is not None}
        return cls(common, slices, scanner, attributes.warnings(source.volume.name))


def _common(attributes: Attributes, header: Any, volume: Volume) -> Any:
    """What every image of the series shares, of what does not depend on the synthesis."""
    import pydicom
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

    image = pydicom.Dataset()
    image.file_meta = pydicom.dataset.FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.file_meta.MediaStorageSOPClassUID = MRImageStorage
    if attributes.character_set is not None:
        image.SpecificCharacterSet = attributes.character_set
    for keyword in COPIED:
        set_value(image, keyword, attributes.take(header, keyword, DEFAULTS.get(keyword)))
    for keyword, (other, needing) in CONDITIONAL.items():
        if needing & set(several(image.get(other))):
            setattr(image, keyword, attributes.take(header, keyword))
    if "StudyInstanceUID" not in image:
        raise ContentError(
            f"{volume.name}: its Study Instance UID is missing or not valid, so there is "
            "no study that a derived series could belong to",
            fix=SetOption("out_format", "nifti"),
        )
    if "FrameOfReferenceUID" not in image:
        # The same for every series made of this one.
        image.FrameOfReferenceUID = derived_uid(
            "frame of reference", text(header, "SeriesInstanceUID")
        )
        attributes.replaced("FrameOfReferenceUID")
    image.SOPClassUID = MRImageStorage
    image.Modality = "MR"
    image.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
    image.SeriesDescription = DESCRIPTION
    image.SeriesNumber = _series_number(attributes, header)
    image.Manufacturer = "TLP toolkit"
    image.ManufacturerModelName = "tlp-mri"
    image.BurnedInAnnotation = "NO"
    image.Columns, image.Rows, _ = volume.shape
    image.SamplesPerPixel = 1
    image.PhotometricInterpretation = "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit = 16, 12, 11
    image.PixelRepresentation = 0
    image.WindowCenter, image.WindowWidth = (MAXIMUM + 1) / 2, MAXIMUM + 1
    return image


def _series_number(attributes: Attributes, header: Any) -> int:
    number = int(attributes.take(header, "SeriesNumber", 0))
    if SERIES_OFFSET + number > _LARGEST_INTEGER:
        attributes.replaced("SeriesNumber")
        return SERIES_OFFSET
    return SERIES_OFFSET + number


def _described(template: _Template, record: Mapping[str, Any]) -> Any:
    """The template's common attributes, with how the images were made."""
    model, versions = record["model"], record["software"]
    image = copy.deepcopy(template.common)
    image.SoftwareVersions = versions.get("tlp-mri", "")
    image.ContributingEquipmentSequence = _contributors(template.scanner, model, versions)
    # The character set is the source's, which may not hold every name; the hash tells it too.
    name = model["name"].encode("ascii", "replace").decode()
    image.DerivationDescription = (
        "Synthetic contrast-enhanced T1 made by a neural network from "
        f"{', '.join(name.upper() for name in model['spec']['inputs'])}"
        f"{' and a marked region' if record['prompt'] else ''}; no contrast agent was given, not "
        f"for diagnosis. Model {name}, weights SHA-256 {model['onnx_sha256']}, "
        f"engine {record['engine']['name']}."
    )[:1024]
    return image


def _contributors(
    scanner: Mapping[str, Any], model: Mapping[str, Any], versions: Mapping[str, str]
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
        contribution_description="Synthesis of a contrast-enhanced T1 by a neural network",
    )
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


def _series_uid(
    common: Any,
    pixels: NDArray[np.uint16],
    sources: Iterable[DicomSeries],
    record: Mapping[str, Any],
    request: str,
) -> Any:
    """A UID of what the series is made from, how, and what it holds."""
    identity = {
        "sources": [
            [
                (text(header, "SeriesInstanceUID"), text(header, "SOPInstanceUID"))
                for header in series.headers
            ]
            for series in sources
        ],
        "model": record["model"]["onnx_sha256"],
        "request": [request, record["geometry"]],
    }
    encoded = io.BytesIO()
    common.save_as(encoded)
    content = hashlib.sha256(encoded.getvalue())
    content.update(pixels.tobytes())
    return derived_uid(json.dumps(identity, sort_keys=True), content.hexdigest())


def derived_uid(*of: str) -> Any:
    """The UID that these words stand for: a name-based UUID, as a UID."""
    from pydicom.uid import UID

    return UID(f"2.25.{uuid.uuid5(_NAMESPACE, chr(0).join(of)).int}")
