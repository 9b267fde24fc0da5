"""DICOM segmentations as prompts: each frame on the slice of the scan that it was drawn on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlp_runtime.errors import (
    ContentError,
    DependencyMissing,
    GeometryError,
    InputUnreadable,
    SetOption,
    first_line,
)
from tlp_runtime.files.hashes import sha256
from tlp_runtime.geometry.grid import Grid
from tlp_runtime.geometry.volume import Origin, Volume
from tlp_runtime.io.dicom import require_dicom
from tlp_runtime.io.dicom.pixels import decoded
from tlp_runtime.io.dicom.series import LPS_TO_RAS, DicomSeries
from tlp_runtime.io.dicom.stack import PLANE_TOLERANCE_MM, FrameGroups, Plane, planes_of
from tlp_runtime.io.dicom.values import number_or_none, text
from tlp_runtime.spec.model import PromptSpec
from tlp_runtime.warnings import FAINT_SEGMENTATION, NO_FRAME_OF_REFERENCE, TLPWarning

OEDEMA_CODES = frozenset({("SCT", "79654002"), ("SRT", "M-36300"), ("NCIt", "C3002")})
TUMOUR_CODES = frozenset(
    {
        ("SCT", "108369006"), ("SRT", "M-80000"), ("SCT", "4147007"), ("SRT", "M-03000"),
        ("SCT", "6574001"), ("SRT", "M-54000"), ("NCIt", "C3262"), ("NCIt", "C3058"),
        ("SCT", "86049000"), ("SRT", "M-80003"), ("SCT", "52988006"), ("SRT", "M-01000"),
    }
)  # fmt: skip
"""Property types: oedema; neoplasm, mass, necrosis, glioblastoma, primary neoplasm, lesion."""

_SLAB = 1.5
"""Evenly spaced frames this many slice thicknesses apart, or less, are neighbouring slices."""


@dataclass(frozen=True)
class Segmentation:
    """What a SEG marks, frame by frame.

    Parameters
    ----------
    planes
        Where each frame lies.
    marks
        (rows, columns) uint16 per frame: the label of what is marked, 0 elsewhere.
    """

    path: Path
    planes: Sequence[Plane]
    marks: Sequence[NDArray[np.uint16]]
    warnings: tuple[TLPWarning, ...]
    frame_of_reference: str | None

    def on(self, grid: Grid) -> Volume | None:
        """Its frames on the slices of a grid; None where one of them does not lie on any."""
        data = np.zeros(grid.shape, np.uint16)
        for plane, marks in zip(self.planes, self.marks, strict=True):
            corners = grid.voxels(_corners(plane))
            nearest = np.rint(corners)
            apart = (corners - nearest) @ grid.affine[:3, :3].T
            first, row_end, column_end = nearest.astype(int)[:3]
            rows, columns = marks.shape
            right, rest_right = np.divmod(row_end - first, max(columns - 1, 1))
            down, rest_down = np.divmod(column_end - first, max(rows - 1, 1))
            one_by_one = not (rest_right.any() or rest_down.any()) and all(
                count == 1 or np.abs(step).sum() == 1
                for count, step in ((columns, right), (rows, down))
            )
            if not one_by_one or np.abs(apart).max() > PLANE_TOLERANCE_MM:
                return None
            marked = np.argwhere(marks)
            where = first + marked[:, :1] * down + marked[:, 1:] * right
            inside = ((where >= 0) & (where < grid.shape)).all(axis=1)
            data[tuple(where[inside].T)] = marks[tuple(marked[inside].T)]
        return self._volume(data, grid.affine)

    def whole(self) -> Volume:
        """Its frames on a grid of their own.

        Raises
        ------
        GeometryError
            The file does not say how far apart its slices are.
        """
        first = self.planes[0]
        if any(first.is_moved(p.orientation, p.spacing) for p in self.planes):
            raise GeometryError(f"{self.path}: its frames are turned against each other.")
        row, column = np.reshape(first.orientation, (2, 3))
        normal = np.cross(row, column)
        along = np.array([p.position for p in self.planes]) @ normal
        spacing = self._spacing(np.unique(np.round(along - along.min(), 2)))
        index = np.rint((along - along.min()) / spacing).astype(int)
        lowest = self.planes[int(np.argmin(along))]
        rows, columns = lowest.shape
        affine = np.eye(4)
        affine[:3, 0], affine[:3, 1] = row * first.spacing[1], column * first.spacing[0]
        affine[:3, 2], affine[:3, 3] = normal * spacing, lowest.position
        grid = Grid((columns, rows, int(index.max()) + 1), LPS_TO_RAS @ affine)
        found = self.on(grid)
        if found is None:
            raise GeometryError(
                f"{self.path}: its frames are shifted against each other within their planes, so "
                "they are no volume."
            )
        return found

    def _spacing(self, distances: NDArray[np.float64]) -> float:
        """Distance of its slices in mm, by what the file says and never by its gaps."""
        measures = self.planes[0].group.item("PixelMeasuresSequence")
        keywords = ("SpacingBetweenSlices", "SliceThickness")
        said = {
            keyword: abs(value)
            for keyword in keywords
            if measures is not None and (value := number_or_none(measures, keyword))
        }
        for spacing in said.values():
            steps = distances / spacing
            if np.abs(steps - np.rint(steps)).max() * spacing <= PLANE_TOLERANCE_MM:
                return spacing
        steps = np.diff(distances)
        thickness = said.get("SliceThickness", 0.0)
        if (
            len(steps)
            and np.ptp(steps) <= 0.01 * steps.mean()
            and steps.mean() <= _SLAB * thickness
        ):
            return float(steps.mean())
        told = ", ".join(f"{keyword} {value:g} mm" for keyword, value in said.items()) or "nothing"
        shown = ", ".join(f"{step:g}" for step in steps[:5])
        raise GeometryError(
            f"{self.path}: its {len(distances)} slices do not lie on those of the scan, and how "
            f"far apart its own slices are cannot be known: the frames are {shown} mm apart, the "
            f"file says {told}.",
            fix="Give the series that it was drawn on, or convert it to NIfTI with all slices.",
        )

    def _volume(self, data: NDArray[np.uint16], affine: NDArray[np.float64]) -> Volume:
        return Volume(
            data,
            affine,
            name=str(self.path),
            origin=Origin(str(self.path), sha256(self.path)),
            warnings=self.warnings,
            frame_of_reference=self.frame_of_reference,
        )


def read_segmentation(
    path: Path | str,
    code: PromptSpec,
    scan: Grid,
    series: DicomSeries | None = None,
    *,
    by_number: bool,
) -> Volume:
    """Read a DICOM SEG as a label map.

    Parameters
    ----------
    code
        Its first tumour and oedema labels are given to segments by their coded property type.
    scan
        The grid of the scan. Where every frame lies on one of its slices, the map has this grid;
        else one of its own.
    series
        The scan's images, if it is DICOM: they place frames that name an image but no position.
    by_number
        Keep the segments' numbers as labels; the user says what they mean.

    Raises
    ------
    InputUnreadable
        Not a segmentation, or damaged.
    GeometryError
        Its frames lie on no slices of the scan and do not form a regular volume.
    ContentError
        Several segments of which one is neither tumour nor oedema by its code.
    """
    require_dicom()
    path = Path(path)
    header = _header(path)
    segments = {int(item.SegmentNumber): item for item in header.SegmentSequence}
    labels = {number: number for number in segments}
    if not by_number:
        labels = {number: _label(path, segments, number, code) for number in segments}
    if series is not None:
        _place_by_reference(header, series)
    planes = planes_of(path, header)
    order, marks, warnings = _marks(path, header, planes, labels, code)
    found = Segmentation(
        path=path,
        planes=[planes[i] for i in order],
        marks=marks,
        warnings=(*_doubts(path, header), *warnings),
        frame_of_reference=text(header, "FrameOfReferenceUID") or None,
    )
    if not found.planes:
        empty = np.zeros(scan.shape, np.uint16)
        return found._volume(empty, scan.affine)
    return found.on(scan) or found.whole()


def _header(path: Path) -> Any:
    import pydicom
    from pydicom.uid import SegmentationStorage

    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, force=True)
        kind = header.get("SOPClassUID")
        segments = header.get("SegmentSequence")
    except Exception as error:  # pydicom raises whatever a damaged file provokes
        raise InputUnreadable(
            f"{path}: its DICOM header cannot be read ({first_line(error)})."
        ) from error
    named_class = getattr(kind, "name", "no SOP class")
    if not segments or text(header, "Modality") != "SEG":
        raise InputUnreadable(
            f"{path}: is not a DICOM segmentation that can be read (it is {named_class}). Expected "
            f"a SEG file ({SegmentationStorage.name})."
        )
    return header


def _place_by_reference(header: Any, series: DicomSeries) -> None:
    """Give frames without a position that of the image that they name as their source."""
    from pydicom.dataset import Dataset

    known = {
        str(plane.header.SOPInstanceUID): plane for plane in series.planes if plane is not None
    }
    for number, frame in enumerate(header.get("PerFrameFunctionalGroupsSequence") or [], start=1):
        groups = FrameGroups(header, number)
        derivation = groups.item("DerivationImageSequence")
        if derivation is None or not derivation.get("SourceImageSequence"):
            continue
        source = known.get(str(derivation.SourceImageSequence[0].get("ReferencedSOPInstanceUID")))
        if source is None or source.frame is not None:
            continue
        for sequence, keyword, value in (
            ("PlanePositionSequence", "ImagePositionPatient", source.position),
            ("PlaneOrientationSequence", "ImageOrientationPatient", source.orientation),
            ("PixelMeasuresSequence", "PixelSpacing", source.spacing),
        ):
            if groups.item(sequence) is None:
                item = Dataset()
                setattr(item, keyword, list(value))
                setattr(frame, sequence, [item])


def _marks(
    path: Path, header: Any, planes: Sequence[Plane], labels: Mapping[int, int], code: PromptSpec
) -> tuple[list[int], list[NDArray[np.uint16]], list[TLPWarning]]:
    """The frames with something marked, what each marks, and what is doubtful about that.

    Tumour comes last, so that it wins where frames overlap.
    """
    try:
        stored = decoded(path)
    except DependencyMissing:
        raise
    except InputUnreadable as error:
        raise InputUnreadable(f"{path}: {error.problem}.", fix="Export it again.") from error
    stored = stored.reshape(-1, *planes[0].shape)
    kind = text(header, "SegmentationType")
    if kind == "LABELMAP":
        lookup = np.zeros(int(stored.max(initial=0)) + 1, np.uint16)
        for number, label in labels.items():
            if number < len(lookup):
                lookup[number] = label
        maps = [lookup[frame] for frame in stored]
        return list(range(len(maps))), maps, []
    half = 0.5
    if kind == "FRACTIONAL":
        half = int(header.get("MaximumFractionalValue") or 255) / 2
    numbers = [_segment(path, plane) for plane in planes]
    order = sorted(
        range(len(planes)), key=lambda i: labels.get(numbers[i], 0) in code.tumour_labels
    )
    marks = [np.where(stored[i] > half, labels[numbers[i]], 0).astype(np.uint16) for i in order]
    highest = float(stored.max(initial=0))
    faint = 0 < highest <= half
    return order, marks, [_faint(path, highest, 2 * half)] * faint


def _segment(path: Path, plane: Plane) -> int:
    item = plane.group.item("SegmentIdentificationSequence")
    number = None if item is None else item.get("ReferencedSegmentNumber")
    known = {int(segment.SegmentNumber) for segment in plane.header.SegmentSequence}
    if number is None or int(number) not in known:
        raise InputUnreadable(
            f"{path}: frame {plane.frame} belongs to segment {number}, expected one of "
            f"{', '.join(map(str, sorted(known)))}.",
            fix="Export it again.",
        )
    return int(number)


def _faint(path: Path, highest: float, maximum: float) -> TLPWarning:
    return FAINT_SEGMENTATION.warning(
        f"{path}: is a fractional segmentation whose values reach {highest:g} of {maximum:g} "
        "(MaximumFractionalValue); what is below a half is not marked, so nothing is. If its "
        "values are 0 and 1, the file was written wrongly.",
        fix="Write it as a binary segmentation, or with values up to its maximum.",
        highest=highest,
        maximum=maximum,
    )


def _doubts(path: Path, header: Any) -> list[TLPWarning]:
    if text(header, "FrameOfReferenceUID"):
        return []
    return [
        NO_FRAME_OF_REFERENCE.warning(
            f"{path}: its header names no frame of reference, so it cannot be checked whether it "
            "was drawn in the scan's space."
        )
    ]


def _corners(plane: Plane) -> NDArray[np.float64]:
    """(4, 3) RAS mm: its first pixel, the last of its first row, of its first column, the last."""
    row, column = plane.edges(plane.orientation, plane.spacing)
    first = np.array(plane.position)
    corners = np.stack([first, first + row, first + column, first + row + column])
    in_ras: NDArray[np.float64] = corners * np.diag(LPS_TO_RAS)[:3]
    return in_ras


def _label(path: Path, segments: Mapping[int, Any], number: int, code: PromptSpec) -> int:
    kind = (segments[number].get("SegmentedPropertyTypeCodeSequence") or [None])[0]
    key, meaning = ("", ""), "nothing"
    if kind is not None:
        key = text(kind, "CodingSchemeDesignator"), text(kind, "CodeValue")
        meaning = repr(text(kind, "CodeMeaning"))
    if key in OEDEMA_CODES:
        return code.oedema_labels[0]
    if key in TUMOUR_CODES or len(segments) == 1:
        return code.tumour_labels[0]
    every = "; ".join(f"{n} {text(item, 'SegmentLabel')!r}" for n, item in segments.items())
    raise ContentError(
        f"{path}: segment {number} {text(segments[number], 'SegmentLabel')!r} is coded as "
        f"{meaning}, neither tumour nor oedema. Segments: {every}",
        fix=SetOption("labels", "tumour=… oedema=…", "to say by number what they are"),
    )
