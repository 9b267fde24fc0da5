"""What goes wrong, as HTTP says it."""

from __future__ import annotations

import http
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from tlp_runtime.errors import (
    DeviceError,
    InputError,
    InputMissing,
    InputTooLarge,
    MemoryExhausted,
    ModelMismatch,
    ModelMissing,
    TLPError,
    UsageError,
)
from tlp_runtime.interactive.parts import Unfinished


class SessionGone(TLPError):
    """No session of that name: it ended, was idle for too long, or the server was started anew."""


class SessionsFull(TLPError):
    """No room for another session now."""


class Forbidden(TLPError):
    """A file or page that is none of the client's business."""


class OutOfStep(TLPError):
    """A stroke that does not follow on the last one.

    Parameters
    ----------
    revision
        The mask's, here.
    """

    def __init__(self, revision: int) -> None:
        super().__init__(
            f"the mask is at revision {revision} here; send the whole mask with {revision + 1}."
        )
        self.revision = revision


_STATUS: tuple[tuple[type[TLPError], int], ...] = (
    (SessionGone, 404),
    (SessionsFull, 429),
    (Forbidden, 403),
    (OutOfStep, 409),
    (Unfinished, 409),
    (UsageError, 400),
    (InputMissing, 404),
    (InputTooLarge, 413),
    (InputError, 422),
    (ModelMissing, 404),
    (ModelMismatch, 422),
    (DeviceError, 503),
    (MemoryExhausted, 503),
)


def status_of(error: TLPError) -> int:
    """The HTTP status of an error."""
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


def failure(request: Request, status: int, kind: str, message: str, **more: Any) -> JSONResponse:
    """An error's body: ours, or under ``/v2`` that of the Open Inference Protocol."""
    headers = {"Retry-After": "30"} if status == 429 else None
    if request.url.path.startswith("/v2"):
        return JSONResponse({"error": message}, status, headers)
    return JSONResponse({"error": {"kind": kind, "message": message}, **more}, status, headers)


async def on_error(request: Request, error: Exception) -> JSONResponse:
    """Of the toolkit's own errors."""
    assert isinstance(error, TLPError)
    more = {"revision": error.revision} if isinstance(error, OutOfStep) else {}
    return failure(request, status_of(error), type(error).__name__, str(error), **more)


async def on_http_error(request: Request, error: Exception) -> JSONResponse:
    """Of the framework's: unknown paths, methods, bodies that are too large or too slow."""
    assert isinstance(error, HTTPException)
    kind = http.HTTPStatus(error.status_code).phrase.title().replace(" ", "")
    return failure(request, error.status_code, kind, str(error.detail))


async def on_invalid(request: Request, error: Exception) -> JSONResponse:
    """Of requests that are not of the described form; says where, not what was sent."""
    assert isinstance(error, RequestValidationError)
    found = "; ".join(
        f"{'.'.join(str(part) for part in detail['loc'])}: {detail['msg']}"
        for detail in error.errors()[:5]
    )
    return failure(request, 422, "InvalidRequest", found or "the request is malformed.")


async def on_defect(request: Request, error: Exception) -> JSONResponse:
    """Of ours; what went wrong may name a file, and is not told."""
    return failure(request, 500, "InternalError", "the server failed; its log says where.")
