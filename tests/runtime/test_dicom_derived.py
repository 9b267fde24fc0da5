"""DICOM out: a derived series that archives accept."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK
from pydicom.uid import (
    JPEG2000,
    UID,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSNearLossless,
)

from tests.derived import derived, synthesize, thin
from tests.fakes import dicom_series
from tests.fakes.dicom_series import head, require_same_place
from tests.fakes.engine import FakeEngine
from tests.scans import SMALL, scan
from tests.support import need_tool
from tlp_runtime import Synthesizer, Volume
from tlp_runtime.engines.base import Slices
from tlp_runtime.errors import GeometryError, OutputError
from tlp_runtime.geometry.grid import difference
from tlp_runtime.io.dicom.derived import (
    DESCRIPTION,
    MAXIMUM,
    require_series_folder,
    write_derived,
)
from tlp_runtime.io.dicom.series import read_series
from tlp_runtime.io.nifti import read_volume
from tlp_runtime.spec.model import ModelSpec
from tlp_runtime.synthesis.provenance import read_record
from tlp_runtime.synthesis.request import Prompt, Request
from tlp_runtime.values.shapes import Sphere


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
        plane = source.planes[10]
        assert plane is not None
        assert reference.ReferencedFrameNumber == plane.frame
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


@pytest.mark.documents(
    "DICOM", "a source that was compressed with losses", "the derived series says so too"
)
@pytest.mark.parametrize(
    ("said", "syntax", "expected"),
    [
        (b"01", ExplicitVRLittleEndian, "01"),
        (b"00", ExplicitVRLittleEndian, "00"),
        (None, ExplicitVRLittleEndian, "00"),
        (None, JPEGBaseline8Bit, "01"),
        (b"00", JPEGBaseline8Bit, "01"),
        (None, JPEG2000, "01"),
        (b"00", JPEG2000, "00"),
        (None, JPEG2000Lossless, "00"),
        (None, JPEGLSNearLossless, "01"),
    ],
)
@pytest.mark.parametrize("of", ["source", "other"])
def test_lossy_compression_of_any_source_stays(
    tmp_path: Path, record: dict[str, Any], said: bytes | None, syntax: UID, expected: str, of: str
) -> None:
    paths = [
        dicom_series.write(dicom_series.datasets(thin()), tmp_path / name) for name in ("a", "b")
    ]
    source, other = (read_series(path) for path in paths)
    header = {"source": source, "other": other}[of].headers[1]
    header.file_meta.TransferSyntaxUID = syntax
    if said is not None:
        dicom_series.spoil([header], LossyImageCompression=said)
    if expected == "01":
        dicom_series.spoil(
            [header],
            LossyImageCompressionRatio=b"10.5",
            LossyImageCompressionMethod=b"ISO_10918_1",
        )
    for image in derived(source, tmp_path / "out", record, others=[other]):
        assert image.LossyImageCompression == expected
        assert image.get("LossyImageCompressionRatio") == (10.5 if expected == "01" else None)
        assert image.get("LossyImageCompressionMethod") == (
            "ISO_10918_1" if expected == "01" else None
        )


def contents(folder: Path) -> list[bytes]:
    return [file.read_bytes() for file in sorted(folder.iterdir())]


class Indifferent(FakeEngine):
    """Gives the same image whatever the prompt."""

    def _run(self, tensors: Mapping[str, Slices]) -> Slices:
        return super()._run({**tensors, "prompt": np.zeros_like(tensors["prompt"])})


def series_of(request: Request, folder: Path) -> pydicom.Dataset:
    """The first image of the derived series of a request."""
    with Synthesizer(Indifferent(SMALL)) as synthesizer:
        synthesizer.run(request).save_series(folder)
    return pydicom.dcmread(min(folder.iterdir()))


@pytest.mark.documents(
    "DICOM", "the same request again", "the same derived series, byte by byte; any other has others"
)
def test_the_same_request_gives_the_same_objects_and_no_other_does(
    tmp_path: Path, series: Path
) -> None:
    def ball(x: float) -> Prompt:
        return Prompt(shapes=(Sphere((x, 0.0, 0.0, 6.0)),))

    plain = Request(images={"t1": series})
    requests = {
        "plain": plain,
        "again": plain,
        "prompted": replace(plain, prompt=ball(0.0)),
        "prompted elsewhere": replace(plain, prompt=ball(9.0)),
        "every slice": replace(plain, all_slices=True),
    }
    made = {name: series_of(request, tmp_path / name) for name, request in requests.items()}
    assert contents(tmp_path / "plain") == contents(tmp_path / "again")
    uids = {
        (name if name != "again" else "plain"): (one.SeriesInstanceUID, one.SOPInstanceUID)
        for name, one in made.items()
    }
    assert len(set(uids.values())) == 4
    assert len({uid for pair in uids.values() for uid in pair}) == 8
    assert all(uid.is_valid for pair in uids.values() for uid in pair)
    one = made["plain"]
    assert not [keyword for keyword in one.dir("Date", "Time") if one[keyword].value and (
        keyword.startswith(("Series", "Content", "Instance")))]  # fmt: skip
    assert "ContributionDateTime" not in one.ContributingEquipmentSequence[1]


@pytest.mark.parametrize("change", ["sources", "model", "request", "voxels", "patient"])
def test_uids_follow_from_sources_model_request_and_content(
    tmp_path: Path, record: dict[str, Any], change: str
) -> None:
    images = dicom_series.datasets(thin())
    source = read_series(dicom_series.write(images, tmp_path / "s"))
    made = Volume(np.full(source.volume.shape, 0.5, np.float32), source.volume.affine)
    write_derived(made, source, tmp_path / "before", record)
    changed, request = copy.deepcopy(record), ""
    if change == "sources":
        source.headers[2].SOPInstanceUID += "1"
    elif change == "model":
        changed["model"]["onnx_sha256"] = 64 * "1"
    elif change == "request":
        request = "another"
    elif change == "patient":
        source.headers[0].PatientID = "4712"
    else:
        made.data[0, 0, 0] = 0.6
    write_derived(made, source, tmp_path / "after", changed, request=request)
    before, after = (
        {uid for file in (tmp_path / name).iterdir() for uid in _uids(file)}
        for name in ("before", "after")
    )
    assert not before & after


def _uids(file: Path) -> tuple[UID, UID]:
    image = pydicom.dcmread(file, stop_before_pixels=True)
    return image.SeriesInstanceUID, image.SOPInstanceUID


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_attributes_that_were_not_copied_are_in_the_record(tmp_path: Path) -> None:
    images = dicom_series.spoil(dicom_series.datasets(head()), EchoTime=b"min")
    folder = dicom_series.write(images, tmp_path / "s")
    series_of(Request(images={"t1": folder}), tmp_path / "out")
    warnings = read_record(tmp_path / "out.json").warnings
    assert [w.numbers for w in warnings if w.code == "attributes-dropped"] == [
        {"left_out": "EchoTime"}
    ]


def test_a_folder_of_any_other_files_is_foreign(tmp_path: Path, series: Path) -> None:
    good = next(path for path in series.iterdir() if path.suffix != ".txt").read_bytes()
    for number, data in enumerate((b"", good[:140], good[:200], good[:600], good, b"x" * 999)):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "IM00001.dcm").write_bytes(data)
        with pytest.raises(OutputError, match=r"holds IM00001\.dcm, which this toolkit did not"):
            require_series_folder(folder, overwrite=True)


def test_enhanced_files_of_one_frame_are_placed_and_referred_to(tmp_path: Path) -> None:
    folder = dicom_series.write_frames(dicom_series.datasets(head()), tmp_path / "s")
    source = read_series(folder)
    volume, record = synthesize(source)
    write_derived(volume, source, tmp_path / "out", record)
    assert difference(read_series(tmp_path / "out").volume.grid, source.volume.grid) is None
    made = [pydicom.dcmread(file) for file in sorted((tmp_path / "out").iterdir())]
    sources = [plane.header.SOPInstanceUID for plane in source.planes if plane is not None]
    assert [m.SourceImageSequence[0].ReferencedSOPInstanceUID for m in made] == sources


def test_a_missing_slice_of_the_source_has_a_derived_one_in_its_place(tmp_path: Path) -> None:
    images = dicom_series.datasets(head())
    del images[7]
    source = read_series(dicom_series.write(images, tmp_path / "s"), allow_incomplete=True)
    volume, record = synthesize(source)
    write_derived(volume, source, tmp_path / "out", record)
    made = read_series(tmp_path / "out")
    assert difference(made.volume.grid, source.volume.grid) is None
    written = sorted((tmp_path / "out").iterdir())
    assert "SourceImageSequence" not in pydicom.dcmread(written[7])
    assert "SourceImageSequence" in pydicom.dcmread(written[8])


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
