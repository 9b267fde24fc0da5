"""``TLP_HOME``: where runs, models and caches lie, and the register of what was made.

The register is one small JSON file per entry, so that a damaged entry harms no other. An entry
names its folder relative to ``TLP_HOME`` if it lies there, so that the whole store can be moved.
Each file is written atomically, and names and orders are given out under a lock, so that several
processes may register at once.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import platformdirs
from filelock import FileLock

from tlp_runtime.errors import ModelDamaged, ModelMissing, RunTask
from tlp_runtime.files.atomic import (
    entries,
    make_folder,
    output_error,
    require_access,
    write_text,
)


def home() -> Path:
    """``TLP_HOME``, or the platform's user data folder. Not created here."""
    chosen = os.environ.get("TLP_HOME")
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_data_dir("tlp-mri"))


@dataclass(frozen=True)
class Entry:
    """A registered thing: its name, the folder it lies in, and its order of registration."""

    name: str
    path: Path
    order: int


class Register:
    """Names and folders of one kind of thing, ``models`` or ``runs``.

    Iterating gives the entries that can be read, oldest first; :attr:`damaged` has the others.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind

    @property
    def folder(self) -> Path:
        """Where the entries lie."""
        return home() / "register" / self.kind

    @property
    def damaged(self) -> dict[str, ModelDamaged]:
        """Names of the entries that cannot be read, each with the error."""
        return {
            file.stem: found
            for file in self._files()
            if isinstance(found := self._read(file), ModelDamaged)
        }

    def add(self, name: str, path: Path) -> str:
        """Register ``path`` as the newest, under ``name``.

        Returns the name it got: when another folder has ``name`` already, a number is added.
        Registering a folder again makes it the newest again.

        Raises
        ------
        OutputError
            The register cannot be written.
        """
        with self.locked():
            return self._add(name, path.resolve(), newest=True)

    def __iter__(self) -> Iterator[Entry]:
        """Every entry that can be read, oldest first."""
        found = [self._read(file) for file in self._files()]
        entries = [entry for entry in found if isinstance(entry, Entry)]
        return iter(sorted(entries, key=lambda entry: (entry.order, entry.name)))

    def find(self, name: str) -> Entry:
        """The entry called ``name``.

        Raises
        ------
        ModelMissing
            There is none of that name; the error names those there are.
        ModelDamaged
            The entry cannot be read.
        """
        entries = {entry.name: entry for entry in self}
        if name in entries:
            return entries[name]
        if name in (damaged := self.damaged):
            raise damaged[name]
        raise ModelMissing(
            f"no {self.kind[:-1]} is called {name!r}; there are: {', '.join(entries) or 'none'}"
        )

    def remove(self, name: str) -> None:
        """Remove the entry ``name``, damaged or not; its folder stays.

        Raises
        ------
        ModelMissing
            There is none of that name.
        OutputError
            The register cannot be written.
        """
        with self.locked():
            self._remove(name)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Let no other process register or remove anything meanwhile.

        Not to be nested. Raises :class:`OutputError` where the register cannot be written.
        """
        file = make_folder(self.folder) / ".lock"
        require_access(self.folder)
        lock = FileLock(file)
        try:
            lock.acquire()
        except (OSError, NotImplementedError) as error:
            raise output_error(file, OSError(*error.args)) from error
        try:
            yield
        finally:
            lock.release()

    def _add(self, name: str, path: Path, *, newest: bool) -> str:
        """As :meth:`add`, for whoever holds the lock; not ``newest`` keeps an entry's order."""
        known = {entry.name: entry for entry in self}
        damaged = self.damaged
        free, number = name, 2
        while (free in known and known[free].path != path) or free in damaged:
            if free in damaged and path == home().resolve() / self.kind / free:
                break  # the folder's own entry, written again
            free, number = f"{name}-{number}", number + 1
        order = max((entry.order for entry in known.values()), default=0) + 1
        if free in known and not newest:
            order = known[free].order
        record = {"path": _relative(path), "order": order}
        write_text(self._file(free), json.dumps(record))
        return free

    def _remove(self, name: str) -> None:
        """As :meth:`remove`, for whoever holds the lock."""
        if name not in self.damaged:
            self.find(name)
        try:
            self._file(name).unlink()
        except OSError as error:
            raise output_error(self._file(name), error) from error

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def _files(self) -> Iterator[Path]:
        for file in entries(self.folder) if self.folder.is_dir() else ():
            if file.suffix == ".json" and file.is_file():
                yield file

    def _read(self, file: Path) -> Entry | ModelDamaged | None:
        """An entry, or why it cannot be read; None for what is not an entry (any more)."""
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
            return Entry(file.stem, self._place(Path(record["path"])), int(record["order"]))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            return ModelDamaged(
                f"{file}: is not a register entry ({error})",
                fix=RunTask("models remove", arguments=(file.stem,), purpose="to remove the entry")
                if self.kind == "models"
                else "Remove that file.",
            )

    def _place(self, path: Path) -> Path:
        """Where a registered folder lies now."""
        if not path.is_absolute():
            return home().resolve() / path
        # Versions that knew absolute paths alone wrote the place before the store was moved.
        moved = home().resolve() / self.kind / path.name
        if not path.exists() and path.parent.name == self.kind and moved.is_dir():
            return moved
        return path


def _relative(path: Path) -> str:
    """A resolved path as it is registered: relative to ``TLP_HOME`` if it lies there."""
    root = home().resolve()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
