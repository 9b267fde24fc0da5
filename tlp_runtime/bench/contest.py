"""Contenders against each other: each in a process of its own, in turn, round by round.

Libraries in one process share threads, caches and allocators, and timings drift while a machine
warms up or others use it. So every contender has its own process, only one computes at a time, who
begins changes from round to round, and two are compared by the median of their ratios within a
round. What else the machine did meanwhile is part of the result.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

from tlp_runtime.bench.load import Load, LoadMeter
from tlp_runtime.errors import TLPError, first_line

Open = Callable[[], Any]
"""Opens a contender. Runs in its process, so it must be picklable: a function of a module, or a
``partial`` of one. What it returns has the methods that are called, and may have ``close``."""


class ContenderFailed(Exception):
    """A contender could not be opened, raised, or its process ended."""


class Process:
    """A contender in a process of its own.

    Parameters
    ----------
    name
        What tables call it.
    environment
        Variables that are set in the process before anything is imported.
    limit_s
        Seconds that one call may take; the process is ended after that.

    Raises
    ------
    ContenderFailed
        It cannot be opened.
    """

    def __init__(
        self,
        name: str,
        open_it: Open,
        *,
        environment: Mapping[str, str] | None = None,
        limit_s: float | None = None,
    ) -> None:
        self.name = name
        self._limit = limit_s
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, open_it), name=name)
        with _environment(environment or {}):
            self._process.start()
        theirs.close()
        try:
            self.opened_s = self._answer()[1]
        except BaseException:
            self.close()
            raise

    def call(self, method: str, *args: Any) -> Any:
        """The result of a method of the contender.

        Raises
        ------
        ContenderFailed
            It raised, with the first line of that; or its process ended or took too long, and is
            gone.
        """
        return self.timed_call(method, *args)[0]

    def timed_call(self, method: str, *args: Any) -> tuple[Any, float]:
        """As :meth:`call`, with the processor time that it took, in seconds."""
        try:
            self._pipe.send((method, args))
        except OSError as error:
            raise ContenderFailed(self._ended()) from error
        value, _, cpu_s = self._answer()
        return value, cpu_s

    def _answer(self) -> tuple[Any, float, float]:
        if self._limit is not None and not self._pipe.poll(self._limit):
            self.close()
            raise ContenderFailed(f"ended after {self._limit:g} s")
        try:
            done, value, wall_s, cpu_s = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise ContenderFailed(self._ended()) from error
        if not done:
            raise ContenderFailed(value)
        return value, wall_s, cpu_s

    def _ended(self) -> str:
        self._process.join(10)
        code = self._process.exitcode
        if code is not None and code < 0:
            with contextlib.suppress(ValueError):
                return f"its process was ended by {signal.Signals(-code).name}"
        return f"its process ended with exit status {code}"

    def close(self) -> None:
        """End the process and all that it started."""
        self._pipe.close()
        self._process.join(5)
        if self._process.pid is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        if self._process.is_alive():
            self._process.kill()
        self._process.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


@dataclass
class Rounds:
    """What contenders needed, round by round.

    Parameters
    ----------
    seconds
        By contender, of each round; those that failed are not among them.
    failed
        Why the others could not go on, by contender.
    load
        What else the machine did meanwhile; None where the system does not tell.
    """

    seconds: dict[str, list[float]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    load: Load | None = None

    def median(self, name: str) -> float:
        """Median over the rounds."""
        return statistics.median(self.seconds[name])

    def faster(self, name: str, than: str) -> float | None:
        """How many times as fast as another: the median of the ratios within a round.

        None if either failed.
        """
        own, other = self.seconds.get(name), self.seconds.get(than)
        if not own or not other:
            return None
        return statistics.median(theirs / mine for theirs, mine in zip(other, own, strict=True))


def compete(
    contenders: Sequence[Process],
    rounds: int,
    turn: Callable[[Process], tuple[float, float]],
    *,
    on_turn: Callable[[], None] = lambda: None,
) -> Rounds:
    """Rounds in which all take turns; who begins changes. What fails is out, and says why.

    Parameters
    ----------
    turn
        Lets a contender run; returns the seconds that count, and its processor time in seconds.
    on_turn
        Called after each turn.
    """
    found = Rounds({one.name: [] for one in contenders})
    running, meter = list(contenders), LoadMeter()
    for number in range(rounds):
        first = number % len(running) if running else 0
        for one in running[first:] + running[:first]:
            own = time.process_time()
            meter.start()
            try:
                seconds, cpu_s = turn(one)
            except ContenderFailed as error:
                running.remove(one)
                del found.seconds[one.name]
                found.failed[one.name] = str(error)
            else:
                meter.stop(cpu_s + time.process_time() - own)
                found.seconds[one.name].append(seconds)
            on_turn()
    found.load = meter.load()
    return found


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Any:
    """The variables set, for a process that starts meanwhile."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _serve(pipe: Connection, open_it: Open) -> None:
    """In the contender's process: open it, then answer calls until the pipe is closed."""
    os.setsid()  # so that what it starts can be ended with it, and Ctrl-C is the parent's
    os.dup2(2, 1)  # standard output is the parent's
    opened = None

    def answer(work: Callable[[], Any]) -> Any:
        began, cpu = time.perf_counter(), _cpu_s()
        try:
            value = work()
        except Exception as error:
            told = isinstance(error, TLPError)
            said = str(error) if told else f"{type(error).__name__}: {first_line(error)}"
            pipe.send((False, said, 0.0, 0.0))
            return None
        seconds = time.perf_counter() - began, _cpu_s() - cpu
        return value, seconds

    found = answer(open_it)
    if found is None:
        return
    opened, seconds = found
    pipe.send((True, None, *seconds))
    try:
        while True:
            method, args = pipe.recv()
            found = answer(lambda: getattr(opened, method)(*args))  # noqa: B023 - called at once
            if found is not None:
                pipe.send((True, found[0], *found[1]))
    except (EOFError, OSError):
        pass
    finally:
        if hasattr(opened, "close"):
            opened.close()


def _cpu_s() -> float:
    """Processor time of this process and of those it started and waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
