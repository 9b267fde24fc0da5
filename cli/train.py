"""`tlp train`: a run folder with checkpoints, metrics and samples."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tlp_runtime.errors import UsageError

from .console import Output, Quiet, Verbose, begin, error_console, require
from .phantom import generate

if TYPE_CHECKING:
    from tlp_runtime.spec.model import IntensitySpec
    from tlp_train.config import TrainConfig
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
    paper = "paper"


def command(
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Folder of BraTS cases. Without it: the built-in phantom."),
    ] = None,
    inputs: Annotated[
        Inputs | None, typer.Option("--inputs", help="Modalities the model takes.")
    ] = None,
    preset: Annotated[Preset | None, typer.Option("--preset", help="Set of options.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Run folder to make.")] = None,
    resume: Annotated[
        Path | None, typer.Option("--resume", help="Run folder to continue, with its own options.")
    ] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", min=1)] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", min=1)] = None,
    slices_per_epoch: Annotated[
        int | None, typer.Option("--slices-per-epoch", min=1, help="Slices drawn each epoch.")
    ] = None,
    precision: Annotated[
        str | None, typer.Option("--precision", help="32-true or bf16-mixed.")
    ] = None,
    fpg: Annotated[
        bool | None,
        typer.Option("--fpg/--no-fpg", help="Fuzzy prompts, or the exact segmentation (Table IV)."),
    ] = None,
    local_fusion: Annotated[
        bool | None, typer.Option("--local-fusion/--no-local-fusion", help="Table II.")
    ] = None,
    global_fusion: Annotated[
        bool | None, typer.Option("--global-fusion/--no-global-fusion", help="Table II.")
    ] = None,
    levels: Annotated[
        int | None, typer.Option("--levels", min=1, max=3, help="Downsamplings (Table III).")
    ] = None,
    ffn: Annotated[
        str | None, typer.Option("--ffn", help="conv (published code) or gdfn (Restormer).")
    ] = None,
    intensity_percentiles: Annotated[
        str | None,
        typer.Option(
            "--intensity-percentiles",
            metavar="LOW,HIGH",
            help="Scale between percentiles of the brain, such as 0,99.5: one bright vessel then "
            "moves nothing. Default: the published minimum and maximum.",
        ),
    ] = None,
    split_list: Annotated[
        Path | None, typer.Option("--split", help="List of case ids: train, validation, test.")
    ] = None,
    split_sizes: Annotated[
        str | None, typer.Option("--split-sizes", metavar="N,N,N", help="Parts of the list.")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option("--cache", help="Folder for the decoded slices.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=0, help="Processes that load data.")
    ] = None,
    devices: Annotated[
        int | None,
        typer.Option("--devices", min=1, help="GPUs (or CPU processes) on each machine."),
    ] = None,
    nodes: Annotated[
        int | None, typer.Option("--nodes", min=1, help="Machines, under torchrun or SLURM.")
    ] = None,
    accumulate: Annotated[
        int | None,
        typer.Option("--accumulate", min=1, help="Compute each batch in N parts: less memory."),
    ] = None,
    compile_networks: Annotated[
        bool | None, typer.Option("--compile/--no-compile", help="Use torch.compile.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Default 0.")] = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Train a model. Without --data: the demo preset on the built-in phantom.

    Examples: tlp train
    · tlp train --data BraTS2021 --inputs t1,t2 --preset paper --split list.txt
    · tlp train --data BraTS2021 --devices 4 --precision bf16-mixed
    · tlp train --resume RUN
    """
    output = begin(quiet, verbose)
    require("train", "torch", "lightning", "monai", "scipy", "tensorboard")
    options = {
        "epochs": epochs,
        "batch_size": batch_size,
        "slices_per_epoch": slices_per_epoch,
        "precision": precision,
        "workers": workers,
        "seed": seed,
        "fpg": fpg,
        "devices": devices,
        "nodes": nodes,
        "accumulate": accumulate,
        "compile": compile_networks,
    }
    network = {
        "levels": levels,
        "ffn": ffn,
        "local_fusion": local_fusion,
        "global_fusion": global_fusion,
    }
    from tlp_train.trainer import is_first_process, join_run

    first = is_first_process()
    if not first:  # of several processes one speaks
        output = Output(quiet=True)
    if resume is None and not first:
        run = join_run(out)
    elif resume is not None:
        others = {
            "data": data, "inputs": inputs, "preset": preset, "out": out,
            "split": split_list, "split_sizes": split_sizes,
            "intensity_percentiles": intensity_percentiles,
        }  # fmt: skip
        given = [name for name, v in (options | network | others).items() if v is not None]
        if given:
            raise UsageError(
                "--resume continues a run with its own options; leave out "
                + ", ".join(f"--{name.replace('_', '-')}" for name in given)
                + "."
            )
        run = _reopen(resume)
    else:
        if inputs is None:
            inputs = Inputs.t1
            output.default("inputs", inputs.value, "default")
        if preset is None:
            preset = Preset.demo if data is None else Preset.paper
            output.default("preset", preset.value, "default")
        if precision is None and preset is Preset.demo:
            from tlp_train.trainer import fast_precision

            options["precision"] = fast_precision()
        config = _configure(preset.value, inputs.names, options, network, intensity_percentiles)
        if precision is None:
            output.default("precision", config.precision, "default")
        if data is None:
            data = _phantom(output)
        run = _create(data, config, out, split_list, split_sizes)
    _fit(run, cache, output, resume=resume is not None)


