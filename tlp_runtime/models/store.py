"""``TLP_HOME``: where runs, models and caches lie, and the register of what was made.

The register is one small JSON file per entry, each written atomically, so that several processes
may register at once and a damaged entry harms no other.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from tlp_runtime.errors import ModelDamaged, ModelMissing
from tlp_runtime.files.atomic import make_folder, write_text


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
    """Names and folders of one kind of thing, ``models`` or ``runs``."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    @property
    def folder(self) -> Path:
        """Where the entries lie."""
        return home() / "register" / self.kind

    def add(self, name: str, path: Path) -> str:
        """Register ``path`` as the newest, under ``name``.

        Returns the name it got: when another folder has ``name`` already, a number is added.
        Registering a folder again makes it the newest again.
        """
        make_folder(self.folder)
        path = path.resolve()
        taken = {entry.name: entry for entry in self}
        order = max((entry.order for entry in taken.values()), default=0) + 1
        free, number = name, 2
        while free in taken and taken[free].path != path:
            free, number = f"{name}-{number}", number + 1
        write_text(self.folder / f"{free}.json", json.dumps({"path": str(path), "order": order}))
        return free

    def __iter__(self) -> Iterator[Entry]:
        """Every entry, oldest first.

        Raises
        ------
        ModelDamaged
            An entry that cannot be read.
        """
        entries = []
        for file in self.folder.glob("*.json") if self.folder.is_dir() else ():
            try:
                record = json.loads(file.read_text(encoding="utf-8"))
                entries.append(Entry(file.stem, Path(record["path"]), int(record["order"])))
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise ModelDamaged(
                    f"{file}: is not a register entry ({error}).",
                    fix="Remove the file and register again.",
                ) from error
        return iter(sorted(entries, key=lambda entry: (entry.order, entry.name)))

    def find(self, name: str) -> Entry:
        """The entry called ``name``; :class:`ModelMissing` names those there are."""
        entries = {entry.name: entry for entry in self}
        if name not in entries:
            raise ModelMissing(
                f"no {self.kind[:-1]} is called {name!r}; there are: {', '.join(entries) or 'none'}"
            )
        return entries[name]

    def remove(self, name: str) -> None:
        """Remove the entry ``name``; its folder stays."""
        self.find(name)
        (self.folder / f"{name}.json").unlink()
