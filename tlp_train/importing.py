"""Weights of published implementations to checkpoints of ours.

A published state dict says nothing of what it takes in; inputs and network are told, and everything
else is read off its keys and shapes and then checked key by key.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tlp_runtime.errors import ChooseAnother, ModelMismatch, SetOption, SpecError, UsageError
from tlp_runtime.files.hashes import sha256
from tlp_runtime.spec.model import ModelSpec
from tlp_train.checkpoint import Imported, Lineage, write_checkpoint
from tlp_train.networks import registry
from tlp_train.networks.tlp.options import TLPOptions
from tlp_train.networks.tlp.published import published_name, shown
from tlp_train.safe_files import load_safely

_SHOWN = 20


def import_weights(
    weights: Path,
    inputs: tuple[str, ...],
    out: Path,
    *,
    network: str = TLPOptions.NAME,
    overwrite: bool,
) -> Path:
    """Turn a state dict of a published implementation into a checkpoint of ours.

    Parameters
    ----------
    weights
        A file of ``torch.save``: a state dict, also under the key ``state_dict``, also with the
        prefix ``module.`` that ``DataParallel`` leaves. Only tensors are loaded from it.
    inputs
        What the branches take: the file does not say.
    out
        Where to write.
    network
        Whose published layout it has. All but TLP take no prompt.

    Raises
    ------
    ModelMissing, ModelDamaged, UnsafeCheckpoint
        No file, a damaged one, or one with more than tensors and plain values.
    ModelMismatch
        Keys that are unknown, missing or of another shape; every kind is listed.
    UsageError
        The network has no published weights, or does not take these inputs.
    OutputError
        ``out`` exists or cannot be written.
    """
    state = _state_dict(load_safely(weights), weights)
    if network == TLPOptions.NAME:
        spec = ModelSpec(inputs=inputs, network=shown(state, weights, len(inputs)).as_spec())
        names = {published_name(name, spec): name for name in _wanted(spec)}
    else:
        names = _names(state, weights, network)
        spec = _spec(state, names, weights, network, inputs)
    ours = _renamed(state, names, spec, weights)
    imported = Imported(file=weights.name, sha256=sha256(weights))
    write_checkpoint(out, spec, ours, Lineage(imported=imported), overwrite=overwrite)
    return out


def _state_dict(data: Any, source: Path) -> dict[str, Tensor]:
    if isinstance(data, Mapping) and isinstance(data.get("state_dict"), Mapping):
        data = data["state_dict"]
    if not isinstance(data, Mapping) or not any(isinstance(v, Tensor) for v in data.values()):
        raise ModelMismatch(
            f"{source}: holds {type(data).__name__}, expected a state dict: parameter names to "
            "tensors."
        )
    state = {str(key): value for key, value in data.items()}
    while all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    if any(key.startswith("generator.") for key in state):
        raise ModelMismatch(
            f"{source}: is like a checkpoint of this toolkit, not like published weights. Export "
            "it as it is."
        )
    bad = [key for key, value in state.items() if not isinstance(value, Tensor)]
    bad += [
        key
        for key, value in state.items()
        if isinstance(value, Tensor) and not torch.isfinite(value).all()
    ]
    if bad:
        raise ModelMismatch(
            f"{source}: these entries are not finite tensors: {_shown(bad)}. Copy the file again, "
            "or save the generator's state_dict() alone."
        )
    return state


def _names(state: Mapping[str, Tensor], source: Path, network: str) -> dict[str, str]:
    """Our names by published keys; a key that the network does not have is its own name."""
    official = registry.network(network).official
    if official is None:
        raise UsageError(
            f"{network}: nobody published weights of it that could be imported",
            fix=ChooseAnother("network", "network"),
        )
    names = {}
    for key in state:
        try:
            names[key] = official(key)
        except KeyError:
            names[key] = key
    return names


def _spec(
    state: Mapping[str, Tensor],
    names: Mapping[str, str],
    source: Path,
    network: str,
    inputs: tuple[str, ...],
) -> ModelSpec:
    """The model of a published state dict, without prompt."""
    chosen = registry.network(network)
    try:
        options = chosen.options(**chosen.shown({names[key]: state[key] for key in state}))
    except (KeyError, IndexError, SpecError) as error:
        raise ModelMismatch(
            f"{source}: its size cannot be read off its keys ({error}). Expected the published "
            f"state dict of {network}'s generator."
        ) from error
    spec = ModelSpec(inputs=inputs, network=options.as_spec(prompt=False))
    try:
        options.require_on(spec)
    except SpecError as error:
        raise UsageError(error.problem, fix=SetOption("inputs", "t1,t2")) from error
    return spec


def _wanted(spec: ModelSpec) -> dict[str, Tensor]:
    """Names and shapes of a model's weights."""
    with torch.device("meta"):
        return registry.build(spec).state_dict()


def _renamed(
    state: Mapping[str, Tensor], names: Mapping[str, str], spec: ModelSpec, source: Path
) -> dict[str, Tensor]:
    """Our state dict of a published one; every key that does not fit is listed.

    A tensor that the published layout holds under several keys must be the same under all.
    """
    wanted = _wanted(spec)
    keys: dict[str, list[str]] = {}
    for key, name in names.items():
        keys.setdefault(name, []).append(key)
    problems = {
        "unknown": [key for key in state if names.get(key) not in wanted],
        "missing": [
            "/".join(keys.get(name, [name]))
            for name in wanted
            if not any(key in state for key in keys.get(name, []))
        ],
        "misshapen": [
            f"{key} {tuple(state[key].shape)}, expected {tuple(wanted[name].shape)}"
            for key, name in names.items()
            if key in state and name in wanted and state[key].shape != wanted[name].shape
        ],
        "different though shared": [
            " and ".join(same)
            for same in ([key for key in one if key in state] for one in keys.values())
            if len(same) > 1 and not all(torch.equal(state[same[0]], state[k]) for k in same[1:])
        ],
    }
    found = [f"  {len(one)} {kind}: {_shown(one)}" for kind, one in problems.items() if one]
    if found:
        raise ModelMismatch(
            f"{source}: does not fit the published network {spec.network} with "
            f"{' and '.join(spec.inputs)}:\n" + "\n".join(found)
        )
    return {
        names[key]: tensor.to(torch.float32) if tensor.is_floating_point() else tensor
        for key, tensor in state.items()
    }


def _shown(keys: list[str]) -> str:
    more = len(keys) - _SHOWN
    return ", ".join(keys[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
