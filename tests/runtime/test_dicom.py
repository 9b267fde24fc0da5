"""DICOM in and out: one volume or a named refusal; a derived series that archives accept."""

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
from highdicom.seg import (
    SegmentAlgorithmTypeValues,
    Segmentation,
    SegmentationTypeValues,
    SegmentDescription,
)
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import generate_uid

from tests.fakes import dicom_series
from tests.runtime.test_any_grid import SMALL, scan
from tests.support import FakeEngine, need_tool
from tlp_runtime import Synthesizer, Volume
from tlp_runtime.errors import (
    ContentError,
    DependencyMissing,
    GeometryError,
    InputMissing,
    InputUnreadable,
    UsageError,
)
from tlp_runtime.grid import Grid, difference
from tlp_runtime.io.dicom.derived import DESCRIPTION, MAXIMUM, write_derived
from tlp_runtime.io.dicom.seg import read_segmentation
from tlp_runtime.io.dicom.series import DicomSeries, read_series
from tlp_runtime.io.nifti import read_volume
from tlp_runtime.io.scan import read_labels, read_scan
from tlp_runtime.spec import ModelSpec, PromptSpec


def head() -> Volume:
    """An oblique scan of 2 mm slices, whole numbers."""
    made = scan(spacing=(0.9, 1.1, 2.0), degrees=17, landmark=(5, 5, 5))
    return Volume(np.rint(made.data).astype(np.int16), made.affine)


@pytest.fixture
def series(tmp_path: Path) -> Path:
    return dicom_series.write(dicom_series.datasets(head()), tmp_path / "sérïes 1")


def same_place(a: np.ndarray, b: Volume, tolerance_mm: float) -> None:
    np.testing.assert_allclose(Grid(b.shape, a).corners_ras, b.grid.corners_ras, atol=tolerance_mm)


# --- in --------------------------------------------------------------------------------------


@pytest.mark.documents(
    "DICOM",
    "a folder of single-frame images, in any order, other files beside them",
    "one volume, in place",
)
def test_a_folder_in_any_file_order_is_a_volume_in_place(series: Path) -> None:
    read = read_series(series)
    np.testing.assert_array_equal(read.volume.data, head().data)
    same_place(read.volume.affine, head(), 1e-3)
    assert [int(h.InstanceNumber) for h in read.headers] == list(range(1, head().shape[2] + 1))
    assert read.volume.origin is not None
    assert read.volume.origin.path == str(series)


@pytest.mark.documents("DICOM", "one multi-frame file", "the same volume")
def test_a_multi_frame_file_is_the_same_volume(tmp_path: Path) -> None:
    path = dicom_series.write_multi_frame(dicom_series.datasets(head()), tmp_path / "mf.dcm")
    read = read_series(path)
    np.testing.assert_array_equal(read.volume.data, head().data)
    same_place(read.volume.affine, head(), 1e-3)
    assert sorted(read.frames) == list(range(1, head().shape[2] + 1))
    stored = pydicom.dcmread(path).pixel_array
    np.testing.assert_array_equal(stored[read.frames[10] - 1], head().data[:, :, 10].T)


def test_rescaling_is_applied(tmp_path: Path) -> None:
    images = dicom_series.datasets(head(), RescaleSlope=2, RescaleIntercept=0)
    read = read_series(dicom_series.write(images, tmp_path / "s"))
    np.testing.assert_array_equal(read.volume.data, head().data * 2.0)


@pytest.mark.documents(
    "DICOM", "several series in a folder", "exit 3, listing them; `--t1-series UID` takes one"
)
def test_of_several_series_one_is_named(tmp_path: Path) -> None:
    first, second = dicom_series.datasets(head()), dicom_series.datasets(head())
    for image in second:
        image.SeriesDescription = "T2 TSE"
    dicom_series.write(first, tmp_path / "s" / "a")
    dicom_series.write(second, tmp_path / "s" / "b")
    with pytest.raises(GeometryError, match=r"several series.*--t1-series") as error:
        read_series(tmp_path / "s")
    for images in (first, second):
        assert f"{images[0].SeriesInstanceUID}  MR '{images[0].SeriesDescription}'" in str(
            error.value
        )
    chosen = read_series(tmp_path / "s", second[0].SeriesInstanceUID)
    assert chosen.headers[0].SeriesDescription == "T2 TSE"
    with pytest.raises(GeometryError, match=r"holds no series 1\.2\.3"):
        read_series(tmp_path / "s", "1.2.3")


