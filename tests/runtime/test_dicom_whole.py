"""A series is whole, or says what is missing; its headers make sense, or name what does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import (
    ImplicitVRLittleEndian,
    JPEGLosslessSV1,
    generate_uid,
)

from tests.fakes import dicom_series
from tests.fakes.dicom_series import head, require_same_place
from tlp_runtime import Volume
from tlp_runtime.errors import DependencyMissing, GeometryError, InputUnreadable
from tlp_runtime.io.dicom.series import DicomSeries, read_series
from tlp_runtime.io.scan import read_scan

COUNT = head().shape[2]


def series(folder: Path, change: dicom_series.Change | None = None) -> Path:
    images = dicom_series.datasets(head())
    if change is not None:
        change(images)
    return dicom_series.write(images, folder)


def codes(read: DicomSeries) -> list[str]:
    return [warning.code.name for warning in read.volume.warnings]


def _empty(file: Path) -> None:
    file.write_bytes(b"")


def _cut_header(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:600])


def _cut_uid(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: content.index(b"\x20\x00\x0e\x00UI") + 30])


def _cut_pixels(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def _broken_link(file: Path) -> None:
    file.unlink()
    file.symlink_to(file.with_name("gone"))


def _annex(file: Path) -> None:
    file.unlink()
    file.symlink_to("../.git/annex/objects/aa/bb/SHA256E-s9--12/SHA256E-s9--12")


def _annex_unlocked(file: Path) -> None:
    file.write_text("/annex/objects/SHA256E-s6914--12\n")


def _lfs(file: Path) -> None:
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 6914\n")


def _no_series(file: Path) -> None:
    image = pydicom.dcmread(file)
    del image.SeriesInstanceUID
    image.save_as(file)


def _zeros(file: Path) -> None:
    file.write_bytes(bytes(6914))


LOST = [
    (_empty, "is empty"),
    (_cut_header, "is cut short"),
    (_cut_uid, "is cut short"),
    (_cut_pixels, "cannot be decoded"),
    (_broken_link, "is a broken link"),
    (_annex, "was not fetched by git-annex"),
    (_annex_unlocked, "is a pointer to a file that was not fetched"),
    (_lfs, "is a pointer to a file that was not fetched"),
    (_zeros, "is not DICOM"),
    (_no_series, "names no series"),
]


@pytest.mark.documents(
    "DICOM",
    "files of the series that are empty, cut short, broken links, or pointers of git-annex or LFS",
    "exit 3, naming them; `--allow-incomplete` leaves them out with a warning",
)
@pytest.mark.parametrize(("spoil", "reason"), LOST, ids=[spoil.__name__[1:] for spoil, _ in LOST])
def test_files_that_cannot_be_read_are_named_and_left_out_only_when_asked(
    tmp_path: Path, spoil: Callable[[Path], None], reason: str
) -> None:
    folder = series(tmp_path / "s")
    for name in ("0000", "0001"):  # the last slices
        spoil(folder / name)
    with pytest.raises(
        InputUnreadable, match=rf"2 of {COUNT} files of the series.*0000 \(.*{reason}.*allow_inc"
    ):
        read_series(folder)
    read = read_series(folder, allow_incomplete=True)
    np.testing.assert_array_equal(read.volume.data, head().data[:, :, :-2])
    assert codes(read) == ["series-incomplete"]
    assert read.volume.warnings[0].numbers == {"files_left_out": 2, "slices_missing": 0}


def test_a_damaged_file_between_others_leaves_its_slice_empty(tmp_path: Path) -> None:
    folder = series(tmp_path / "s")
    _cut_pixels(folder / f"{COUNT - 1 - 20:04d}")
    with pytest.raises(InputUnreadable, match=f"1 of {COUNT} files"):
        read_series(folder)
    read = read_series(folder, allow_incomplete=True)
    assert read.volume.warnings[0].numbers == {"files_left_out": 1, "slices_missing": 1}
    assert [plane is None for plane in read.planes] == [k == 20 for k in range(COUNT)]


@pytest.mark.documents(
    "DICOM",
    "gaps between the slices of a series",
    "exit 3, naming the files around them; `--allow-incomplete`: slices of 0, with a warning",
)
def test_gaps_are_named_and_stay_empty_when_they_are_accepted(tmp_path: Path) -> None:
    def gaps(images: list[pydicom.Dataset]) -> None:
        del images[20:22], images[7]

    folder = series(tmp_path / "s", gaps)
    with pytest.raises(GeometryError, match=f"missing slices: 3 of {COUNT} positions.*allow_incom"):
        read_series(folder)
    read = read_series(folder, allow_incomplete=True)
    expected = head().data.copy()
    expected[:, :, [7, 20, 21]] = 0
    np.testing.assert_array_equal(read.volume.data, expected)
    require_same_place(read.volume.affine, head(), 1e-3)
    assert [k for k, plane in enumerate(read.planes) if plane is None] == [7, 20, 21]
    assert read.volume.warnings[0].numbers == {"files_left_out": 0, "slices_missing": 3}


def test_a_series_of_every_second_slice_is_not_whole(tmp_path: Path) -> None:
    def half(images: list[pydicom.Dataset]) -> None:
        del images[1::2]

    with pytest.raises(GeometryError, match=f"missing slices: 20 of {COUNT - 1} positions, 2 mm"):
        read_series(series(tmp_path / "s", half))

    def renumbered(images: list[pydicom.Dataset]) -> None:  # two echoes, numbered in turn
        for number, image in enumerate(images):
            image.InstanceNumber = 2 * number + 1

    assert not codes(read_series(series(tmp_path / "b", renumbered)))


@pytest.mark.documents("DICOM", "gaps between instance numbers alone", "a warning")
def test_gaps_of_instance_numbers_alone_are_a_warning(tmp_path: Path) -> None:
    def skipped(images: list[pydicom.Dataset]) -> None:
        for image in images[30:]:
            image.InstanceNumber += 4

    read = read_series(series(tmp_path / "s", skipped))
    assert codes(read) == ["instances-skipped"]
    assert "leave out 31 to 34" in str(read.volume.warnings[0])
    np.testing.assert_array_equal(read.volume.data, head().data)


def test_files_that_are_not_of_the_series_do_not_matter(tmp_path: Path) -> None:
    folder = series(tmp_path / "s")
    for name in (".DS_Store", "._0003", "README", "dcm2niix.log"):
        (folder / name).write_text("not an image")
    (folder / "empty.json").write_bytes(b"")
    report = pydicom.Dataset()
    report.file_meta = pydicom.dataset.FileMetaDataset()
    report.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.88.33"
    report.SOPInstanceUID = report.file_meta.MediaStorageSOPInstanceUID = generate_uid(prefix=None)
    report.SeriesInstanceUID = pydicom.dcmread(folder / "0000").SeriesInstanceUID
    report.save_as(folder / "0099", enforce_file_format=True)
    (folder / "other").mkdir()
    read = read_series(folder)
    assert not codes(read)
    np.testing.assert_array_equal(read.volume.data, head().data)


def test_damaged_files_of_another_series_do_not_matter(tmp_path: Path) -> None:
    first, second = dicom_series.datasets(head()), dicom_series.datasets(head())
    folder = dicom_series.write(first, tmp_path / "s")
    for number, image in enumerate(second):
        image.save_as(folder / f"{100 + number:04d}", enforce_file_format=True)
    content = (folder / "0100").read_bytes()
    (folder / "0100").write_bytes(content[: content.index(b"\x20\x00\x13\x00")])
    with pytest.raises(InputUnreadable, match=r"0100 \(is cut short\)"):
        read_series(folder, second[0].SeriesInstanceUID)
    assert not codes(read_series(folder, first[0].SeriesInstanceUID))


def test_a_folder_of_files_that_were_not_fetched_says_so(tmp_path: Path) -> None:
    for number in range(3):
        _annex(_made(tmp_path / f"{number}.dcm"))
    with pytest.raises(InputUnreadable, match=r"no DICOM image can be read: 0.dcm \(was not fetch"):
        read_series(tmp_path)


def _made(file: Path) -> Path:
    file.write_bytes(b"x")
    return file


@pytest.mark.documents("DICOM", "files without a preamble", "read")
@pytest.mark.parametrize(("implicit", "meta"), [(True, False), (False, False), (False, True)])
def test_files_without_a_preamble_are_read(tmp_path: Path, implicit: bool, meta: bool) -> None:
    folder = tmp_path / "s"
    folder.mkdir()
    for number, image in enumerate(dicom_series.datasets(head())):
        bare = folder / f"{number}.ima"
        if meta:
            image.save_as(bare, enforce_file_format=True)
        else:
            del image.file_meta
            image.save_as(bare, implicit_vr=implicit, little_endian=True)
        content = bare.read_bytes()
        start = content.index(b"\x02\x00\x00\x00" if meta else b"\x08\x00\x05\x00")
        bare.write_bytes(content[start:])
    read = read_scan(folder)
    np.testing.assert_array_equal(read.volume.data, head().data)


def _jitter(images: list[pydicom.Dataset]) -> None:
    for number, image in enumerate(images):
        image.ImageOrientationPatient = [
            f"{float(v) + 1e-6 * (number % 3):.9f}" for v in image.ImageOrientationPatient
        ]
        image.PixelSpacing = [float(v) + 1e-6 * (number % 2) for v in image.PixelSpacing]


@pytest.mark.documents(
    "DICOM",
    "orientations and spacings that differ by rounding between slices",
    "one series, where no pixel is moved by 0.1 mm",
)
def test_slices_that_differ_by_rounding_are_one_series(tmp_path: Path) -> None:
    read = read_series(series(tmp_path / "s", _jitter))
    np.testing.assert_array_equal(read.volume.data, head().data)
    require_same_place(read.volume.affine, head(), 5e-3)


def test_slices_turned_by_more_are_not(tmp_path: Path) -> None:
    def turned(images: list[pydicom.Dataset]) -> None:
        axes = np.array(images[9].ImageOrientationPatient, float)
        row, column = axes[:3] + 0.003 * axes[3:], axes[3:] - 0.003 * axes[:3]
        images[9].ImageOrientationPatient = [f"{v:.9f}" for v in (*row, *column)]

    with pytest.raises(GeometryError, match=f"1 of {COUNT} images are turned"):
        read_series(series(tmp_path / "s", turned))

    def transposed(images: list[pydicom.Dataset]) -> None:
        axes = list(images[9].ImageOrientationPatient)
        images[9].ImageOrientationPatient = axes[3:] + axes[:3]

    with pytest.raises(GeometryError, match=f"1 of {COUNT} images are turned"):
        read_series(series(tmp_path / "t", transposed))


def _raw(images: list[pydicom.Dataset], tag: int, vr: str, value: bytes) -> None:
    """Write a value that pydicom would refuse into one image."""
    element = pydicom.dataelem.RawDataElement(
        pydicom.tag.Tag(tag), vr, len(value), value, 0, False, True
    )
    images[9]._dict[element.tag] = element


NONSENSE = [
    ("NumberOfFrames", "IS", b"", r"NumberOfFrames \(0028,0008\) is empty, expected a number"),
    ("PixelSpacing", "DS", b"3,0\\3,0 ", r"PixelSpacing \(0028,0030\) is '3,0\\3,0', expe"),
    ("PixelSpacing", "DS", b"", r"PixelSpacing \(0028,0030\) is empty, expected 2 numbers"),
    ("PixelSpacing", "DS", b"0\\3 ", r"PixelSpacing \(0028,0030\) is .*expected numbers above 0"),
    ("PixelSpacing", "DS", b"3 ", r"PixelSpacing \(0028,0030\) is '3', expected 2 numbers"),
    ("ImagePositionPatient", "DS", b"a\\b\\c ", r"ImagePositionPatient \(0020,0032\) is 'a"),
    ("ImagePositionPatient", "DS", b"", r"ImagePositionPatient \(0020,0032\) is empty"),
    ("ImageOrientationPatient", "DS", b"1\\0\\0\\0\\0\\0 ", ".*expected two unit vectors"),
    ("Rows", "US", b"", r"Rows \(0028,0010\) is empty"),
    ("RescaleSlope", "DS", b"1,5 ", r"RescaleSlope \(0028,1053\) is '1,5', expected a number"),
]  # fmt: skip


@pytest.mark.documents(
    "DICOM",
    "attributes of the geometry that are empty, have a decimal comma or make no sense",
    "exit 3, naming the attribute, its value and the file",
)
@pytest.mark.parametrize(
    ("keyword", "vr", "value", "message"), NONSENSE, ids=[f"{k}={v!r}" for k, _, v, _ in NONSENSE]
)
def test_an_attribute_that_makes_no_sense_is_named_with_its_file(
    tmp_path: Path, keyword: str, vr: str, value: bytes, message: str
) -> None:
    tag = pydicom.datadict.tag_for_keyword(keyword)
    assert tag is not None

    def change(images: list[pydicom.Dataset]) -> None:
        if keyword == "RescaleSlope":
            images[9].RescaleIntercept = 0
        _raw(images, tag, vr, value)

    name = f"{COUNT - 1 - 9:04d}"
    with pytest.raises((InputUnreadable, GeometryError), match=f"{name}: {message}"):
        read_series(series(tmp_path / "s", change))


@pytest.mark.documents("DICOM", "no frame of reference", "a warning")
def test_a_missing_frame_of_reference_is_a_warning(tmp_path: Path) -> None:
    def remove(images: list[pydicom.Dataset]) -> None:
        for image in images:
            del image.FrameOfReferenceUID

    read = read_series(series(tmp_path / "s", remove))
    assert codes(read) == ["no-frame-of-reference"]
    assert read.volume.frame_of_reference is None
    np.testing.assert_array_equal(read.volume.data, head().data)

    def mixed(images: list[pydicom.Dataset]) -> None:
        images[3].FrameOfReferenceUID = "1.2.3"

    with pytest.raises(GeometryError, match="2 frames of reference"):
        read_series(series(tmp_path / "t", mixed))


def _private_dimension(image: pydicom.Dataset) -> None:
    organisation = generate_uid(prefix=None)
    item = pydicom.Dataset()
    item.DimensionOrganizationUID = organisation
    item.DimensionIndexPointer = pydicom.tag.Tag(0x2005106E)
    item.FunctionalGroupPointer = pydicom.tag.Tag(0x2005140F)
    item.DimensionIndexPrivateCreator = "Philips MR Imaging DD 001"
    image.DimensionIndexSequence = [item]


@pytest.mark.documents(
    "DICOM", "enhanced MR: private dimensions, or one frame per file", "the same volume"
)
def test_enhanced_files_are_read_whatever_their_dimensions(tmp_path: Path) -> None:
    path = dicom_series.write_multi_frame(dicom_series.datasets(head()), tmp_path / "mf.dcm")
    image = pydicom.dcmread(path)
    _private_dimension(image)
    image.save_as(path)
    read = read_series(path)
    np.testing.assert_array_equal(read.volume.data, head().data)
    require_same_place(read.volume.affine, head(), 1e-3)


def test_one_enhanced_file_per_frame_is_one_volume(tmp_path: Path) -> None:
    folder = dicom_series.write_frames(dicom_series.datasets(head()), tmp_path / "s")
    read = read_series(folder)
    np.testing.assert_array_equal(read.volume.data, head().data)
    require_same_place(read.volume.affine, head(), 1e-3)
    assert {plane.frame for plane in read.planes if plane is not None} == {1}


@pytest.mark.documents(
    "DICOM", "a compression without its decoder", "exit 5, naming the packages that decode it"
)
def test_a_missing_decoder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Decoder:
        is_available = False
        missing_dependencies = (
            "gdcm - requires gdcm>=3.0.10",
            "pylibjpeg - requires pylibjpeg>=2.0 and pylibjpeg-libjpeg>=2.1",
        )

    def compressed(images: list[pydicom.Dataset]) -> None:
        for image in images:
            image.file_meta.TransferSyntaxUID = JPEGLosslessSV1
            image.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8\xff\xd9"])
            image["PixelData"].VR = "OB"
            image["PixelData"].is_undefined_length = True

    monkeypatch.setattr("pydicom.pixels.get_decoder", lambda syntax: Decoder)
    with pytest.raises(
        DependencyMissing, match=r"JPEG Lossless.*Install pylibjpeg and pylibjpeg-libjpeg\."
    ) as error:
        read_series(series(tmp_path / "s", compressed))
    assert error.value.exit_code == 5


@pytest.mark.documents("DICOM", "PixelPaddingValue", "background")
@pytest.mark.parametrize("padding", [-2000, 4095])
def test_padding_is_background(tmp_path: Path, padding: int) -> None:
    corner = np.zeros(head().shape, np.bool_)
    corner[:6] = True
    assert not head().data[corner].any()
    padded = Volume(np.where(corner, padding, head().data).astype(np.int16), head().affine)
    images = dicom_series.datasets(padded)
    for image in images:
        image.PixelPaddingValue = padding
    read = read_series(dicom_series.write(images, tmp_path / "s"))
    np.testing.assert_array_equal(read.volume.data, head().data)


AGENTS = [
    ({"ContrastBolusAgent": "Gadovist"}, "Gadovist"),
    ({"ContrastBolusVolume": "7.5"}, "ContrastBolusVolume 7.5"),
    ({"ContrastBolusIngredient": "GADOLINIUM"}, "ContrastBolusIngredient GADOLINIUM"),
    ({"ContrastBolusRoute": "IV"}, "ContrastBolusRoute IV"),
    ({"ContrastBolusAgent": "", "ContrastBolusVolume": "0"}, None),
    ({"ContrastBolusAgent": "NONE", "ContrastBolusRoute": "IV"}, None),
]  # fmt: skip


@pytest.mark.documents("DICOM", "a contrast agent in any ContrastBolus attribute", "a warning")
@pytest.mark.parametrize(("attributes", "agent"), AGENTS)
def test_a_contrast_agent_is_a_warning(
    tmp_path: Path, attributes: dict[str, str], agent: str | None
) -> None:
    images = dicom_series.datasets(head(), **attributes)
    read = read_series(dicom_series.write(images, tmp_path / "s"))
    found = [warning.numbers["agent"] for warning in read.volume.warnings]
    assert found == ([] if agent is None else [agent])
