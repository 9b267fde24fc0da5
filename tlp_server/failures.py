"""Errors over HTTP: statuses, bodies, and fixes worded for clients of the API."""

from __future__ import annotations

import http
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from tlp_runtime.engines.choice import EngineChoice
from tlp_runtime.errors import (
    Advice,
    ChooseAnother,
    DeviceError,
    Fix,
    Forbidden,
    InputError,
    InputMissing,
    InputTooLarge,
    MemoryExhausted,
    ModelMismatch,
    ModelMissing,
    OutOfStep,
    RequestTooLarge,
    RequestTooSlow,
    SessionGone,
    SessionsFull,
    SetOption,
    TLPError,
    TokenNeeded,
    Unfinished,
    UnknownHost,
    UsageError,
    fix_to_dict,
    joined,
)
from tlp_runtime.options import options_of
from tlp_server.settings import Settings

_STATUS: tuple[tuple[type[TLPError], int], ...] = (
    (SessionGone, 404),
    (SessionsFull, 429),
    (Forbidden, 403),
    (UnknownHost, 421),
    (TokenNeeded, 401),
    (RequestTooLarge, 413),
    (RequestTooSlow, 408),
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

PARAMETERS = ("labels",)
"""Options that a client of the API can set, as query parameters of that name."""

GIVEN = ("t1", "t2", "prompt")
"""What a client of the API chooses itself."""

SERVER_OPTIONS = {
    "model",
    *(one.name for group in (Settings, EngineChoice) for one in options_of(group)),
}
"""Options that whoever runs the server can set."""


def status_of(error: TLPError) -> int:
    """The HTTP status of an error."""
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


def worded(fix: Fix) -> str:
    """A fix as a client of the API can carry it out; empty where it cannot."""
    match fix:
        case Advice(text):
            return text
        case SetOption(option, value, purpose) if option in PARAMETERS:
            given = f"={value}" if value else ""
            return f"Send the query parameter {option}{given} {purpose}".rstrip() + "."
        case SetOption(option, value, purpose) if option in SERVER_OPTIONS:
            to = f" to {value}" if value else ""
            return f"Whoever runs the server can set {option}{to} {purpose}".rstrip() + "."
        case ChooseAnother(option, what, purpose) if option in GIVEN:
            return f"Choose another {what} {purpose}".rstrip() + "."
        case _:
            return ""


def message_of(error: TLPError) -> str:
    """An error's problem, and what a client of the API can do about it."""
    return joined(error.problem, map(worded, error.fixes))


def refusal(request: Request, error: TLPError) -> JSONResponse:
    """The response of an error."""
    more = {"revision": error.revision} if isinstance(error, OutOfStep) else {}
    return _response(
        request,
        status_of(error),
        type(error).__name__,
        error.problem,
        message=message_of(error),
        fixes=error.fixes,
        **more,
    )


async def on_error(request: Request, error: Exception) -> JSONResponse:
    """The response of one of the toolkit's own errors."""
    assert isinstance(error, TLPError)
    return refusal(request, error)


class RefusedBody(HTTPException):
    """One of our own errors, raised while a body is read: the framework lets only its own pass."""

    def __init__(self, error: TLPError) -> None:
        super().__init__(status_of(error), error.problem)
        self.error = error


async def on_http_error(request: Request, error: Exception) -> JSONResponse:
    """The response of the framework's: unknown paths and methods, and bodies that are refused."""
    if isinstance(error, RefusedBody):
        return refusal(request, error.error)
    assert isinstance(error, HTTPException)
    kind = http.HTTPStatus(error.status_code).phrase.title().replace(" ", "")
    return _response(request, error.status_code, kind, str(error.detail))


async def on_invalid(request: Request, error: Exception) -> JSONResponse:
    """The response of requests of another form; says where, not what was sent."""
    assert isinstance(error, RequestValidationError)
    found = "; ".join(
        f"{'.'.join(str(part) for part in detail['loc'])}: {detail['msg']}"
        for detail in error.errors()[:5]
    )
    return _response(request, 422, "InvalidRequest", found or "the request is malformed.")


async def on_defect(request: Request, error: Exception) -> JSONResponse:
    """The response of a defect; its message may name a file, and is not sent."""
    return _response(request, 500, "InternalError", "the server failed; its log says where.")


def _response(
    request: Request,
    status: int,
    kind: str,
    problem: str,
    *,
    message: str | None = None,
    fixes: tuple[Fix, ...] = (),
    **more: Any,
) -> JSONResponse:
    """An error's body: ours, or under ``/v2`` that of the Open Inference Protocol."""
    headers = {"Retry-After": "30"} if status == 429 else None
    problem = problem.encode("utf-8", "backslashreplace").decode()  # what was sent may be no text
    said = problem if message is None else message.encode("utf-8", "backslashreplace").decode()
    if request.scope["path"].startswith("/v2"):
        return JSONResponse({"error": said}, status, headers)
    body = {
        "kind": kind,
        "message": said,
        "problem": problem,
        "fixes": [fix_to_dict(fix) for fix in fixes],
    }
    return JSONResponse({"error": body, **more}, status, headers)
