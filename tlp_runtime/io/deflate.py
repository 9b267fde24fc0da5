"""gzip in memory: by ISA-L where it is installed, else by Python's own, several times slower.

What is inflated is the same either way. What is deflated differs in its bytes and its size, by a
few per cent, and gives the same content.
"""

from __future__ import annotations

import gzip
import zlib
from importlib.metadata import version
from typing import Any

try:
    from isal import igzip, isal_zlib

    ISAL = True
except ImportError:
    ISAL = False

GZIP_MAGIC = b"\x1f\x8b"
_ISAL_LEVEL = 2
"""As small as zlib's level 1, in a sixth of its time; level 3 is no smaller on volumes."""
_ZLIB_LEVEL = 1
_GZIP_WINDOW = 31
"""zlib's way to ask for gzip's frame."""


def library() -> str:
    """What does the work, and its version where it has one."""
    return f"isal {version('isal')}" if ISAL else "zlib"


def inflate(content: bytes) -> bytes:
    """Undo gzip, of one member or several.

    Raises
    ------
    EOFError, OSError
        Content that is cut short, damaged, or no gzip.
    """
    if not ISAL:
        try:
            return gzip.decompress(content)
        except zlib.error as error:
            raise OSError(str(error)) from error
    try:
        return bytes(igzip.decompress(content))  # type: ignore[no-untyped-call]
    except isal_zlib.error as error:  # type: ignore[misc]
        raise OSError(str(error)) from error


def deflate(*parts: bytes | memoryview) -> bytes:
    """gzip of all parts in a row, without a time or a name: the same content, the same bytes."""
    stream: Any
    if ISAL:
        stream = isal_zlib.compressobj(_ISAL_LEVEL, isal_zlib.DEFLATED, _GZIP_WINDOW)
    else:
        stream = zlib.compressobj(_ZLIB_LEVEL, zlib.DEFLATED, _GZIP_WINDOW)
    return b"".join([*(stream.compress(part) for part in parts), stream.flush()])
