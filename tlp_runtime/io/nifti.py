"""NIfTI in, NIfTI out."""

from __future__ import annotations

import gzip
import logging
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError, ImageDataError

from tlp_runtime.errors import InputMissing, InputUnreadable, OutputError
from tlp_runtime.io.atomic import atomic_file
from tlp_runtime.volume import Volume

SUFFIXES = (".nii.gz", ".nii")

# A header nibabel repairs while it reads is reported by our own checks, not on its log.
logging.getLogger("nibabel").setLevel(logging.CRITICAL)


def read_volume(path: Path | str) -> Volume:
    """Read a 3-D NIfTI-1 or NIfTI-2 image, voxels scaled as its header says.

    Raises
    ------
    InputMissing
        No such file.
    InputUnreadable
        Not a NIfTI, or damaged.
    GeometryError
        Not a 3-D image, or an affine that places nothing.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise InputMissing(f"{path}: {what}, expected a NIfTI file (.nii or .nii.gz).")
    try:
        image = nib.load(path)
        if not isinstance(image, nib.Nifti1Image | nib.Nifti1Pair):
            raise InputUnreadable(
                f"{path}: is {type(image).__name__}, expected a NIfTI file (.nii or .nii.gz)."
            )
        data = np.asanyarray(image.dataobj)
    except (HeaderDataError, ImageDataError) as error:
        raise InputUnreadable(
            f"{path}: its NIfTI header makes no sense ({_first_line(error)}). Convert it again."
        ) from error
    except ImageFileError as error:
        raise InputUnreadable(
            f"{path}: is not a NIfTI image ({error}). Expected .nii or .nii.gz."
        ) from error
    except (EOFError, OSError, ValueError, zlib.error, gzip.BadGzipFile) as error:
        raise InputUnreadable(
            f"{path}: is damaged or cut short ({_first_line(error)}). Copy or convert it again."
        ) from error
    return Volume(data=data, affine=image.affine, header=image.header, name=str(path))


def write_volume(
    volume: Volume, path: Path | str, *, description: str, overwrite: bool = False
) -> None:
    """Write ``volume`` on its own grid, atomically.

    The spatial fields of ``volume.header`` (affines, codes, voxel sizes, units) are repeated;
    its scaling and display range are not, since the values are others.

    Parameters
    ----------
    description
        At most 79 ASCII characters for the header's ``descrip``.

    Raises
    ------
    OutputError
        Not a NIfTI file name, an existing file without ``overwrite``, or a failed write.
    """
    path = require_nifti_name(path)
    if volume.header is None:
        image = nib.Nifti1Image(volume.data, volume.affine)
    else:
        kind = nib.Nifti2Image if volume.header["sizeof_hdr"] == 540 else nib.Nifti1Image
        header = volume.header.copy()
        header.set_data_dtype(volume.data.dtype)
        header.set_slope_inter(1, 0)
        header["cal_min"] = header["cal_max"] = 0
        header["intent_code"] = 0
        header.extensions.clear()
        image = kind(volume.data, None, header)
        # Codes and both affines come from the header as they are, also when they disagree.
        for field in _SPATIAL_FIELDS:
            image.header[field] = volume.header[field]
    image.header["descrip"] = description.encode("ascii", "replace")[:79]
    with atomic_file(path, overwrite=overwrite) as temporary:
        nib.save(image, temporary)


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


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
