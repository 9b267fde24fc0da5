"""Options that choose a model and an engine, and the choice itself, printed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer
from rich.progress import Progress, TaskID

from tlp_runtime.engines.base import Engine, Opening
from tlp_runtime.engines.registry import AUTO, engine_names
from tlp_runtime.engines.select import Choice, choose
from tlp_runtime.models.bundle import Bundle
from tlp_runtime.models.choice import find_bundle

from .console import Output

ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model", help="Bundle folder or registered name; default: see tlp models default."
    ),
]
EngineOption = Annotated[
    str, typer.Option("--engine", help=f"{AUTO}, {', '.join(engine_names())}.")
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu or cuda[:INDEX].")]
BatchOption = Annotated[int, typer.Option("--batch", min=1, help="Slices per run of the engine.")]
ThreadsOption = Annotated[
    int | None, typer.Option("--threads", min=1, help="CPU threads; default: one per core.")
]

NoBuildOption = Annotated[
    bool,
    typer.Option("--no-build", help="Refuse rather than build a TensorRT engine that is missing."),
]


def choose_model(
    output: Output, model: str | None, inputs: Sequence[str] | None, engine: str, device: str
) -> tuple[Choice, Bundle]:
    """Settle engine and bundle, printing the defaults that were taken."""
    choice = choose(engine, device)
    bundle = choose_bundle(output, model, inputs)
    if engine == AUTO:
        output.default("engine", choice.name, choice.reason)
    return choice, bundle


def choose_bundle(output: Output, model: str | None, inputs: Sequence[str] | None) -> Bundle:
    """Settle the bundle, printing a default that was taken."""
    bundle, why = find_bundle(model, inputs)
    if model is None:
        output.default("model", bundle.name, why)
    return bundle


def open_engine(
    output: Output, choice: Choice, bundle: Bundle, threads: int | None, no_build: bool
) -> Engine:
    """Load the bundle, showing the progress of a TensorRT engine that must be built first."""
    with output.progress("building", named=True) as bar:
        return choice.open(
            bundle,
            Opening(threads=threads, build=not no_build, progress=BuildBar(bar), warn=output.warn),
        )


class BuildBar:
    """TensorRT's build on a progress bar: a line for each phase, within each other.

    Parameters
    ----------
    bar
        Lines appear in it when phases begin.
    """

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._tasks: dict[str, TaskID] = {}

    def start(self, phase: str, steps: int) -> None:
        """A phase begins."""
        self.finish(phase)
        self._tasks[phase] = self._bar.add_task(phase, total=steps)

    def step(self, phase: str, done: int) -> None:
        """So many of its steps are done."""
        if phase in self._tasks:
            self._bar.update(self._tasks[phase], completed=done)

    def finish(self, phase: str) -> None:
        """It ended."""
        task = self._tasks.pop(phase, None)
        if task is not None:
            self._bar.remove_task(task)
