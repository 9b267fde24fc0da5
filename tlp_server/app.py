"""The application: routes, page and middleware."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartParser
from starlette.middleware.cors import CORSMiddleware
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from tlp_runtime.errors import TLPError
from tlp_runtime.interactive.queue import EngineQueue
from tlp_server import api, inference
from tlp_server.cases import ViewerCase
from tlp_server.failures import on_defect, on_error, on_http_error, on_invalid
from tlp_server.files import Root
from tlp_server.gate import Gate
from tlp_server.schemas import FrameHeader
from tlp_server.sessions import Sessions
from tlp_server.settings import Settings
from tlp_server.tensors import HEADER_LENGTH

PAGE = Path(__file__).parent / "page"
"""Where the build of ``web/`` puts the viewer's page."""

DESCRIPTION = (
    "Sessions of the interactive viewer, and the Open Inference Protocol version 2 on prepared "
    "tensors. Synthetic images, not for diagnosis."
)


Lifespan = Callable[[FastAPI], contextlib.AbstractAsyncContextManager[None]]


def page_is_built() -> bool:
    """Whether this installation has the viewer's page."""
    return (PAGE / "index.html").is_file()


def create_app(
    settings: Settings,
    queues: Sequence[EngineQueue],
    case: ViewerCase | None = None,
    first_use: Callable[[], None] = lambda: None,
) -> ASGIApp:
    """The server of one model.

    Parameters
    ----------
    queues
        One per engine, all of one bundle; the caller closes them after the server.
    case
        Opened for whoever asks for a session without naming a scan.
    first_use
        Called once, at the first request that is let in to the API.
    """
    bundle = queues[0].engine.bundle
    sessions = Sessions(settings, bundle.spec, queues)
    service = api.Service(
        settings=settings,
        bundle=bundle,
        queues=tuple(queues),
        sessions=sessions,
        case=case,
        root=None if settings.root is None else Root(settings.root),
    )

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        reaper = asyncio.create_task(sessions.expire())
        yield
        reaper.cancel()
        sessions.close()

    # What is uploaded stays in memory: a scan is not left in a temporary file.
    MultiPartParser.spool_max_size = settings.max_body
    app = _routes(lifespan)
    app.state.service = service
    if page_is_built():
        app.mount("/", StaticFiles(directory=PAGE, html=True), name="page")
    if settings.allow_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.allow_origins,
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=["Authorization", "Content-Encoding", HEADER_LENGTH],
            expose_headers=[HEADER_LENGTH],
        )
    return Gate(app, settings, sessions, first_use)


def description() -> dict[str, Any]:
    """The API's OpenAPI description, of which the page's types are made."""
    return _routes(None).openapi()


def _routes(lifespan: Lifespan | None) -> FastAPI:
    """Every route and its errors, without a service behind them."""
    app = FastAPI(
        title="TLP server",
        description=DESCRIPTION,
        version="1",
        lifespan=lifespan,
        docs_url=None,  # these pages fetch scripts from elsewhere
        redoc_url=None,
        openapi_url="/api/openapi.json",
        exception_handlers={
            TLPError: on_error,
            HTTPException: on_http_error,
            RequestValidationError: on_invalid,
            Exception: on_defect,
        },
    )
    app.include_router(api.router)
    app.include_router(inference.health)
    app.include_router(inference.router)
    plain = app.openapi

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:  # with the frames' header, which no route returns as JSON
            schema = FrameHeader.model_json_schema(ref_template="#/components/schemas/{model}")
            inner = schema.pop("$defs")
            plain()["components"]["schemas"] |= {**inner, "FrameHeader": schema}
        return plain()

    app.openapi = described  # type: ignore[method-assign]
    return app
