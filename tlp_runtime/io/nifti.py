"""NIfTI in, NIfTI out."""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from nibabel.filebasedimages import ImageFileError
from nibabel.openers import ImageOpener
from nibabel.spatialimages import HeaderDataError
from nibabel.tripwire import TripWireError
from nibabel.volumeutils import native_code
from numpy.typing import NDArray

from tlp_runtime.errors import (
    InputError,
    InputMissing,
    InputTooLarge,
    InputUnreadable,
    OutputError,
    first_line,
)
from tlp_runtime.files.atomic import atomic_file
from tlp_runtime.files.gzip import GZIP_MAGIC, deflate, inflate, inflate_start
from tlp_runtime.files.pointers import FETCH, not_fetched
from tlp_runtime.geometry.volume import Origin, Volume
from tlp_runtime.io.nifti_header import NiftiHeader, claimed_voxels, read_header

SUFFIXES = (".nii.gz", ".nii")
_PAIR = (".hdr", ".img")
"""Header and voxels in two files, each of which may be compressed."""
_OTHER_PACKING = (".nii.bz2", ".nii.zst")
INT16_STEPS = 32767
SCANNER = 1
"""NIfTI's code of scanner coordinates."""
_COMMENT = 6
START_BYTES = 1 << 14
"""Bytes of a file that hold its header, compressed or not."""
_HEADER_BYTES = 1024
"""More than a header of either version has."""


def read_volume(path: Path | str) -> Volume:
    """Read a 3-D NIfTI-1 or NIfTI-2 image, voxels scaled as its header says.

    Trailing axes of length 1 are dropped; an output on this grid has them again. The sform places
    the voxels, where there is none the qform. What is wrong in the header and can be made up for,
    and forms that disagree by more than half a millimetre, are warnings of the volume.

    Raises
    ------
    InputMissing
        No such file.
    InputUnreadable
        Not a NIfTI, damaged, or with a header that leaves open what the voxels are.
    GeometryError
        Not a 3-D image, or with a header that leaves open where the voxels lie.
    """
    path = Path(path)
    if not path.is_file():
        reason = not_fetched(path)
        if reason is not None:
            raise InputMissing(f"{path}: {reason}.", fix=FETCH)
        what = "is a folder" if path.is_dir() else "does not exist"
        raise InputMissing(f"{path}: {what}, expected a NIfTI file (.nii or .nii.gz).")
    with _told(str(path)):
        content = path.read_bytes()
        reason = not_fetched(path, content)
        if reason is not None:
            raise InputUnreadable(f"{path}: {reason}.", fix=FETCH)
        name = path.name.lower()
        if name.endswith(".nii.gz") and not content.startswith(GZIP_MAGIC):
            raise InputUnreadable(
                f"{path}: is not a NIfTI image: it is not compressed, though its name says so. "
                "Expected .nii or .nii.gz."
            )
        if name.endswith(SUFFIXES):
            whole = inflate(content) if name.endswith(".gz") else content
            return _volume(read_header(whole, str(path)), whole, content, str(path))
        if name.removesuffix(".gz").endswith(_PAIR):
            start, voxels = (_half(path, suffix) for suffix in _PAIR)
            header = read_header(start, str(path), voxel_bytes=len(voxels))
            return _volume(header, voxels, content, str(path))
        if name.endswith(_OTHER_PACKING):
            try:
                with ImageOpener(path) as file:
                    whole = file.read()
            except TripWireError as error:
                raise InputUnreadable(
                    f"{path}: cannot be unpacked here ({first_line(error)}).",
                    fix="Compress it as .nii.gz instead.",
                ) from error
            return _volume(read_header(whole, str(path)), whole, content, str(path))
        found = type(nib.load(path)).__name__
        raise InputUnreadable(f"{path}: is {found}, expected a NIfTI file (.nii or .nii.gz).")


