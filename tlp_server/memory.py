"""The process's memory: what it may take, what is promised, and that freed memory is given back."""

from __future__ import annotations

import ctypes
import os
import platform
from pathlib import Path

_ARENA_MAX, _MMAP_THRESHOLD = -8, -3
"""Parameters of glibc's ``mallopt``."""
_ARENAS = 2
_OWN_PAGES = 1 << 20
"""Arrays of so many bytes or more get pages of their own, which end with them."""


def return_freed_memory() -> bool:
    """Have glibc return large arrays to the system when they are freed.

    By default it raises the size from which an allocation gets pages of its own, up to 32 MiB, as
    such allocations are freed; smaller ones stay in one arena per thread, where what is freed
    between others is kept. A server would grow with every case. To be called before a model is
    loaded and threads are started.

    Returns
    -------
    Whether this is glibc; with other libraries nothing is changed.
    """
    library = _glibc()
    if library is None:
        return False
    library.mallopt(_ARENA_MAX, _ARENAS)
    library.mallopt(_MMAP_THRESHOLD, _OWN_PAGES)
    return True


def trim() -> None:
    """Return what is free at the end of glibc's arenas."""
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)


def resident_bytes() -> int:
    """Resident memory of this process in bytes; 0 where the system does not tell (not Linux)."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None


class Memory:
    """A limit, and what was taken of it.

    Parameters
    ----------
    limit
        Bytes that the process may take.
    base
        Bytes that it takes before any case is open; None measures it now.

    Attributes
    ----------
    taken
        Bytes that requests under way hold, or will hold.
    """

    def __init__(self, limit: int, base: int | None = None) -> None:
        self.limit = limit
        self.base = resident_bytes() if base is None else base
        self.taken = 0

    @property
    def for_cases(self) -> int:
        """Bytes that cases and requests may take together."""
        return max(self.limit - self.base, 0)

    def missing(self, more: int, held: int) -> int:
        """How many bytes too many it would be to take ``more``, next to the ``held`` of cases."""
        return max(held + self.taken + more - self.for_cases, 0)
