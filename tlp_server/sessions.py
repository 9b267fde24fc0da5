"""Open cases: how many, how large, how long."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import secrets
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from time import monotonic, perf_counter

from tlp_runtime.errors import InputTooLarge, SessionGone, SessionsFull, SetOption
from tlp_runtime.interactive.case import InteractiveCase
from tlp_runtime.interactive.parts import MaskBox, Update
from tlp_runtime.interactive.queue import EngineQueue
from tlp_runtime.spec.model import ModelSpec
from tlp_runtime.warnings import TLPWarning
from tlp_server.cases import ViewerCase
from tlp_server.failures import message_of
from tlp_server.frames import State, frames_of, last_frame
from tlp_server.memory import Memory, trim
from tlp_server.settings import MIB, Settings

logger = logging.getLogger(__name__)

EXPIRY_EVERY_S = 5.0
TRIM_AFTER_S = 1.0
"""From a session's end until freed memory is returned: what it held is let go of by then."""
GRACE_S = 60.0
"""A session that was used within that time is not dropped to make room."""

PREPARING_BYTES = 32
"""Per voxel that is opened, at the most while a case is prepared; 10 to 25 were measured."""


class Bell:
    """Wakes whoever waits for news of a session.

    Parameters
    ----------
    loop
        Where they wait.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._listeners: set[asyncio.Event] = set()

    def ring(self) -> None:
        """From any thread: there may be something new."""
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self.wake)

    def wake(self) -> None:
        """As :meth:`ring`, from the loop's own thread."""
        for listener in self._listeners:
            listener.set()

    @contextlib.contextmanager
    def heard(self) -> Iterator[asyncio.Event]:
        """An event that is set at every ring."""
        listener = asyncio.Event()
        self._listeners.add(listener)
        try:
            yield listener
        finally:
            self._listeners.discard(listener)

    @property
    def has_listeners(self) -> bool:
        """Whether anybody waits."""
        return bool(self._listeners)


class Session:
    """One open case and the stream that shows it.

    Attributes
    ----------
    case
        The interactive case.
    strokes
        Held while a stroke is checked and taken, so that strokes follow each other.
    used
        By ``monotonic()``, when a client last asked for it or took what it was sent.
    ends
        By ``monotonic()``, when it is dropped unless it is used before; infinity unless its
        client left it.
    """

    def __init__(self, name: str, case: InteractiveCase, bell: Bell) -> None:
        self.id = secrets.token_urlsafe(16)
        self.name = name
        self.case = case
        self.strokes = asyncio.Lock()
        self.used = monotonic()
        self.ends = math.inf
        self._bell = bell
        self._newest = 0
        self._sending = 0

    @property
    def warnings(self) -> tuple[TLPWarning, ...]:
        """Those about the scan, then those about the engine and its runs."""
        return (*self.case.prepared.warnings, *self.case.queue.warnings)

    def stream(self, since: int, began: float, timeout_s: float) -> AsyncIterator[bytes]:
        """Frames of all that changes after ``since``, until nothing is left to be run.

        From now on, an older stream of the session is superseded. When the client goes away, what
        waits is taken back.

        Parameters
        ----------
        began
            ``perf_counter()`` when the request was complete.
        timeout_s
            How long the engine may be silent.
        """
        self._newest += 1
        self._bell.wake()  # an older stream sees that it is no longer the newest
        return self._frames(self._newest, since, began, timeout_s)

    async def _frames(
        self, number: int, since: int, began: float, timeout_s: float
    ) -> AsyncIterator[bytes]:
        ended = False
        try:
            with self._bell.heard() as news:
                while not ended:
                    news.clear()
                    update, frames = await asyncio.to_thread(self._news, since, began)
                    if number == self._newest:
                        for frame in frames:
                            with self._sent():
                                yield frame
                        since = update.serial
                    end = self._end(number, update)
                    if end is None and not update.more:
                        try:
                            await asyncio.wait_for(news.wait(), timeout_s)
                        except TimeoutError:
                            end = "failed", f"the engine was silent for {timeout_s:g} s."
                    if end is not None:
                        ended = True
                        server_s = perf_counter() - began
                        with self._sent():
                            yield last_frame(self.case, update, since, server_s, *end)
        finally:
            if number == self._newest and not ended:
                self.case.pause()

    @contextlib.contextmanager
    def _sent(self) -> Iterator[None]:
        """While a client is sent something; that it took it is a use of the session."""
        self._sending += 1
        try:
            yield
            self.used = monotonic()
        finally:
            self._sending -= 1

    @property
    def streaming(self) -> bool:
        """Whether a client waits for slices; not one that does not take those it is sent."""
        return self._bell.has_listeners and not self._sending

    def _news(self, since: int, began: float) -> tuple[Update, list[bytes]]:
        update = self.case.update(since)
        server_s = perf_counter() - began
        return update, list(frames_of(self.case, update, since, server_s))

    def _end(self, number: int, update: Update) -> tuple[State, str | None] | None:
        if number != self._newest:
            return "superseded", None
        if update.running or update.more:
            return None
        return ("done", None) if update.error is None else ("failed", message_of(update.error))


