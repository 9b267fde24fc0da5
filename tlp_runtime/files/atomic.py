"""Outputs that are whole or absent: written under a temporary name, flushed, then renamed.

A folder is replaced only when everything in it is known to be this toolkit's. Each caller says what
that is: a :data:`Foreign` function lists the files in a folder that the caller did not write. An
empty folder holds nothing to lose.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tlp_runtime.errors import ChooseAnother, Fix, NoSpace, OutputError, SetOption
from tlp_runtime.files.litter import is_litter

_REPLACE = (SetOption("overwrite", purpose="to replace it"), ChooseAnother("out", "name"))
_ELSEWHERE = ChooseAnother("out", "folder")

Foreign = Callable[[Path], Iterable[Path]]
"""Lists the files in a folder that this toolkit did not write."""

_NAMED = 3
"""How many foreign files an error names."""


def require_writable(path: Path, *, overwrite: bool) -> None:
    """Raise before any work is done when ``path`` could not be written in the end.

    A link to a file stands for that file.

    Raises
    ------
    OutputError
        The folder is missing or cannot be written to, ``path`` is something other than a file, or
        it exists and may not be replaced.
    """
    target, folder = _target(path), path.parent
    if not folder.is_dir():
        raise OutputError(
            f"{path}: the folder {folder} does not exist or is not a folder.",
            fix="Create it first.",
        )
    if target.is_dir():
        raise OutputError(f"{path}: is a folder, expected a file name.")
    if os.path.lexists(target) and not target.is_file():
        raise OutputError(f"{path}: is not a regular file and is not replaced.")
    if os.path.lexists(target) and not overwrite:
        raise OutputError(f"{path}: exists already", fix=_REPLACE)
    if os.path.lexists(target) and not target.stat().st_mode & 0o222:
        raise OutputError(
            f"{path}: is read-only and is not replaced.",
            fix="Allow writing to it, or move it away.",
        )
    _probe(path, target.parent / path.name)


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

    On any error the temporary file is removed and ``path`` is as it was. Where ``path`` is a link
    to a file, that file is replaced and the link stays.

    Raises
    ------
    OutputError
        As :func:`require_writable`, or when writing fails half-way (a full disk, say).
    """
    require_writable(path, overwrite=overwrite)
    target = _target(path)
    temporary = _temporary(target.parent / path.name)
    try:
        yield temporary
        with temporary.open("rb+") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, target)
    except OSError as error:
        raise output_error(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def require_folder(
    path: Path,
    *,
    overwrite: bool,
    foreign: Foreign,
    fix: Fix = _ELSEWHERE,
) -> Path:
    """Raise before any work is done when the folder ``path`` could not be written in the end.

    Missing parents are no obstacle; :func:`atomic_folder` makes them. A link to a folder stands for
    that folder. An empty folder may be used; with ``overwrite`` any other may be replaced if
    ``foreign`` finds nothing in it.

    Parameters
    ----------
    fix
        What to do where nothing may be replaced.

    Returns
    -------
    The folder that is written: absolute, and not a link.

    Raises
    ------
    OutputError
        ``path`` is a file, a link to nothing, a mount point, the current folder or one that holds
        it; it is not empty and may not be replaced; it holds files of others; or it cannot be
        written or deleted.
    """
    target = _target(path)
    here = Path.cwd()
    if target == here or target in here.parents:
        where = "is the current folder" if target == here else "holds the current folder"
        raise OutputError(f"{path}: {where} and is not replaced", fix=fix)
    if os.path.lexists(target):
        if not target.is_dir():
            raise OutputError(f"{path}: is a file, expected a folder", fix=fix)
        if target.is_mount():
            raise OutputError(
                f"{path}: is a mount point, which cannot be replaced",
                fix=("Name a new folder in it.", fix),
            )
        if not overwrite and not _is_empty(path, target):
            raise OutputError(f"{path}: exists already", fix=(_REPLACE[0], fix))
        _require_ours(path, target, foreign, fix)
        require_deletable(target)
    above = next(folder for folder in target.parents if os.path.lexists(folder))
    if not above.is_dir():
        raise OutputError(f"{path}: {above} is a file, expected a folder", fix=fix)
    _probe(path, above / target.name)
    return target


@contextmanager
def atomic_folder(path: Path, *, overwrite: bool = False, foreign: Foreign) -> Iterator[Path]:
    """Give a temporary folder next to ``path``; rename it to ``path`` on success.

    On any error ``path`` is as it was. A folder that is replaced passes on its permissions.

    Parameters
    ----------
    foreign
        What in an existing folder is not this toolkit's; nothing is replaced if there is any.

    Raises
    ------
    OutputError
        As :func:`require_folder`, or when writing fails half-way.
    """
    target = require_folder(path, overwrite=overwrite, foreign=foreign)
    temporary = _temporary(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                with file.open("rb") as handle:
                    os.fsync(handle.fileno())
        if os.path.lexists(target):  # again: much may have happened while it was written
            require_folder(path, overwrite=overwrite, foreign=foreign)
            shutil.copymode(target, temporary)
            retired = retire(target)
            try:
                os.replace(temporary, target)
            except OSError:
                os.replace(retired, target)
                raise
            shutil.rmtree(retired)
        else:
            os.replace(temporary, target)
    except OSError as error:
        raise output_error(path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """Give a file a second place: by a link, or by a copy where the file system has none."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def retire(folder: Path) -> Path:
    """Give a folder that is to be deleted a temporary name next to its own, in one step."""
    retired = _temporary(folder)
    os.replace(folder, retired)
    return retired


def require_deletable(folder: Path) -> None:
    """Raise :class:`OutputError` when something in a folder could not be deleted."""
    for place, _, _ in os.walk(folder):
        require_access(Path(place))


def require_access(folder: Path) -> None:
    """Raise :class:`OutputError` when nothing can be added to a folder or deleted from it."""
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=_EFFECTIVE):
        raise OutputError(f"{folder}: cannot be changed: it is read-only.")


def entries(folder: Path) -> Iterator[Path]:
    """What a folder holds, in order; not what this module or a desktop left there."""
    for path in sorted(folder.iterdir()):
        if not is_temporary(path) and not is_litter(path):
            yield path


def write_text(path: Path, text: str, *, overwrite: bool = True) -> None:
    """Write a whole text file, UTF-8, or nothing."""
    with atomic_file(path, overwrite=overwrite) as temporary:
        temporary.write_text(text, encoding="utf-8")


def is_temporary(path: Path) -> bool:
    """Whether the name is one that this module gives to what is not whole yet."""
    return _TEMPORARY.fullmatch(path.name) is not None


def clear_temporaries(folder: Path) -> None:
    """Remove what processes that were killed left of files they had begun.

    Only for a folder that no other process is writing to. Raises :class:`OutputError`.
    """
    for path in folder.glob(".tmp-*"):
        if is_temporary(path) and path.is_file():
            try:
                path.unlink()
            except OSError as error:
                raise output_error(path, error) from error


_TEMPORARY = re.compile(r"\.tmp-\d+-[0-9a-f]{8}-.*", re.DOTALL)
_EFFECTIVE = os.access in os.supports_effective_ids


def _temporary(path: Path) -> Path:
    # The full name is kept at the end, since writers choose a format by the endings.
    return path.with_name(f".tmp-{os.getpid()}-{secrets.token_hex(4)}-{path.name}")


def _target(path: Path) -> Path:
    """The absolute path that is written to: where ``path`` is a link, what it points to."""
    try:
        linked = path.is_symlink()
    except OSError as error:  # a name that is too long, say
        raise output_error(path, error) from error
    try:
        return Path(os.path.realpath(path, strict=linked))
    except OSError as error:
        raise OutputError(
            f"{path}: is a link to {path.readlink()}, which does not exist.",
            fix="Remove the link, or create what it points to.",
        ) from error


def _is_empty(path: Path, target: Path) -> bool:
    try:
        return next(entries(target), None) is None
    except FileNotFoundError:  # another process replaced or removed it meanwhile
        return True
    except OSError as error:
        raise output_error(path, error) from error


def _require_ours(path: Path, target: Path, foreign: Foreign, fix: Fix) -> None:
    try:
        found = sorted(file.relative_to(target).as_posix() for file in foreign(target))
    except FileNotFoundError:  # another process replaced or removed it meanwhile
        return
    except OSError as error:
        raise output_error(path, error) from error
    if found:
        more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        raise OutputError(
            f"{path}: holds {', '.join(found[:_NAMED])}{more}, which this toolkit did not write "
            "and which would be lost",
            fix=("Move what you want to keep elsewhere, or delete the folder yourself.", fix),
        )


def _probe(path: Path, place: Path) -> None:
    """Raise :class:`OutputError` about ``path`` when no file can be made next to ``place``."""
    probe = _temporary(place)
    try:
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise output_error(path, error) from error


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