def _missing(images: list[pydicom.Dataset]) -> None:
    del images[7]


def _duplicate(images: list[pydicom.Dataset]) -> None:
    images[5].ImagePositionPatient = images[4].ImagePositionPatient


def _localizer(images: list[pydicom.Dataset]) -> None:
    images[0].ImageOrientationPatient = [1, 0, 0, 0, 0, -1]


def _tilted(images: list[pydicom.Dataset]) -> None:
    down = np.array(images[0].ImageOrientationPatient[3:], float)
    for index, image in enumerate(images):
        place = np.array(image.ImagePositionPatient, float) + down * 0.4 * index
        image.ImagePositionPatient = [f"{v:.8f}" for v in place]


def _sizes(images: list[pydicom.Dataset]) -> None:
    images[2].PixelSpacing = [3, 3]


def _one(images: list[pydicom.Dataset]) -> None:
    del images[1:]


def _unplaced(images: list[pydicom.Dataset]) -> None:
    del images[3].ImagePositionPatient


def _ct(images: list[pydicom.Dataset]) -> None:
    for image in images:
        image.Modality = "CT"


def _inverted(images: list[pydicom.Dataset]) -> None:
    for image in images:
        image.PhotometricInterpretation = "MONOCHROME1"


def _burned(images: list[pydicom.Dataset]) -> None:
    for image in images:
        image.BurnedInAnnotation = "YES"


def _cut(images: list[pydicom.Dataset]) -> None:
    images[3].PixelData = images[3].PixelData[:100]


REFUSED = [
    (_missing, GeometryError, "missing or unevenly spaced slices: the usual distance is 2 mm"),
    (_duplicate, GeometryError, "duplicate slices: 1 of 42"),
    (_localizer, GeometryError, "mixed orientations: 41 of 42|mixed orientations: 1 of 42"),
    (_tilted, GeometryError, r"a tilted gantry: each slice is shifted by 0.40 mm.*11\.\d degrees"),
    (_sizes, GeometryError, "images of different sizes"),
    (_one, GeometryError, "a single slice"),
    (_unplaced, GeometryError, "1 of 42 images lack ImagePositionPatient"),
    (_ct, ContentError, "modality is CT, expected MR"),
    (_inverted, ContentError, "MONOCHROME1, expected MONOCHROME2"),
    (_burned, ContentError, "text is burned into its pixels"),
    (_cut, InputUnreadable, "sérïes"),
]


@pytest.mark.documents(
    "DICOM",
    "missing, uneven, duplicate or single slices, mixed orientations or sizes, a tilted gantry",
    "exit 3, each by its name",
)
@pytest.mark.documents(
    "DICOM", "CT, MONOCHROME1, text burned into the pixels, cut files", "exit 3, each by its name"
)
@pytest.mark.parametrize(
    ("change", "kind", "message"), REFUSED, ids=[change.__name__[1:] for change, *_ in REFUSED]
)
def test_what_is_no_volume_is_refused_by_name(
    tmp_path: Path, change: dicom_series.Change, kind: type[Exception], message: str
) -> None:
    images = dicom_series.datasets(head())
    change(images)
    with pytest.raises(kind, match=message):
        read_series(dicom_series.write(images, tmp_path / "sérïes"))


def test_a_folder_without_images_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(InputMissing, match="holds no DICOM image"):
        read_series(tmp_path)
    with pytest.raises(InputMissing, match="does not exist"):
        read_series(tmp_path / "no")


def test_without_its_libraries_dicom_says_what_to_install(
    series: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DependencyMissing, match=r"pydicom and highdicom.*'tlp-mri\[dicom\]'"):
        read_scan(series)


def test_the_format_is_told_from_the_file_not_its_name(series: Path, tmp_path: Path) -> None:
    assert read_scan(series).series is not None
    nib.save(nib.Nifti1Image(head().data, head().affine), tmp_path / "a.nii.gz")
    assert read_scan(tmp_path / "a.nii.gz").series is None
    with pytest.raises(UsageError, match="no DICOM"):
        read_scan(tmp_path / "a.nii.gz", "1.2.3")


# --- out -------------------------------------------------------------------------------------


