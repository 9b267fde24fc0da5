"""A DICOM series as a volume: one series, one stack of parallel, evenly spaced slices, or refused.

highdicom places and decodes the slices; what is here finds the series and says, before it, in
which way a series is not a volume.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlp_runtime.errors import (
    ContentError,
    GeometryError,
    InputMissing,
    InputUnreadable,
    Install,
    SetOption,
    first_line,
)
from tlp_runtime.files.hashes import sha256
from tlp_runtime.geometry.volume import Origin, Volume
from tlp_runtime.io.dicom import require_dicom
from tlp_runtime.warnings import CONTRAST_AGENT, TLPWarning

logger = logging.getLogger(__name__)

SAME_POSITION_MM = 1e-2
SPACING_TOLERANCE = 0.01
"""Unevenness of slice distances, relative to their median, beyond which slices are missing."""
TILT_TOLERANCE_MM = 0.05
ORIENTATION_TOLERANCE = 1e-3

_PLACE = (
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "FrameOfReferenceUID",
)  # fmt: skip

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class DicomSeries:
    """A series that was read as one volume.

    Parameters
    ----------
    volume
        Its voxels, axes (columns, rows, slices), modality transform applied.
    headers
        The data sets without their pixels: one per slice, in the order of the volume's third axis;
        of a multi-frame file that one file.
    frames
        Frame number (from 1) of each slice of a multi-frame file; empty of single-frame files.
    """

    volume: Volume
    headers: tuple[Any, ...]
    frames: tuple[int, ...] = ()


def read_series(path: Path | str, uid: str | None = None) -> DicomSeries:
    """Read a folder with a series, or one multi-frame file.

    Parameters
    ----------
    uid
        Series Instance UID, where the folder holds several series.

    Raises
    ------
    DependencyMissing
        pydicom or highdicom, or the decoder of a compressed series, is not installed.
    InputMissing, InputUnreadable
        No image there, or damaged ones.
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
    files = _image_files(path)
    chosen = _one_series(path, files, uid)
    first = next(iter(chosen.values()))
    for file, header in chosen.items():
        _require_grey_mr(file, header)
    if int(first.get("NumberOfFrames", 1)) > 1:
        if len(chosen) > 1:
            raise GeometryError(
                f"{path}: series {first.SeriesInstanceUID} has {len(chosen)} multi-frame files, "
                "expected one volume.",
                fix="Give one of the files.",
            )
        return _multi_frame(next(iter(chosen)), first)
    return _single_frames(path, chosen)


def _image_files(path: Path) -> dict[Path, Any]:
    """Every DICOM image at ``path``, its header."""
    import pydicom
    from pydicom.errors import InvalidDicomError

    candidates = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    found, others = {}, 0
    for file in candidates:
        try:
            header = pydicom.dcmread(file, stop_before_pixels=True)
        except (InvalidDicomError, EOFError):
            others += 1
            continue
        except (OSError, ValueError, NotImplementedError) as error:
            raise InputUnreadable(f"{file}: its DICOM header cannot be read ({error}).") from error
        if "Rows" in header and "SeriesInstanceUID" in header:
            found[file] = header
        else:
            others += 1
    if not found:
        raise InputMissing(
            f"{path}: holds no DICOM image ({others} other files), expected the files of one "
            "MR series, or one multi-frame file."
        )
    if others:
        logger.info("%s: %d files are not DICOM images and are left out.", path, others)
    return found


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
    return f"{header.get('Modality', '?')} {header.get('SeriesDescription', 'no description')!r}"


def _require_grey_mr(file: Path, header: Any) -> None:
    modality = header.get("Modality", "")
    if modality != "MR":
        raise ContentError(f"{file}: modality is {modality or 'not given'}, expected MR.")
    photometric = header.get("PhotometricInterpretation", "")
    if photometric != "MONOCHROME2":
        raise ContentError(
            f"{file}: photometric interpretation is {photometric}, expected MONOCHROME2.",
            fix="Convert it to a grey-scale image in which bright is high.",
        )
    if header.get("BurnedInAnnotation", "NO") == "YES":
        raise ContentError(
            f"{file}: text is burned into its pixels (BurnedInAnnotation YES).",
            fix="Give the original series without it.",
        )


def _multi_frame(file: Path, header: Any) -> DicomSeries:
    import highdicom

    try:
        image = highdicom.imread(file)
        placed = image.get_volume(
            dtype=np.float32, apply_real_world_transform=False, apply_voi_transform=False
        )
    except (RuntimeError, ValueError, AttributeError, KeyError, IndexError) as error:
        raise GeometryError(
            f"{file}: its {header.NumberOfFrames} frames do not form one volume of parallel, "
            f"evenly spaced slices ({error}).",
            fix="Give the series of one contrast and time point.",
        ) from error
    volume = _volume(placed, file, (file,), header)
    positions = np.array(
        [
            group.PlanePositionSequence[0].ImagePositionPatient
            for group in header.PerFrameFunctionalGroupsSequence
        ],
        dtype=np.float64,
    )
    order = _slice_index(volume, positions)
    frames = tuple(int(frame) + 1 for frame in np.argsort(order))
    return DicomSeries(volume, (header,), frames)


