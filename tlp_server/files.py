"""Files under the root, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath

from tlp_runtime.errors import (
    Forbidden,
    InputMissing,
    InputTooLarge,
    SetOption,
    UsageError,
    first_line,
)
from tlp_runtime.geometry.volume import Volume
from tlp_runtime.io.nifti import START_BYTES, SUFFIXES, parse_volume, voxels_claimed_by
from tlp_server.settings import Settings

MOST_ENTRIES = 2000
"""Entries of a folder that are listed."""


@dataclass(frozen=True)
class Listing:
    """What a folder holds: names of folders, and of files that may be scans.

    Parameters
    ----------
    unnamed
        How many more there are whose names are not UTF-8: no request can name them.
    """

    folders: tuple[str, ...]
    files: tuple[str, ...]
    truncated: bool
    unnamed: int


class Root:
    """A folder whose scans may be opened by their paths in it.

    Symbolic links are followed as long as what they mean lies under the root too.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve(strict=True)

    def listing(self, path: str) -> Listing:
        """List a folder; hidden entries, and what is neither folder nor NIfTI, are left out.

        Raises
        ------
        Forbidden, InputMissing
            A path out of the root, or no folder.
        """
        folder = self._found(path)
        if not folder.is_dir():
            raise InputMissing(f"{path}: is not a folder.")
        folders: list[str] = []
        files: list[str] = []
        unnamed = 0
        try:
            entries = sorted(folder.iterdir())
        except OSError as error:
            raise Forbidden(f"{path}: cannot be listed ({error.strerror}).") from None
        for entry in entries:
            if not self._holds(entry):
                continue
            folder_here = entry.is_dir()
            if not folder_here and not (entry.is_file() and entry.name.lower().endswith(SUFFIXES)):
                continue
            if not _is_text(entry.name):
                unnamed += 1
            else:
                (folders if folder_here else files).append(entry.name)
        truncated = len(folders) + len(files) > MOST_ENTRIES
        folders = folders[:MOST_ENTRIES]
        files = files[: MOST_ENTRIES - len(folders)]
        return Listing(tuple(folders), tuple(files), truncated, unnamed)

    def voxels(self, path: str) -> int:
        """How many voxels a NIfTI file claims to have; 0 where :meth:`read` will say what it is.

        Raises
        ------
        Forbidden, InputMissing
            As of :meth:`read`.
        """
        file = self._found(path)
        if not file.is_file():
            return 0
        try:
            with file.open("rb") as opened:
                return voxels_claimed_by(opened.read(START_BYTES))
        except OSError:
            return 0

    def read(self, path: str, settings: Settings) -> Volume:
        """A NIfTI file.

        Raises
        ------
        Forbidden, InputError
            A path out of the root; a file that is missing, too large or no image.
        """
        file = self._found(path)
        if not file.is_file():  # nor a pipe, which would be waited for
            raise InputMissing(f"{path}: is not a file.")
        try:
            if file.stat().st_size > settings.max_body:
                raise InputTooLarge(
                    f"{path}: is larger than the {settings.max_upload_mib} MiB allowed",
                    fix=SetOption("max_upload_mib", "more"),
                )
            content = file.read_bytes()
        except OSError as error:
            raise InputMissing(f"{path}: cannot be read ({first_line(error)}).") from None
        return parse_volume(content, path, limit=settings.max_volume)

    def _found(self, path: str) -> Path:
        """Where a path of the client leads.

        Raises
        ------
        Forbidden, InputMissing
            Out of the root, or nowhere.
        """
        parts = PurePosixPath(path)
        if not _is_text(path):
            raise UsageError(f"{path!r}: is not text; it holds half of a surrogate pair.")
        if parts.is_absolute() or ".." in parts.parts or "\0" in path or "\\" in path:
            raise Forbidden(f"{path!r}: expected a path within the folder that is served.")
        if _is_hidden(parts):
            raise InputMissing(f"{path}: does not exist.")  # whether it does is not told
        try:
            found = (self._folder / parts).resolve(strict=True)
        except (OSError, RuntimeError, ValueError):
            raise InputMissing(f"{path}: does not exist.") from None
        if not found.is_relative_to(self._folder):
            raise Forbidden(f"{path!r}: leads out of the folder that is served.")
        if _is_hidden(found.relative_to(self._folder)):
            raise InputMissing(f"{path}: does not exist.")
        return found

    def _holds(self, entry: Path) -> bool:
        """Whether an entry of a folder may be listed: not hidden, nor a link to what is."""
        try:
            found = entry.resolve(strict=True)
        except (OSError, RuntimeError):
            return False
        return (
            not entry.name.startswith(".")
            and found.is_relative_to(self._folder)
            and not _is_hidden(found.relative_to(self._folder))
        )


def _is_hidden(path: PurePath) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _is_text(name: str) -> bool:
    """Whether JSON in UTF-8 can carry it: a file's name may be any bytes."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
