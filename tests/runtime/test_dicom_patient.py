"""DICOM in: images that are used together should be of one patient and study."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.derived import thin
from tests.fakes import dicom_series
from tlp_runtime.io.dicom.patient import patient_doubts
from tlp_runtime.io.dicom.series import DicomSeries, read_series


@pytest.fixture
def pair(tmp_path: Path) -> dict[str, DicomSeries]:
    """A T1 and a T2 of one patient and study, in memory."""
    images = {name: dicom_series.datasets(thin()) for name in ("t1", "t2")}
    for image in images["t2"]:
        image.StudyInstanceUID = images["t1"][0].StudyInstanceUID
    return {
        name: read_series(dicom_series.write(one, tmp_path / name)) for name, one in images.items()
    }


def change(series: DicomSeries, **attributes: str) -> None:
    for header in series.headers:
        for keyword, value in attributes.items():
            setattr(header, keyword, value)


def test_images_of_one_patient_and_study_raise_no_doubt(pair: dict[str, DicomSeries]) -> None:
    assert patient_doubts(pair) == ()
    assert patient_doubts({"t1": pair["t1"]}) == ()
    assert patient_doubts({}) == ()


@pytest.mark.documents(
    "DICOM",
    "a T1 and a T2 whose patient ID, its issuer or the date of birth differ",
    "a warning about the scan that names the attributes",
)
@pytest.mark.parametrize(
    ("keyword", "first", "second"),
    [
        ("PatientID", "4711", "4712"),
        ("IssuerOfPatientID", "A", "B"),
        ("PatientBirthDate", "19600101", "19610101"),
    ],
)
def test_images_of_different_patients_are_warned_of_without_naming_them(
    pair: dict[str, DicomSeries], keyword: str, first: str, second: str
) -> None:
    change(pair["t1"], **{keyword: first})
    change(pair["t2"], **{keyword: second})
    (warning,) = patient_doubts(pair)
    assert (warning.code.name, warning.kind) == ("patients-differ", "input")
    assert dict(warning.numbers) == {"attributes": keyword}
    assert warning.text == f"t1 and t2 differ in {keyword}: they seem to be of different patients."
    change(pair["t2"], **{keyword: ""})
    assert patient_doubts(pair) == (), "an attribute that is missing says nothing"


def test_names_count_only_where_there_are_no_identifiers(pair: dict[str, DicomSeries]) -> None:
    change(pair["t2"], PatientName="Muster^Anne^^^")
    assert patient_doubts(pair) == (), "names are spelled in many ways"
    change(pair["t1"], PatientID="")
    assert patient_doubts(pair)[0].numbers["attributes"] == "PatientName"
    change(pair["t2"], PatientName="MÜSTER^ÄNNE^^")
    assert patient_doubts(pair) == ()


def test_one_image_of_another_patient_within_a_series_is_found(
    pair: dict[str, DicomSeries],
) -> None:
    pair["t1"].headers[2].PatientID = "4712"
    (warning,) = patient_doubts({"t1": pair["t1"]})
    assert warning.text.startswith("images of t1 differ in PatientID")
    assert [one.code.name for one in patient_doubts(pair)] == ["patients-differ"]


def test_different_studies_are_warned_of(pair: dict[str, DicomSeries]) -> None:
    change(pair["t2"], StudyInstanceUID="1.2.3")
    (warning,) = patient_doubts(pair)
    assert (warning.code.name, warning.kind) == ("studies-differ", "input")
    assert warning.text.startswith("t1 and t2 are from different studies")


def test_a_header_that_cannot_be_read_raises_no_error(pair: dict[str, DicomSeries]) -> None:
    dicom_series.spoil(list(pair["t2"].headers), PatientBirthDate=b"?", PatientID=b"\xff\xfe")
    assert "patients-differ" in [one.code.name for one in patient_doubts(pair)]