def _single_frames(path: Path, chosen: dict[Path, Any]) -> DicomSeries:
    import highdicom
    import pydicom

    headers = list(chosen.values())
    _require_volume(path, headers)
    try:
        whole = [pydicom.dcmread(file) for file in chosen]
        placed = highdicom.get_volume_from_series(
            whole, dtype=np.float32, apply_real_world_transform=False, apply_voi_transform=False
        )
    except (RuntimeError, NotImplementedError) as error:
        raise InputUnreadable(
            f"{path}: its pixels cannot be decoded ({first_line(error)})",
            fix=(
                Install(("pylibjpeg", "pylibjpeg-openjpeg"), purpose="if they are compressed"),
                "Or convert the series.",
            ),
        ) from error
    except (ValueError, AttributeError, KeyError, EOFError) as error:
        raise InputUnreadable(f"{path}: is not a sound series ({first_line(error)}).") from error
    volume = _volume(placed, path, tuple(chosen), headers[0])
    positions = np.array([h.ImagePositionPatient for h in headers], dtype=np.float64)
    order = _slice_index(volume, positions)
    return DicomSeries(volume, tuple(headers[i] for i in np.argsort(order)))


def _require_volume(path: Path, headers: Sequence[Any]) -> None:
    """Raise unless single-frame images make one stack of parallel, evenly spaced slices."""
    for keyword in _PLACE:
        lacking = sum(keyword not in header for header in headers)
        if lacking:
            raise GeometryError(
                f"{path}: {lacking} of {len(headers)} images lack {keyword}, so their place is "
                "unknown.",
                fix="Export the series again with its geometry.",
            )
    sizes = {(int(h.Rows), int(h.Columns), *map(float, h.PixelSpacing)) for h in headers}
    if len(sizes) > 1:
        shown = "; ".join(f"{r} x {c} at {a:g} x {b:g} mm" for r, c, a, b in sorted(sizes))
        raise GeometryError(f"{path}: images of different sizes: {shown}. Expected one size.")
    axes = np.array([h.ImageOrientationPatient for h in headers], dtype=np.float64)
    apart = np.abs(axes - axes[0]).max(axis=1)
    if apart.max() > ORIENTATION_TOLERANCE:
        raise GeometryError(
            f"{path}: mixed orientations: {int((apart > ORIENTATION_TOLERANCE).sum())} of "
            f"{len(headers)} images are turned against the first. Expected parallel slices; "
            "leave localizers out."
        )
    if len(headers) < 2:
        raise GeometryError(f"{path}: a single slice, expected a volume.")
    normal = np.cross(axes[0, :3], axes[0, 3:])
    places = np.array([h.ImagePositionPatient for h in headers], dtype=np.float64)
    along = np.sort(places @ normal)
    steps = np.diff(along)
    if (steps < SAME_POSITION_MM).any():
        raise GeometryError(
            f"{path}: duplicate slices: {int((steps < SAME_POSITION_MM).sum())} of {len(headers)} "
            "images lie where another one does (several echoes or time points, or copies?). "
            "Expected one image a position."
        )
    typical = float(np.median(steps))
    uneven = np.flatnonzero(np.abs(steps - typical) > SPACING_TOLERANCE * typical)
    if uneven.size:
        where = ", ".join(f"{along[i]:.1f} to {along[i + 1]:.1f}" for i in uneven[:5])
        raise GeometryError(
            f"{path}: missing or unevenly spaced slices: the usual distance is {typical:.3g} mm, "
            f"but not at {where} mm along the normal.",
            fix="Export the series again, whole.",
        )
    ordered = places[np.argsort(places @ normal)]
    drift = np.diff(ordered, axis=0) - np.outer(steps, normal)
    tilt = float(np.linalg.norm(drift, axis=1).max())
    if tilt > TILT_TOLERANCE_MM:
        angle = np.degrees(np.arctan2(tilt, typical))
        raise GeometryError(
            f"{path}: a tilted gantry: each slice is shifted by {tilt:.2f} mm within its plane "
            f"({angle:.1f} degrees). Expected slices straight above each other; correct the tilt "
            "first."
        )


def _volume(placed: Any, path: Path, files: Sequence[Path], header: Any) -> Volume:
    """highdicom's volume, axes (slice, row, column) in LPS, as ours."""
    data, affine = placed.array.transpose(2, 1, 0), (LPS_TO_RAS @ placed.affine)[:, [2, 1, 0, 3]]
    if np.linalg.det(affine[:3, :3]) < 0:  # slices along the normal of the image plane, not against
        data = data[:, :, ::-1]
        affine[:3, 3] += affine[:3, 2] * (data.shape[2] - 1)
        affine[:3, 2] *= -1
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(bytes.fromhex(sha256(file)))
    return Volume(
        np.ascontiguousarray(data),
        affine,
        name=str(path),
        origin=Origin(str(path), digest.hexdigest()),
        warnings=_doubts(path, header),
    )


def _doubts(path: Path, header: Any) -> tuple[TLPWarning, ...]:
    """What the header of a series' first image leaves in doubt."""
    agent = str(header.get("ContrastBolusAgent") or "")
    if not agent:
        return ()
    return (
        CONTRAST_AGENT.warning(
            f"{path}: its header names a contrast agent ({agent}); the model expects a scan "
            "without one.",
            agent=agent,
        ),
    )


def _slice_index(volume: Volume, positions: NDArray[np.float64]) -> NDArray[np.int_]:
    """The index along the third axis of images whose first voxels lie at these LPS places."""
    ras = positions * np.array([-1.0, -1.0, 1.0])
    return np.rint(volume.grid.voxels(ras)[:, 2]).astype(int)
