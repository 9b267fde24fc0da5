"""`tlp view`: one case in the interactive viewer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer

from tlp_runtime.engines.choice import EngineChoice
from tlp_runtime.errors import TLPError, first_line
from tlp_runtime.synthesis.request import Request
from tlp_server.settings import Settings

from .browser import PrivatePage
from .console import Quiet, Verbose, begin, require
from .last_address import Address, LastAddress, is_free
from .model import ModelOption
from .options import Pick, verb
from .serve import require_page, run_server

if TYPE_CHECKING:
    from tlp_runtime.spec.model import ModelSpec
    from tlp_server.cases import ViewerCase


OPTIONS = (
    "t1", "t2", "t1_series", "t2_series", "prompt", "labels", "allow_incomplete",
    "ignore_frame_of_reference",
)  # fmt: skip


@verb
def command(
    *,
    asked: Annotated[
        Request,
        Pick(only=OPTIONS),
    ],
    model: ModelOption = None,
    choice: EngineChoice,
    served: Annotated[
        dict[str, Any],
        Settings,
        Pick(
            only=("host", "port", "token", "token_file", "no_token", "memory"),
            defaults={"port": 0, "max_sessions": 4},
            changes=True,
        ),
    ],
    no_open: Annotated[
        bool,
        typer.Option(
            "--no-open",
            help="Print the address, open no browser.",
            rich_help_panel=Settings.TITLE,
        ),
    ] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Draw on a scan in the browser and see its synthesis change.

    Starts a server that only this machine can reach, prints its address and opens it. Started
    again for the same files, it takes the same address, and a page that is still open goes on.

    Example: tlp view --t1 a.nii.gz --t2 b.nii.gz --prompt roi.nii.gz
    """
    output = begin(quiet, verbose)
    require("serve", "fastapi", "uvicorn", "multipart")
    require_page()

    images = {name: Path(str(image)) for name, image in asked.images.items()}

    def make() -> Request:
        from tlp_runtime.synthesis.request import read

        whole = read(asked)
        scans = {  # the page shows names without their folders
            name: replace(scan, volume=replace(scan.volume, name=images[name].resolve().name))
            for name, scan in whole.scans.items()
        }
        return replace(whole, images=scans)

    def case(spec: ModelSpec) -> ViewerCase:
        from tlp_runtime.io.nifti import stem
        from tlp_server.cases import read_case

        first = next(iter(images.values())).resolve()
        # with its folder: many a scan is called t1.nii.gz
        return read_case(f"{first.parent.name}/{stem(first)}", make, spec)

    last = LastAddress(images.values())
    settings = _settings(served, last.read())
    page = PrivatePage()

    def started(address: str) -> None:
        port = urlsplit(address).port or 0
        try:
            last.write(Address(port, settings.token))
        except (OSError, TLPError) as error:
            output.note(f"a restart will not be found by the page: {first_line(error)}")
        if not no_open and not page.open(address):
            output.note("no browser could be opened; open the address yourself.")

    try:
        run_server(settings, model, choice, tuple(images), output, case, started, page.remove)
    finally:
        page.remove()


def _settings(given: dict[str, Any], last: Address | None) -> Settings:
    """What was given; for the rest the case's last port and token, as far as they can be had."""
    chosen = dict(given)
    if last is not None:
        if not given.get("port") and is_free(given.get("host", "127.0.0.1"), last.port):
            chosen["port"] = last.port
        if last.token and not any(given.get(one) for one in ("token", "token_file", "no_token")):
            chosen["token"] = last.token
    return Settings(**chosen)
