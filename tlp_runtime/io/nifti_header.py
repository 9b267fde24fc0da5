"""NIfTI headers, checked field by field as they stand in the file.

nibabel repairs wrong fields in silence, and programs differ in how they do it. Here a wrong field
is accepted, with a warning, where the rest of the file leaves one reading only; otherwise the file
is refused, naming the field.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.nifti1 import data_type_codes
from numpy.typing import NDArray

from tlp_runtime.errors import InputUnreadable
from tlp_runtime.geometry.grid import shape_text
from tlp_runtime.io.nifti_place import find_place
from tlp_runtime.warnings import HEADER_REPAIRED, TLPWarning

_CONVERT = "Convert it again from the original scan."
_KINDS = ((nib.Nifti1Header, 344), (nib.Nifti2Header, 4))
"""Versions of the format, and where their magic stands."""
_LINE_ENDS = b"\r\n\x1a\n"
"""Follow the magic of NIfTI-2, so that a transfer as text shows."""
_EXTENSION_STEP = 16
"""The sizes of header extensions are multiples of this."""
_MOST_EXTENSIONS = 10_000
"""How many are followed; files have a few."""


@dataclass(frozen=True)
class NiftiHeader:
    """A NIfTI header that was checked, and what it says of its file.

    Parameters
    ----------
    fields
        The header as in the file, its byte order too.
    shape
        Of the voxels, with trailing axes of length 1.
    dtype
        Of the voxels as stored.
    start
        Byte at which the voxels begin, in the file that holds them.
    scaling
        Slope and intercept of the stored values.
    affine
        (4, 4) float64: voxel indices to RAS+ millimetres.
    warnings
        What is wrong in it, and what was taken instead.
    """

    fields: nib.Nifti1Header
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    start: int
    scaling: tuple[float, float]
    affine: NDArray[np.float64]
    warnings: tuple[TLPWarning, ...]


def read_header(content: bytes, name: str, *, voxel_bytes: int | None = None) -> NiftiHeader:
    """Check the header at the beginning of a NIfTI file.

    Parameters
    ----------
    content
        The file, not compressed; of a pair, its header file.
    voxel_bytes
        Size of the other file of a pair (.img); None of a single file (.nii).

    Raises
    ------
    InputUnreadable
        Not a NIfTI file, cut short, or with a field that leaves open what the voxels are.
    GeometryError
        Not one 3-D volume, or with fields that leave open where the voxels lie.
    """
    length = len(content) if voxel_bytes is None else voxel_bytes
    assumed: list[str] = []  # what follows from the voxels filling the file to its end
    fields = _fields(content, name, voxel_bytes is not None, assumed)
    shape, dtype = _shape(fields, name), _dtype(fields, name, assumed)
    size = math.prod(shape) * dtype.itemsize
    start = _start(content, fields, length - size, name, voxel_bytes is not None, assumed)
    rest = length - start - size
    described = f"{shape_text(shape)} voxels of {dtype.itemsize} bytes"
    if rest < 0:
        raise InputUnreadable(
            f"{name}: is damaged or cut short: its header gives {described} from byte {start} on, "
            f"which end at byte {start + size}; the file has {length} bytes.",
            fix="Copy or convert it again.",
        )
    if rest and assumed:
        raise _wrong(name, assumed[0].partition(";")[0])
    if rest >= math.prod(shape[:2]) * dtype.itemsize:
        raise InputUnreadable(
            f"{name}: holds {rest} bytes more than the {described} that its header gives, so dim "
            "or datatype is wrong in it.",
            fix=_CONVERT,
        )
    if rest:
        assumed.append(f"{rest} bytes behind its voxels were not read")
    scaling = _scaling(fields, name, assumed)
    affine, doubts = find_place(fields, shape, name, assumed)
    repaired = [HEADER_REPAIRED.warning(f"{name}: {one}.") for one in assumed]
    return NiftiHeader(fields, shape, dtype, start, scaling, affine, (*repaired, *doubts))


def claimed_voxels(content: bytes) -> int:
    """How many voxels the header at the beginning of a NIfTI file claims; not checked further.

    Raises
    ------
    InputUnreadable
        It is no header.
    """
    return math.prod(_shape(_fields(content, "", False, []), ""))


def _start(
    content: bytes, fields: nib.Nifti1Header, last: int, name: str, pair: bool, assumed: list[str]
) -> int:
    """The byte at which the voxels begin: ``vox_offset``, or ``last`` where that cannot be.

    Parameters
    ----------
    last
        Where they begin if they fill the file to its end.
    """
    first = 0 if pair else fields.single_vox_offset
    offset = float(fields["vox_offset"])
    if offset >= first and offset.is_integer():
        assumed += [] if pair else _extension_problems(content, fields, offset)
        return int(offset)
    said = f"vox_offset is {offset:g}, expected {first} or more"
    if not _may_start_at(last, content, fields, pair):
        raise _wrong(name, f"{said}, and the length of the file leaves open where its voxels begin")
    assumed.append(f"{said}; the voxels are read from byte {last} on, where they fit exactly")
    return last


def _fields(content: bytes, name: str, pair: bool, assumed: list[str]) -> nib.Nifti1Header:
    """The header, in the byte order of its file."""
    kind, is_pair = _kind(content, name)
    if is_pair != pair:
        raise InputUnreadable(
            f"{name}: its magic is that of "
            + ("a header whose voxels lie in another file" if is_pair else "a single file (.nii)")
            + f" ({'.hdr' if is_pair else '.hdr and .img were given'}).",
            fix="Convert it to .nii.gz.",
        )
    size = kind.sizeof_hdr
    if len(content) < size:
        raise InputUnreadable(
            f"{name}: is damaged or cut short: it has {len(content)} bytes, fewer than a header.",
            fix="Copy or convert it again.",
        )
    block = content[:size]
    orders = {order: kind(block, endianness=order, check=False) for order in "<>"}
    sized = [order for order in orders if orders[order]["sizeof_hdr"] == size]
    likely = [order for order in orders if 1 <= orders[order]["dim"][0] <= 7]
    if not likely or (sized and sized != likely):
        dims = int(orders[(sized or ["<"])[0]]["dim"][0])
        raise _wrong(name, f"dim[0] is {dims}, expected a number of axes from 1 to 7")
    fields = orders[likely[0]]
    if not sized:
        assumed.append(
            f"sizeof_hdr is {int(fields['sizeof_hdr'])}, expected {size}; the byte order is taken "
            "from dim[0]"
        )
        fields["sizeof_hdr"] = size  # an output repeats the header
    if kind is nib.Nifti2Header:
        ends = fields["eol_check"].tobytes()
        if not any(ends):
            assumed.append("the line ends after its magic are 0")
            fields["eol_check"] = list(_LINE_ENDS)
        elif ends != _LINE_ENDS:
            raise _wrong(name, "line ends after its magic were changed, as by a transfer as text")
    return fields


def _kind(content: bytes, name: str) -> tuple[type[nib.Nifti1Header], bool]:
    """The version of the format, and whether the voxels lie in another file."""
    for kind, place in _KINDS:
        magic = content[place : place + 4]
        for known in (kind.single_magic, kind.pair_magic):
            if magic == known + b"\0":
                return kind, known == kind.pair_magic
    sizes = (348).to_bytes(4, "little"), (348).to_bytes(4, "big")
    if content[:4] in sizes and len(content) >= 348 and not any(content[344:348]):
        raise InputUnreadable(
            f"{name}: is an Analyze 7.5 image or has lost its magic; such a file does not say "
            "which side is left.",
            fix="Convert the original scan to NIfTI.",
        )
    raise InputUnreadable(
        f"{name}: is not a NIfTI image (it does not begin as one). Expected .nii or .nii.gz."
    )


def _shape(fields: nib.Nifti1Header, name: str) -> tuple[int, ...]:
    """Lengths of all axes; one volume of them."""
    dim = [int(n) for n in fields["dim"]]
    shape = tuple(dim[1 : 1 + dim[0]])
    if min(shape) < 1:
        raise _wrong(name, f"dim is {shape_text(shape)}, expected lengths of at least 1")
    return shape


def _dtype(fields: nib.Nifti1Header, name: str, assumed: list[str]) -> np.dtype[Any]:
    code, bits = int(fields["datatype"]), int(fields["bitpix"])
    dtype = data_type_codes.dtype[code] if code in data_type_codes.value_set("code") else None
    if dtype is None or dtype.itemsize == 0:
        raise _wrong(name, f"datatype is {code}, which is not one of NIfTI's or not supported")
    if bits != dtype.itemsize * 8:
        assumed.append(
            f"bitpix is {bits}, expected {dtype.itemsize * 8} for its datatype {dtype}; the latter "
            "fits the size of the file"
        )
    ordered: np.dtype[Any] = dtype.newbyteorder(fields.endianness)
    return ordered


def _may_start_at(start: int, content: bytes, fields: nib.Nifti1Header, pair: bool) -> bool:
    """Whether programs put voxels there, without regard to ``vox_offset``."""
    if pair:
        return start == 0
    usual = (fields.sizeof_hdr, fields.single_vox_offset)
    return start in usual or any(end == start for end, _ in _extensions(content, fields))


def _extension_problems(content: bytes, fields: nib.Nifti1Header, offset: float) -> list[str]:
    """What is wrong in the chain of extensions between the header and the voxels."""
    for end, size in _extensions(content, fields):
        if end > offset or size < _EXTENSION_STEP or size % _EXTENSION_STEP:
            return [
                f"a header extension of {size} bytes does not fit before vox_offset ({offset:g}) "
                "or is not a multiple of 16; the voxels are read from vox_offset on"
            ]
        if offset - end < _EXTENSION_STEP:
            break
    return []


def _extensions(content: bytes, fields: nib.Nifti1Header) -> Iterator[tuple[int, int]]:
    """(End, size) in bytes of each header extension, the first that cannot be one included."""
    place = fields.single_vox_offset
    if not any(content[fields.sizeof_hdr : fields.sizeof_hdr + 1]):
        return
    for _ in range(_MOST_EXTENSIONS):
        (size,) = np.frombuffer(
            content[place : place + 4].ljust(4, b"\0"), f"{fields.endianness}i4"
        )
        place += int(size)
        yield place, int(size)
        if size < _EXTENSION_STEP or size % _EXTENSION_STEP or place > len(content):
            return


def _scaling(fields: nib.Nifti1Header, name: str, assumed: list[str]) -> tuple[float, float]:
    """Slope and intercept; 1 and 0 where the header says that there is no scaling."""
    slope, intercept = float(fields["scl_slope"]), float(fields["scl_inter"])
    if not math.isfinite(slope):
        assumed.append(f"scl_slope is {slope}; the stored values are taken without scaling")
        return 1.0, 0.0
    if slope == 0:
        return 1.0, 0.0
    if not math.isfinite(intercept):
        raise _wrong(name, f"scl_inter is {intercept} while scl_slope is {slope:g}")
    return slope, intercept


def _wrong(name: str, problem: str) -> InputUnreadable:
    return InputUnreadable(f"{name}: its NIfTI header is wrong: {problem}.", fix=_CONVERT)
