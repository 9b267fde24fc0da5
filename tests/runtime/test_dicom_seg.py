"""DICOM segmentations as prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pydicom
import pytest
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentDescription
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import generate_uid

from tests.fakes import dicom_series
from tests.fakes.dicom_series import head
from tests.scans import scan
from tlp_runtime import Volume
from tlp_runtime.errors import ContentError, GeometryError, InputUnreadable
from tlp_runtime.geometry.grid import difference
from tlp_runtime.io.scan import Scan, read_labels, read_scan

OEDEMA = Code("79654002", "SCT", "Edema")
NEOPLASM = Code("108369006", "SCT", "Neoplasm")
LIVER = Code("10200004", "SCT", "Liver")


def segmentation(
    path: Path,
    *kinds: Code,
    images: list[pydicom.Dataset] | None = None,
    marked: Sequence[int] = (),
    fractional: int = 0,
) -> Path:
    """Segment n marks the slices n * 3 to n * 3 + 2, or those of ``marked``: a square in each."""
    images = images or dicom_series.datasets(head())
    masks = np.zeros((head().shape[2], head().shape[1], head().shape[0], len(kinds)), np.uint8)
    for number in range(len(kinds)):
        slices = list(marked) or range(3 * (number + 1), 3 * (number + 2))
        masks[list(slices), 40:50, 30:36, number] = 1
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
    options = {}
    if fractional:
        options = {"max_fractional_value": fractional, "fractional_type": "OCCUPANCY"}
    seg = Segmentation(
        source_images=images,
        pixel_array=masks.astype(np.float32) if fractional else masks,
        segmentation_type="FRACTIONAL" if fractional else "BINARY",
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
        **options,
    )
    seg.save_as(path)
    return path


def changed(path: Path, change: Callable[[pydicom.Dataset], object]) -> Path:
    """The file with a fault of another writer."""
    seg = pydicom.dcmread(path)
    change(seg)
    seg.save_as(path)
    return path


@pytest.mark.documents(
    "DICOM", "a SEG as `--prompt`", "segments by their coded type; one segment alone is tumour"
)
def test_a_segmentation_s_coded_segments_are_tumour_and_oedema(tmp_path: Path) -> None:
    path = segmentation(tmp_path / "seg.dcm", OEDEMA, NEOPLASM)
    assert int(pydicom.dcmread(path).NumberOfFrames) < head().shape[2], "empty slices are left out"
    labels = read_labels(path, Scan(head()), by_number=False)
    assert difference(labels.grid, head().grid) is None
    assert set(np.unique(labels.data)) == {0, 1, 2}
    assert (labels.data[30:36, 40:50, 3:6] == 2).all()
    assert (labels.data[30:36, 40:50, 6:9] == 1).all()
    assert np.count_nonzero(labels.data) == 2 * 6 * 10 * 3


@pytest.mark.documents(
    "DICOM",
    "a SEG with other segments",
    "exit 3, listing them; `--labels` explains their numbers",
)
def test_segments_of_other_kinds_are_refused_unless_their_numbers_are_explained(
    tmp_path: Path,
) -> None:
    path = segmentation(tmp_path / "seg.dcm", LIVER, OEDEMA)
    with pytest.raises(ContentError, match=r"segment 1 'Liver'.*'Liver'; 2 'Edema'.*Set labels"):
        read_labels(path, Scan(head()), by_number=False)
    assert set(np.unique(read_labels(path, Scan(head()), by_number=True).data)) == {0, 1, 2}
    single = segmentation(tmp_path / "one.dcm", LIVER)
    assert set(np.unique(read_labels(single, Scan(head()), by_number=False).data)) == {0, 1}


def test_what_is_no_segmentation_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.dcm"
    dicom_series.datasets(head())[0].save_as(path, enforce_file_format=True)
    with pytest.raises(InputUnreadable, match="not a DICOM segmentation"):
        read_labels(path, Scan(head()), by_number=False)


def _without_spacing(seg: pydicom.Dataset) -> None:
    measures = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    del measures.SpacingBetweenSlices


def _ml(labels: Volume) -> float:
    voxel = abs(np.linalg.det(labels.affine[:3, :3]))
    return float(np.count_nonzero(labels.data) * voxel / 1000)


@pytest.mark.documents(
    "DICOM",
    "a SEG with frames on some slices alone, whatever it says of their distance",
    "each frame on its own slice of the scan",
)
@pytest.mark.parametrize("marked", [(3, 7, 11), (5,), (0, 41), (4, 6, 12)])
def test_frames_lie_on_the_scan_s_own_slices(tmp_path: Path, marked: tuple[int, ...]) -> None:
    path = segmentation(tmp_path / "seg.dcm", NEOPLASM, marked=marked)
    labels = read_labels(changed(path, _without_spacing), Scan(head()), by_number=False)
    assert difference(labels.grid, head().grid) is None
    assert np.flatnonzero(labels.data.any(axis=(0, 1))).tolist() == list(marked)
    assert (labels.data[30:36, 40:50, list(marked)] == 1).all()
    assert np.count_nonzero(labels.data) == 60 * len(marked)


def test_frames_find_their_slices_in_a_scan_of_another_axis_order(tmp_path: Path) -> None:
    path = segmentation(tmp_path / "seg.dcm", OEDEMA, NEOPLASM)
    turned = head().reoriented("SAR")
    labels = read_labels(path, Scan(turned), by_number=False)
    straight = read_labels(path, Scan(head()), by_number=False)
    np.testing.assert_array_equal(labels.data, straight.reoriented("SAR").data)


def test_a_frame_without_a_position_lies_where_its_source_image_does(tmp_path: Path) -> None:
    images = dicom_series.datasets(head())
    scanned = read_scan(dicom_series.write(images, tmp_path / "s"))
    path = segmentation(tmp_path / "seg.dcm", NEOPLASM, images=images, marked=(3, 7, 11))

    def unplaced(seg: pydicom.Dataset) -> None:
        for frame in seg.PerFrameFunctionalGroupsSequence:
            del frame.PlanePositionSequence

    labels = read_labels(changed(path, unplaced), scanned, by_number=False)
    assert np.flatnonzero(labels.data.any(axis=(0, 1))).tolist() == [3, 7, 11]
    with pytest.raises(GeometryError, match=r"frame 1: lacks ImagePositionPatient"):
        read_labels(path, Scan(head()), by_number=False)


@pytest.mark.documents(
    "DICOM",
    "the same with `--resample`, for a scan on other slices",
    "each frame is as thick as the file says; exit 3 where it does not",
)
def test_on_another_scan_frames_are_as_thick_as_the_file_says(tmp_path: Path) -> None:
    path = changed(
        segmentation(tmp_path / "seg.dcm", NEOPLASM, marked=(3, 7, 11)), _without_spacing
    )
    whole = _ml(read_labels(path, Scan(head()), by_number=False))
    other = Scan(scan(spacing=(1, 1, 1), degrees=5))
    sparse = read_labels(path, other, by_number=False)
    assert _ml(sparse) == pytest.approx(whole, rel=1e-6)
    assert sparse.grid.spacing_mm[2] == pytest.approx(2, abs=1e-6)

    def without_thickness(seg: pydicom.Dataset) -> None:
        del seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SliceThickness

    with pytest.raises(GeometryError, match=r"3 slices do not lie on those.*8, 8 mm apart"):
        read_labels(changed(path, without_thickness), other, by_number=False)


def test_a_segmentation_of_half_the_resolution_is_not_taken_voxel_by_voxel(tmp_path: Path) -> None:
    path = segmentation(tmp_path / "seg.dcm", NEOPLASM)
    double = head().affine @ np.diag([0.5, 0.5, 1, 1])
    fine = Volume(np.zeros((2 * head().shape[0], 2 * head().shape[1], head().shape[2])), double)
    labels = read_labels(path, Scan(fine), by_number=False)
    assert labels.grid.spacing_mm == pytest.approx(head().grid.spacing_mm, abs=1e-6)
    assert difference(labels.grid, fine.grid) is not None


@pytest.mark.documents(
    "DICOM",
    "a fractional SEG",
    "marked from a half of its maximum on; values that never reach it are a warning",
)
def test_a_fractional_segmentation_counts_from_a_half(tmp_path: Path) -> None:
    path = segmentation(tmp_path / "seg.dcm", NEOPLASM, fractional=255)
    sound = read_labels(path, Scan(head()), by_number=False)
    assert np.count_nonzero(sound.data) == 60 * 3
    assert not sound.warnings

    def as_0_and_1(seg: pydicom.Dataset) -> None:
        seg.PixelData = bytes(1 if byte else 0 for byte in seg.PixelData)

    faint = read_labels(changed(path, as_0_and_1), Scan(head()), by_number=False)
    assert not faint.data.any()
    assert [w.code.name for w in faint.warnings] == ["faint-segmentation"]
    assert "reach 1 of 255" in str(faint.warnings[0])


def test_a_segmentation_in_a_folder_of_its_own_is_found(tmp_path: Path) -> None:
    (tmp_path / "seg").mkdir()
    path = segmentation(tmp_path / "seg" / "a.dcm", NEOPLASM)
    (tmp_path / "seg" / "._a.dcm").write_bytes(b"Mac OS X")
    labels = read_labels(tmp_path / "seg", Scan(head()), by_number=False)
    assert labels.name == str(path)
    with pytest.raises(InputUnreadable, match=r"holds 42 DICOM files, expected one segmentation"):
        folder = dicom_series.write(dicom_series.datasets(head()), tmp_path / "s")
        read_labels(folder, Scan(head()), by_number=False)
