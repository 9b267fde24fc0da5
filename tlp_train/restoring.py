"""Whether a checkpoint holds the whole state of a training, before Lightning restores it.

Lightning counts from 0 what it does not find, and takes what it finds as it is.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.optim import Adam

from tlp_runtime.errors import ModelDamaged, ModelMismatch
from tlp_train.checkpoint import Checkpoint, checkpoint_of, require_fit
from tlp_train.config import CHANGEABLE, TrainConfig
from tlp_train.loaders import SliceData
from tlp_train.module import STATE, SynthesisModule
from tlp_train.safe_files import load_safely

_ALL = ("ready", "started", "processed", "completed")
_PROGRESS = {
    "epoch_progress": _ALL,
    "epoch_loop.batch_progress": _ALL,
    "epoch_loop.val_loop.batch_progress": _ALL,
    "epoch_loop.manual_optimization.optim_step_progress": ("ready", "completed"),
}
_FOLLOWS = ("batch_size", "constant_epochs", "decoy_epoch")
"""What follows from options that may change."""


def require_resumable(path: Path, module: SynthesisModule, trainer: L.Trainer) -> None:
    """Raise unless a checkpoint holds the whole state of a training.

    What is there is also tried on what it is for; Lightning restores it again.

    Parameters
    ----------
    module, trainer
        Of the run that goes on; both are left in some state of it.

    Raises
    ------
    ModelMismatch
        It was trained with other options than the run's record says.
    ModelError
        As :func:`~tlp_train.checkpoint.load_checkpoint`, and where the state of the networks,
        optimisers, schedules or the training's progress is missing or does not fit.
    """
    data = load_safely(path)
    _require_same_options(checkpoint_of(data, path), module.config)
    require_fit(data["state_dict"], module.state_dict(), f"{path}: its state")
    problem = next(_problems(data, module), None)
    if problem is not None:
        raise _cannot(path, problem)
    try:
        _try(copy.deepcopy({k: v for k, v in data.items() if k != "state_dict"}), module, trainer)
    except Exception as error:  # whatever else is wrong in the state of a library's object
        raise _cannot(path, f"holds a state that does not fit ({error!r})") from error


def _require_same_options(checkpoint: Checkpoint, config: TrainConfig) -> None:
    found = checkpoint.lineage.config
    if found is None:
        raise _cannot(checkpoint.path, "was imported")
    left, right = (
        {**asdict(one), "batch": one.global_batch, "spec": replace(one.spec, brightness=())}
        for one in (found, config)
    )
    other = [
        f"{name} {left[name]}, not {right[name]}"
        for name in left
        if left[name] != right[name] and name not in (*CHANGEABLE, *_FOLLOWS)
    ]
    if other or replace(checkpoint.spec, brightness=()) != config.spec:
        raise ModelMismatch(
            f"{checkpoint.path}: was trained with other options than the run's record says: "
            f"{'; '.join(other) or 'another specification'}",
            fix="Put the record back as it was, or begin a new run.",
        )


def _problems(data: Mapping[str, Any], module: SynthesisModule) -> Iterator[str]:
    """What is missing, one by one."""
    own, _ = module.configure_optimizers()
    optimisers, schedules = data.get("optimizer_states"), data.get("lr_schedulers")
    if not isinstance(optimisers, list) or len(optimisers) != len(own):
        yield f"holds no state of its {len(own)} optimisers"
    elif not all(map(_fits, optimisers, own)):
        yield "has the state of an optimiser that does not fit its network"
    if (
        not isinstance(schedules, list)
        or len(schedules) != len(own)
        or not all(
            isinstance(one, Mapping) and _is_count(one.get("last_epoch")) for one in schedules
        )
    ):
        yield "holds no state of its learning rates"
    loops = data.get("loops")
    fitted = loops.get("fit_loop") if isinstance(loops, Mapping) else None
    if not isinstance(fitted, Mapping) or not all(
        _counts(fitted.get(key), names) for key, names in _PROGRESS.items()
    ):
        yield "does not say how far its training came"
    if not isinstance(data.get("callbacks"), Mapping):
        yield "holds no state of what accompanies its training"
    state = module.state_of(data)
    rng = state.get("rng") if isinstance(state, Mapping) else None
    now = torch.get_rng_state()
    if not isinstance(rng, Tensor) or (rng.dtype, rng.shape) != (now.dtype, now.shape):
        yield "holds no state of its random numbers"
    elif STATE in data and not _has_losses(state, module.terms):  # the first version had none
        yield "holds no losses of its epoch so far"
    used = data.get(SliceData.__qualname__)
    if not isinstance(used, Mapping) or not _is_count(used.get("batches_used")):
        yield "does not say which of an epoch's slices were used"
    if type(data.get("pytorch-lightning_version")) is not str:
        yield "does not say which version of Lightning wrote it"
    if not _is_count(data.get("global_step")):
        yield "does not say how many steps were made"


def _try(data: dict[str, Any], module: SynthesisModule, trainer: L.Trainer) -> None:
    """Restore all but the weights."""
    optimisers, schedules = module.configure_optimizers()
    for optimiser, state in zip(optimisers, data["optimizer_states"], strict=True):
        optimiser.load_state_dict(state)
    for schedule, state in zip(schedules, data["lr_schedulers"], strict=True):
        rates = schedule.base_lrs
        schedule.load_state_dict(state)
        if schedule.base_lrs != rates:
            raise ValueError(f"learning rate {schedule.base_lrs}, expected {rates}")
    trainer.fit_loop.load_state_dict(data["loops"]["fit_loop"])
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        # The first version's had other states.
        if callback.state_key in data["callbacks"] or (STATE in data and callback.state_dict()):
            callback.load_state_dict(data["callbacks"][callback.state_key])
    module.restore(data)


def _cannot(path: Path, why: str) -> ModelDamaged:
    return ModelDamaged(f"{path}: {why}, so no training can go on from it.")


def _fits(state: Any, optimiser: Adam) -> bool:
    """Whether a state is of such an optimiser: its parameters, and its options but the rate."""
    (wanted,) = optimiser.param_groups
    try:
        (group,) = state["param_groups"]
        moments = state["state"]
        return (
            len(group["params"]) == len(wanted["params"])
            and len(moments) in (0, len(wanted["params"]))  # each has a gradient in every step
            and all(
                moments[key][name].shape == parameter.shape
                and bool(torch.isfinite(moments[key][name]).all())
                for key, parameter in zip(group["params"], wanted["params"], strict=True)
                if key in moments
                for name in ("exp_avg", "exp_avg_sq")
            )
            and all(
                _plain(group[name]) == _plain(value)
                for name, value in wanted.items()
                if name in group and name not in ("params", "lr")
            )
            and math.isfinite(group["lr"])
        )
    except (TypeError, ValueError, KeyError, AttributeError, RuntimeError):
        return False


def _has_losses(state: Mapping[str, Any], terms: Sequence[str]) -> bool:
    sums, voxels = state.get("losses"), state.get("voxels")
    return (
        isinstance(sums, Mapping)
        and all(type(sums.get(name)) is float and math.isfinite(sums[name]) for name in terms)
        and _is_count(state.get("slices"))
        and isinstance(voxels, Mapping)
        and all(isinstance(one, Mapping) for one in voxels.values())
    )


def _counts(progress: Any, names: tuple[str, ...]) -> bool:
    """Whether it is a progress as Lightning counts it."""
    try:
        return all(
            _is_count(progress[span][name]) for span in ("total", "current") for name in names
        )
    except (TypeError, KeyError):
        return False


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
