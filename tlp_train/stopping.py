"""Requests to end a training before its last epoch: signals and a time limit."""

from __future__ import annotations

import re
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Self

from tlp_runtime.errors import UsageError

_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_PARTS = re.compile(r"(\d+)([dhms])")


@dataclass(frozen=True)
class Reason:
    """Why a training is to end.

    Parameters
    ----------
    name
        As the run's record and messages call it.
    exit_code
        What the command exits with.
    """

    name: str
    exit_code: int


TIME_LIMIT = Reason("the time limit", 0)
SIGNALS = {
    # What a scheduler sends ends the command alike, whether it is a warning or the order itself.
    getattr(signal, name): Reason(text, code)
    for name, text, code in (
        ("SIGINT", "Ctrl-C", 130),
        ("SIGTERM", "SIGTERM", 143),
        ("SIGUSR1", "SIGUSR1", 143),
    )
    if hasattr(signal, name)
}


class TrainingStopped(Exception):
    """The run was asked to end before its last epoch.

    Parameters
    ----------
    reason
        Who asked.
    saved
        The checkpoint that the run resumes from; None where nothing was trained yet.
    """

    def __init__(self, reason: Reason, saved: Path | None = None) -> None:
        super().__init__(reason.name)
        self.reason = reason
        self.saved = saved


class StopRequests:
    """Listens for requests to stop while it is entered.

    The first request is noted, and a training that has begun saves its state when it comes to it.
    Before that, and on a second Ctrl-C, :class:`TrainingStopped` is raised at once. Of processes
    that load data, which are forked from this one, nobody asks anything.

    Parameters
    ----------
    limit_s
        Seconds after which to stop; None for no limit.

    Attributes
    ----------
    training
        Whether there is a state to save.
    """

    def __init__(self, limit_s: float | None = None) -> None:
        self.limit_s = limit_s
        self.training = False
        self._asked: Reason | None = None
        self._began = time.monotonic()
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        self.listen()
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def listen(self) -> None:
        """Take the signals, also from whoever took them meanwhile."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in SIGNALS:
            found = signal.signal(number, self._ask)
            self._previous.setdefault(number, found)

    @property
    def asked(self) -> Reason | None:
        """Why to stop; None to go on."""
        late = self.limit_s is not None and time.monotonic() - self._began >= self.limit_s
        return self._asked or (TIME_LIMIT if late else None)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        reason = SIGNALS[signal.Signals(number)]
        first = self._asked is None
        self._asked = self._asked or reason
        # What is sent again while the first request ends the run disturbs nothing; a hand may.
        if (first and not self.training) or (not first and number == signal.SIGINT):
            raise TrainingStopped(reason)


def ignore_signals(worker: int = 0) -> None:
    """For a process that loads data: the training ends it, not a signal to all of its processes."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def seconds_of(text: str) -> float:
    """Seconds of a duration: ``90m``, ``1d12h``, ``36:00:00``, ``1:12:00:00`` or plain seconds.

    Raises
    ------
    UsageError
        It is none, or not above 0.
    """
    given = text.strip().lower()
    found = 0.0
    if re.fullmatch(r"(\d+[dhms])+", given):
        found = sum(int(number) * _UNITS[unit] for number, unit in _PARTS.findall(given))
    elif re.fullmatch(r"(\d+:)?\d+:[0-5]?\d:[0-5]?\d", given):
        parts = [0, *map(int, given.split(":"))][-4:]
        found = sum(n * unit for n, unit in zip(parts, _UNITS.values(), strict=True))
    elif re.fullmatch(r"\d+(\.\d+)?", given):
        found = float(given)
    if not found > 0:
        raise UsageError(
            f"{text!r} is not a duration, expected such as 90m, 12h, 1d6h or 36:00:00 (hours, "
            "minutes, seconds)."
        )
    return found
