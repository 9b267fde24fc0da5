"""Where jobs are run: threads of this process, or machines of a cluster."""

from __future__ import annotations

from abc import ABC, abstractmethod
from concurrent.futures import Future
from types import TracebackType
from typing import Self

from tlp_runtime.cohort.job import Job, Outcome
from tlp_runtime.warnings import Warn, WarningLog


class Backend(ABC):
    """Runs jobs, several at a time. A context manager: closed, or stopped after an error.

    Parameters
    ----------
    warn
        Called with each operational warning about the run as a whole, the moment it arises.

    Attributes
    ----------
    room
        How many jobs should be under way.
    warnings
        All such warnings so far.
    """

    room: int

    def __init__(self, warn: Warn | None = None) -> None:
        self.warnings = WarningLog(warn)

    @abstractmethod
    def submit(self, job: Job) -> Future[Outcome]:
        """Start on a job.

        The future is an outcome for whatever is wrong with the case itself. It raises
        :class:`~tlp_runtime.errors.NoSpace` when nothing can be written any more, and the
        engine's error when no engine is left.
        """

    @abstractmethod
    def close(self) -> None:
        """Wait for what was submitted, and release the engines."""

    @abstractmethod
    def stop(self) -> None:
        """Drop what was not run yet, wait for what is being written, and release the engines.

        May be called again.
        """

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
        else:
            self.stop()