def synthesize(source: DicomSeries, spec: ModelSpec = SMALL) -> tuple[Volume, dict[str, Any]]:
    with Synthesizer(FakeEngine(spec)) as synthesizer:
        result = synthesizer.run({"t1": source.volume})
    return result.volume, dict(result.record)


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
    same_place(back.affine, source.volume, 2e-3)
    np.testing.assert_array_equal(back.data, np.rint(volume.data * MAXIMUM))

    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path / "out")))
    itk = reader.Execute()
    affine = np.eye(4)
    affine[:3, :3] = np.array(itk.GetDirection()).reshape(3, 3) * itk.GetSpacing()
    affine[:3, 3] = itk.GetOrigin()
    same_place(dicom_series.LPS @ affine, source.volume, 2e-3)
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


def test_a_contrast_agent_in_the_source_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = dicom_series.datasets(head(), ContrastBolusAgent="Gadovist")
    source = read_series(dicom_series.write(images, tmp_path / "s"))
    volume, record = synthesize(source)
    write_derived(volume, source, tmp_path / "out", record)
    assert "names a contrast agent (Gadovist)" in caplog.text


def test_a_volume_of_another_grid_is_no_derived_series(series: Path, tmp_path: Path) -> None:
    with pytest.raises(GeometryError, match="not the grid of the source series"):
        write_derived(scan(), read_series(series), tmp_path / "out", {})


# --- segmentations ---------------------------------------------------------------------------

OEDEMA = Code("79654002", "SCT", "Edema")
NEOPLASM = Code("108369006", "SCT", "Neoplasm")
LIVER = Code("10200004", "SCT", "Liver")


def segmentation(path: Path, *kinds: Code) -> Path:
    """Segment n marks the slices n * 3 to n * 3 + 2, a square in each."""
    images = dicom_series.datasets(head())
    masks = np.zeros((head().shape[2], head().shape[1], head().shape[0], len(kinds)), np.uint8)
    for number in range(len(kinds)):
        masks[3 * (number + 1) : 3 * (number + 2), 40:50, 30:36, number] = 1
    descriptions = [
        SegmentDescription(
            segment_number=number,
            segment_label=kind.meaning,
            segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
            segmented_property_type=kind,
            algorithm_type=SegmentAlgorithmTypeValues.MANUAL,
        )
        for number, kind in enumerate(kinds, start=1)
    ]
    seg = Segmentation(
        source_images=images,
        pixel_array=masks,
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=descriptions,
        series_instance_uid=generate_uid(prefix=None),
        series_number=9,
        sop_instance_uid=generate_uid(prefix=None),
        instance_number=1,
        manufacturer="Viewer",
        manufacturer_model_name="V",
        software_versions="1",
        device_serial_number="1",
        omit_empty_frames=True,
    )
    seg.save_as(path)
    return path


@pytest.mark.documents(
    "DICOM", "a SEG as `--prompt`", "segments by their coded type; one segment alone is tumour"
)
def test_a_segmentation_s_coded_segments_are_tumour_and_oedema(tmp_path: Path) -> None:
    path = segmentation(tmp_path / "seg.dcm", OEDEMA, NEOPLASM)
    bare = read_segmentation(path, PromptSpec(), by_number=False)
    assert bare.shape[2] < head().shape[2], "empty slices are left out"
    labels = read_labels(path, head().grid, by_number=False)
    assert difference(labels.grid, head().grid) is None
    assert set(np.unique(labels.data)) == {0, 1, 2}
    assert (labels.data[30:36, 40:50, 3:6] == 2).all()
    assert (labels.data[30:36, 40:50, 6:9] == 1).all()
    assert np.count_nonzero(labels.data) == 2 * 6 * 10 * 3


@pytest.mark.documents(
    "DICOM",
    "a SEG with other segments",
    "exit 3, listing them; `--prompt-labels` explains their numbers",
)
def test_segments_of_other_kinds_are_refused_unless_their_numbers_are_explained(
    tmp_path: Path,
) -> None:
    path = segmentation(tmp_path / "seg.dcm", LIVER, OEDEMA)
    with pytest.raises(ContentError, match=r"segment 1 'Liver'.*1 'Liver'; 2 'Edema'.*--prompt-la"):
        read_segmentation(path, PromptSpec(), by_number=False)
    assert set(np.unique(read_labels(path, head().grid, by_number=True).data)) == {0, 1, 2}
    single = segmentation(tmp_path / "one.dcm", LIVER)
    assert set(np.unique(read_labels(single, head().grid, by_number=False).data)) == {0, 1}


def test_what_is_no_segmentation_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.dcm"
    dicom_series.datasets(head())[0].save_as(path, enforce_file_format=True)
    with pytest.raises(InputUnreadable, match="no DICOM segmentation"):
        read_labels(path, head().grid, by_number=False)


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
