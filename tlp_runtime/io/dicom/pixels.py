"""Pixels of DICOM images: decoded, rescaled, and without the scanner's padding."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlp_runtime.errors import DependencyMissing, InputUnreadable, Install, first_line
from tlp_runtime.io.dicom.stack import Plane
from tlp_runtime.io.dicom.values import numbers


@dataclass(frozen=True)
class Pixels:
    """One plane's values.

    Parameters
    ----------
    values
        (rows, columns) float32, modality transform applied.
    padding
        (rows, columns) where the scanner measured nothing; None where the file names no padding.
    """

    values: NDArray[np.float32]
    padding: NDArray[np.bool_] | None


def read_pixels(planes: Sequence[Plane]) -> tuple[list[Pixels | None], dict[Path, str]]:
    """The pixels of planes, in their order.

    Returns
    -------
    pixels
        None of a plane whose file cannot be decoded.
    damaged
        Why not, by file.

    Raises
    ------
    DependencyMissing
        The decoder of a compressed file is not installed.
    """
    stored: dict[Path, NDArray[Any]] = {}
    damaged: dict[Path, str] = {}
    found: list[Pixels | None] = []
    for plane in planes:
        if plane.file not in stored and plane.file not in damaged:
            stored.clear()  # planes of one file follow each other
            try:
                stored[plane.file] = decoded(plane.file)
            except InputUnreadable as error:
                damaged[plane.file] = error.problem
        if plane.file in damaged:
            found.append(None)
            continue
        frames = stored[plane.file]
        found.append(_values(plane, frames if frames.ndim == 2 else frames[(plane.frame or 1) - 1]))
    return found, damaged


def decoded(file: Path) -> NDArray[Any]:
    """The stored values of a file: (rows, columns), or (frames, rows, columns).

    Raises
    ------
    DependencyMissing
        The decoder of its compression is not installed.
    InputUnreadable
        Its pixels are damaged, cut short or absent; the problem is a short text without the file.
    """
    import pydicom

    try:
        dataset = pydicom.dcmread(file, force=True)
        _name_syntax(dataset)
        _require_decoder(file, dataset)
        pixels: NDArray[Any] = dataset.pixel_array
    except DependencyMissing:
        raise
    except Exception as error:  # pydicom and its decoders raise whatever a damaged file provokes
        reason = first_line(error).partition(" - ")[0]  # pydicom's guesses follow
        raise InputUnreadable(f"its pixels cannot be decoded: {reason}") from error
    return pixels


def _name_syntax(dataset: Any) -> None:
    """Say how a file without a header of its own is encoded, which its data set shows."""
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    if "TransferSyntaxUID" in dataset.file_meta or dataset["PixelData"].is_undefined_length:
        return
    implicit, little = dataset.original_encoding
    explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit


def _require_decoder(file: Path, dataset: Any) -> None:
    """Raise where the libraries that decode the file are not installed."""
    from pydicom.pixels import get_decoder
    from pydicom.uid import UID

    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax is None or not UID(syntax).is_encapsulated:
        return
    decoder = get_decoder(syntax)
    if decoder.is_available:
        return
    # Such as "pylibjpeg - requires pylibjpeg>=2.0 and pylibjpeg-libjpeg>=2.1", one per library.
    options = [re.findall(r"[\w-]+(?=[>=]=)", line) for line in decoder.missing_dependencies]
    wanted = next((names for names in options if "pylibjpeg" in names), options[0])
    raise DependencyMissing(
        f"{file}: is compressed ({UID(syntax).name}), which needs a decoder that is not installed.",
        fix=(Install(tuple(wanted)), "Or convert the series to an uncompressed one."),
    )


def _values(plane: Plane, stored: NDArray[Any]) -> Pixels:
    from pydicom.pixels import apply_modality_lut

    if stored.shape != plane.shape:
        raise InputUnreadable(
            f"{plane.file}: its pixels are {stored.shape}, expected {plane.shape} of one value "
            "each."
        )
    header = plane.header
    if "ModalityLUTSequence" in header:
        values = np.asarray(apply_modality_lut(stored, header), np.float32)
    else:
        slope, intercept = _rescale(plane)
        # In single precision, as highdicom does.
        values = stored
        if slope != 1:
            values = values * np.float32(slope)
        if intercept != 0:
            values = values + np.float32(intercept)
        values = values.astype(np.float32)
    return Pixels(values, _padding(header, stored))


def _rescale(plane: Plane) -> tuple[float, float]:
    """Slope and intercept of a plane: of its frame, else of its file."""
    where = plane.group.item("PixelValueTransformationSequence")
    where = plane.header if where is None else where
    if "RescaleSlope" not in where and "RescaleIntercept" not in where:
        return 1.0, 0.0
    (slope,) = numbers(where, "RescaleSlope", 1, str(plane.file))
    (intercept,) = numbers(where, "RescaleIntercept", 1, str(plane.file))
    return slope, intercept


def _padding(header: Any, stored: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Where the stored value is the padding value, or in the range of them."""
    ends = [
        _stored_number(header[keyword].value)
        for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit")
        if keyword in header and header[keyword].value not in (None, "", b"")
    ]
    if not ends:
        return None
    # Whether it is signed follows from the pixels, whatever the file says of it.
    low, high = np.sort(np.array(ends).astype(stored.dtype))[[0, -1]]
    return np.asarray((stored >= low) & (stored <= high))


def _stored_number(value: Any) -> int:
    return int.from_bytes(value[:2], "little") if isinstance(value, bytes) else int(value)


def without_padding(
    volume: NDArray[np.float32], padding: Mapping[int, NDArray[np.bool_]]
) -> NDArray[np.float32]:
    """Slices with padding as background: 0, or the least value measured where that is negative.

    Parameters
    ----------
    volume
        (slices, rows, columns).
    padding
        Where a slice is padded, by its index.
    """
    marked = {index: where for index, where in padding.items() if where.any()}
    if not marked:
        return volume
    mask = np.zeros(volume.shape, np.bool_)
    for index, where in marked.items():
        mask[index] = where
    measured = volume[~mask]
    level = min(0.0, float(measured.min())) if measured.size else 0.0
    return np.where(mask, np.float32(level), volume)
