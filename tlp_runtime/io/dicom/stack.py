"""Image planes as one stack of parallel, evenly spaced slices, or refused.

What single-frame files, multi-frame files and multi-frame files of one frame each say about their
planes is brought to one form first; the rules are the same for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlp_runtime.errors import GeometryError, InputUnreadable, SetOption
from tlp_runtime.io.dicom.values import integer, named, number_or_none, numbers, positive, raw

PLANE_TOLERANCE_MM = 0.1
"""Orientations and pixel spacings are the same where no pixel of a slice is moved by more."""
SAME_POSITION_MM = 1e-2
SPACING_TOLERANCE = 0.01
"""Unevenness of slice distances, relative to their median, beyond which slices are missing."""
TILT_TOLERANCE_MM = 0.05

INCOMPLETE = SetOption("allow_incomplete", purpose="to go on without them")


@dataclass(frozen=True, eq=False)
class Plane:
    """Where one image lies.

    Parameters
    ----------
    header
        The file's data set without its pixels.
    frame
        Its frame in a multi-frame file, from 1; None of a single-frame file.
    position, orientation
        Of the first pixel's centre in mm, and (row, column) direction cosines, both in LPS.
    spacing
        Distance of rows and of columns, mm.
    """

    file: Path
    header: Any
    frame: int | None
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return int(self.header.Rows), int(self.header.Columns)

    @property
    def group(self) -> FrameGroups:
        """The functional groups of its frame."""
        return FrameGroups(self.header, self.frame or 1)

    def edges(self, orientation: Sequence[float], spacing: Sequence[float]) -> NDArray[np.float64]:
        """(2, 3): its first row and first column in mm, were it laid like that."""
        lengths = np.array(spacing)[::-1] * (np.array(self.shape)[::-1] - 1)
        edges: NDArray[np.float64] = np.reshape(orientation, (2, 3)) * lengths[:, None]
        return edges

    def is_moved(self, orientation: Sequence[float], spacing: Sequence[float]) -> bool:
        """Whether that lays any of its pixels elsewhere."""
        apart = self.edges(orientation, spacing) - self.edges(self.orientation, self.spacing)
        return bool(np.linalg.norm(apart, axis=1).max() > PLANE_TOLERANCE_MM)


@dataclass(frozen=True)
class FrameGroups:
    """What a multi-frame file says of one frame, of its own or of all frames."""

    header: Any
    frame: int

    def item(self, sequence: str) -> Any | None:
        """The only item of a functional group; None where the file does not have it."""
        frames = self.header.get("PerFrameFunctionalGroupsSequence") or []
        shared = self.header.get("SharedFunctionalGroupsSequence") or []
        for groups in (*frames[self.frame - 1 : self.frame], *shared[:1]):
            found = groups.get(sequence)
            if found:
                return found[0]
        return None


@dataclass(frozen=True)
class Stack:
    """Slices in the order in which they lie above each other.

    Parameters
    ----------
    planes
        One per slice, along the normal of the image plane; None where there is no image.
    spacing_mm
        Distance of neighbouring slices.
    """

    planes: tuple[Plane | None, ...]
    spacing_mm: float

    @property
    def held(self) -> list[Plane]:
        """The planes there are."""
        return [plane for plane in self.planes if plane is not None]


def planes_of(file: Path, header: Any) -> list[Plane]:
    """The image planes of a file, one per frame.

    Raises
    ------
    GeometryError
        An attribute of its geometry is absent.
    InputUnreadable
        One does not make sense; the message names the attribute, its value and the file.
    """
    for keyword in ("Rows", "Columns"):
        integer(header, keyword, str(file))
    count = 1
    if "NumberOfFrames" in header:
        count = integer(header, "NumberOfFrames", str(file))
    grouped = "PerFrameFunctionalGroupsSequence" in header
    if not grouped:
        if count > 1:
            raise GeometryError(
                f"{file}: has {count} frames but does not say where each lies, so they are no "
                "volume.",
                fix="Give a series with its geometry.",
            )
        return [_plane(file, header, None)]
    described = len(header.PerFrameFunctionalGroupsSequence)
    if described != count:
        raise InputUnreadable(
            f"{file}: {named('NumberOfFrames')} is {raw(header, 'NumberOfFrames')}, but "
            f"{described} frames are described.",
            fix="Export it again.",
        )
    return [_plane(file, header, number) for number in range(1, count + 1)]


def _plane(file: Path, header: Any, frame: int | None) -> Plane:
    where = str(file) if frame is None else f"{file}, frame {frame}"
    place = axes = measures = header
    if frame is not None:
        groups = FrameGroups(header, frame)
        place, axes, measures = (
            groups.item(f"{part}Sequence")
            for part in ("PlanePosition", "PlaneOrientation", "PixelMeasures")
        )
    absent: dict[str, Any] = {}
    orientation = numbers(axes or absent, "ImageOrientationPatient", 6, where)
    row, column = np.array(orientation).reshape(2, 3)
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if abs(row @ column) > 1e-2 or any(abs(length - 1) > 1e-2 for length in lengths):
        raise InputUnreadable(
            f"{where}: {named('ImageOrientationPatient')} is "
            f"{raw(axes, 'ImageOrientationPatient')}, expected two unit vectors at right angles.",
            fix="Export the series again with its geometry.",
        )
    return Plane(
        file=file,
        header=header,
        frame=frame,
        position=numbers(place or absent, "ImagePositionPatient", 3, where),
        orientation=orientation,
        spacing=positive(measures or absent, "PixelSpacing", 2, where),
    )


def stacked(path: Path, planes: Sequence[Plane], *, allow_incomplete: bool) -> Stack:
    """Order planes into a stack.

    Parameters
    ----------
    path
        The series, for messages.
    allow_incomplete
        Leave gaps where slices are missing.

    Raises
    ------
    GeometryError
        Planes of different sizes or orientations, twice at one place, unevenly spaced, with gaps,
        shifted against each other, or a single one.
    """
    _require_alike(path, planes)
    axes = np.array(planes[0].orientation)
    normal = np.cross(axes[:3], axes[3:])
    places = np.array([plane.position for plane in planes])
    order = np.argsort(places @ normal)
    along = (places @ normal)[order]
    steps = np.diff(along)
    if (steps < SAME_POSITION_MM).any():
        first = int(np.argmax(steps < SAME_POSITION_MM))
        pair = " and ".join(_name(planes[order[i]]) for i in (first, first + 1))
        raise GeometryError(
            f"{path}: duplicate slices: {int((steps < SAME_POSITION_MM).sum())} of {len(planes)} "
            f"images lie where another one does, such as {pair} (several echoes, image types or "
            "time points, or copies?). Expected one image per position.",
            fix="Give the series of one contrast and time point.",
        )
    counts = _require_even(path, [planes[i] for i in order], along, steps, allow_incomplete)
    ordered = places[order]
    drift = np.linalg.norm(np.diff(ordered, axis=0) - np.outer(steps, normal), axis=1) / counts
    if drift.max() > TILT_TOLERANCE_MM:
        tilt, typical = float(drift.max()), float(np.median(steps))
        angle = np.degrees(np.arctan2(tilt, typical))
        raise GeometryError(
            f"{path}: a tilted gantry: each slice is shifted by {tilt:.2f} mm within its plane "
            f"({angle:.1f} degrees). Expected slices straight above each other; correct the tilt "
            "first."
        )
    return _stack(planes, places, order, counts)


def _stack(
    planes: Sequence[Plane],
    places: NDArray[np.float64],
    order: NDArray[np.int_],
    counts: NDArray[np.int_],
) -> Stack:
    from highdicom.spatial import get_volume_positions

    indices = np.concatenate([[0], np.cumsum(counts)])
    slots: list[Plane | None] = [None] * (int(indices[-1]) + 1)
    for index, number in zip(indices, order, strict=True):
        slots[int(index)] = planes[number]
    # highdicom's own figure where it gives one, so that its volumes and ours agree to the bit.
    spacing, _ = get_volume_positions(places.tolist(), planes[0].orientation)
    if spacing is None:
        axes = np.array(planes[0].orientation)
        ends = places[order[-1]] - places[order[0]]
        spacing = float(ends @ np.cross(axes[:3], axes[3:])) / (len(slots) - 1)
    return Stack(tuple(slots), float(spacing))


def _require_alike(path: Path, planes: Sequence[Plane]) -> None:
    """Raise unless all planes have one size and one orientation, and there are several."""
    first = planes[0]
    sizes = {plane.shape for plane in planes}
    if len(sizes) > 1 or any(plane.is_moved(plane.orientation, first.spacing) for plane in planes):
        kinds = sorted({(*plane.shape, *plane.spacing) for plane in planes})
        shown = "; ".join(f"{r} x {c} at {a:g} x {b:g} mm" for r, c, a, b in kinds[:6])
        raise GeometryError(f"{path}: images of different sizes: {shown}. Expected one size.")
    turned = [plane for plane in planes if plane.is_moved(first.orientation, plane.spacing)]
    if turned:
        raise GeometryError(
            f"{path}: mixed orientations: {len(turned)} of {len(planes)} images are turned against "
            f"the first, such as {_name(turned[0])}. Expected parallel slices; leave localizers "
            "out."
        )
    if len(planes) < 2:
        raise GeometryError(
            f"{path}: a single slice, expected a volume.", fix="Give the folder of the series."
        )


def _require_even(
    path: Path,
    planes: Sequence[Plane],
    along: NDArray[np.float64],
    steps: NDArray[np.float64],
    allow_incomplete: bool,
) -> NDArray[np.int_]:
    """How many slice distances each step is; raises unless all are one, or gaps are allowed."""
    typical = float(np.median(steps))
    uneven = np.flatnonzero(np.abs(steps - typical) > SPACING_TOLERANCE * typical)
    stride = 1 if uneven.size else _stride(planes, typical)
    if not uneven.size and stride == 1:
        return np.ones(len(steps), int)
    least = float(steps.min())
    counts = np.rint(steps / least).astype(int)
    gaps = bool((np.abs(steps - counts * least) <= SPACING_TOLERANCE * least * counts).all())
    counts *= stride
    if gaps and allow_incomplete:
        return counts
    places = uneven if uneven.size else np.arange(len(steps))
    shown = "; ".join(
        f"{along[i]:.1f} to {along[i + 1]:.1f} mm ({_name(planes[i])}, {_name(planes[i + 1])})"
        for i in places[:5]
    )
    if gaps:
        raise GeometryError(
            f"{path}: missing slices: {int((counts - 1).sum())} of {int(counts.sum()) + 1} "
            f"positions, {least / stride:.3g} mm apart, have no image. The gaps: {shown} along the "
            "normal.",
            fix=("Export the series again, whole.", INCOMPLETE),
        )
    raise GeometryError(
        f"{path}: unevenly spaced slices: the usual distance is {typical:.3g} mm, but not at "
        f"{shown} along the normal.",
        fix="Export the series again, whole.",
    )


def _stride(planes: Sequence[Plane], distance: float) -> int:
    """2 where every second slice of a series is missing throughout, and so on; 1 of a whole one.

    Evenly spaced slices do not show it, their numbers and their own spacing do.
    """
    found = instance_numbers(planes)
    steps = set(np.abs(np.diff(found)).tolist()) if found else set()
    if len(steps) != 1 or (stride := int(steps.pop())) < 2:
        return 1
    own = number_or_none(planes[0].header, "SpacingBetweenSlices")
    own = own or number_or_none(planes[0].header, "SliceThickness")
    return stride if own and abs(own * stride - distance) <= 0.05 * distance else 1


def instance_numbers(planes: Sequence[Plane]) -> list[int]:
    """The instance number of each single-frame image; empty where one has none."""
    found = [number_or_none(plane.header, "InstanceNumber") for plane in planes if not plane.frame]
    whole = [int(number) for number in found if number is not None]
    return whole if len(whole) == len(planes) else []


def _name(plane: Plane) -> str:
    return plane.file.name + ("" if plane.frame is None else f" frame {plane.frame}")
