"""gzip in memory: by ISA-L where it is installed, else by Python's own, several times slower.

What is inflated is the same either way. What is deflated differs in its bytes and its size, by a
few per cent, and gives the same content.
"""

from __future__ import annotations

import gzip
import zlib
from importlib.metadata import version

try:
    from isal import igzip, isal_zlib
except ImportError:
    igzip = isal_zlib = None

_ISAL_LEVEL = 2
"""As small as zlib's level 1, in a sixth of its time; level 3 is no smaller on volumes."""
_ZLIB_LEVEL = 1
_GZIP_WINDOW = 31
"""zlib's way to ask for gzip's frame."""


def library() -> str:
    """What does the work, and its version where it has one."""
    return "zlib" if igzip is None else f"isal {version('isal')}"


def inflate(content: bytes) -> bytes:
    """Undo gzip, of one member or several.

    Raises
    ------
    EOFError, OSError
        Content that is cut short, damaged, or no gzip.
    """
    if igzip is None:
        try:
            return gzip.decompress(content)
        except zlib.error as error:
            raise OSError(str(error)) from error
    try:
        return bytes(igzip.decompress(content))
    except isal_zlib.error as error:
        raise OSError(str(error)) from error


def deflate(*parts: bytes | memoryview) -> bytes:
    """gzip of all parts in a row, without a time or a name: the same content, the same bytes."""
    if igzip is None:
        stream = zlib.compressobj(_ZLIB_LEVEL, zlib.DEFLATED, _GZIP_WINDOW)
    else:
        stream = isal_zlib.compressobj(_ISAL_LEVEL, isal_zlib.DEFLATED, _GZIP_WINDOW)
    return b"".join([*(stream.compress(part) for part in parts), stream.flush()])
