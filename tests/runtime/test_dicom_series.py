"""DICOM in: one volume, or a refusal by name."""

from __future__ import annotations

import logging
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.uid import BasicTextSRStorage

from tests.fakes import dicom_series
from tests.fakes.dicom_series import head, require_same_place
from tlp_runtime.errors import (
    ContentError,
    DependencyMissing,
    GeometryError,
    InputMissing,
    InputUnreadable,
    UsageError,
)
from tlp_runtime.io.dicom.series import read_series
from tlp_runtime.io.scan import read_scan


@pytest.mark.documents(
    "DICOM",
    "a folder of single-frame images, in any order, other files beside them",
    "one volume, in place",
)
def test_a_folder_in_any_file_order_is_a_volume_in_place(series: Path) -> None:
    read = read_series(series)
    np.testing.assert_array_equal(read.volume.data, head().data)
    require_same_place(read.volume.affine, head(), 1e-3)
    assert [int(h.InstanceNumber) for h in read.headers] == list(range(1, head().shape[2] + 1))
    assert read.volume.origin is not None
    assert read.volume.origin.path == str(series)


@pytest.mark.documents("DICOM", "one multi-frame file", "the same volume")
def test_a_multi_frame_file_is_the_same_volume(tmp_path: Path) -> None:
    path = dicom_series.write_multi_frame(dicom_series.datasets(head()), tmp_path / "mf.dcm")
    read = read_series(path)
    np.testing.assert_array_equal(read.volume.data, head().data)
    require_same_place(read.volume.affine, head(), 1e-3)
    frames = [plane.frame or 0 for plane in read.planes if plane is not None]
    assert sorted(frames) == list(range(1, head().shape[2] + 1))
    stored = pydicom.dcmread(path).pixel_array
    np.testing.assert_array_equal(stored[frames[10] - 1], head().data[:, :, 10].T)


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
    with pytest.raises(GeometryError, match=r"(?s)several series.*Set series to UID") as error:
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


def _uneven(images: list[pydicom.Dataset]) -> None:
    place = np.array(images[7].ImagePositionPatient, float)
    images[7].ImagePositionPatient = [f"{v:.8f}" for v in place + 0.3 * _normal(images)]


def _normal(images: list[pydicom.Dataset]) -> np.ndarray:
    axes = np.array(images[0].ImageOrientationPatient, float)
    return np.cross(axes[:3], axes[3:])


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
    (_missing, GeometryError, "missing slices: 1 of 42 positions, 2 mm apart, have no image"),
    (_uneven, GeometryError, "unevenly spaced slices: the usual distance is 2 mm"),
    (_duplicate, GeometryError, "duplicate slices: 1 of 42"),
    (_localizer, GeometryError, "mixed orientations: 41 of 42|mixed orientations: 1 of 42"),
    (_tilted, GeometryError, r"a tilted gantry: each slice is shifted by 0.40 mm.*11\.\d degrees"),
    (_sizes, GeometryError, "images of different sizes"),
    (_one, GeometryError, "a single slice"),
    (_unplaced, GeometryError, r"lacks ImagePositionPatient \(0020,0032\)"),
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
    "DICOM", "CT, MONOCHROME1, text burned into the pixels, cut pixels", "exit 3, each by its name"
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
    with pytest.raises(DependencyMissing, match=r"pydicom and highdicom.*tlp-mri\[dicom\]"):
        read_scan(series)


def test_the_format_is_told_from_the_file_not_its_name(series: Path, tmp_path: Path) -> None:
    assert read_scan(series).series is not None
    nib.save(nib.Nifti1Image(head().data, head().affine), tmp_path / "a.nii.gz")
    assert read_scan(tmp_path / "a.nii.gz").series is None
    with pytest.raises(UsageError, match="not DICOM"):
        read_scan(tmp_path / "a.nii.gz", "1.2.3")


def test_a_log_of_other_files_names_no_folder(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Folders are often called after patients, and a server's log is nobody's record of them."""
    folder = dicom_series.write(dicom_series.datasets(dicom_series.head()), tmp_path / "Doe, John")
    report = dicom_series.datasets(head())[0]
    for element in ("PixelData", "Rows", "Columns"):
        delattr(report, element)
    report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = BasicTextSRStorage
    report.save_as(folder / "DOE.dcm", enforce_file_format=True)
    with caplog.at_level(logging.INFO, logger="tlp_runtime"):
        read_series(folder)
    assert "1 files are not DICOM images" in caplog.text
    assert "doe" not in caplog.text.lower()
