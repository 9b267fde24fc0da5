"""Opening the viewer's page without showing its token to other accounts of the machine."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import webbrowser
from pathlib import Path

_PAGE = """<!doctype html>
<meta charset="utf-8">
<meta name="referrer" content="no-referrer">
<title>TLP viewer</title>
<script>location.replace({address});</script>
<p>This page leads to the viewer. If nothing happens, open the address that tlp printed.</p>
"""


class PrivatePage:
    """A page of the disk that leads a browser to an address.

    A browser's arguments stand in the list of processes, which every account can read. They name
    this file, which only its owner can read, in place of the address with its token.
    """

    def __init__(self) -> None:
        self._path: Path | None = None

    def open(self, address: str) -> bool:
        """Write the page and show it in the default browser; False where there is none."""
        handle, name = tempfile.mkstemp(prefix="tlp-view-", suffix=".html")  # for the owner alone
        self._path = Path(name)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(_PAGE.format(address=json.dumps(address)))
        shown = False
        with contextlib.suppress(webbrowser.Error):
            shown = webbrowser.open(self._path.as_uri())
        if not shown:
            self.remove()
        return shown

    def remove(self) -> None:
        """Delete the page, once it was used or the server has ended."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            self._path = None
