"""Files whose content was not fetched: what git-annex and git-lfs leave in their place."""

from __future__ import annotations

from pathlib import Path

FETCH = "Fetch it first (git annex get, git lfs pull)."

_POINTERS = (b"version https://git-lfs", b"/annex/objects/")
_LONGEST = 1024
"""No pointer is longer, in bytes."""


def not_fetched(path: Path, start: bytes | None = None) -> str | None:
    """What a file is, such as "is a broken link", where its content is not here; else None.

    Parameters
    ----------
    start
        How the file begins, if it could be read.
    """
    if start is None:
        if not path.is_symlink():
            return None
        annex = ".git/annex/" in path.readlink().as_posix()
        return "was not fetched by git-annex" if annex else "is a broken link"
    start = start[:_LONGEST]
    if b"\0" not in start and any(mark in start for mark in _POINTERS):
        return "is a pointer to a file that was not fetched"
    return None