def parse_volume(content: bytes, name: str, *, limit: int) -> Volume:
    """As :func:`read_volume`, of a file's bytes that came from somebody who is not trusted.

    Parameters
    ----------
    content
        Compressed or not, whatever the file was called.
    limit
        Bytes that its content, and its voxels as float64, may take.

    Raises
    ------
    InputTooLarge
        It would take more.
    InputUnreadable, GeometryError
        As :func:`read_volume`.
    """
    with _told(name):
        unpacked = content
        if content.startswith(GZIP_MAGIC):
            try:
                unpacked = inflate(content, limit)
            except InputTooLarge as error:
                raise InputTooLarge(f"{name}: {error.problem}", fix=error.fixes) from None
        header = read_header(unpacked, name)
        voxels = math.prod(header.shape)
        if voxels * 8 > limit:
            raise InputTooLarge(
                f"{name}: has {voxels:.3g} voxels, {limit // 8:.3g} are allowed.",
                fix="Cut or resample it.",
            )
        return _volume(header, unpacked, content, name)


def voxels_claimed_by(start: bytes) -> int:
    """How many voxels a NIfTI file claims to have.

    Parameters
    ----------
    start
        Its first :data:`START_BYTES`, compressed or not; what follows is not looked at.

    Returns
    -------
    Their number; 0 where the file is not a NIfTI image, which is an error when it is read.
    """
    try:
        start = start[:START_BYTES]
        packed = start.startswith(GZIP_MAGIC)
        return claimed_voxels(inflate_start(start, _HEADER_BYTES) if packed else start)
    except (InputError, OSError):
        return 0


@contextmanager
def _told(name: str) -> Iterator[None]:
    """nibabel's and the system's errors in our own words."""
    try:
        yield
    except (ImageFileError, HeaderDataError) as error:
        raise InputUnreadable(
            f"{name}: is not a NIfTI image ({error}). Expected .nii or .nii.gz."
        ) from error
    except (EOFError, OSError, ValueError) as error:
        raise InputUnreadable(
            f"{name}: is damaged or cut short ({first_line(error)}).",
            fix="Copy or convert it again.",
        ) from error


def _half(path: Path, suffix: str) -> bytes:
    """The header (.hdr) or the voxels (.img) of the pair that a file belongs to, unpacked."""
    packing = path.suffix if path.suffix.lower() == ".gz" else ""
    base = path.name.removesuffix(packing)[: -len(suffix)]
    capitals = path.name[len(base) :].removesuffix(packing).isupper()
    half = path.with_name(base + (suffix.upper() if capitals else suffix) + packing)
    if not half.is_file():
        raise InputMissing(f"{path}: is half of a pair, but {half.name} is not next to it.")
    content = half.read_bytes()
    return inflate(content) if content.startswith(GZIP_MAGIC) else content


def _volume(header: NiftiHeader, voxels: bytes, content: bytes, name: str) -> Volume:
    """The volume of a header and the bytes that hold its voxels; ``content`` is the file."""
    spec = (header.shape, header.dtype, header.start, *header.scaling)
    data = np.asanyarray(ArrayProxy(io.BytesIO(voxels), spec))
    while data.ndim > 3 and data.shape[-1] == 1:
        data = data[..., 0]
    if not data.dtype.isnative:
        data = data.astype(data.dtype.newbyteorder("="))
    return Volume(
        data=data,
        affine=header.affine,
        header=header.fields,
        name=name,
        origin=Origin(name, hashlib.sha256(content).hexdigest()),
        warnings=header.warnings,
    )


