"""DICOM out: a derived series that archives accept."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK

from tests.fakes import dicom_series
from tests.fakes.dicom_series import head, require_same_place
from tests.fakes.engine import FakeEngine
from tests.scans import SMALL, scan
from tests.support import need_tool
from tlp_runtime import Synthesizer, Volume
from tlp_runtime.errors import (
    GeometryError,
)
from tlp_runtime.geometry.grid import difference
from tlp_runtime.io.dicom.derived import DESCRIPTION, MAXIMUM, write_derived
from tlp_runtime.io.dicom.series import DicomSeries, read_series
from tlp_runtime.io.nifti import read_volume
from tlp_runtime.spec.model import ModelSpec
from tlp_runtime.synthesis.request import Request


def synthesize(source: DicomSeries, spec: ModelSpec = SMALL) -> tuple[Volume, dict[str, Any]]:
    with Synthesizer(FakeEngine(spec)) as synthesizer:
        result = synthesizer.run(Request(images={"t1": source.volume}))
    return result.volume, result.record.to_dict()


@pytest.mark.documents(
    "DICOM",
    "`--out-format dicom`",
    "a derived MR series: new UIDs, same study; no private tag, no contrast attribute",
)
@pytest.mark.parametrize("form", ["series", "multi-frame"])
def test_a_derived_series_carries_what_it_must_and_nothing_else(tmp_path: Path, form: str) -> None:
    images = dicom_series.datasets(head(), ContrastBolusAgent="Gadovist", InversionTime=None)
    if form == "series":
        source = read_series(dicom_series.write(images, tmp_path / "s"))
    else:
        path = dicom_series.write_multi_frame(images, tmp_path / "mf.dcm")
        source = read_series(path)
    volume, record = synthesize(source)
    write_derived(volume, source, tmp_path / "out", record)
    files = sorted((tmp_path / "out").iterdir())
    assert len(files) == head().shape[2]
    made = [pydicom.dcmread(file) for file in files]
    one = made[10]
    assert {m.StudyInstanceUID for m in made} == {images[0].StudyInstanceUID}
    assert {m.FrameOfReferenceUID for m in made} == {images[0].FrameOfReferenceUID}
    assert len({m.SeriesInstanceUID for m in made} - {images[0].SeriesInstanceUID}) == 1
    uids = {m.SOPInstanceUID for m in made}
    assert len(uids) == len(made)
    assert not uids & {i.SOPInstanceUID for i in images}
    assert list(one.ImageType[:2]) == ["DERIVED", "SECONDARY"]
    assert one.SeriesDescription == DESCRIPTION
    assert "SYNTHETIC" in one.SeriesDescription
    assert "weights SHA-256" in one.DerivationDescription
    (reference,) = one.SourceImageSequence
    if form == "series":
        assert reference.ReferencedSOPInstanceUID == images[10].SOPInstanceUID
    else:
        assert reference.ReferencedSOPInstanceUID == pydicom.dcmread(path).SOPInstanceUID
        assert reference.ReferencedFrameNumber == source.frames[10]
    scanner, ours = one.ContributingEquipmentSequence
    assert scanner.Manufacturer == "ACME"
    assert ours.SoftwareVersions[0].startswith("tlp-mri ")
    assert ours.SoftwareVersions[1].startswith("weights ")
    assert str(one.PatientName) == "Müster^Änne"
    assert one.BurnedInAnnotation == "NO"
    assert not [e for e in one.iterall() if e.tag.is_private]
    assert not [e.keyword for e in one.iterall() if "Contrast" in e.keyword]
    stored = np.stack([m.pixel_array.T for m in made], axis=2)
    np.testing.assert_array_equal(stored, np.rint(volume.data * MAXIMUM))
    checked = read_series(tmp_path / "out").volume
    assert difference(checked.grid, source.volume.grid) is None


@pytest.mark.documents("DICOM", "the same, by `dciodvfy`", "no error")
def test_dciodvfy_finds_no_error(tmp_path: Path, series: Path) -> None:
    dciodvfy = need_tool("dciodvfy", "dicom3tools")
    multi = dicom_series.write_multi_frame(dicom_series.datasets(head()), tmp_path / "mf.dcm")
    inverted = dicom_series.datasets(head(), ScanningSequence=["GR", "IR"])
    bare = dicom_series.datasets(head())
    for image in bare:
        for keyword in ("PatientBirthDate", "ScanningSequence", "SequenceVariant", "StudyID",
                        "RepetitionTime", "Manufacturer"):  # fmt: skip
            delattr(image, keyword)
    sources = [series, multi, dicom_series.write(inverted, tmp_path / "inverted"),
               dicom_series.write(bare, tmp_path / "bare")]  # fmt: skip
    for number, path in enumerate(sources):
        source = read_series(path)
        volume, record = synthesize(source)
        write_derived(volume, source, tmp_path / f"out{number}", record)
        for file in sorted((tmp_path / f"out{number}").iterdir())[::20]:
            told = subprocess.run([dciodvfy, file], capture_output=True, text=True, check=False)
            assert "MRImage" in told.stderr, "it was checked as an MR image"
            assert "Error" not in told.stderr, told.stderr


@pytest.mark.documents(
    "DICOM", "the same, by dcm2niix and SimpleITK", "the scan's affine to 0.002 mm, every voxel"
)
@pytest.mark.parametrize("which", ["phantom", "real"])
def test_dcm2niix_and_simpleitk_put_a_derived_series_where_the_scan_is(
    tmp_path: Path, which: str, request: pytest.FixtureRequest
) -> None:
    scanned, spec = head(), SMALL
    if which == "real":
        cases: Path = request.getfixturevalue("real_cases")
        scanned = read_volume(cases / "BraTS2021_01478" / "BraTS2021_01478_t1.nii.gz")
        spec = ModelSpec(inputs=("t1",))
    source = read_series(dicom_series.write(dicom_series.datasets(scanned), tmp_path / "in"))
    np.testing.assert_array_equal(source.volume.data, scanned.data)
    volume, record = synthesize(source, spec)
    write_derived(volume, source, tmp_path / "out", record)

    tool = Path(sys.executable).with_name("dcm2niix")
    (tmp_path / "nii").mkdir()
    subprocess.run(
        [tool, "-z", "n", "-f", "x", "-o", tmp_path / "nii", tmp_path / "out"],
        check=True, capture_output=True,
    )  # fmt: skip
    image = nib.load(tmp_path / "nii" / "x.nii")
    back = Volume(np.asanyarray(image.dataobj), image.affine).reoriented(
        source.volume.grid.orientation
    )
    require_same_place(back.affine, source.volume, 2e-3)
    np.testing.assert_array_equal(back.data, np.rint(volume.data * MAXIMUM))

    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path / "out")))
    itk = reader.Execute()
    affine = np.eye(4)
    affine[:3, :3] = np.array(itk.GetDirection()).reshape(3, 3) * itk.GetSpacing()
    affine[:3, 3] = itk.GetOrigin()
    require_same_place(dicom_series.LPS @ affine, source.volume, 2e-3)
    np.testing.assert_array_equal(
        SimpleITK.GetArrayFromImage(itk).transpose(2, 1, 0), np.rint(volume.data * MAXIMUM)
    )


def test_a_second_source_is_referred_to_where_its_slices_lie(tmp_path: Path) -> None:
    source = read_series(dicom_series.write(dicom_series.datasets(head()), tmp_path / "t1"))
    thick = Volume(head().data[:, :, 10:30:2].copy(), head().affine @ _stretch(10, 2))
    other = read_series(dicom_series.write(dicom_series.datasets(thick), tmp_path / "t2"))
    volume, record = synthesize(source)
    write_derived(volume, source, tmp_path / "out", record, others=[other])
    made = [pydicom.dcmread(file) for file in sorted((tmp_path / "out").iterdir())]
    assert [len(m.SourceImageSequence) for m in made[:9]] == [1] * 9
    second = made[14].SourceImageSequence[1]
    assert second.ReferencedSOPInstanceUID == other.headers[2].SOPInstanceUID


def _stretch(first: int, factor: int) -> np.ndarray:
    matrix = np.diag([1.0, 1.0, factor, 1.0])
    matrix[2, 3] = first
    return matrix


def test_a_contrast_agent_in_the_source_is_warned_of(tmp_path: Path) -> None:
    images = dicom_series.datasets(head(), ContrastBolusAgent="Gadovist")
    source = read_series(dicom_series.write(images, tmp_path / "s"))
    (warning,) = source.volume.warnings
    assert warning.code.name == "contrast-agent"
    assert warning.kind == "input"
    assert "names a contrast agent (Gadovist)" in warning.text
    assert not read_series(
        dicom_series.write(dicom_series.datasets(head()), tmp_path / "t")
    ).volume.warnings


def test_a_volume_of_another_grid_is_no_derived_series(series: Path, tmp_path: Path) -> None:
    with pytest.raises(GeometryError, match="not the grid of the source series"):
        write_derived(scan(), read_series(series), tmp_path / "out", {})


def test_the_record_of_a_dicom_source_names_its_folder_and_hash(series: Path) -> None:
    source = read_series(series)
    _, record = synthesize(source)
    assert record["inputs"]["t1"]["file"] == str(series)
    before = record["inputs"]["t1"]["sha256"]
    file = next(path for path in series.iterdir() if path.suffix != ".txt")
    shutil.copy(file, series / "zzz")
    (series / "zzz").unlink()
    assert read_series(series).volume.origin.sha256 == before  # type: ignore[union-attr]
    json.dumps(record)
