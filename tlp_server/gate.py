"""Checks of every request: who may ask, by which name, how much, how slowly."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
import traceback
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tlp_runtime.errors import (
    ForeignOrigin,
    RequestError,
    RequestTooLarge,
    SetOption,
    TokenNeeded,
    UnknownHost,
)
from tlp_server.failures import on_defect, refusal
from tlp_server.settings import Settings

logger = logging.getLogger(__name__)

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
OPEN_PATHS = ("/v2/health/live", "/v2/health/ready")
"""Paths that reveal nothing and that a supervisor must reach without a token."""

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
    requires the token, if there is one. A body is bounded in size and time. What fails unexpectedly
    is logged without messages, which may name files; what is logged of a request is its route.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._settings = settings

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
            await send(message)

        refused = self._refused(scope)
        try:
            if refused is not None:
                await refusal(Request(scope), refused)(scope, receive, answer)
            else:
                await self._app(scope, self._bounded(scope, receive), answer)
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
        if not length.isdecimal() or int(length) > settings.max_body:
            return RequestTooLarge(
                self._too_large, fix=SetOption("max_upload_mib", "more", "if it must be sent")
            )
        return None

    def _bounded(self, scope: Scope, receive: Receive) -> Receive:
        """Count the body and the time it takes."""
        left, whole = self._settings.max_body, False
        deadline = asyncio.get_running_loop().time() + self._settings.timeout_s

        async def bounded() -> Message:
            nonlocal left, whole
            if whole:  # from here on it is the end of the connection that is waited for
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                seconds = self._settings.timeout_s
                raise HTTPException(408, f"the body took more than {seconds:g} s.") from None
            left -= len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if left < 0:
                raise HTTPException(413, self._too_large)
            return message

        return bounded

    @property
    def _too_large(self) -> str:
        return f"the request is larger than the {self._settings.max_upload_mib} MiB allowed."


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
