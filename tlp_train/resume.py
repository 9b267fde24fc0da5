"""What may change when a run goes on, and whether its result is still that of a run without a stop.

The batch of an optimiser step stays what it was: with other devices, each takes another share.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from tlp_runtime.bench.machine import environment as machine
from tlp_runtime.errors import ModelMissing, RunTask, SetOption, UsageError
from tlp_runtime.files.atomic import atomic_file
from tlp_runtime.spec.model import ModelSpec
from tlp_runtime.values.prompt import label_texts, labels_of
from tlp_train.config import CHANGEABLE, TrainConfig
from tlp_train.networks import registry
from tlp_train.runs import Run, Session, now

_PLACES = ("data", "segmentations")
"""Changes that are not of the configuration."""

_INEXACT = ("devices", "nodes", "accumulate")
"""Changes after which sums are made in another order."""


@dataclass(frozen=True)
class Part:
    """What is to be trained of a run.

    Parameters
    ----------
    run
        With the options it has from now on.
    resumes
        Whether it continues from a checkpoint; a run without one starts from the beginning.
    changes
        Options that changed, by name, each as ``old -> new``.
    from_best
        ``last.ckpt`` was not there, so it goes on from ``best.ckpt``: the run was killed between
        writing the two, or somebody removed it.
    """

    run: Run
    resumes: bool = False
    changes: Mapping[str, str] = field(default_factory=dict)
    from_best: bool = False


def reopen(folder: Path, given: Mapping[str, Any]) -> Part:
    """A run that is to go on, with changes.

    Parameters
    ----------
    given
        Options by name, those of the network and of the intensity rule among them; what equals the
        run's own is not a change.

    Raises
    ------
    ModelError
        It is not a run folder, its record is damaged, or its checkpoints are missing.
    UsageError
        It is finished, or what was given cannot change.
    """
    run = Run.open(folder)
    own = _own(run)
    given = {**given, **_options(given.get("network_options", {}), run.config.spec)}
    changed = {
        name: value
        for name, value in given.items()
        if name != "network_options" and _plain(value) != own.get(name)
    }
    fixed = [
        f"{name} ({_shown(own[name])}, given {_shown(changed[name])})" if name in own else name
        for name in changed
        if name not in CHANGEABLE
    ]
    if fixed:
        raise UsageError(
            f"{folder}: what a run was begun with cannot change on resume: {', '.join(fixed)}",
            fix=(
                "Leave it out.",
                f"These may change: {', '.join(CHANGEABLE)}.",
                RunTask("train", (("from", str(run.last)),), "for a new run from its weights"),
            ),
        )
    epochs = changed.get("epochs", run.config.epochs)
    if epochs < run.config.epochs:
        raise UsageError(
            f"{folder}: a run of {run.config.epochs} epochs cannot become one of {epochs}",
            fix="Give more epochs, or leave it out.",
        )
    if run.status == "finished" and epochs == run.config.epochs:
        raise UsageError(
            f"{folder}: is finished",
            fix=(
                RunTask("export", arguments=(str(folder),)),
                SetOption("epochs", "a larger number", "to train it longer"),
            ),
        )
    if run.status == "finished" and not (run.last.is_file() or run.best.is_file()):
        raise ModelMissing(f"{folder}: {run.last.name}, which it would continue from, is missing.")
    from_best = not run.last.is_file() and run.best.is_file()
    if from_best:
        with atomic_file(run.last, overwrite=True) as temporary:
            shutil.copyfile(run.best, temporary)
    config = _changed(run.config, {k: v for k, v in changed.items() if k not in _PLACES})
    data = Path(changed["data"]).resolve() if "data" in changed else run.data
    drawn = run.segmentations
    if "segmentations" in changed:
        drawn = Path(changed["segmentations"]).resolve()
    elif drawn is not None and drawn.is_relative_to(run.data):
        drawn = data / drawn.relative_to(run.data)
    words = {name: f"{_shown(own[name])} -> {_shown(value)}" for name, value in changed.items()}
    changed_run = replace(run, config=config, data=data, segmentations=drawn)
    return Part(changed_run, run.last.is_file(), words, from_best)


def begun_session(run: Run, before: TrainConfig | None, *, epoch: int, step: int) -> Session:
    """The record of a part of a run that begins.

    Parameters
    ----------
    before
        The configuration of the part before it; None at the start of a run.
    epoch, step
        Epochs finished and batches used before it.
    """
    here, changes = environment(), {}
    differs = []
    if before is not None:
        changes = {
            name: f"{old} -> {new}"
            for name, old, new in (
                (name, getattr(before, name), getattr(run.config, name))
                for name in CHANGEABLE
                if name not in _PLACES
            )
            if old != new
        }
        differs += [f"{name}: {changes[name]}" for name in _INEXACT if name in changes]
        if "epochs" in changes and epoch > before.constant_epochs:
            differs.append(f"epochs: {changes['epochs']}, after the learning rate began to fall")
        if "epochs" in changes and before.decoy_share and epoch > before.decoy_epoch:
            differs.append(f"epochs: {changes['epochs']}, after decoys began")
        known = run.sessions[-1].environment if run.sessions else {}
        differs += [
            f"{name}: {known.get(name, 'not recorded')} -> {value}"
            for name, value in here.items()
            if known.get(name) != value
        ]
    return Session(
        began=now(), epoch=epoch, step=step, changes=changes, environment=here,
        differs=tuple(differs),
    )  # fmt: skip


def environment() -> dict[str, str]:
    """What decides the last bits of a result, apart from the options."""
    on_gpu = torch.cuda.is_available()
    return {
        "torch": torch.__version__,
        "numpy": version("numpy"),
        "device": torch.cuda.get_device_name() if on_gpu else machine("")["cpu"],
        "threads": os.environ.get("OMP_NUM_THREADS") or str(torch.get_num_threads()),
    }


def _changed(config: TrainConfig, changes: Mapping[str, Any]) -> TrainConfig:
    """The configuration with changes, and each step over as many slices as before."""
    if "epochs" in changes:
        config = config.with_epochs(changes["epochs"])
    wanted = {**{name: getattr(config, name) for name in ("devices", "nodes")}, **changes}
    shares = wanted["devices"] * wanted["nodes"]
    if config.global_batch % shares:
        raise UsageError(
            f"a batch of {config.global_batch} slices cannot be shared out among {shares} devices",
            fix=SetOption("devices", "a divisor of the batch"),
        )
    return replace(config, **{**wanted, "batch_size": config.global_batch // shares})


def _own(run: Run) -> dict[str, Any]:
    """What a run was begun with, by the names under which options are given."""
    config = run.config
    values = {one.name: getattr(config, one.name) for one in fields(config)}
    spec = config.spec
    network = {**spec.network.options, "network": spec.network.name, "prompt": spec.network.prompt}
    values |= network | asdict(spec.intensity) | {"inputs": spec.inputs, "data": str(run.data)}
    values["segmentations"] = run.segmentations
    values["labels"] = label_texts(labels_of(spec.prompt))
    return {name: _plain(value) for name, value in values.items()}


def _options(texts: Mapping[str, str], spec: ModelSpec) -> Mapping[str, Any]:
    """Options of the run's network, as they were typed, by their values."""
    options = registry.network(spec.network.name).options
    return {name: options.parsed(name, text) for name, text in texts.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value.resolve())
    return tuple(value) if isinstance(value, list) else value


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
