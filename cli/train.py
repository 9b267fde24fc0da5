"""`tlp train`: a run folder with checkpoints, metrics and samples."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tlp_runtime.errors import SpecError, UsageError
from tlp_runtime.spec.model import IntensitySpec, NetworkSpec
from tlp_train.config import TrainConfig
from tlp_train.config import preset as preset_of
from tlp_train.split import SplitOptions

from .console import Output, Quiet, Verbose, begin, command_line, error_console, require
from .options import Pick, given_flags, verb
from .phantom import generate

if TYPE_CHECKING:
    from tlp_train.runs import Run

OF_A_RESUMED_RUN = {"resume", "cache", "quiet", "verbose"}
"""Parameters that go with --resume."""

DEMO_CASES = 18
DEMO_SEED = 0


class Inputs(StrEnum):
    """Modalities of a model."""

    t1 = "t1"
    t2 = "t2"
    both = "t1,t2"

    @property
    def names(self) -> tuple[str, ...]:
        """In branch order."""
        return tuple(self.value.split(","))


class Preset(StrEnum):
    """Sets of training options."""

    demo = "demo"
    paper = "paper"


@verb
def command(
    context: typer.Context,
    *,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            metavar="DIR",
            help="Folder of BraTS cases; by default the built-in phantom.",
            rich_help_panel=SplitOptions.TITLE,
        ),
    ] = None,
    inputs: Annotated[
        Inputs | None,
        typer.Option(
            "--inputs",
            help="Modalities that the model takes; by default t1.",
            rich_help_panel=SplitOptions.TITLE,
        ),
    ] = None,
    split: SplitOptions,
    intensity: Annotated[dict[str, Any], IntensitySpec, Pick(changes=True)],
    cache: Annotated[
        Path | None,
        typer.Option(
            "--cache",
            metavar="DIR",
            help="Folder for the decoded slices.",
            rich_help_panel=SplitOptions.TITLE,
        ),
    ] = None,
    preset: Annotated[
        Preset | None,
        typer.Option(
            "--preset",
            help="Set of options to begin with; by default demo on the phantom, paper on data.",
            rich_help_panel=TrainConfig.TITLE,
        ),
    ] = None,
    changes: Annotated[dict[str, Any], TrainConfig, Pick(changes=True)],
    network: Annotated[dict[str, Any], NetworkSpec, Pick(changes=True)],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Run folder to make.")
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            "--resume", metavar="DIR", help="Run folder to continue, with its own options."
        ),
    ] = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Train a model on BraTS cases, or on the built-in phantom.

    A run folder receives checkpoints, metrics and samples; an interrupted run is resumed from it.

    Examples: tlp train
    · tlp train --data BraTS2021 --inputs t1,t2 --preset paper --split list.txt
    · tlp train --data BraTS2021 --devices 4 --precision bf16-mixed
    · tlp train --resume RUN
    """
    output = begin(quiet, verbose)
    require("train", "torch", "lightning", "monai", "scipy", "tensorboard")
    from tlp_train.trainer import is_first_process, join_run

    first = is_first_process()
    if not first:  # of several processes one speaks
        output = Output(quiet=True)
    if resume is None and not first:
        run = join_run(out)
    elif resume is not None:
        given = given_flags(context, *(n for n in context.params if n not in OF_A_RESUMED_RUN))
        if given:
            raise UsageError(
                f"--resume continues a run with its own options; leave out {', '.join(given)}."
            )
        run = _reopen(resume)
    else:
        if inputs is None:
            inputs = Inputs.t1
            output.default("inputs", inputs.value, "default")
        if preset is None:
            preset = Preset.demo if data is None else Preset.paper
            output.default("preset", preset.value, "default")
        if "precision" not in changes:
            if preset is Preset.demo:
                from tlp_train.trainer import fast_precision

                changes["precision"] = fast_precision()
            precision = changes.get("precision", TrainConfig.precision)
            output.default("precision", precision, "default")
        config = _configure(preset.value, inputs.names, changes, network, intensity)
        if data is None:
            data = _phantom(output)
        run = _create(data, config, out, split)
    _fit(run, cache, output, resume=resume is not None)


