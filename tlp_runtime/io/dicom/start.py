"""How a DICOM file begins. Needs no library."""

from __future__ import annotations

import struct

START = 132
"""Bytes that tell."""

_PREAMBLE = 128
_GROUPS = (0x0002, 0x0008)
"""Those a data set begins with: of the file itself, and of what identifies the image."""
_REPRESENTATIONS = frozenset(
    b"AE AS AT CS DA DS DT FD FL IS LO LT OB OD OF OL OV OW PN SH SL SQ SS ST SV TM UC UI UL UN "
    b"UR US UT UV".split()
)
_LONGEST = 1 << 12
"""No attribute that a header begins with is longer, in bytes."""


def begins_as_dicom(start: bytes) -> bool:
    """Whether a file that begins like this is DICOM, with or without a preamble.

    Parameters
    ----------
    start
        Its first :data:`START` bytes, or all of a shorter file.
    """
    if start[_PREAMBLE:START] == b"DICM":
        return True
    if len(start) < 8:
        return False
    for order in "<>":
        group, element, length = struct.unpack(f"{order}HHI", start[:8])
        if group in _GROUPS and element <= 0x20:
            return start[4:6] in _REPRESENTATIONS or length < _LONGEST
    return False
