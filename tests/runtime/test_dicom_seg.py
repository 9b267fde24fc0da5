"""DICOM segmentations as prompts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
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
from tests.fakes.dicom_series import head
from tlp_runtime.errors import (
    ContentError,
    InputUnreadable,
)
from tlp_runtime.geometry.grid import difference
from tlp_runtime.io.dicom.seg import read_segmentation
from tlp_runtime.io.scan import read_labels
from tlp_runtime.spec.model import PromptSpec

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
    with pytest.raises(ContentError, match=r"segment 1 'Liver'.*1 'Liver'; 2 'Edema'.*prompt_la"):
        read_segmentation(path, PromptSpec(), by_number=False)
    assert set(np.unique(read_labels(path, head().grid, by_number=True).data)) == {0, 1, 2}
    single = segmentation(tmp_path / "one.dcm", LIVER)
    assert set(np.unique(read_labels(single, head().grid, by_number=False).data)) == {0, 1}


def test_what_is_no_segmentation_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.dcm"
    dicom_series.datasets(head())[0].save_as(path, enforce_file_format=True)
    with pytest.raises(InputUnreadable, match="not a DICOM segmentation"):
        read_labels(path, head().grid, by_number=False)
