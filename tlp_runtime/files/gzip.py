"""gzip in memory: by ISA-L where it is installed, else by Python's own, several times slower.

What is inflated is the same either way. What is deflated differs in its bytes and its size, by a
few per cent, and gives the same content.
"""

from __future__ import annotations

import gzip
import zlib
from importlib.metadata import version
from typing import Any, Literal

from tlp_runtime.errors import InputTooLarge

try:
    from isal import igzip, isal_zlib

    ISAL = True
except ImportError:
    ISAL = False

GZIP_MAGIC = b"\x1f\x8b"
_ISAL_LEVEL = 2
"""As small as zlib's level 1, in a sixth of its time; level 3 is no smaller on volumes."""
_ZLIB_LEVEL = 1
_CHUNK = 1 << 14
_MEMBERS = 1 << 16
"""Enough for 4 GiB in blocks of 64 KiB; empty members without end would cost time, not memory."""
_GZIP_WINDOW = 31
"""zlib's window bits for the gzip format."""

Packing = Literal["gzip", "deflate"]
"""As HTTP calls them: ``deflate`` is zlib's format."""


def library() -> str:
    """The library in use, and its version where it has one."""
    return f"isal {version('isal')}" if ISAL else "zlib"


def inflate(content: bytes, limit: int | None = None, packing: Packing = "gzip") -> bytes:
    """Undo a compression; gzip of one member or several.

    Parameters
    ----------
    limit
        Bytes that may come out; None for gzip files that are trusted.

    Raises
    ------
    EOFError, OSError
        Content that is cut short, damaged, or not gzip.
    InputTooLarge
        More than ``limit`` would come out; no more than that was ever held.
    """
    if limit is not None:
        return _inflate_within(content, limit, packing)
    if not ISAL:
        try:
            return gzip.decompress(content)
        except zlib.error as error:
            raise OSError(str(error)) from error
    try:
        return bytes(igzip.decompress(content))  # type: ignore[no-untyped-call]
    except isal_zlib.error as error:  # type: ignore[misc]
        raise OSError(str(error)) from error


def inflate_start(content: bytes, count: int) -> bytes:
    """The first ``count`` bytes of what gzip packed, or fewer where there are not so many.

    Raises
    ------
    OSError
        Content that is not gzip, or damaged at its start.
    """
    try:
        return zlib.decompressobj(_GZIP_WINDOW).decompress(content, count)
    except zlib.error as error:
        raise OSError(str(error)) from error


def _inflate_within(content: bytes, limit: int, packing: Packing) -> bytes:
    """Chunk by chunk, by Python's own zlib, whose way to stop early is exact."""
    window = _GZIP_WINDOW if packing == "gzip" else zlib.MAX_WBITS
    view, position, out, held = memoryview(content), 0, list[bytes](), 0
    for _ in range(_MEMBERS):
        member, ended = zlib.decompressobj(window), False
        while not ended:
            if position == len(view):
                raise EOFError("the compressed file ended before its end was reached")
            chunk = view[position : position + _CHUNK]
            try:
                out.append(member.decompress(chunk, limit - held + 1))
            except zlib.error as error:
                raise OSError(str(error)) from error
            held += len(out[-1])
            if held > limit:
                raise InputTooLarge(
                    f"unpacks to more than the {_size(limit)} that are allowed.",
                    fix="Use a smaller file, or allow more.",
                )
            ended = member.eof
            position += len(chunk) - len(member.unused_data)
        while packing == "gzip" and position < len(view) and not view[position]:
            position += 1  # padding between or after members
        if position == len(view):
            return b"".join(out)
        if packing == "deflate":
            raise OSError(f"{len(view) - position} bytes follow its end")
    raise OSError(f"has more than {_MEMBERS} parts")


def _size(count: int) -> str:
    return f"{count} bytes" if count < 2**20 else f"{count / 2**20:.0f} MiB"


def deflate(*parts: bytes | memoryview) -> bytes:
    """gzip of all parts in a row, without a time or a name: the same content, the same bytes."""
    stream: Any
    if ISAL:
        stream = isal_zlib.compressobj(_ISAL_LEVEL, isal_zlib.DEFLATED, _GZIP_WINDOW)
    else:
        stream = zlib.compressobj(_ZLIB_LEVEL, zlib.DEFLATED, _GZIP_WINDOW)
    return b"".join([*(stream.compress(part) for part in parts), stream.flush()])
