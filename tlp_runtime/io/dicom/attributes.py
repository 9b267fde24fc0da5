"""Attributes that a derived image takes from its source: which ones, and only if they are valid.

pydicom judges a value by its value representation. What it does not judge is checked here:
multiplicity, enumerated values, dates of the calendar, text that the character set cannot hold.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from tlp_runtime.io.dicom.values import INVALID, text
from tlp_runtime.warnings import ATTRIBUTES_DROPPED, TLPWarning

COPIED = (
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
    "EchoTrainLength", "MagneticFieldStrength",
)  # fmt: skip

EMPTY_ALLOWED = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime",
    "StudyID", "AccessionNumber", "ReferringPhysicianName", "PositionReferenceIndicator",
    "PatientPosition", "ScanOptions", "MRAcquisitionType", "RepetitionTime", "EchoTime",
    "EchoTrainLength", "SliceThickness",
)  # fmt: skip
"""Attributes that the standard wants present, if need be without a value."""

DEFAULTS = {"ScanningSequence": "RM", "SequenceVariant": "NONE", "BodyPartExamined": "BRAIN"}
"""Values of attributes that must have one, where the source has none that is valid."""

CONDITIONAL = {
    "InversionTime": ("ScanningSequence", {"IR"}),
    "TriggerTime": ("ScanOptions", {"CG", "PPG"}),
}
"""Attributes that must be present, if need be without a value, where another has a value."""

PLANE = (
    "PixelSpacing", "SliceThickness", "SpacingBetweenSlices", "ImagePositionPatient",
    "ImageOrientationPatient", "SliceLocation",
)  # fmt: skip

EQUIPMENT = ("Manufacturer", "ManufacturerModelName", "InstitutionName", "SoftwareVersions")

_MAY_BE_CUT = ("StudyDescription", *EQUIPMENT)
"""Text that still says the same when it is cut; identifiers and names do not."""

_ENUMERATED = {
    "PatientSex": {"M", "F", "O"},
    "ScanningSequence": {"SE", "IR", "GR", "EP", "RM"},
    "MRAcquisitionType": {"2D", "3D"},
    # A paired or unknown part would need a laterality, which a brain does not have.
    "BodyPartExamined": {"BRAIN", "HEAD", "HEADNECK", "SKULL"},
}
_POSITIVE = {"SliceThickness", "SpacingBetweenSlices"}
_TEXT = {"LO", "PN", "SH"}
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_NOT_DECODED = "\ufffd"
_ASCII = {None, "", "ISO_IR 6", "ISO 2022 IR 6"}
"""Character sets without letters beyond ASCII."""
_NAME_PARTS = 5

_ALWAYS_LOSSY = {
    "1.2.840.10008.1.2.4.50",  # JPEG Baseline
    "1.2.840.10008.1.2.4.51",  # JPEG Extended
    "1.2.840.10008.1.2.4.81",  # JPEG-LS Near-Lossless
}
_OFTEN_LOSSY = {
    "1.2.840.10008.1.2.4.91",  # JPEG 2000
    "1.2.840.10008.1.2.4.93",  # JPEG 2000 Part 2 Multi-component
    "1.2.840.10008.1.2.4.111",  # JPEG XL JPEG Recompression
    "1.2.840.10008.1.2.4.112",  # JPEG XL
    "1.2.840.10008.1.2.4.203",  # High-Throughput JPEG 2000
}
"""Transfer syntaxes of both kinds: lossy unless the header says that nothing was lost."""


class Attributes:
    """Takes valid values from headers, and remembers which values were not valid.

    Parameters
    ----------
    header
        The one whose Specific Character Set holds for the text.

    Attributes
    ----------
    character_set
        Its value, where text can be decoded and written by it; else None.
    """

    def __init__(self, header: Any) -> None:
        self._left_out: dict[str, None] = {}
        self._shortened: dict[str, None] = {}
        self._replaced: dict[str, None] = {}
        self.character_set = self._character_set(header)
        self._ascii = set(several(self.character_set)) <= _ASCII

    def take(self, header: Any, keyword: str, default: Any = None) -> Any:
        """The value of an attribute, or ``default`` where it is missing, empty or invalid.

        A number of more than 16 characters is rounded, a description that is too long is cut.
        """
        try:
            value = _read(header, keyword)
        except INVALID:
            return self._instead(keyword, default)
        if value is None:
            return default
        try:
            return self._valid(keyword, value)
        except INVALID:
            pass
        try:
            value = self._valid(keyword, _shorter(keyword, value))
        except INVALID:
            return self._instead(keyword, default)
        self._shortened[keyword] = None
        return value

    def replaced(self, keyword: str) -> None:
        """Remember that an attribute has another value than the source's."""
        self._left_out.pop(keyword, None)
        self._replaced[keyword] = None

    def left_out(self, keyword: str) -> None:
        """Remember that an attribute could not be taken."""
        self._left_out[keyword] = None

    def warnings(self, name: str) -> tuple[TLPWarning, ...]:
        """One warning naming the attributes that are not as in the source ``name``, or none."""
        named = {
            "left_out": ("Not copied to the derived series", self._left_out),
            "shortened": ("Shortened", self._shortened),
            "replaced": ("Replaced", self._replaced),
        }
        found = {key: ", ".join(keywords) for key, (_, keywords) in named.items() if keywords}
        if not found:
            return ()
        told = " ".join(f"{named[key][0]}: {keywords}." for key, keywords in found.items())
        return (
            ATTRIBUTES_DROPPED.warning(
                f"{name}: DICOM attributes without a valid value. {told}", **found
            ),
        )

    def _instead(self, keyword: str, default: Any) -> Any:
        if default is None:
            self.left_out(keyword)
        else:
            self.replaced(keyword)
        return default

    def _valid(self, keyword: str, value: Any) -> Any:
        """The value, if it may stand in a file. Raises one of ``INVALID``."""
        from pydicom.datadict import dictionary_VM, dictionary_VR, tag_for_keyword

        tag = tag_for_keyword(keyword)
        assert tag is not None
        vr, multiplicity = dictionary_VR(tag), dictionary_VM(tag)
        element = _element(tag, vr, value)
        if multiplicity.isdigit() and int(multiplicity) != element.VM:
            raise ValueError(f"{element.VM} values, expected {multiplicity}")
        for one in several(element.value):
            self._require(keyword, vr, one)
        return element.value

    def _require(self, keyword: str, vr: str, value: Any) -> None:
        """Check one value for what pydicom does not check."""
        from pydicom.valuerep import DA, TM

        if isinstance(value, bytes) or str(value) not in _ENUMERATED.get(keyword, {str(value)}):
            raise ValueError(f"{value!r} is not one of the values it may have")
        if vr == "DS" and (not math.isfinite(value) or (keyword in _POSITIVE and value <= 0)):
            raise ValueError(f"{value} is out of range")
        if vr in ("DA", "TM"):
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                (DA if vr == "DA" else TM)(value)
        text = str(value)
        beyond = _NOT_DECODED in text or (self._ascii and not text.isascii())
        if vr in _TEXT and (beyond or _CONTROL.search(text)):
            raise ValueError("text that the character set does not hold")
        if vr == "PN":
            _element("PatientName", vr, text)  # pydicom checks names as text alone
            if any(part.count("^") >= _NAME_PARTS for part in text.split("=")):
                raise ValueError("more parts than a name has")

    def _character_set(self, header: Any) -> Any:
        """Specific Character Set, where text can be decoded and written by it."""
        from pydicom.charset import convert_encodings, python_encoding

        try:
            value = _read(header, "SpecificCharacterSet")
            if value is None:
                return None
            element = _element("SpecificCharacterSet", "CS", value)
            terms = [str(term) for term in several(element.value)]
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                convert_encodings(terms)
            if any(term not in python_encoding for term in terms):
                raise ValueError("unknown character set")
        except INVALID:
            self.left_out("SpecificCharacterSet")
            return None
        return value


