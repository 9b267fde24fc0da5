"""Checks of every request: who may ask, by which name, how much, how slowly."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tlp_runtime.errors import (
    ForeignOrigin,
    RequestError,
    RequestTooLarge,
    RequestTooSlow,
    SetOption,
    TLPError,
    TokenNeeded,
    UnknownHost,
)
from tlp_server.failures import RefusedBody, on_defect, refusal
from tlp_server.sessions import Sessions
from tlp_server.settings import Settings

logger = logging.getLogger(__name__)

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
OPEN_PATHS = ("/v2/health/live", "/v2/health/ready")
"""Paths that reveal nothing and that a supervisor must reach without a token."""

LARGE = ("/upload", "/prompt", "/strokes", "/infer")
"""Ends of the paths whose bodies hold voxels."""
SMALL_BODY = 1 << 16
"""Most bytes of any other body: JSON of a few paths."""
PIECE = 1 << 18
"""Most bytes that are sent at once: what a reader that stalls has not taken stays in memory."""

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; "
        "worker-src 'self' blob:; connect-src 'self'; frame-ancestors 'none'; form-action 'self'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Gate:
    """The outermost layer of the application.

    The Host header must name this server and a request that changes something must come from its
    own page (or from no page at all), so that other sites cannot use a reader's browser; the API
    requires the token, if there is one. A body is bounded in size and time, all bodies together in
    the memory that they take, and a reader that takes nothing is left after ``idle_s``. What fails
    unexpectedly is logged without messages, which may name files; what is logged of a request is
    its route.

    Parameters
    ----------
    sessions
        Counts the memory of bodies next to that of the cases.
    first_use
        Called once, at the first request that is let in to the API.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        sessions: Sessions,
        first_use: Callable[[], None] = lambda: None,
    ) -> None:
        self._app = app
        self._first_use: Callable[[], None] | None = first_use
        self._settings = settings
        self._sessions = sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            for piece in _pieces(message):
                try:
                    async with asyncio.timeout(self._settings.idle_s):
                        await send(piece)
                except TimeoutError:
                    raise _Stalled from None

        refused = self._refused(scope)
        try:
            if refused is not None:
                await refusal(Request(scope), refused)(scope, receive, answer)
            else:
                if self._first_use is not None and _guarded(scope["path"]):
                    self._first_use()
                    self._first_use = None
                async with self._bounded(scope, receive) as bounded:
                    await self._app(scope, bounded, answer)
        except _Stalled:
            logger.info("a reader of %s took nothing for too long", _route(scope))
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)
            where = "".join(f"\n  {f.filename}:{f.lineno} in {f.name}" for f in frames)
            logger.error("%s in %s%s", type(error).__name__, _route(scope), where)
            if not status:
                told = await on_defect(Request(scope), error)
                await told(scope, receive, answer)
        milliseconds = (time.perf_counter() - began) * 1e3
        logger.info("%s %s %d %.0f ms", scope["method"], _route(scope), status, milliseconds)

    def _refused(self, scope: Scope) -> RequestError | None:
        """Why a request is not let in."""
        headers, settings = Headers(scope=scope), self._settings
        host = headers.get("host", "")
        name = (urlsplit(f"//{host}").hostname or "") if _sound(host) else ""
        if not settings.allows_host(name.lower()):
            return UnknownHost(
                "this server is not known by the name it was asked for",
                fix=(
                    "Use its address.",
                    SetOption("allowed_hosts", "that name", "if it is the server's"),
                ),
            )
        origin = headers.get("origin")
        if origin is not None and scope["method"] not in SAFE_METHODS:
            same = urlsplit(origin).netloc.lower() == host.lower() if _sound(origin) else False
            if not same and origin not in settings.allow_origins:
                return ForeignOrigin(
                    "the request comes from a page of another origin",
                    fix=SetOption("allow_origins", "that origin", "if the page may use it"),
                )
        preflight = scope["method"] == "OPTIONS" and "access-control-request-method" in headers
        if settings.token is not None and not preflight and _guarded(scope["path"]):
            scheme, _, given = headers.get("authorization", "").partition(" ")
            right = secrets.compare_digest(given.encode(), settings.token.encode())
            if scheme.lower() != "bearer" or not right:
                return TokenNeeded(
                    "this server requires a token",
                    fix="Open the address that it printed, or send the header 'Authorization: "
                    "Bearer TOKEN'.",
                )
        length = headers.get("content-length", "0")
        if not length.isdecimal() or len(length) > 18 or int(length) > self._most(scope):
            return self._too_large(scope)
        return None

    @contextlib.asynccontextmanager
    async def _bounded(self, scope: Scope, receive: Receive) -> AsyncIterator[Receive]:
        """Count the body, the time it takes, and the memory until the request is answered."""
        taken, whole = 0, False
        deadline = asyncio.get_running_loop().time() + self._settings.timeout_s

        async def bounded() -> Message:
            nonlocal taken, whole
            if whole:  # from here on it is the end of the connection that is waited for
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                seconds = self._settings.timeout_s
                raise RefusedBody(
                    RequestTooSlow(f"the body took more than {seconds:g} s.")
                ) from None
            count = len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if taken + count > self._most(scope):
                raise RefusedBody(self._too_large(scope))
            if count:  # else nothing is taken, however full the memory is
                try:
                    self._sessions.take(count)
                except TLPError as error:
                    raise RefusedBody(error) from None
                taken += count
            return message

        try:
            yield bounded
        finally:
            self._sessions.give_back(taken)

    def _most(self, scope: Scope) -> int:
        """Bytes of the body."""
        return self._settings.max_body if scope["path"].endswith(LARGE) else SMALL_BODY

    def _too_large(self, scope: Scope) -> RequestTooLarge:
        if self._most(scope) == SMALL_BODY:
            return RequestTooLarge(f"the request is larger than {SMALL_BODY} bytes.")
        return RequestTooLarge(
            f"the request is larger than the {self._settings.max_upload_mib} MiB allowed",
            fix=SetOption("max_upload_mib", "more", "if it must be sent"),
        )


class _Stalled(Exception):
    """The reader of a response takes nothing."""


def _pieces(message: Message) -> Iterator[Message]:
    """A part of a response in parts of at most :data:`PIECE` bytes."""
    body = memoryview(message.get("body", b""))
    if len(body) <= PIECE:
        yield message
        return
    for start in range(0, len(body), PIECE):
        more = start + PIECE < len(body) or message.get("more_body", False)
        yield {**message, "body": bytes(body[start : start + PIECE]), "more_body": more}


def _guarded(path: str) -> bool:
    return path.startswith(("/api", "/v2")) and path not in OPEN_PATHS


def _sound(authority: str) -> bool:
    """Whether it can be taken apart; urlsplit refuses some."""
    try:
        urlsplit(authority if "//" in authority else f"//{authority}")
    except ValueError:
        return False
    return True


def _route(scope: Scope) -> str:
    """The route's pattern: paths and queries may name a patient."""
    return getattr(scope.get("route"), "path", "another path")
