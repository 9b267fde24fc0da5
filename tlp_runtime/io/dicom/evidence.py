"""An evidence map as a DICOM segmentation of the derived series that it is about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlp_runtime.files.atomic import atomic_file
from tlp_runtime.io.dicom.derived import derived_uid

LABEL = "Drawn, not seen"
DESCRIPTION = "SYNTHETIC T1ce (TLP): drawn, not seen"


def write_evidence(
    drawn: NDArray[np.bool_], folder: Path, path: Path, software: str, *, overwrite: bool = False
) -> None:
    """Write what a prompt alone made as a binary SEG with one segment.

    It belongs to the study of the series, refers to its images and has UIDs that follow from
    theirs. Where nothing is drawn, all its frames are empty.

    Parameters
    ----------
    drawn
        On the grid of the series.
    folder
        The derived series, as :func:`~tlp_runtime.io.dicom.derived.write_derived` wrote it.
    software
        Version of tlp-mri.

    Raises
    ------
    OutputError
        The file exists and may not be replaced, or cannot be written.
    """
    import pydicom
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentDescription
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code

    images = [pydicom.dcmread(one) for one in sorted(folder.iterdir())]
    series = images[0].SeriesInstanceUID
    algorithm = AlgorithmIdentificationSequence(
        name="TLP evidence map", family=codes.DCM.ArtificialIntelligence, version=software
    )
    segment = SegmentDescription(
        segment_number=1,
        segment_label=LABEL,
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=Code("47973001", "SCT", "Artifact"),
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
    )
    made: Any = Segmentation(
        source_images=images,
        pixel_array=np.ascontiguousarray(drawn.transpose(2, 1, 0)).astype(np.uint8),
        segmentation_type="BINARY",
        segment_descriptions=[segment],
        series_instance_uid=derived_uid(series, "evidence"),
        series_number=int(images[0].SeriesNumber) + 1,
        sop_instance_uid=derived_uid(series, "evidence", "1"),
        instance_number=1,
        manufacturer="TLP toolkit",
        manufacturer_model_name="tlp-mri",
        software_versions=software,
        device_serial_number="none",
        content_label="EVIDENCE",
        content_description=LABEL,
        series_description=DESCRIPTION,
        omit_empty_frames=bool(drawn.any()),
    )
    with atomic_file(path, overwrite=overwrite) as temporary:
        made.save_as(temporary)
