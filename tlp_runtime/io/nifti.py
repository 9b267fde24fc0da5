"""NIfTI in, NIfTI out."""

from __future__ import annotations

import gzip
import json
import logging
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError, ImageDataError

from tlp_runtime.bundle import sha256
from tlp_runtime.errors import (
    GeometryError,
    InputMissing,
    InputUnreadable,
    OutputError,
    first_line,
)
from tlp_runtime.grid import Grid
from tlp_runtime.io.atomic import atomic_file
from tlp_runtime.volume import Origin, Volume

logger = logging.getLogger(__name__)

SUFFIXES = (".nii.gz", ".nii")
FORMS_TOLERANCE_MM = 0.5
SCANNER = 1
"""NIfTI's code of scanner coordinates."""
_COMMENT = 6

# A header nibabel repairs while it reads is reported by our own checks, not on its log.
logging.getLogger("nibabel").setLevel(logging.CRITICAL)


def read_volume(path: Path | str) -> Volume:
    """Read a 3-D NIfTI-1 or NIfTI-2 image, voxels scaled as its header says.

    Trailing axes of length 1 are dropped; an output on this grid has them again. The sform places
    the voxels, where there is none the qform; where both are given and disagree by more than
    half a millimetre a warning says by how much.

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
    try:
        digest = sha256(path)
        image = nib.load(path)
        if not isinstance(image, nib.Nifti1Image | nib.Nifti1Pair):
            raise InputUnreadable(
                f"{path}: is {type(image).__name__}, expected a NIfTI file (.nii or .nii.gz)."
            )
        _require_place(image.header, path)
        data = np.asanyarray(image.dataobj)
    except (HeaderDataError, ImageDataError) as error:
        raise InputUnreadable(
            f"{path}: its NIfTI header makes no sense ({first_line(error)}). Convert it again."
        ) from error
    except ImageFileError as error:
        raise InputUnreadable(
            f"{path}: is not a NIfTI image ({error}). Expected .nii or .nii.gz."
        ) from error
    except (EOFError, OSError, ValueError, zlib.error, gzip.BadGzipFile) as error:
        raise InputUnreadable(
            f"{path}: is damaged or cut short ({first_line(error)}). Copy or convert it again."
        ) from error
    while data.ndim > 3 and data.shape[-1] == 1:
        data = data[..., 0]
    if not data.dtype.isnative:
        data = data.astype(data.dtype.newbyteorder("="))
    return Volume(
        data=data,
        affine=image.affine,
        header=image.header,
        name=str(path),
        origin=Origin(str(path), digest),
    )


def _require_place(header: nib.Nifti1Header, path: Path) -> None:
    """Refuse headers that leave open where the voxels lie; warn of two answers."""
    sform, qform = int(header["sform_code"]), int(header["qform_code"])
    if not sform and not qform:
        raise GeometryError(
            f"{path}: neither sform nor qform is set (both codes are 0), so left and right are "
            "unknown. Convert the scan again, or set the code once you have checked its "
            "orientation (nifti_tool -mod_hdr -mod_field sform_code 1, or fslorient)."
        )
    unit = header.get_xyzt_units()[0]
    if unit not in ("mm", "unknown"):
        raise GeometryError(
            f"{path}: its header gives lengths in {unit}, expected mm. Convert it first."
        )
    if sform and qform:
        shape = header.get_data_shape()[:3]
        a, b = (Grid(shape, affine) for affine in (header.get_sform(), header.get_qform()))
        if a.orientation != b.orientation:
            raise GeometryError(
                f"{path}: sform and qform disagree on which way the axes run ({a.orientation} "
                f"against {b.orientation}): programs would show left and right, or more, "
                "exchanged. Remove the wrong one (fslorient -copysform2qform or -copyqform2sform)."
            )
        apart = float(np.abs(a.corners_ras - b.corners_ras).max())
        if apart > FORMS_TOLERANCE_MM:
            logger.warning(
                "%s: sform and qform place its corners up to %.2f mm apart (axes turned by %.2f "
                "degrees); the sform is used.",
                path, apart, a.angle_to(b),
            )  # fmt: skip


def write_volume(
    volume: Volume,
    path: Path | str,
    *,
    description: str,
    comment: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Write ``volume`` on its own grid, atomically.

    The spatial fields of ``volume.header`` (affines, codes, voxel sizes, units) are repeated;
    its scaling and display range are not, since the values are others.

    Parameters
    ----------
    description
        At most 79 ASCII characters for the header's ``descrip``.
    comment
        Written as JSON into a comment extension of the header.

    Raises
    ------
    OutputError
        Not a NIfTI file name, an existing file without ``overwrite``, or a failed write.
    """
    path = require_nifti_name(path)
    if volume.header is None:
        image = nib.Nifti1Image(volume.data, volume.affine)
        image.set_sform(volume.affine, SCANNER)
        image.set_qform(volume.affine, SCANNER)  # the nearest without shear; the sform is exact
        image.header.set_xyzt_units("mm")
    else:
        kind = nib.Nifti2Image if volume.header["sizeof_hdr"] == 540 else nib.Nifti1Image
        header = volume.header.copy()
        header.set_data_dtype(volume.data.dtype)
        header.set_slope_inter(1, 0)
        header["cal_min"] = header["cal_max"] = 0
        header["intent_code"] = 0
        header.extensions.clear()
        # With the trailing axes of length 1 that reading dropped.
        image = kind(volume.data.reshape(_full_shape(volume)), None, header)
        # Codes and both affines come from the header as they are, also when they disagree.
        for field in _SPATIAL_FIELDS:
            image.header[field] = volume.header[field]
    if comment is not None:
        text = json.dumps(comment, sort_keys=True, separators=(",", ":"))
        image.header.extensions.append(nib.nifti1.Nifti1Extension(_COMMENT, text.encode()))
    image.header["descrip"] = description.encode("ascii", "replace")[:79]
    with atomic_file(path, overwrite=overwrite) as temporary:
        nib.save(image, temporary)


def _full_shape(volume: Volume) -> tuple[int, ...]:
    assert volume.header is not None
    shape: tuple[int, ...] = volume.header.get_data_shape()
    return shape if shape[:3] == volume.shape else volume.shape


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
    """The JSON beside an image, or beside the folder of a series."""
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
