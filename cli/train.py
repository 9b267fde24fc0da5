"""`tlp train`: a run folder with checkpoints, metrics and samples."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tlp_runtime.errors import SpecError, UsageError
from tlp_runtime.io.datasets import DataOptions
from tlp_runtime.spec.model import IntensitySpec, ModelSpec, PromptSpec
from tlp_runtime.synthesis.request import Prompt
from tlp_runtime.values.prompt import Labels, label_texts, labels_of, with_labels
from tlp_train.config import CHANGEABLE, TrainConfig
from tlp_train.config import preset as preset_of
from tlp_train.launchers import is_first_process
from tlp_train.networks.registry import NetworkChoice
from tlp_train.networks.tlp.options import TLPOptions
from tlp_train.split import SplitOptions
from tlp_train.stopping import StopRequests, TrainingStopped, seconds_of

from .console import Output, Quiet, Verbose, begin, command_line, error_console, require
from .datasets import choose_segmentations, say_brought
from .options import Pick, verb
from .phantom import generate

if TYPE_CHECKING:
    from tlp_train.checkpoint import Checkpoint
    from tlp_train.resume import Part
    from tlp_train.runs import Run

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
    lab = "lab"
    paper = "paper"


@verb
def command(
    *,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            metavar="DIR|CSV",
            help="Folder of cases (BraTS, UCSF-PDGM, UPENN-GBM), BIDS dataset, or CSV table with "
            "the columns case, t1, t2, t1ce and seg; by default the built-in phantom.",
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
    layout: DataOptions,
    split: SplitOptions,
    told: Annotated[Prompt, Pick(only=("labels",))],
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
    choice: Annotated[dict[str, Any], NetworkChoice, Pick(changes=True)],
    tlp: Annotated[dict[str, Any], TLPOptions, Pick(changes=True)],
    weights: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="CHECKPOINT",
            help="Begin with the weights of a checkpoint and its inputs, network and intensities.",
            rich_help_panel=TrainConfig.TITLE,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Run folder to make.")
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            "--resume",
            metavar="DIR",
            help=f"Run folder to continue; {', '.join(CHANGEABLE)} may change.",
        ),
    ] = None,
    max_time: Annotated[
        str | None,
        typer.Option(
            "--max-time",
            metavar="TIME",
            help="Save and stop after so long, such as 90m, 12h or 36:00:00.",
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
    · tlp train --resume RUN --epochs 120 --max-time 24h
    · tlp train --network resvit --no-prompt --network-option width=32
    · tlp train --data ours --from RUN/last.ckpt
    """
    output = begin(quiet, verbose)
    require("train", "torch", "lightning", "monai", "scipy", "tensorboard")
    limit = None if max_time is None else seconds_of(max_time)
    run: Run | None = None
    try:
        with StopRequests(limit) as requests:
            first = is_first_process()
            from tlp_train.processes import join_run
            from tlp_train.resume import Part, reopen

            if not first:  # of several processes one speaks
                output = Output(quiet=True)
            if resume is not None:
                given = {
                    **changes, **choice, **tlp, **intensity, "inputs": inputs and inputs.names,
                    "preset": preset and preset.value, "data": data, "out": out, "from": weights,
                    "segmentations": layout.segmentations, "split": split.split,
                    "labels": _texts(told.labels),
                }  # fmt: skip
                part = reopen(resume, {k: v for k, v in given.items() if v is not None})
                _say_what_resumes(part, output)
            elif first:
                origin = _checkpoint(weights)
                if preset is None:
                    preset = Preset.demo if data is None else Preset.paper
                    output.default("preset", preset.value, "default")
                network = AskedNetwork.of(choice, tlp)
                config = _configure(output, preset, inputs, changes, network, intensity, origin)
                config = replace(config, spec=_labelled(config.spec, told.labels))
                segmentations = choose_segmentations(output, data, layout)
                found = data or _phantom(output)
                part = Part(_create(output, found, segmentations, config, out, split, origin))
            else:
                part = Part(join_run(out))
            run = part.run
            _fit(part, cache, requests, output)
    except TrainingStopped as stop:
        _say_how_to_go_on(run, stop, output)
        raise typer.Exit(stop.reason.exit_code) from None
    output.done(str(run.folder), "tlp export")


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


def _checkpoint(weights: Path | None) -> Checkpoint | None:
    from tlp_train.checkpoint import load_checkpoint

    return None if weights is None else load_checkpoint(weights)


@dataclass(frozen=True)
class AskedNetwork:
    """The network that was asked for.

    Parameters
    ----------
    name, prompt
        None where not given.
    options
        Those of its own that were given.
    """

    name: str | None
    prompt: bool | None
    options: Mapping[str, Any]

    @classmethod
    def of(cls, choice: Mapping[str, Any], flags: Mapping[str, Any]) -> AskedNetwork:
        """From the flags of every network, and from those of TLP."""
        options = {**choice.get("network_options", {}), **flags}
        return cls(choice.get("network"), choice.get("prompt"), options)


