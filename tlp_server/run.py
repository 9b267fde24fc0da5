"""The server as a process: its socket, and its end."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Sequence

import uvicorn

from tlp_runtime.errors import ChooseAnother, SetOption, UsageError
from tlp_runtime.interactive.queue import EngineQueue
from tlp_server.app import create_app
from tlp_server.cases import ViewerCase
from tlp_server.memory import resident_bytes
from tlp_server.settings import MIB, Settings

BACKLOG = 128
GOODBYE_S = 3
"""How long answers under way may take once the server is asked to stop."""


def listen(host: str, port: int) -> socket.socket:
    """Take the address before a model is loaded; port 0 takes any that is free.

    Raises
    ------
    UsageError
        It is taken, or not this machine's.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.create_server(address[:2], family=family, backlog=BACKLOG)
        # Connections inherit it: the second part of an answer must not wait until the client
        # has confirmed the first, which takes it 40 ms.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except OSError as error:
        raise UsageError(
            f"port {port} of {host} cannot be served on ({error.strerror or error})",
            fix=(ChooseAnother("port", "port"), SetOption("port", "0", "for any that is free")),
        ) from None


def address_of(listener: socket.socket, settings: Settings) -> str:
    """Where a browser finds the page; the token stands in the fragment, which no log sees."""
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = socket.getfqdn()
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}/" + (f"#token={settings.token}" if settings.token else "")


def serve(
    settings: Settings,
    listener: socket.socket,
    queues: Sequence[EngineQueue],
    case: ViewerCase | None = None,
    started: Callable[[], None] = lambda: None,
    first_use: Callable[[], None] = lambda: None,
) -> None:
    """Serve until Ctrl-C or SIGTERM, then close the queues.

    Parameters
    ----------
    started
        Called once requests are answered.
    first_use
        Called once, at the first request that is let in to the API.

    Raises
    ------
    UsageError
        The process takes all of the memory that it may take before a case is open.
    """
    base = resident_bytes()
    if base >= settings.memory_mib * MIB:
        raise UsageError(
            f"the server takes {base // MIB} MiB before any case is open, of the "
            f"{settings.memory_mib} MiB that it may take",
            fix=SetOption("memory_mib", "more"),
        )
    config = uvicorn.Config(
        create_app(settings, queues, case, first_use),
        log_config=None,
        access_log=False,  # paths and queries may name a patient; the gate logs routes
        server_header=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=GOODBYE_S,
        h11_max_incomplete_event_size=64 * 1024,
    )

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                started()

    try:
        with contextlib.suppress(KeyboardInterrupt):  # the usual end, once all is closed
            Server(config).run(sockets=[listener])
    finally:
        for queue in queues:
            queue.close()