def _configure(
    name: str,
    inputs: tuple[str, ...],
    options: dict[str, Any],
    network: dict[str, Any],
    percentiles: str | None,
) -> TrainConfig:
    from dataclasses import asdict, replace

    from tlp_runtime.errors import SpecError
    from tlp_runtime.spec.model import NetworkSpec
    from tlp_train.config import preset

    config = preset(name, inputs)
    published = asdict(config.spec.network)
    chosen = {key: value for key, value in network.items() if value is not None}
    kept = {k: v for k, v in published.items() if k not in ("blocks", "heads", "levels")}
    levels = chosen.pop("levels", published["levels"])
    try:
        network_spec = NetworkSpec.with_levels(levels, **{**kept, **chosen})
        spec = replace(config.spec, network=network_spec, intensity=_intensity(percentiles))
    except SpecError as error:
        raise UsageError(f"these options make no model: {error}") from error
    changes = {key: value for key, value in options.items() if value is not None}
    if "epochs" in changes:
        # The learning rate keeps its shape: constant for the same share of the run.
        share = config.constant_epochs / config.epochs
        changes["constant_epochs"] = round(changes["epochs"] * share)
    return replace(config, spec=spec, **changes)


def _intensity(percentiles: str | None) -> IntensitySpec:
    from tlp_runtime.spec.model import IntensitySpec

    if percentiles is None:
        return IntensitySpec()
    try:
        low, high = (float(part) for part in percentiles.split(","))
    except ValueError as error:
        raise UsageError(
            f"--intensity-percentiles {percentiles!r}: expected two numbers such as 0,99.5."
        ) from error
    return IntensitySpec(rule="percentile-crop", percentiles=(low, high))


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


def _create(
    data: Path,
    config: TrainConfig,
    out: Path | None,
    split_list: Path | None,
    split_sizes: str | None,
) -> Run:
    from tlp_runtime.io.brats import find_cases
    from tlp_train import split
    from tlp_train.runs import Run

    names = [case.name for case in find_cases(data, (*config.spec.inputs, "t1ce", "seg"))]
    if split_list is not None:
        parts = split.from_list(split_list, names, _sizes(split_sizes))
    elif split_sizes is not None:
        raise UsageError("--split-sizes divides the list of --split; give both.")
    else:
        parts = split.seeded(names, config.seed)
    return Run.create(out, config, data, parts)


def _sizes(text: str | None) -> tuple[int, int, int] | None:
    if text is None:
        return None
    parts = text.split(",")
    if len(parts) != 3 or not all(part.strip().isdigit() for part in parts):
        raise UsageError(f"--split-sizes {text}: expected three numbers such as 850,20,130.")
    train, validation, test = (int(part) for part in parts)
    return train, validation, test


def _reopen(folder: Path) -> Run:
    from tlp_runtime.errors import ModelMissing
    from tlp_train.runs import Run

    run = Run.open(folder)
    if run.status == "finished":
        raise UsageError(f"{folder}: is finished; export it with tlp export {folder}")
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
            f"interrupted; the state is saved in {run.last}\nnext: tlp train --resume {run.folder}"
        )
        raise typer.Exit(130) from None
    output.done(str(run.folder), "tlp export")
