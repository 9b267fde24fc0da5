"""`tlp serve`: the viewer and its API for cases that are uploaded or lie in a folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tlp_runtime.errors import DependencyMissing

from .console import Output, Quiet, Verbose, begin, require
from .model import (
    BatchOption,
    DeviceOption,
    EngineOption,
    ModelOption,
    NoBuildOption,
    ThreadsOption,
    choose_bundle,
    open_engine,
)

if TYPE_CHECKING:
    from tlp_runtime.spec.model import ModelSpec
    from tlp_server.cases import ViewerCase
    from tlp_server.settings import Settings

HostOption = Annotated[
    str, typer.Option("--host", help="Address to serve on; others than loopback need a token.")
]
TokenOption = Annotated[
    str | None,
    typer.Option(
        "--token",
        envvar="TLP_TOKEN",
        help="What every request must carry; auto makes one. Best given by TLP_TOKEN.",
    ),
]
MISSING_PAGE = "the viewer's page is not built in this checkout"
BUILD_PAGE = (
    "Install Node.js 20 or newer and run: make page (that is: npm ci and npm run build in web/). "
    "A wheel carries the page."
)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Model and engine of a server."""

    model: str | None
    engine: str
    device: str
    batch: int
    threads: int | None
    no_build: bool


def command(
    root: Annotated[
        Path | None, typer.Option("--root", help="Folder whose NIfTI files may be opened.")
    ] = None,
    host: HostOption = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="0 takes any that is free.")
    ] = 8765,
    token: TokenOption = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option("--allowed-host", help="Another name of this server (a proxy's); repeatable."),
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option("--allow-origin", help="Another page that may use the API; repeatable."),
    ] = None,
    max_sessions: Annotated[int, typer.Option("--max-sessions", min=1, help="Open cases.")] = 16,
    memory: Annotated[
        int, typer.Option("--memory", min=1, metavar="MIB", help="Of all open cases together.")
    ] = 4096,
    idle: Annotated[
        float, typer.Option("--idle", min=1, metavar="S", help="A case unused so long is dropped.")
    ] = 1800,
    max_upload: Annotated[
        int, typer.Option("--max-upload", min=1, metavar="MIB", help="Of a request, as sent.")
    ] = 512,
    max_volume: Annotated[
        int, typer.Option("--max-volume", min=1, metavar="MIB", help="Of an image, as float64.")
    ] = 1024,
    timeout: Annotated[
        float, typer.Option("--timeout", min=1, metavar="S", help="For a body, a case, an engine.")
    ] = 60,
    model: ModelOption = None,
    engine: EngineOption = "auto",
    device: DeviceOption = "auto",
    batch: BatchOption = 4,
    threads: ThreadsOption = None,
    no_build: NoBuildOption = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Serve the interactive viewer, its API and the Open Inference Protocol (v2).

    The address is printed to standard output. Loopback alone by default: anything else needs a
    token, and a proxy with TLS before it.

    Examples: tlp serve --root /data/study
    · TLP_TOKEN=… tlp serve --host 0.0.0.0 --allowed-host tlp.hospital.example
    """
    output = begin(quiet, verbose)
    require("serve", "fastapi", "uvicorn", "multipart")
    from tlp_server.app import page_is_built
    from tlp_server.settings import Settings

    settings = Settings(
        host=host,
        port=port,
        token=made_token(token),
        root=root,
        allowed_hosts=tuple(name.lower() for name in allowed_host or ()),
        allow_origins=tuple(allow_origin or ()),
        max_sessions=max_sessions,
        memory_mib=memory,
        idle_s=idle,
        max_upload_mib=max_upload,
        max_volume_mib=max_volume,
        timeout_s=timeout,
    )
    if not page_is_built():
        output.note(f"warning: {MISSING_PAGE}; the API is served without it. {BUILD_PAGE}")
    machine = Machine(
        model=model, engine=engine, device=device, batch=batch, threads=threads, no_build=no_build
    )
    run_server(settings, machine, None, output)


def made_token(token: str | None) -> str | None:
    """The token that was given; ``auto`` makes one."""
    import secrets

    return secrets.token_urlsafe(24) if token == "auto" else token


def require_page() -> None:
    """Raise :class:`DependencyMissing` unless this installation has the viewer's page."""
    from tlp_server.app import page_is_built

    if not page_is_built():
        raise DependencyMissing(MISSING_PAGE, fix=BUILD_PAGE)


def run_server(
    settings: Settings,
    machine: Machine,
    inputs: Sequence[str] | None,
    output: Output,
    case: Callable[[ModelSpec], ViewerCase] | None = None,
    started: Callable[[str], None] = lambda address: None,
) -> None:
    """Take the address, choose the model, read the case, load the engines, serve until Ctrl-C.

    Parameters
    ----------
    inputs
        The modalities that the model must take; None: any.
    started
        Called with the page's address once it answers.
    """
    from tlp_runtime.engines.devices import choose_all
    from tlp_runtime.interactive.queue import EngineQueue
    from tlp_server.run import address_of, listen, serve

    with ExitStack() as opened:
        listener = opened.enter_context(listen(settings.host, settings.port))
        choices = choose_all(machine.engine, machine.device)
        bundle = choose_bundle(output, machine.model, inputs)
        given = None if case is None else case(bundle.spec)
        if machine.engine == "auto":
            output.default("engine", choices[0].name, choices[0].reason)
        queues = [
            opened.enter_context(
                EngineQueue(
                    open_engine(output, choice, bundle, machine.threads, machine.no_build),
                    batch=machine.batch,
                )
            )
            for choice in choices
        ]

        def begin() -> None:
            address = address_of(listener, settings)
            print(address, flush=True)
            output.note("Ctrl-C ends it.")
            started(address)

        serve(settings, listener, queues, given, begin)