def _configure(
    name: str,
    inputs: tuple[str, ...],
    changes: dict[str, Any],
    network: dict[str, Any],
    intensity: dict[str, Any],
) -> TrainConfig:
    """The preset with the options that were given."""
    config = preset_of(name, inputs)
    published = asdict(config.spec.network)
    kept = {k: v for k, v in published.items() if k not in ("blocks", "heads", "levels")}
    levels = network.pop("levels", published["levels"])
    if intensity:
        intensity = {"rule": "percentile-crop", **intensity}
    try:
        spec = replace(
            config.spec,
            network=NetworkSpec.with_levels(levels, **{**kept, **network}),
            intensity=IntensitySpec(**intensity),
        )
    except SpecError as error:
        raise UsageError(f"these options make no model: {error}") from error
    if "epochs" in changes:
        # The learning rate keeps its shape: constant for the same share of the run.
        share = config.constant_epochs / config.epochs
        changes = {"constant_epochs": round(changes["epochs"] * share), **changes}
    return replace(config, spec=spec, **changes)


def _phantom(output: Output) -> Path:
    """The built-in phantom cohort; made once, then found again."""
    from tlp_runtime.files.atomic import make_folder
    from tlp_runtime.models.store import home
    from tlp_train.phantom import case_name

    folder = make_folder(home() / "phantom" / f"seed-{DEMO_SEED}")
    output.default("data", f"{DEMO_CASES} cases of the built-in phantom", str(folder))
    names = {case_name(index): index for index in range(DEMO_CASES)}
    missing = [index for name, index in names.items() if not (folder / name).exists()]
    if len(missing) == DEMO_CASES:
        generate(output, folder, cases=DEMO_CASES, seed=DEMO_SEED)
    else:  # an earlier run was interrupted
        for index in missing:
            generate(output, folder, cases=1, seed=DEMO_SEED, first=index)
    return folder


def _create(data: Path, config: TrainConfig, out: Path | None, split: SplitOptions) -> Run:
    from tlp_runtime.io.brats import find_cases
    from tlp_train.runs import Run

    names = [case.name for case in find_cases(data, (*config.spec.inputs, "t1ce", "seg"))]
    return Run.create(out, config, data, split.parts(names, config.seed))


def _reopen(folder: Path) -> Run:
    from tlp_runtime.errors import ModelMissing
    from tlp_train.runs import Run

    run = Run.open(folder)
    if run.status == "finished":
        raise UsageError(
            f"{folder}: is finished; export it with {command_line('tlp', 'export', folder)}"
        )
    if not run.last.is_file():
        raise ModelMissing(f"{folder}: has no {run.last.name} yet; start it again with tlp train.")
    return run


def _fit(run: Run, cache: Path | None, output: Output, *, resume: bool) -> None:
    import torch

    from tlp_runtime.models.store import home
    from tlp_train.callbacks import TrainingInterrupted
    from tlp_train.trainer import fit

    config = run.config
    digest = hashlib.sha256(str(run.data).encode()).hexdigest()[:16]
    cache = cache or home() / "cache" / "slices" / digest
    total = len(run.split.train) + len(run.split.validation)
    output.note(
        f"cases: {len(run.split.train)} train, {len(run.split.validation)} validation, "
        f"{len(run.split.test)} test (split.json)"
    )
    several = f"{config.devices} x " if config.devices > 1 else ""
    several = f"{config.nodes} machines x {several or '1 x '}" if config.nodes > 1 else several
    output.default("device", several + ("cuda" if torch.cuda.is_available() else "cpu"))
    output.default("run", run.folder)
    on_terminal = error_console().is_terminal and not output.quiet

    def say(row: Mapping[str, str]) -> None:
        if not on_terminal or int(row["epoch"]) + 1 == run.config.epochs:
            output.note(
                f"epoch {int(row['epoch']) + 1} of {run.config.epochs}: training L1 "
                f"{row['train_l1']}, validation PSNR without prompt {row['val_psnr']} dB"
            )

    try:
        with output.progress("reading cases") as bar:
            task = bar.add_task("", total=total)

            def read(name: str) -> None:
                bar.advance(task)
                if bar.finished:
                    bar.stop()

            fit(run, cache, resume=resume, progress=on_terminal, on_case=read, on_epoch=say)
    except TrainingInterrupted:
        output.note(
            f"interrupted; the state is saved in {run.last}\n"
            f"next: {command_line('tlp', 'train', '--resume', run.folder)}"
        )
        raise typer.Exit(130) from None
    output.done(str(run.folder), "tlp export")
