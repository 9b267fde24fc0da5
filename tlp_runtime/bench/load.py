"""What else a machine did while something was measured on it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

STEAL = 0.02
OTHERS = 0.05
"""Shares of all cores' time from which on a machine counts as busy."""

_STAT = Path("/proc/stat")


@dataclass(frozen=True)
class Load:
    """Processor time that was not the measured program's, as shares of all cores' time.

    Parameters
    ----------
    seconds
        How long it was watched.
    steal
        Time that the hypervisor gave to other machines.
    others
        Time of other processes.
    busy
        Whether figures that were measured meanwhile are in doubt.
    """

    seconds: float
    steal: float
    others: float
    busy: bool

    def __str__(self) -> str:
        found = f"{self.others:.0%} of the processor time went to other processes"
        if self.steal >= 0.005:
            found += f", {self.steal:.0%} to other machines"
        return f"BUSY MACHINE: {found}" if self.busy else f"quiet machine ({found})"


@dataclass(frozen=True)
class _Ticks:
    used: float
    steal: float
    all: float


class LoadMeter:
    """Adds up :class:`Load` over the times between :meth:`start` and :meth:`stop`."""

    def __init__(self) -> None:
        self._began: _Ticks | None = None
        self._used = self._own = self._steal = self._all = 0.0

    def start(self) -> None:
        """Watch from now on."""
        self._began = _ticks()

    def stop(self, own_s: float) -> None:
        """Watch no longer.

        Parameters
        ----------
        own_s
            Processor time of what was measured meanwhile, in seconds.
        """
        now = _ticks()
        if self._began is None or now is None:
            return
        self._used += now.used - self._began.used
        self._steal += now.steal - self._began.steal
        self._all += now.all - self._began.all
        self._own += own_s
        self._began = None

    def load(self) -> Load | None:
        """What was found so far; None where the system does not tell."""
        if not self._all:
            return None
        seconds = self._all / (os.cpu_count() or 1)
        steal = self._steal / self._all
        others = max(self._used - self._own, 0.0) / self._all
        return Load(seconds, steal, others, busy=steal > STEAL or others > OTHERS)


def _ticks() -> _Ticks | None:
    """Seconds of all cores since the machine was started; None on systems without them."""
    try:
        first = _STAT.read_text(encoding="ascii").splitlines()[0].split()
    except (OSError, IndexError):
        return None
    # user, nice, system, idle, iowait, irq, softirq, steal; guests are part of user.
    user, nice, system, idle, iowait, irq, softirq, steal = (
        int(value) / os.sysconf("SC_CLK_TCK") for value in first[1:9]
    )
    used = user + nice + system + irq + softirq
    return _Ticks(used, steal, used + idle + iowait + steal)
