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
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError, ImageDataError
from nibabel.volumeutils import native_code
from numpy.typing import NDArray

from tlp_runtime.errors import (
    GeometryError,
    InputMissing,
    InputTooLarge,
    InputUnreadable,
    OutputError,
    first_line,
)
from tlp_runtime.files.atomic import atomic_file
from tlp_runtime.files.gzip import GZIP_MAGIC, deflate, inflate
from tlp_runtime.geometry.grid import Grid
from tlp_runtime.geometry.volume import Origin, Volume
from tlp_runtime.warnings import FORMS_DIFFER, TLPWarning

SUFFIXES = (".nii.gz", ".nii")
FORMS_TOLERANCE_MM = 0.5
INT16_STEPS = 32767
SCANNER = 1
"""NIfTI's code of scanner coordinates."""
_COMMENT = 6


def read_volume(path: Path | str) -> Volume:
    """Read a 3-D NIfTI-1 or NIfTI-2 image, voxels scaled as its header says.

    Trailing axes of length 1 are dropped; an output on this grid has them again. The sform places
    the voxels, where there is none the qform; where both are given and disagree by more than
    half a millimetre the volume has a warning.

    Raises
    ------
    InputMissing
        No such file.
    InputUnreadable
        Not a NIfTI, or damaged.
    GeometryError
        Not a 3-D image, an affine that places nothing, no affine at all, one in other units than
        millimetres, or an sform and a qform that disagree on which way the axes run.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise InputMissing(f"{path}: {what}, expected a NIfTI file (.nii or .nii.gz).")
    with _told(str(path)):
        content = path.read_bytes()
        if path.name.lower().endswith(SUFFIXES):
            packed = path.name.lower().endswith(".gz")
            if packed and not content.startswith(GZIP_MAGIC):
                raise InputUnreadable(
                    f"{path}: is not a NIfTI image: it is not compressed, though its name says so. "
                    "Expected .nii or .nii.gz."
                )
            image = _parsed(inflate(content) if packed else content, str(path))
        else:  # nibabel reads the files of other names itself
            image = nib.load(path)
            if not isinstance(image, nib.Nifti1Image | nib.Nifti1Pair):
                raise InputUnreadable(
                    f"{path}: is {type(image).__name__}, expected a NIfTI file (.nii or .nii.gz)."
                )
        return _volume(image, content, str(path))


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
        image = _parsed(unpacked, name)
        voxels = math.prod(int(n) for n in image.header.get_data_shape())
        if voxels * 8 > limit:
            raise InputTooLarge(
                f"{name}: has {voxels:.3g} voxels, {limit // 8:.3g} are allowed.",
                fix="Cut or resample it.",
            )
        return _volume(image, content, name)


@contextmanager
def _told(name: str) -> Iterator[None]:
    """nibabel's and the system's errors in our own words."""
    try:
        yield
    except (HeaderDataError, ImageDataError) as error:
        raise InputUnreadable(
            f"{name}: its NIfTI header makes no sense ({first_line(error)}).",
            fix="Convert it again.",
        ) from error
    except ImageFileError as error:
        raise InputUnreadable(
            f"{name}: is not a NIfTI image ({error}). Expected .nii or .nii.gz."
        ) from error
    except (EOFError, OSError, ValueError) as error:
        raise InputUnreadable(
            f"{name}: is damaged or cut short ({first_line(error)}).",
            fix="Copy or convert it again.",
        ) from error


def _volume(image: nib.Nifti1Image, content: bytes, name: str) -> Volume:
    warnings = _require_place(image.header, name)
    data = np.asanyarray(image.dataobj)
    while data.ndim > 3 and data.shape[-1] == 1:
        data = data[..., 0]
    if not data.dtype.isnative:
        data = data.astype(data.dtype.newbyteorder("="))
    return Volume(
        data=data,
        affine=image.affine,
        header=image.header,
        name=name,
        origin=Origin(name, hashlib.sha256(content).hexdigest()),
        warnings=warnings,
    )


def _parsed(content: bytes, name: str) -> nib.Nifti1Image:
    """The image that a file's bytes hold."""
    for kind, magic, place in ((nib.Nifti1Image, b"n+1\0", 344), (nib.Nifti2Image, b"n+2\0", 4)):
        if content[place : place + len(magic)] == magic:
            return kind.from_bytes(content)
    raise InputUnreadable(
        f"{name}: is not a NIfTI image (it does not begin as one). Expected .nii or .nii.gz."
    )


def _require_place(header: nib.Nifti1Header, name: str) -> tuple[TLPWarning, ...]:
    """Refuse headers that leave open where the voxels lie; warn where they give two answers."""
    sform, qform = int(header["sform_code"]), int(header["qform_code"])
    if not sform and not qform:
        raise GeometryError(
            f"{name}: neither sform nor qform is set (both codes are 0), so left and right are "
            "unknown.",
            fix=(
                "Convert the scan again, or set the code once you have checked its orientation "
                "(nifti_tool -mod_hdr -mod_field sform_code 1, or fslorient)."
            ),
        )
    unit = header.get_xyzt_units()[0]
    if unit not in ("mm", "unknown"):
        raise GeometryError(
            f"{name}: its header gives lengths in {unit}, expected mm.",
            fix="Convert it first.",
        )
    if sform and qform:
        shape = header.get_data_shape()[:3]
        a, b = (Grid(shape, affine) for affine in (header.get_sform(), header.get_qform()))
        if a.orientation != b.orientation:
            raise GeometryError(
                f"{name}: sform and qform disagree on which way the axes run ({a.orientation} "
                f"against {b.orientation}): programs would show left and right, or more, "
                "exchanged.",
                fix="Remove the wrong one (fslorient -copysform2qform or -copyqform2sform).",
            )
        apart = float(np.abs(a.corners_ras - b.corners_ras).max())
        if apart > FORMS_TOLERANCE_MM:
            angle = a.angle_to(b)
            return (
                FORMS_DIFFER.warning(
                    f"{name}: sform and qform place its corners up to {apart:.2f} mm apart (axes "
                    f"turned by {angle:.2f} degrees); the sform is used.",
                    distance_mm=round(apart, 3),
                    angle_degrees=round(angle, 3),
                ),
            )
    return ()


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
