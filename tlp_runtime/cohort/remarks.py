"""What is said about a case while it is read or written, kept with the case."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Remarks(logging.Handler):
    """Takes the runtime's warnings of a thread that works on a case; others go where they went.

    A thousand cases with a warning each belong into the journal, not onto the console.
    """

    def __init__(self) -> None:
        super().__init__(logging.NOTSET)
        self._of_thread = threading.local()
        self._logger = logging.getLogger("tlp_runtime")
        self._before = self._logger.propagate
        self._logger.addHandler(self)
        self._logger.propagate = False

    @contextmanager
    def of(self, remarks: list[str]) -> Iterator[None]:
        """Put this thread's warnings into ``remarks``."""
        self._of_thread.remarks = remarks
        try:
            yield
        finally:
            self._of_thread.remarks = None

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record or pass it on."""
        remarks = getattr(self._of_thread, "remarks", None)
        if remarks is not None and record.levelno >= logging.WARNING:
            remarks.append(record.getMessage())
        elif self._before:
            logging.getLogger().handle(record)

    def close(self) -> None:
        """Let every record go where it went before."""
        self._logger.removeHandler(self)
        self._logger.propagate = self._before
        super().close()
