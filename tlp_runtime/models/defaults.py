"""The record of default models: which registered name is used for which inputs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tlp_runtime.errors import ModelDamaged, RunTask
from tlp_runtime.files.atomic import make_folder, output_error, write_text
from tlp_runtime.models.store import home


def key(inputs: Sequence[str]) -> str:
    """Inputs in any order, as the record names them."""
    return ",".join(sorted(inputs))


@dataclass(frozen=True)
class Defaults:
    """Default models by their inputs.

    Parameters
    ----------
    chosen
        The name that a user chose last; None where nobody chose.
    names
        The name recorded for each :func:`key`, chosen or the first that was registered.
    """

    chosen: str | None = None
    names: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls) -> Defaults:
        """The record on disk; an empty one where there is none.

        A record of the version before holds the chosen name alone.

        Raises
        ------
        ModelDamaged
            It cannot be read.
        """
        file = _file()
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
            chosen, names = record["name"], record.get("inputs", {})
            return cls(
                None if chosen is None else str(chosen),
                {str(inputs): str(name) for inputs, name in names.items()},
            )
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelDamaged(
                f"{file}: cannot be read ({error!r})",
                fix=RunTask(
                    "models default", (("clear", ""),), "to forget it, then set the default again"
                ),
            ) from error

    @property
    def unplaced(self) -> bool:
        """Whether the chosen name's inputs are not recorded, so that it may be for any.

        That is so where the version before wrote the record and the model is gone.
        """
        return self.chosen is not None and self.chosen not in self.names.values()

    def with_default(self, inputs: str, name: str, *, chosen: bool = False) -> Defaults:
        """With ``name`` for inputs, by :func:`key`."""
        return Defaults(name if chosen else self.chosen, {**self.names, inputs: name})

    def without(self, inputs: str) -> Defaults:
        """Without a default for inputs, by :func:`key`."""
        gone = self.names.get(inputs)
        names = {other: name for other, name in self.names.items() if other != inputs}
        return replace(self, chosen=None if self.chosen == gone else self.chosen, names=names)

    def write(self) -> None:
        """Write the record. Raises :class:`OutputError`."""
        make_folder(_file().parent)
        record = {"name": self.chosen, "inputs": dict(sorted(self.names.items()))}
        write_text(_file(), json.dumps(record) + "\n")

    @staticmethod
    def forget() -> None:
        """Remove the record. Raises :class:`OutputError`."""
        try:
            _file().unlink(missing_ok=True)
        except OSError as error:
            raise output_error(_file(), error) from error


def _file() -> Path:
    return home() / "register" / "default-model.json"
