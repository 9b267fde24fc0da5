"""`tlp serve`: the viewer and its API for cases that are uploaded or lie in a folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from tlp_runtime.engines.choice import EngineChoice
from tlp_runtime.errors import DependencyMissing
from tlp_server.settings import Settings

from .console import Output, Quiet, Verbose, begin, require
from .model import ModelOption, choose_bundle, open_engine, say_engine
from .options import verb

if TYPE_CHECKING:
    from tlp_runtime.spec.model import ModelSpec
    from tlp_server.cases import ViewerCase

MISSING_PAGE = "the viewer's page is not built in this checkout"
BUILD_PAGE = (
    "Install Node.js 20 or newer and run: make page (that is: npm ci and npm run build in web/). "
    "A wheel carries the page."
)


@verb
def command(
    *,
    settings: Settings,
    model: ModelOption = None,
    choice: EngineChoice,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Serve the interactive viewer, its API and the Open Inference Protocol (v2).

    The address, with its token, is printed to standard output. By default only this machine can
    reach it.

    To serve others, use --host, and put a proxy with TLS in front.

    Examples: tlp serve --root /data/study
    · TLP_TOKEN=… tlp serve --host 0.0.0.0 --allowed-host tlp.hospital.example
    """
    output = begin(quiet, verbose)
    require("serve", "fastapi", "uvicorn", "multipart")
    from tlp_server.app import page_is_built

    if not page_is_built():
        output.note(f"warning: {MISSING_PAGE}; the API is served without it. {BUILD_PAGE}")
    run_server(settings, model, choice, None, output)


def require_page() -> None:
    """Raise :class:`DependencyMissing` unless this installation has the viewer's page."""
    from tlp_server.app import page_is_built

    if not page_is_built():
        raise DependencyMissing(MISSING_PAGE, fix=BUILD_PAGE)


def run_server(
    settings: Settings,
    model: str | None,
    choice: EngineChoice,
    inputs: Sequence[str] | None,
    output: Output,
    case: Callable[[ModelSpec], ViewerCase] | None = None,
    started: Callable[[str], None] = lambda address: None,
    first_use: Callable[[], None] = lambda: None,
) -> None:
    """Take the address, choose the model, read the case, load the engines, serve until Ctrl-C.

    Parameters
    ----------
    inputs
        The modalities that the model must take; None: any.
    started
        Called with the page's address once it answers.
    first_use
        Called once, at the first request that is let in to the API.
    """
    from tlp_runtime.engines.devices import choose_all
    from tlp_runtime.interactive.queue import EngineQueue
    from tlp_server.memory import return_freed_memory
    from tlp_server.run import address_of, listen, serve

    return_freed_memory()
    with ExitStack() as opened:
        listener = opened.enter_context(listen(settings.host, settings.port))
        bundle = choose_bundle(output, model, inputs)
        selected = choose_all(choice.engine, choice.device, bundle)
        given = None if case is None else case(bundle.spec)
        say_engine(output, selected[0], bundle, choice)
        queues = [
            opened.enter_context(
                EngineQueue(open_engine(output, one, bundle, choice), batch=choice.batch)
            )
            for one in selected
        ]

        def begin() -> None:
            address = address_of(listener, settings)
            print(address, flush=True)
            output.note("Ctrl-C ends it.")
            started(address)

        serve(settings, listener, queues, given, begin, first_use)