def write_volume(
    volume: Volume,
    path: Path | str,
    *,
    description: str,
    comment: Mapping[str, Any] | None = None,
    int16: bool = False,
    overwrite: bool = False,
) -> str:
    """Write ``volume`` on its own grid, atomically.

    Parameters
    ----------
    description, comment, int16
        As of :func:`nifti_bytes`.

    Returns
    -------
    SHA-256 of the file.

    Raises
    ------
    OutputError
        Not a NIfTI file name, an existing file without ``overwrite``, or a failed write.
    """
    path = require_nifti_name(path)
    packed = path.name.lower().endswith(".gz")
    content = nifti_bytes(
        volume, description=description, comment=comment, int16=int16, packed=packed
    )
    with atomic_file(path, overwrite=overwrite) as temporary:
        temporary.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def nifti_bytes(
    volume: Volume,
    *,
    description: str,
    comment: Mapping[str, Any] | None = None,
    int16: bool = False,
    packed: bool = True,
) -> bytes:
    """``volume`` on its own grid as a NIfTI file's bytes.

    The spatial fields of ``volume.header`` (affines, codes, voxel sizes, units) are repeated;
    its scaling and display range are not, since the values are others. Without a header sform and
    qform say the same.

    Parameters
    ----------
    description
        At most 79 ASCII characters for the header's ``descrip``.
    comment
        Written as JSON into a comment extension of the header.
    int16
        Store values in [0, 1] as whole multiples of 1 / 32767, in half the space: 0 and 1 stay
        what they are, others move by at most 1.6e-5.
    packed
        Whether to compress by gzip.
    """
    data, slope = (_whole_steps(volume.data), 1 / INT16_STEPS) if int16 else (volume.data, 1.0)
    header = _header(volume)
    header.set_data_dtype(data.dtype)
    header["descrip"] = description.encode("ascii", "replace")[:79]
    header.set_slope_inter(slope, 0)
    if comment is not None:
        text = json.dumps(comment, sort_keys=True, separators=(",", ":"))
        header.extensions.append(nib.nifti1.Nifti1Extension(_COMMENT, text.encode()))
    start = io.BytesIO()
    header.write_to(start)
    rest = header.get_data_offset() - start.tell()
    # NIfTI's first axis runs fastest; Volume keeps that order, so this copies nothing.
    parts = (start.getvalue() + bytes(rest), data.reshape(-1, order="F").data.cast("B"))
    return deflate(*parts) if packed else b"".join(parts)


def _header(volume: Volume) -> nib.Nifti1Header:
    """Header of an output on the volume's grid, in this machine's byte order."""
    if volume.header is None:
        image = nib.Nifti1Image(np.empty(volume.shape, np.uint8), volume.affine)
        image.set_sform(volume.affine, SCANNER)
        image.set_qform(volume.affine, SCANNER)  # the nearest without shear; the sform is exact
        image.header.set_xyzt_units("mm")
        return image.header
    header = volume.header.as_byteswapped(native_code)
    shape = header.get_data_shape()
    # With the trailing axes of length 1 that reading dropped.
    header.set_data_shape(shape if shape[:3] == volume.shape else volume.shape)
    for field in _SPATIAL_FIELDS:  # as they are, also when both affines disagree
        header[field] = volume.header[field]
    header["cal_min"] = header["cal_max"] = 0
    header["intent_code"] = 0
    header["vox_offset"] = 0  # to be computed again
    header["magic"] = header.single_magic
    header.extensions.clear()
    return header


def _whole_steps(data: NDArray[Any]) -> NDArray[np.int16]:
    steps = np.empty(data.shape, np.int16, order="F")
    for number in range(data.shape[2]):  # a slice stays in the cache, a volume does not
        steps[:, :, number] = np.rint(data[:, :, number] * np.float32(INT16_STEPS))
    return steps


def require_nifti_name(path: Path | str) -> Path:
    """``path`` when it ends in .nii or .nii.gz; :class:`OutputError` otherwise."""
    path = Path(path)
    if not path.name.lower().endswith(SUFFIXES):
        raise OutputError(f"{path}: expected a file name ending in .nii.gz or .nii.")
    return path


def stem(path: Path) -> str:
    """The file's name without .nii or .nii.gz."""
    for suffix in SUFFIXES:
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    return path.stem


def sidecar(path: Path) -> Path:
    """The JSON next to an image, or next to the folder of a series."""
    return path.with_name(f"{stem(path) if path.suffix else path.name}.json")


_SPATIAL_FIELDS = (
    "pixdim",
    "qform_code",
    "sform_code",
    "quatern_b",
    "quatern_c",
    "quatern_d",
    "qoffset_x",
    "qoffset_y",
    "qoffset_z",
    "srow_x",
    "srow_y",
    "srow_z",
    "xyzt_units",
)