def set_value(image: Any, keyword: str, value: Any) -> None:
    """Set an attribute; one without a value is empty if the standard wants it, else absent."""
    if value is not None or keyword in EMPTY_ALLOWED:
        setattr(image, keyword, value)


def valid_uid(header: Any, keyword: str) -> Any:
    """A valid UID of a header, or None."""
    try:
        value = _read(header, keyword)
        return None if value is None else _element(keyword, "UI", value).value
    except INVALID:
        return None


def lossy_compression(attributes: Attributes, headers: Iterable[Any]) -> Mapping[str, Any]:
    """Lossy Image Compression of what is made of these images, with its ratio and method.

    What was lost once stays lost, whatever the file is stored as now.
    """
    lossy = [header for header in headers if _is_lossy(header)]
    if not lossy:
        return {"LossyImageCompression": "00"}
    found = {"LossyImageCompression": "01"}
    for keyword in ("LossyImageCompressionRatio", "LossyImageCompressionMethod"):
        value = attributes.take(lossy[0], keyword)
        if value is not None:
            found[keyword] = value
    return found


def _is_lossy(header: Any) -> bool:
    said = text(header, "LossyImageCompression")
    syntax = str(getattr(header, "file_meta", {}).get("TransferSyntaxUID", ""))
    if said:
        return said != "00" or syntax in _ALWAYS_LOSSY
    return syntax in _ALWAYS_LOSSY | _OFTEN_LOSSY


def decimal(value: float) -> Any:
    """A decimal string of at most 16 characters, as exact as those allow."""
    from pydicom.valuerep import DSfloat

    return DSfloat(float(value) + 0.0, auto_format=True)


def _read(header: Any, keyword: str) -> Any:
    """The value of an attribute, whatever it is; None where it is missing or empty."""
    if keyword not in header:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what pydicom warns of is judged by _valid
        value = header[keyword].value
        return None if value is None or value == "" or not several(value) else value


def _element(tag: Any, vr: str, value: Any) -> Any:
    """The element with that value. Raises one of ``INVALID`` where pydicom objects to it."""
    from pydicom import config
    from pydicom.dataelem import DataElement

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return DataElement(tag, vr, value, validation_mode=config.RAISE)


def several(value: Any) -> list[Any]:
    """The values of an element, of any multiplicity."""
    return list(value) if hasattr(value, "append") else [value]


def _shorter(keyword: str, value: Any) -> Any:
    """A rounded number or cut text. Raises :class:`ValueError` where neither makes sense."""
    from pydicom.datadict import dictionary_VR
    from pydicom.valuerep import MAX_VALUE_LEN

    vr = dictionary_VR(keyword)
    if vr == "DS":
        return [decimal(number) for number in several(value)]
    if keyword in _MAY_BE_CUT:
        return [str(text)[: MAX_VALUE_LEN[vr]].rstrip() for text in several(value)]
    raise ValueError("cannot be shortened")
