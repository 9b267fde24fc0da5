"""Outputs that are whole or absent: written under a temporary name, flushed, then renamed."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tlp_runtime.errors import ChooseAnother, NoSpace, OutputError, SetOption

_REPLACE = (SetOption("overwrite", purpose="to replace it"), ChooseAnother("out", "name"))


def require_writable(path: Path, *, overwrite: bool) -> None:
    """Raise before any work is done when ``path`` could not be written in the end.

    Raises
    ------
    OutputError
        The folder is missing or cannot be written to, or ``path`` exists and may not be replaced.
    """
    folder = path.parent
    if not folder.is_dir():
        raise OutputError(
            f"{path}: the folder {folder} does not exist or is not a folder.",
            fix="Create it first.",
        )
    if os.path.lexists(path) and not overwrite:
        raise OutputError(f"{path}: exists already", fix=_REPLACE)
    if path.is_dir():
        raise OutputError(f"{path}: is a folder, expected a file name.")
    if path.exists() and not path.stat().st_mode & 0o222:
        raise OutputError(
            f"{path}: is read-only and is not replaced.",
            fix="Allow writing to it, or move it away.",
        )
    probe = _temporary(path)
    try:
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise output_error(path, error) from error


def make_folder(path: Path) -> Path:
    """Make a folder with its parents, if it is not there. Raises :class:`OutputError`."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(path, error) from error
    return path


@contextmanager
def atomic_file(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Give a temporary file name with ``path``'s endings; rename it to ``path`` on success.

    On any error the temporary file is removed and ``path`` is as it was.

    Raises
    ------
    OutputError
        As :func:`require_writable`, or when writing fails half-way (a full disk, say).
    """
    require_writable(path, overwrite=overwrite)
    temporary = _temporary(path)
    try:
        yield temporary
        with temporary.open("rb+") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise output_error(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Give a temporary folder next to ``path``; rename it to ``path`` on success.

    Raises
    ------
    OutputError
        The parent cannot be written to, or ``path`` exists and may not be replaced.
    """
    if os.path.lexists(path) and not overwrite:
        raise OutputError(f"{path}: exists already", fix=_REPLACE)
    temporary = _temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                with file.open("rb") as handle:
                    os.fsync(handle.fileno())
        if path.is_dir():
            retired = _temporary(path)
            os.replace(path, retired)
            os.replace(temporary, path)
            shutil.rmtree(retired)
        else:
            os.replace(temporary, path)
    except OSError as error:
        raise output_error(path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str, *, overwrite: bool = True) -> None:
    """Write a whole text file, UTF-8, or nothing."""
    with atomic_file(path, overwrite=overwrite) as temporary:
        temporary.write_text(text, encoding="utf-8")


def clear_temporaries(folder: Path) -> None:
    """Remove what processes that were killed left of files they had begun.

    Only for a folder that no other process is writing to. Raises :class:`OutputError`.
    """
    for path in folder.glob(".tmp-*"):
        if _TEMPORARY.fullmatch(path.name) and path.is_file():
            try:
                path.unlink()
            except OSError as error:
                raise output_error(path, error) from error


_TEMPORARY = re.compile(r"\.tmp-\d+-[0-9a-f]{8}-.*", re.DOTALL)


def _temporary(path: Path) -> Path:
    # The full name is kept at the end, since writers choose a format by the endings.
    return path.with_name(f".tmp-{os.getpid()}-{secrets.token_hex(4)}-{path.name}")


def output_error(path: Path, error: OSError) -> OutputError:
    """The error of a failed write."""
    whole_disk = {
        errno.ENOSPC: "the disk is full",
        errno.EDQUOT: "the disk quota is used up",
        errno.EROFS: "the file system is read-only",
    }
    if error.errno in whole_disk:
        return NoSpace(
            f"{path}: cannot be written: {whole_disk[error.errno]}. Nothing was damaged",
            fix="Make room or choose another place, then try again.",
        )
    reason = {
        errno.EACCES: "permission denied",
        errno.EPERM: "permission denied",
    }.get(error.errno or 0, error.strerror or str(error))
    return OutputError(f"{path}: cannot be written: {reason}.")
