"""The address that a case was last viewed at, so that a page of it finds the server again."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tlp_runtime.errors import UsageError
from tlp_runtime.files.atomic import write_text
from tlp_runtime.models.store import home

KEPT_S = 7 * 24 * 3600


@dataclass(frozen=True)
class Address:
    """Port and token of a server."""

    port: int
    token: str | None


class LastAddress:
    """A private file per case in the toolkit's own folder.

    Parameters
    ----------
    images
        The case's files.
    """

    def __init__(self, images: Iterable[Path]) -> None:
        name = "\n".join(os.fspath(image.resolve()) for image in images)
        key = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:24]
        self._folder = home() / "views"
        self._path = self._folder / f"{key}.json"

    def read(self) -> Address | None:
        """What was written last; None where that is long ago, or is not to be used."""
        try:
            status = self._path.stat()
            if time.time() - status.st_mtime > KEPT_S or status.st_mode & 0o077:
                return None
            found = json.loads(self._path.read_text(encoding="utf-8"))
            return Address(int(found["port"]), found["token"])
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def write(self, address: Address) -> None:
        """Keep an address, for the owner of the file alone, and drop old ones.

        Raises
        ------
        OSError, OutputError
            It cannot be written.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        self._folder.chmod(0o700)
        for old in self._folder.glob("*.json"):
            if time.time() - old.stat().st_mtime > KEPT_S:
                old.unlink(missing_ok=True)
        text = json.dumps({"port": address.port, "token": address.token})
        write_text(self._path, text, overwrite=True)
        self._path.chmod(0o600)


def is_free(host: str, port: int) -> bool:
    """Whether an address can be served on."""
    from tlp_server.run import listen

    try:
        listen(host, port).close()
    except UsageError:
        return False
    return True
