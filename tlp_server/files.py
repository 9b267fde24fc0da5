"""Files under the root, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tlp_runtime.errors import Forbidden, InputMissing, InputTooLarge, SetOption, first_line
from tlp_runtime.geometry.volume import Volume
from tlp_runtime.io.nifti import SUFFIXES, parse_volume
from tlp_server.settings import Settings

MOST_ENTRIES = 2000
"""Entries of a folder that are listed."""


@dataclass(frozen=True)
class Listing:
    """What a folder holds: names of folders, and of files that may be scans."""

    folders: tuple[str, ...]
    files: tuple[str, ...]
    truncated: bool


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
        try:
            entries = sorted(folder.iterdir())
        except OSError as error:
            raise Forbidden(f"{path}: cannot be listed ({error.strerror}).") from None
        for entry in entries:
            if entry.name.startswith(".") or not self._holds(entry):
                continue
            if entry.is_dir():
                folders.append(entry.name)
            elif entry.is_file() and entry.name.lower().endswith(SUFFIXES):
                files.append(entry.name)
        truncated = len(folders) + len(files) > MOST_ENTRIES
        folders = folders[:MOST_ENTRIES]
        return Listing(tuple(folders), tuple(files[: MOST_ENTRIES - len(folders)]), truncated)

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
        if parts.is_absolute() or ".." in parts.parts or "\0" in path or "\\" in path:
            raise Forbidden(f"{path!r}: expected a path within the folder that is served.")
        try:
            found = (self._folder / parts).resolve(strict=True)
        except (OSError, RuntimeError, ValueError):
            raise InputMissing(f"{path}: does not exist.") from None
        if not found.is_relative_to(self._folder):
            raise Forbidden(f"{path!r}: leads out of the folder that is served.")
        return found

    def _holds(self, entry: Path) -> bool:
        try:
            return entry.resolve(strict=True).is_relative_to(self._folder)
        except (OSError, RuntimeError):
            return False
