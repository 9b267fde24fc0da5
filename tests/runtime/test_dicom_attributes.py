"""DICOM out: what of a source's header may stand in a derived series."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from tests.derived import derived, thin
from tests.fakes import dicom_series
from tlp_runtime.errors import ContentError, SetOption
from tlp_runtime.io.dicom.derived import require_derivable
from tlp_runtime.io.dicom.series import read_series

LONG = 100 * b"x"


@pytest.mark.documents(
    "DICOM",
    "values that DICOM does not allow, such as the EchoTime `min`",
    "left out, shortened or replaced in a derived series, with a warning before the network runs",
)
@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
@pytest.mark.parametrize(
    ("keyword", "value", "how", "expected"),
    [
        ("EchoTime", b"min", "left_out", None),
        ("EchoTime", b"2,5", "left_out", None),
        ("EchoTime", b"nan", "left_out", None),
        ("RepetitionTime", b"600.12345678901234567", "shortened", "600.123456789012"),
        ("EchoTrainLength", b"1.5", "left_out", None),
        ("AcquisitionNumber", b"99999999999", "left_out", "absent"),
        ("SeriesNumber", b"three", "replaced", 9000),
        ("SeriesNumber", b"2147483000", "replaced", 9000),
        ("StudyDate", b"2026.01.02", "left_out", ""),
        ("StudyDate", b"20260230", "left_out", ""),
        ("StudyDate", b"20260101-20260102", "left_out", ""),
        ("StudyTime", b"10:11:12", "left_out", ""),
        ("StudyTime", b"101160", "left_out", ""),
        ("AcquisitionTime", b"noon", "left_out", "absent"),
        ("PatientAge", b"45", "left_out", "absent"),
        ("PatientSex", b"male", "left_out", ""),
        ("PatientSex", b"X", "left_out", ""),
        ("PatientSize", rb"1.8\1.9", "left_out", "absent"),
        ("PatientID", LONG, "left_out", ""),
        ("PatientID", b"one\ntwo", "left_out", ""),
        ("AccessionNumber", 17 * b"1", "left_out", ""),
        ("StudyDescription", LONG, "shortened", 64 * "x"),
        ("StudyDescription", rb"a\b", "left_out", "absent"),
        ("PatientName", b"A^B^C^D^E^F", "left_out", ""),
        ("PatientName", LONG, "left_out", ""),
        ("PatientName", b"A=B=C=D", "left_out", ""),
        ("PatientName", b"M\xfcller", "left_out", ""),
        ("ReferringPhysicianName", rb"a\b", "left_out", ""),
        ("PatientPosition", b"supine", "left_out", ""),
        ("MRAcquisitionType", b"4D", "left_out", ""),
        ("ScanningSequence", b"FOO", "replaced", "RM"),
        ("SequenceVariant", b"a-b", "replaced", "NONE"),
        ("BodyPartExamined", b"KNEE", "replaced", "BRAIN"),
        ("SliceThickness", b"thick", "left_out", None),
        ("SliceThickness", b"0", "left_out", None),
        ("SpacingBetweenSlices", b"-2", "left_out", "absent"),
        ("SliceLocation", b"here", "left_out", "absent"),
    ],
)
def test_what_a_source_has_no_valid_value_of_is_named_and_not_copied(
    tmp_path: Path, record: dict[str, Any], keyword: str, value: bytes, how: str, expected: Any
) -> None:
    images = dicom_series.spoil(dicom_series.datasets(thin()), **{keyword: value})
    source = read_series(dicom_series.write(images, tmp_path / "s"))
    (warning,) = require_derivable(source)
    assert (warning.code.name, warning.kind) == ("attributes-dropped", "operational")
    assert dict(warning.numbers) == {how: keyword}
    assert keyword in warning.text
    image = derived(source, tmp_path / "out", record)[1]
    if expected == "absent":
        assert keyword not in image
    else:
        assert image[keyword].value == expected


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_an_institution_of_too_many_characters_is_cut(
    tmp_path: Path, record: dict[str, Any]
) -> None:
    images = dicom_series.spoil(
        dicom_series.datasets(thin()), InstitutionName=LONG, Manufacturer=b"", EchoTime=b"min"
    )
    source = read_series(dicom_series.write(images, tmp_path / "a"))
    (warning,) = require_derivable(source)
    assert dict(warning.numbers) == {"left_out": "EchoTime", "shortened": "InstitutionName"}
    (ours,) = derived(source, tmp_path / "out-a", record)[0].ContributingEquipmentSequence
    assert ours.Manufacturer == "TLP toolkit"
    images = dicom_series.spoil(dicom_series.datasets(thin()), InstitutionName=LONG)
    source = read_series(dicom_series.write(images, tmp_path / "b"))
    scanner, _ = derived(source, tmp_path / "out-b", record)[0].ContributingEquipmentSequence
    assert scanner.InstitutionName == 64 * "x"


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
@pytest.mark.parametrize(
    ("character_set", "name", "kept"),
    [
        (b"ISO_IR 192", "Müster^Änne".encode(), True),
        (b"ISO_IR 100", "Müster^Änne".encode("latin-1"), True),
        (rb"\ISO 2022 IR 87", b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B", True),
        (b"", "Müster^Änne".encode("latin-1"), False),
        (b"ISO_IR 6", "Müster^Änne".encode("latin-1"), False),
        (b"ISO_IR 999", "Müster^Änne".encode("latin-1"), False),
        (b"ISO-IR 100", "Müster^Änne".encode("latin-1"), False),
        (b"LATIN1", "Müster^Änne".encode("latin-1"), False),
        (rb"ISO_IR 192\ISO 2022 IR 87", "Müster^Änne".encode(), False),
        (b"ISO_IR 999", b"Muster^Anne", True),
    ],
)
def test_text_is_copied_where_its_character_set_is_known(
    tmp_path: Path, record: dict[str, Any], character_set: bytes, name: bytes, kept: bool
) -> None:
    images = dicom_series.datasets(thin())
    for image in images:
        image.PatientName = ""
    images = dicom_series.spoil(images, SpecificCharacterSet=character_set, PatientName=name)
    source = read_series(dicom_series.write(images, tmp_path / "s"))
    image = derived(source, tmp_path / "out", record)[1]
    assert str(image.PatientName) == (str(images[0].PatientName) if kept else "")
    named = {
        word for w in require_derivable(source) for word in str(w.numbers["left_out"]).split(", ")
    }
    assert ("PatientName" in named) is not kept
    assert ("SpecificCharacterSet" in image) is (
        bool(character_set) and "SpecificCharacterSet" not in named
    )


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_positions_of_more_characters_than_allowed_are_rounded(
    tmp_path: Path, record: dict[str, Any]
) -> None:
    images = dicom_series.datasets(thin())
    for image in images:
        long = [f"{float(v):.17f}" for v in image.ImagePositionPatient]
        dicom_series.spoil([image], ImagePositionPatient="\\".join(long).encode())
    source = read_series(dicom_series.write(images, tmp_path / "s"))
    (warning,) = require_derivable(source)
    assert dict(warning.numbers) == {"shortened": "ImagePositionPatient"}
    derived(source, tmp_path / "out", record)
    back = read_series(tmp_path / "out").volume
    np.testing.assert_allclose(back.affine, source.volume.affine, rtol=0, atol=1e-9)


def test_valid_values_are_copied_to_the_last_digit_and_without_a_word(
    tmp_path: Path, record: dict[str, Any]
) -> None:
    images = dicom_series.spoil(
        dicom_series.datasets(thin()), SliceThickness=b"+2.00", EchoTime=b"2.50e0 ", PatientID=b""
    )
    source = read_series(dicom_series.write(images, tmp_path / "s"))
    assert require_derivable(source) == ()
    derived(source, tmp_path / "out", record)
    for file, image in zip(sorted((tmp_path / "out").iterdir()), images, strict=True):
        made = pydicom.dcmread(file)
        for keyword in ("SliceThickness", "EchoTime", "PatientID", "ImagePositionPatient"):
            ours, theirs = (str(one[keyword].value) for one in (made, image))
            assert ours.strip() == theirs.strip()


@pytest.mark.parametrize("uid", [b"", b"1.2.03", b"study", 33 * b"1."])
@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_a_source_without_a_study_is_refused_before_any_work(tmp_path: Path, uid: bytes) -> None:
    images = dicom_series.spoil(dicom_series.datasets(thin()), StudyInstanceUID=uid)
    source = read_series(dicom_series.write(images, tmp_path / "s"))
    with pytest.raises(ContentError, match="its Study Instance UID is missing or not valid") as no:
        require_derivable(source)
    assert no.value.fixes == (SetOption("out_format", "nifti"),)


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
@pytest.mark.parametrize("uid", [b"1..2", b""])
def test_an_invalid_or_missing_frame_of_reference_becomes_one_of_the_series(
    tmp_path: Path, record: dict[str, Any], uid: bytes
) -> None:
    source = read_series(dicom_series.write(dicom_series.datasets(thin()), tmp_path / "s"))
    dicom_series.spoil(list(source.headers), FrameOfReferenceUID=uid)
    (warning,) = require_derivable(source)
    assert dict(warning.numbers) == {"replaced": "FrameOfReferenceUID"}
    first = derived(source, tmp_path / "out", record)
    again = derived(source, tmp_path / "again", record, request="another")
    assert len({image.FrameOfReferenceUID for image in (*first, *again)}) == 1
    assert first[0].SeriesInstanceUID != again[0].SeriesInstanceUID


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_a_source_without_a_valid_uid_is_not_referred_to(
    tmp_path: Path, record: dict[str, Any]
) -> None:
    source = read_series(dicom_series.write(dicom_series.datasets(thin()), tmp_path / "s"))
    dicom_series.spoil([source.headers[1]], SOPInstanceUID=b"1.02.3")
    (warning,) = require_derivable(source)
    assert dict(warning.numbers) == {"left_out": "SourceImageSequence"}
    made = derived(source, tmp_path / "out", record)
    assert ["SourceImageSequence" in image for image in made] == [True, False, True]


@pytest.mark.parametrize(
    ("keyword", "value", "conditional"),
    [("ScanOptions", rb"FC\PPG", "TriggerTime"), ("ScanningSequence", b"IR", "InversionTime")],
)
def test_what_gating_and_inversion_require_is_present(
    tmp_path: Path, record: dict[str, Any], keyword: str, value: bytes, conditional: str
) -> None:
    images = dicom_series.datasets(thin(), InversionTime=None)
    source = read_series(
        dicom_series.write(dicom_series.spoil(images, **{keyword: value}), tmp_path / "s")
    )
    image = derived(source, tmp_path / "out", record)[1]
    assert image[conditional].value is None
