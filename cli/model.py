"""The choice of a model and an engine, printed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer
from rich.progress import Progress, TaskID

from tlp_runtime.engines.base import Engine, Opening
from tlp_runtime.engines.choice import AUTO, EngineChoice
from tlp_runtime.engines.faster import faster_model
from tlp_runtime.engines.select import SelectedEngine, choose
from tlp_runtime.models.bundle import Bundle
from tlp_runtime.models.choice import find_bundle

from .console import Output, command_line

ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        envvar="TLP_MODEL",
        help="Bundle folder or registered name; default: the default model for the inputs.",
        rich_help_panel=EngineChoice.TITLE,
    ),
]


def choose_model(
    output: Output, model: str | None, inputs: Sequence[str] | None, choice: EngineChoice
) -> tuple[SelectedEngine, Bundle]:
    """Settle engine and bundle, printing the defaults that were taken."""
    bundle = choose_bundle(output, model, inputs)
    selected = choose(choice.engine, choice.device, bundle)
    say_engine(output, selected, bundle, choice)
    return selected, bundle


def say_engine(
    output: Output, selected: SelectedEngine, bundle: Bundle, choice: EngineChoice
) -> None:
    """Print the engine that was taken without being named, and what would be faster."""
    if choice.engine == AUTO:
        output.default("engine", selected.name, selected.reason)
    say_faster(output, selected, bundle, choice)


def say_faster(
    output: Output, selected: SelectedEngine, bundle: Bundle, choice: EngineChoice
) -> None:
    """Print which registered model would be faster, where the choice is left to the toolkit."""
    faster = faster_model(bundle, selected) if choice.engine == AUTO else None
    if faster is not None:
        output.note(
            f"the same model in {faster.precision}, proven on export, is faster here: "
            f"{command_line('--model', faster.name)}"
        )


def choose_bundle(output: Output, model: str | None, inputs: Sequence[str] | None) -> Bundle:
    """Settle the bundle, printing a default that was taken."""
    bundle, why = find_bundle(model, inputs)
    if model is None:
        output.default("model", bundle.name, why)
    return bundle


def open_engine(
    output: Output, selected: SelectedEngine, bundle: Bundle, choice: EngineChoice
) -> Engine:
    """Load the bundle, showing the progress of a TensorRT engine that must be built first."""
    with output.progress("building", named=True) as bar:
        return selected.open(bundle, Opening(choice, BuildBar(bar), output.warn))


def infer_line(inputs: Sequence[str], *words: object, prompt: bool = False) -> str:
    """The command that runs a model on a case of one's own."""
    images = [word for name in inputs for word in (f"--{name}", f"{name}.nii.gz")]
    region = ("--prompt", "roi.nii.gz") if prompt else ()
    return command_line("tlp", "infer", *words, *images, *region)


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
