"""Options that choose a model and an engine, and the choice itself, said aloud."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from tlp_runtime.bundle import Bundle
from tlp_runtime.engines.select import Choice, choose
from tlp_runtime.models import find_bundle

from .console import Output

ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model", help="Bundle folder or registered name; default: the newest that fits."
    ),
]
EngineOption = Annotated[str, typer.Option("--engine", help="auto, ort-cpu or ort-cuda.")]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu or cuda[:INDEX].")]
BatchOption = Annotated[int, typer.Option("--batch", min=1, help="Slices a run of the engine.")]
ThreadsOption = Annotated[
    int | None, typer.Option("--threads", min=1, help="CPU threads; default: one a core.")
]


def choose_model(
    output: Output, model: str | None, inputs: Sequence[str] | None, engine: str, device: str
) -> tuple[Choice, Bundle]:
    """Settle engine and bundle, printing the defaults that were taken."""
    choice = choose(engine, device)
    bundle, why = find_bundle(model, inputs)
    if model is None:
        output.default("model", bundle.name, why)
    if engine == "auto":
        output.default("engine", choice.name, choice.reason)
    return choice, bundle
