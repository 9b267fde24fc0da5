"""DICOM segmentations as prompts."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tlp_runtime.errors import ContentError, GeometryError, InputUnreadable, SetOption
from tlp_runtime.files.hashes import sha256
from tlp_runtime.geometry.volume import Origin, Volume
from tlp_runtime.io.dicom import require_dicom
from tlp_runtime.io.dicom.series import LPS_TO_RAS
from tlp_runtime.spec.model import PromptSpec

OEDEMA_CODES = frozenset({("SCT", "79654002"), ("SRT", "M-36300"), ("NCIt", "C3002")})
TUMOUR_CODES = frozenset(
    {
        ("SCT", "108369006"), ("SRT", "M-80000"), ("SCT", "4147007"), ("SRT", "M-03000"),
        ("SCT", "6574001"), ("SRT", "M-54000"), ("NCIt", "C3262"), ("NCIt", "C3058"),
        ("SCT", "86049000"), ("SRT", "M-80003"), ("SCT", "52988006"), ("SRT", "M-01000"),
    }
)  # fmt: skip
"""Property types: oedema; neoplasm, mass, necrosis, glioblastoma, primary neoplasm, lesion."""


def read_segmentation(path: Path | str, code: PromptSpec, *, by_number: bool) -> Volume:
    """A DICOM SEG as a label map on its own grid.

    Parameters
    ----------
    code
        Its first tumour and oedema labels are given to segments by their coded property type.
    by_number
        Keep the segments' numbers as labels; the user says what they mean.

    Raises
    ------
    InputUnreadable
        Not a segmentation, or damaged.
    GeometryError
        Its frames do not form a regular volume.
    ContentError
        Several segments of which one is neither tumour nor oedema by its code.
    """
    require_dicom()
    import highdicom

    path = Path(path)
    try:
        seg = highdicom.seg.segread(path)
    except (RuntimeError, ValueError, AttributeError, KeyError, EOFError, OSError) as error:
        raise InputUnreadable(
            f"{path}: is not a DICOM segmentation that can be read ({error}). Expected a SEG file."
        ) from error
    labels = {number: number for number in seg.segment_numbers}
    if not by_number:
        labels = {n: _label(path, seg, n, code) for n in seg.segment_numbers}
    try:
        placed = seg.get_volume(combine_segments=False)
    except (RuntimeError, ValueError) as error:
        raise GeometryError(
            f"{path}: its frames do not form a regular volume ({error})."
        ) from error
    parts = placed.array  # (slice, row, column, segment)
    data = np.zeros(parts.shape[:3], np.uint16)
    order = sorted(labels, key=lambda n: labels[n] in code.tumour_labels)  # tumour last: it wins
    for number in order:
        data[parts[..., seg.segment_numbers.index(number)] > 0.5] = labels[number]
    affine = LPS_TO_RAS @ placed.affine
    return Volume(
        np.ascontiguousarray(data.transpose(2, 1, 0)),
        affine[:, [2, 1, 0, 3]],
        name=str(path),
        origin=Origin(str(path), sha256(path)),
    )


def _label(path: Path, seg: object, number: int, code: PromptSpec) -> int:
    description = seg.get_segment_description(number)  # type: ignore[attr-defined]
    kind = description.segmented_property_type
    key = (str(kind.scheme_designator), str(kind.value))
    if key in OEDEMA_CODES:
        return code.oedema_labels[0]
    if key in TUMOUR_CODES or len(seg.segment_numbers) == 1:  # type: ignore[attr-defined]
        return code.tumour_labels[0]
    every = "; ".join(
        f"{n} {seg.get_segment_description(n).segment_label!r}"  # type: ignore[attr-defined]
        for n in seg.segment_numbers  # type: ignore[attr-defined]
    )
    raise ContentError(
        f"{path}: segment {number} {description.segment_label!r} is coded as {kind.meaning!r}, "
        f"neither tumour nor oedema. Segments: {every}",
        fix=SetOption("prompt_labels", "tumour=… oedema=…", "to say by number what they are"),
    )
