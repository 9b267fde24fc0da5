"""A DICOM series as a volume: one series, whole, as one stack of slices, or refused."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from tlp_runtime.errors import ContentError, GeometryError, InputMissing, InputUnreadable, SetOption
from tlp_runtime.files.hashes import sha256
from tlp_runtime.geometry.volume import Origin, Volume
from tlp_runtime.io.dicom import require_dicom
from tlp_runtime.io.dicom.files import Unreadable, list_images, listed
from tlp_runtime.io.dicom.pixels import Pixels, read_pixels, without_padding
from tlp_runtime.io.dicom.stack import (
    INCOMPLETE,
    Plane,
    Stack,
    instance_numbers,
    planes_of,
    stacked,
)
from tlp_runtime.io.dicom.values import text
from tlp_runtime.warnings import (
    CONTRAST_AGENT,
    INSTANCES_SKIPPED,
    NO_FRAME_OF_REFERENCE,
    SERIES_INCOMPLETE,
    TLPWarning,
)

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

_NO_AGENT = frozenset({"", "0", "0.0", "N", "NO", "NONE", "NO CONTRAST", "WITHOUT"})
_AGENT = tuple(
    f"ContrastBolus{part}"
    for part in ("Agent", "Ingredient", "Volume", "TotalDose", "Route", "StartTime", "StopTime")
)


@dataclass(frozen=True)
class DicomSeries:
    """A series that was read as one volume.

    Parameters
    ----------
    volume
        Its voxels, axes (columns, rows, slices), modality transform applied.
    planes
        The image of each slice, in the order of the volume's third axis; None of a slice that is
        missing, whose voxels are 0.
    """

    volume: Volume
    planes: tuple[Plane | None, ...]

    @property
    def headers(self) -> list[Any]:
        """The data sets of its files, each once, in the order of the slices."""
        found = {id(plane.header): plane.header for plane in self.planes if plane is not None}
        return list(found.values())


def read_series(
    path: Path | str, uid: str | None = None, *, allow_incomplete: bool = False
) -> DicomSeries:
    """Read a folder with a series, or one multi-frame file.

    Parameters
    ----------
    uid
        Series Instance UID, where the folder holds several series.
    allow_incomplete
        Leave out files that cannot be read, and slices that are missing, with a warning. Missing
        slices between others are 0.

    Raises
    ------
    DependencyMissing
        pydicom or highdicom, or the decoder of a compressed series, is not installed.
    InputMissing, InputUnreadable
        No image there, damaged ones, or attributes that make no sense.
    GeometryError
        Several series and no ``uid``; or no volume: mixed orientations or sizes, missing or
        duplicate slices, a tilted gantry, a single slice.
    ContentError
        Not MR, not grey-scale, or with text burned into the pixels.
    """
    require_dicom()
    path = Path(path)
    if not path.exists():
        raise InputMissing(f"{path}: does not exist, expected a DICOM folder or file.")
    listing = list_images(path)
    chosen = _one_series(path, listing.images, uid)
    for file, header in chosen.items():
        _require_grey_mr(file, header)
    series = str(next(iter(chosen.values())).SeriesInstanceUID)
    lost = listing.lost(chosen, series)
    if lost and not allow_incomplete:
        raise _incomplete(path, lost, len(chosen))
    planes = [plane for file, header in chosen.items() for plane in planes_of(file, header)]
    stacked(path, planes, allow_incomplete=allow_incomplete)  # before the work of decoding
    pixels, damaged = read_pixels(planes)
    lost += [Unreadable(file, reason) for file, reason in damaged.items()]
    if damaged and not allow_incomplete:
        raise _incomplete(path, lost, len(chosen) - len(damaged))
    sound = {plane: found for plane, found in zip(planes, pixels, strict=True) if found is not None}
    planes = list(sound)
    if not planes:
        raise InputUnreadable(f"{path}: no image can be decoded: {listed(lost)}.")
    stack = stacked(path, planes, allow_incomplete=allow_incomplete)
    return _series(path, stack, sound, lost)


def _incomplete(path: Path, lost: Sequence[Unreadable], sound: int) -> InputUnreadable:
    return InputUnreadable(
        f"{path}: {len(lost)} of {len(lost) + sound} files of the series cannot be read: "
        f"{listed(lost)}.",
        fix=("Copy or export them again.", INCOMPLETE),
    )


def _one_series(path: Path, files: dict[Path, Any], uid: str | None) -> dict[Path, Any]:
    series: dict[str, dict[Path, Any]] = {}
    for file, header in files.items():
        series.setdefault(str(header.SeriesInstanceUID), {})[file] = header
    if uid is None and len(series) == 1:
        return next(iter(series.values()))
    if uid in series:
        return series[str(uid)]
    lines = "\n".join(
        f"  {key}  {_description(next(iter(part.values())))}, {len(part)} files"
        for key, part in series.items()
    )
    wanted = "holds several series" if uid is None else f"holds no series {uid}"
    raise GeometryError(
        f"{path}: {wanted}:\n{lines}", fix=SetOption("series", "UID", "to choose one of them")
    )


def _description(header: Any) -> str:
    return f"{text(header, 'Modality') or '?'} {text(header, 'SeriesDescription')!r}"


def _require_grey_mr(file: Path, header: Any) -> None:
    modality = text(header, "Modality")
    if modality != "MR":
        raise ContentError(f"{file}: modality is {modality or 'not given'}, expected MR.")
    photometric = text(header, "PhotometricInterpretation")
    if photometric != "MONOCHROME2":
        raise ContentError(
            f"{file}: photometric interpretation is {photometric or 'not given'}, expected "
            "MONOCHROME2.",
            fix="Convert it to a grey-scale image in which bright is high.",
        )
    if text(header, "BurnedInAnnotation") == "YES":
        raise ContentError(
            f"{file}: text is burned into its pixels (BurnedInAnnotation YES).",
            fix="Give the original series without it.",
        )


def _series(
    path: Path, stack: Stack, pixels: Mapping[Plane, Pixels], lost: Sequence[Unreadable]
) -> DicomSeries:
    """Put decoded planes above each other, axes (columns, rows, slices) in RAS."""
    from highdicom.spatial import create_affine_matrix_from_attributes

    planes = stack.planes[::-1]  # highdicom's volumes run against the normal of the image plane
    first = stack.held[-1]
    array = np.zeros((len(planes), *first.shape), np.float32)
    padding = {}
    for index, plane in enumerate(planes):
        if plane is not None:
            found = pixels[plane]
            array[index] = found.values
            if found.padding is not None:
                padding[index] = found.padding
    affine = LPS_TO_RAS @ create_affine_matrix_from_attributes(
        image_position=first.position,
        image_orientation=first.orientation,
        pixel_spacing=first.spacing,
        spacing_between_slices=stack.spacing_mm,
        index_convention="DR",
        slices_first=True,
    )
    data, affine = without_padding(array, padding).transpose(2, 1, 0), affine[:, [2, 1, 0, 3]]
    if np.linalg.det(affine[:3, :3]) < 0:  # slices along the normal, as other formats have them
        data, planes = data[:, :, ::-1], planes[::-1]
        affine[:3, 3] += affine[:3, 2] * (data.shape[2] - 1)
        affine[:3, 2] *= -1
    digest = hashlib.sha256()
    for file in sorted({plane.file for plane in stack.held}):
        digest.update(bytes.fromhex(sha256(file)))
    volume = Volume(
        np.ascontiguousarray(data),
        affine,
        name=str(path),
        origin=Origin(str(path), digest.hexdigest()),
        warnings=_doubts(path, stack, lost),
        frame_of_reference=_frame_of_reference(path, stack),
    )
    return DicomSeries(volume, planes)


def _frame_of_reference(path: Path, stack: Stack) -> str | None:
    """The frame of reference that the images share; None where none of them names one."""
    found = {text(plane.header, "FrameOfReferenceUID") for plane in stack.held}
    if len(found) > 1:
        raise GeometryError(
            f"{path}: its images name {len(found)} frames of reference "
            f"({', '.join(sorted(uid or 'none' for uid in found))}), so they do not lie in one "
            "space.",
            fix="Give one of the parts.",
        )
    return found.pop() or None


def _doubts(path: Path, stack: Stack, lost: Sequence[Unreadable]) -> tuple[TLPWarning, ...]:
    """What is doubtful about a series."""
    found = []
    missing = sum(plane is None for plane in stack.planes)
    if lost or missing:
        parts = [f"left out, since they cannot be read: {listed(lost)}"] * bool(lost)
        count = f"{missing} of {len(stack.planes)} slices"
        parts += [f"taken as 0, since there is no image of them: {count}"] * bool(missing)
        found.append(
            SERIES_INCOMPLETE.warning(
                f"{path}: {'; '.join(parts)}.", files_left_out=len(lost), slices_missing=missing
            )
        )
    elif skipped := _skipped(stack):
        found.append(
            INSTANCES_SKIPPED.warning(
                f"{path}: instance numbers leave out {skipped}, though the slices are evenly "
                "spaced. Is the series whole?",
                skipped=skipped,
            )
        )
    if not text(stack.held[0].header, "FrameOfReferenceUID"):
        found.append(
            NO_FRAME_OF_REFERENCE.warning(
                f"{path}: its header names no frame of reference, so it cannot be checked whether "
                "other images and the prompt share its space."
            )
        )
    agent = next((name for plane in stack.held if (name := _agent(plane))), "")
    if agent:
        found.append(
            CONTRAST_AGENT.warning(
                f"{path}: its header names a contrast agent ({agent}); the model expects a scan "
                "without one.",
                agent=agent,
            )
        )
    return tuple(found)


def _skipped(stack: Stack) -> str:
    """Instance numbers that are left out between others, as a text; empty where none is."""
    numbers = sorted(set(instance_numbers(stack.held)))
    steps = np.diff(numbers)
    if not len(steps) or (steps == steps[0]).all():
        return ""
    parts = [
        f"{a + 1}" if b - a == 2 else f"{a + 1} to {b - 1}"
        for a, b in pairwise(numbers)
        if b - a > 1
    ]
    return ", ".join(parts[:6]) + (" and more" if len(parts) > 6 else "")


def _agent(plane: Plane) -> str:
    """What an image's header says of a contrast agent; empty where it names none."""
    header = plane.header
    for sequence in ("ContrastBolusAgentSequence", "ContrastBolusUsageSequence"):
        if header.get(sequence):
            return text(header[sequence][0], "CodeMeaning") or sequence
    values = {keyword: text(header, keyword) for keyword in _AGENT}
    if values["ContrastBolusAgent"].upper() in _NO_AGENT - {""}:
        return ""
    for keyword, value in values.items():
        if value.upper() not in _NO_AGENT:
            return value if keyword == "ContrastBolusAgent" else f"{keyword} {value}"
    return ""