class Sessions:
    """All open cases.

    Parameters
    ----------
    queues
        One per device; a new session goes to the one with the fewest.
    memory
        What cases and requests may take together.
    """

    def __init__(
        self,
        settings: Settings,
        spec: ModelSpec,
        queues: Sequence[EngineQueue],
        memory: Memory | None = None,
    ) -> None:
        self._memory = Memory(settings.memory_mib * MIB) if memory is None else memory
        self._settings = settings
        self._spec = spec
        self._queues = queues
        self._open: dict[str, Session] = {}
        self._being_made = 0
        self._making = asyncio.Semaphore(2)  # preparing takes several times what a case holds

    def __len__(self) -> int:
        return len(self._open)

    @property
    def nbytes(self) -> int:
        """Memory of all sessions together."""
        return sum(session.case.nbytes for session in self._open.values())

    def find(self, name: str) -> Session:
        """An open session, which counts as used now. Raises :class:`SessionGone`."""
        session = self._open.get(name)
        if session is None:
            raise SessionGone(
                "there is no such session any more.",
                fix="Open the case again.",
            )
        session.used, session.ends = monotonic(), math.inf
        return session

    async def open(self, read: Callable[[], ViewerCase], voxels: int) -> Session:
        """Open a case, in a thread.

        Parameters
        ----------
        read
            Gives it.
        voxels
            How many its images have together.

        Raises
        ------
        SessionsFull
            No room, and no session idle long enough to make some.
        TLPError
            The case cannot be used.
        """
        self._require_room()
        self._being_made += 1
        try:
            async with asyncio.timeout(self._settings.timeout_s), self._making:
                loop = asyncio.get_running_loop()
                with self.taken(PREPARING_BYTES * voxels):
                    session = await asyncio.to_thread(lambda: self._made(read(), loop))
        except TimeoutError:
            raise SessionsFull(
                f"opening took longer than {self._settings.timeout_s:g} s; the server is busy or "
                "the scan too large.",
                fix="Try again later.",
            ) from None
        finally:
            self._being_made -= 1
        self._make_room(session.case.nbytes)
        self._open[session.id] = session
        return session

    def drop(self, name: str) -> None:
        """Forget a session. Raises :class:`SessionGone`."""
        self.find(name).case.pause()
        del self._open[name]
        with contextlib.suppress(RuntimeError):  # no loop, or one that ends
            loop = asyncio.get_running_loop()
            loop.call_later(TRIM_AFTER_S, loop.run_in_executor, None, trim)

    @contextlib.contextmanager
    def taken(self, nbytes: int) -> Iterator[None]:
        """Count memory that a request takes for a while.

        Raises
        ------
        InputTooLarge, SessionsFull
            As of :meth:`take`.
        """
        self.take(nbytes)
        try:
            yield
        finally:
            self.give_back(nbytes)

    def take(self, nbytes: int) -> None:
        """Count memory that a request takes, until :meth:`give_back`.

        Raises
        ------
        InputTooLarge
            More than there is without any case.
        SessionsFull
            More than there is now, and no session is idle long enough to make room.
        """
        self._make_room(nbytes)
        self._memory.taken += nbytes

    def give_back(self, nbytes: int) -> None:
        """End what :meth:`take` began."""
        self._memory.taken -= nbytes

    def leave(self, name: str, seconds: float) -> None:
        """Drop a session if it is not used within some time. Raises :class:`SessionGone`."""
        self.find(name).ends = monotonic() + seconds

    async def expire(self) -> None:
        """Drop sessions that are idle or were left, for ever."""
        while True:
            await asyncio.sleep(EXPIRY_EVERY_S)
            self._drop_expired()

    def _drop_expired(self) -> None:
        """Apart from the loop that calls it, which would hold the last session while it waits."""
        now = monotonic()
        for session in self._unwatched():
            if now > min(session.used + self._settings.idle_s, session.ends):
                self.drop(session.id)
                logger.info("a session expired")

    def close(self) -> None:
        """Drop all."""
        for name in list(self._open):
            self.drop(name)

    def _made(self, given: ViewerCase, loop: asyncio.AbstractEventLoop) -> Session:
        counts = dict.fromkeys(self._queues, 0)
        for other in list(self._open.values()):
            counts[other.case.queue] += 1
        queue = min(self._queues, key=lambda queue: counts[queue])
        bell = Bell(loop)
        case = InteractiveCase(given.prepared, self._spec, queue, bell.ring)
        if given.mask is not None:
            case.draw(MaskBox((0, 0, 0), case.grid.shape), given.mask)
            case.pause()  # until a page asks
        return Session(given.name, case, bell)

    def _require_room(self) -> None:
        """Refuse before anything is read, or drop the session that was idle longest."""
        if len(self._open) + self._being_made >= self._settings.max_sessions:
            self._drop_longest_idle(
                f"{self._settings.max_sessions} sessions are open, which is the limit"
            )

    def _make_room(self, nbytes: int) -> None:
        memory, allowed = self._memory, f"{self._settings.memory_mib} MiB"
        if nbytes > memory.for_cases:
            raise InputTooLarge(
                f"this takes {math.ceil(nbytes / MIB)} MiB, and of the {allowed} that the server "
                f"may take {memory.for_cases // MIB} MiB are left for cases and requests",
                fix=SetOption("memory_mib", "more"),
            )
        while memory.missing(nbytes, self.nbytes):
            self._drop_longest_idle(
                f"the open sessions and requests take the {allowed} that are allowed"
            )

    def _drop_longest_idle(self, reason: str) -> None:
        now = monotonic()
        idle = [s for s in self._unwatched() if s.ends < math.inf or now - s.used > GRACE_S]
        if not idle:
            raise SessionsFull(
                f"{reason}, and all are in use.",
                fix="Close one, or try again later.",
            )
        self.drop(min(idle, key=lambda session: (session.ends, session.used)).id)
        logger.info("an idle session was dropped to make room")

    def _unwatched(self) -> list[Session]:
        """Sessions from which no client waits for slices."""
        return [session for session in self._open.values() if not session.streaming]
