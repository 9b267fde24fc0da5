"""What is said about a case while it is read or written, kept with the case."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Remarks:
    """Takes the runtime's warnings of threads that work on a case; others go where they went.

    A thousand cases with a warning each belong into the journal, not onto the console; what is
    said of a patient's scan belongs to its reader, not into a server's log.
    """

    _lock = threading.Lock()
    _users = 0

    def __init__(self) -> None:
        self._closed = False
        with self._lock:
            Remarks._users += 1
            if Remarks._users == 1:
                _handler.install()

    @contextmanager
    def of(self, remarks: list[str]) -> Iterator[None]:
        """Put this thread's warnings into ``remarks``."""
        _handler.of_thread.remarks = remarks
        try:
            yield
        finally:
            _handler.of_thread.remarks = None

    def close(self) -> None:
        """Let every record go where it went before, once nobody takes any. May be called again."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            Remarks._users -= 1
            if Remarks._users == 0:
                _handler.remove()


class _Handler(logging.Handler):
    """One for all, so that no other passes on what one has taken."""

    def __init__(self) -> None:
        super().__init__(logging.NOTSET)
        self.of_thread = threading.local()
        self._logger = logging.getLogger("tlp_runtime")
        self._before = True

    def install(self) -> None:
        self._before = self._logger.propagate
        self._logger.addHandler(self)
        self._logger.propagate = False

    def remove(self) -> None:
        self._logger.removeHandler(self)
        self._logger.propagate = self._before

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record or pass it on."""
        remarks = getattr(self.of_thread, "remarks", None)
        if remarks is not None and record.levelno >= logging.WARNING:
            remarks.append(record.getMessage())
        elif self._before:
            logging.getLogger().handle(record)


_handler = _Handler()
