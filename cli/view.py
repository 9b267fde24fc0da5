"""`tlp view`: one case in the interactive viewer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tlp_runtime.errors import UsageError

from .console import Quiet, Verbose, begin, require
from .model import (
    BatchOption,
    DeviceOption,
    EngineOption,
    ModelOption,
    NoBuildOption,
    ThreadsOption,
)
from .serve import HostOption, Machine, TokenOption, made_token, require_page, run_server

if TYPE_CHECKING:
    from tlp_runtime.spec.model import ModelSpec
    from tlp_runtime.synthesis.request import Request
    from tlp_server.cases import ViewerCase


def command(
    t1: Annotated[
        Path | None, typer.Option("--t1", help="T1 image: NIfTI, DICOM folder or file.")
    ] = None,
    t2: Annotated[
        Path | None, typer.Option("--t2", help="T2 image: NIfTI, DICOM folder or file.")
    ] = None,
    prompt: Annotated[
        Path | None, typer.Option("--prompt", help="Region to begin with: NIfTI or DICOM SEG.")
    ] = None,
    prompt_labels: Annotated[
        list[str] | None,
        typer.Option("--prompt-labels", help="What labels mean: tumour=N[,N…] oedema=N[,N…]."),
    ] = None,
    model: ModelOption = None,
    engine: EngineOption = "auto",
    device: DeviceOption = "auto",
    batch: BatchOption = 4,
    threads: ThreadsOption = None,
    no_build: NoBuildOption = False,
    host: HostOption = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Default: any that is free.")
    ] = 0,
    token: TokenOption = None,
    no_open: Annotated[
        bool, typer.Option("--no-open", help="Print the address, open no browser.")
    ] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Draw on a scan in the browser and see its synthesis change.

    Starts a server for this machine alone, prints its address and opens it.

    Example: tlp view --t1 a.nii.gz --t2 b.nii.gz --prompt roi.nii.gz
    """
    output = begin(quiet, verbose)
    require("serve", "fastapi", "uvicorn", "multipart")
    require_page()
    from tlp_server.settings import Settings

    images = {name: path for name, path in (("t1", t1), ("t2", t2)) if path is not None}
    if not images:
        raise UsageError("nothing to view: give --t1, --t2 or both. (tlp serve opens files later.)")
    settings = Settings(host=host, port=port, token=made_token(token), max_sessions=4)

    def make() -> Request:
        from tlp_runtime.io.scan import read_scan
        from tlp_runtime.synthesis.request import Request

        volumes = {
            name: replace(read_scan(path).volume, name=path.resolve().name)
            for name, path in images.items()
        }
        return Request(images=volumes, prompt=prompt, prompt_labels=tuple(prompt_labels or ()))

    def case(spec: ModelSpec) -> ViewerCase:
        from tlp_runtime.io.nifti import stem
        from tlp_server.cases import read_case

        first = next(iter(images.values()))
        return read_case(stem(first.resolve()), make, spec)

    def started(address: str) -> None:
        if not no_open:
            import webbrowser

            if not webbrowser.open(address):
                output.note("no browser could be opened; open the address yourself.")

    machine = Machine(
        model=model, engine=engine, device=device, batch=batch, threads=threads, no_build=no_build
    )
    run_server(settings, machine, tuple(images), output, case, started)