def _configure(
    output: Output,
    name: Preset,
    inputs: Inputs | None,
    changes: dict[str, Any],
    network: AskedNetwork,
    intensity: dict[str, Any],
    origin: Checkpoint | None,
) -> TrainConfig:
    """The preset with the options that were given.

    Of a checkpoint that the training begins with, inputs, network and intensities are the
    checkpoint's.
    """
    if inputs is None:
        inputs = Inputs.t1 if origin is None else Inputs(",".join(origin.spec.inputs))
        output.default("inputs", inputs.value, "default" if origin is None else "the checkpoint's")
    if "precision" not in changes:
        if name is Preset.demo:
            from tlp_train.trainer import fast_precision

            changes["precision"] = fast_precision()
        output.default("precision", changes.get("precision", TrainConfig.precision), "default")
    try:
        config = _preset(name, inputs, network, origin)
        if intensity:
            rule = IntensitySpec(**{"rule": "percentile-crop", **intensity})
            config = replace(config, spec=replace(config.spec, intensity=rule))
    except SpecError as error:
        raise UsageError(
            f"these options make no model: {error.problem}", fix=error.fixes
        ) from error
    if "epochs" in changes:
        config = config.with_epochs(changes["epochs"])
    return replace(config, **changes)


def _preset(
    name: Preset, inputs: Inputs, network: AskedNetwork, origin: Checkpoint | None
) -> TrainConfig:
    """The preset for the network that was asked for, or for that of a checkpoint."""
    if origin is None:
        asked = {"prompt": network.prompt} if network.prompt is not None else {}
        return preset_of(
            name.value, inputs.names, network.name or NetworkChoice.network,
            network_options=network.options, **asked,
        )  # fmt: skip
    from tlp_train.networks import registry

    own = origin.spec.network
    options = registry.network(own.name).options
    begun = options.of(origin.spec)
    wanted = options.changed(own.options, network.options)
    if (
        inputs.names != origin.spec.inputs
        or network.name not in (None, own.name)
        or network.prompt not in (None, own.prompt)
        or not wanted.may_begin_from(begun)
    ):
        raise UsageError(
            f"{origin.path}: its weights are of other inputs or another network than these options",
            fix="Leave out inputs and options of the network.",
        )
    spec = replace(
        origin.spec, network=wanted.as_spec(prompt=own.prompt), sizes=None, brightness=()
    )
    return replace(preset_of(name.value, inputs.names, own.name, prompt=own.prompt), spec=spec)


def _labelled(spec: ModelSpec, labels: Labels) -> ModelSpec:
    return replace(spec, prompt=with_labels(spec.prompt, labels))


def _texts(labels: Labels) -> list[str] | None:
    """As a run's own labels are shown; None where none are given."""
    return label_texts(labels_of(with_labels(PromptSpec(), labels))) if labels else None


def _create(
    output: Output,
    data: Path,
    segmentations: Path | None,
    config: TrainConfig,
    out: Path | None,
    split: SplitOptions,
    origin: Checkpoint | None,
) -> Run:
    from tlp_runtime.io.datasets import find_cases
    from tlp_train.runs import Run

    arrays = (*config.spec.inputs, "t1ce", "seg")
    cases = find_cases(data, arrays, segmentations=segmentations, warn=output.warn)
    names = [case.name for case in cases]
    return Run.create(
        out,
        config,
        data,
        split.parts(names, config.seed, {case.name: case.patient for case in cases}),
        weights=None if origin is None else origin.path,
        begun_from=() if origin is None else origin.as_ancestor(),
        segmentations=segmentations,
    )


def _fit(part: Part, cache: Path | None, requests: StopRequests, output: Output) -> None:
    import torch

    from tlp_runtime.models.store import home
    from tlp_train.trainer import fit

    run = part.run
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

    with output.progress("reading cases") as bar:
        task = bar.add_task("", total=total)

        def read(name: str) -> None:
            bar.advance(task)
            if bar.finished:
                bar.stop()

        fit(
            run,
            cache,
            resume=part.resumes,
            requests=requests,
            progress=on_terminal,
            on_case=read,
            on_brought=lambda names: say_brought(output, names),
            on_epoch=say,
        )


def _say_what_resumes(part: Part, output: Output) -> None:
    if not part.resumes:
        output.note(
            f"{part.run.folder}: no checkpoint was saved yet; training starts from the beginning"
        )
    if part.from_best:
        output.note(f"{part.run.last.name} was not there; it goes on from {part.run.best.name}")
    for name, change in part.changes.items():
        output.note(f"{name}: {change}")


def _say_how_to_go_on(run: Run | None, stop: TrainingStopped, output: Output) -> None:
    output.note(
        f"stopped by {stop.reason.name}; "
        + (
            "nothing was trained yet"
            if stop.saved is None
            else f"the state is saved in {stop.saved}"
        )
    )
    if run is not None:
        output.note(f"next: {command_line('tlp', 'train', '--resume', run.folder)}")
