"""Checkpoints: Lightning's file with our record inside, validated by one reader.

The record is under ``tlp``: the model's specification, how it was trained or where it was imported
from, the checkpoints it was fine-tuned from, hashes of the voxels it was trained on, and what their
histograms alone tell of a T1ce (from schema 1.1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tlp_runtime.errors import ModelDamaged, ModelMismatch, RunTask, SpecError
from tlp_runtime.files.hashes import sha256
from tlp_runtime.spec.model import ModelSpec
from tlp_runtime.spec.reader import Contract, build, read_schema
from tlp_train.config import SCHEMA_MAJOR as CONFIG_MAJOR
from tlp_train.config import TrainConfig
from tlp_train.networks import registry
from tlp_train.networks.base import SynthesisNetwork
from tlp_train.safe_files import load_safely, save_whole

SCHEMA_MAJOR = 1
SCHEMA_MINOR = 1
RECORD = "tlp"
GENERATOR = "generator."
_NAMED = 5


@dataclass(frozen=True, kw_only=True)
class Imported:
    """The file of weights that a checkpoint was imported from."""

    file: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Ancestor:
    """A checkpoint that a training took its first weights from.

    Parameters
    ----------
    epoch
        Epochs it had been trained for; 0 of imported weights.
    imported
        Where its weights came from, if they were not trained here.
    """

    file: str
    sha256: str
    epoch: int
    imported: Imported | None = None


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """What a checkpoint says of how it came to be, in addition to its specification.

    Parameters
    ----------
    config
        How it was trained; None of imported weights.
    imported
        Where its weights came from; None if they were trained here.
    ancestors
        The checkpoints it was fine-tuned from, the first first.
    training_voxels
        Hashes of the volumes of its training and validation cases, and of its ancestors'.
    differs
        Why its training may differ, in the last bits or more, from one without a stop.
    learnt_factor
        What :func:`~tlp_train.reference_rows.learn` makes of its training cases; None of imported
        weights and checkpoints of schema 1.0.
    """

    config: TrainConfig | None = None
    imported: Imported | None = None
    ancestors: tuple[Ancestor, ...] = ()
    training_voxels: tuple[str, ...] = ()
    differs: tuple[str, ...] = ()
    learnt_factor: tuple[float, ...] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, with the schema version."""
        return {
            "schema": {"major": SCHEMA_MAJOR, "minor": SCHEMA_MINOR},
            **asdict(self),
            "config": None if self.config is None else self.config.to_dict(),
        }


@dataclass(frozen=True)
class Checkpoint:
    """A trained generator and where it came from.

    Parameters
    ----------
    sha256
        Of the file.
    epoch
        Epochs that were finished; 0 of imported weights.
    """

    path: Path
    sha256: str
    spec: ModelSpec
    epoch: int
    generator_state: Mapping[str, Tensor]
    lineage: Lineage = field(default_factory=Lineage)

    def generator(self, spec: ModelSpec | None = None) -> SynthesisNetwork:
        """The network with these weights, in evaluation mode.

        Parameters
        ----------
        spec
            What the network means where that differs from the checkpoint's own, such as in the
            sizes of slices it is exported for.

        Raises
        ------
        ModelDamaged
            The weights do not fit the specification, or are not finite.
        SpecError
            No such network, or options that it does not have.
        """
        with torch.device("meta"):
            wanted = registry.build(self.spec).state_dict()
        require_fit(self.generator_state, wanted, f"{self.path}: its generator")
        network = registry.build(self.spec if spec is None else spec)
        network.load_state_dict(dict(self.generator_state))
        return network.eval()

    def as_ancestor(self) -> tuple[Ancestor, ...]:
        """The ancestors of what is trained from it: its own, and itself."""
        own = Ancestor(
            file=self.path.name,
            sha256=self.sha256,
            epoch=self.epoch,
            imported=self.lineage.imported,
        )
        return (*self.lineage.ancestors, own)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read what ``tlp train`` or ``tlp import`` wrote. Code inside a file is never executed.

    Raises
    ------
    ModelMissing
        No such file.
    UnsafeCheckpoint
        It holds objects other than tensors and plain values.
    ModelDamaged
        It is empty, cut short, altered or no checkpoint at all.
    ModelMismatch
        A sound file without our record, or of a newer version.
    SpecError
        Its specification or its training configuration has unknown, missing or wrong keys.
    """
    return checkpoint_of(load_safely(path), path)


def checkpoint_of(data: Any, path: Path) -> Checkpoint:
    """The generator of what a checkpoint's file holds. Raises as :func:`load_checkpoint`."""
    record = data.get(RECORD) if isinstance(data, Mapping) else None
    state = data.get("state_dict") if isinstance(data, Mapping) else None
    if record is None or not isinstance(state, Mapping):
        raise ModelMismatch(
            f"{path}: holds no TLP model specification; expected a checkpoint of this toolkit",
            fix=RunTask("import", purpose="to make one of weights of the published implementation"),
        )
    spec, lineage = _read_record(record, path)
    epoch = data.get("epoch", -1)
    if type(epoch) is not int or epoch < -1:
        raise ModelDamaged(f"{path}: its epoch is {epoch!r}, expected a number.")
    bad = [str(name) for name, value in state.items() if not isinstance(value, Tensor)]
    if bad or not state:
        raise ModelDamaged(f"{path}: holds no weights, or others than tensors: {shortened(bad)}.")
    return Checkpoint(
        path=path,
        sha256=sha256(path),
        spec=spec,
        epoch=epoch + 1,
        generator_state={
            str(name).removeprefix(GENERATOR): tensor
            for name, tensor in state.items()
            if str(name).startswith(GENERATOR)
        },
        lineage=lineage,
    )


def write_checkpoint(
    path: Path,
    spec: ModelSpec,
    generator_state: Mapping[str, Tensor],
    lineage: Lineage,
    *,
    overwrite: bool = True,
) -> None:
    """Write a checkpoint of a generator alone. Raises :class:`OutputError`."""
    save_whole(
        path,
        {
            "state_dict": {f"{GENERATOR}{name}": t for name, t in generator_state.items()},
            RECORD: {"spec": spec.to_json(), **lineage.to_dict()},
        },
        overwrite=overwrite,
    )


def require_fit(state: Mapping[str, Any], wanted: Mapping[str, Tensor], what: str) -> None:
    """Raise unless a state dict has the wanted names and shapes and holds finite numbers.

    Raises
    ------
    ModelDamaged
        ``what`` begins the message.
    """
    problems = {
        "lacks": [name for name in wanted if name not in state],
        "has unknown": [name for name in state if name not in wanted],
        "has of another shape": [
            f"{name} {tuple(state[name].shape)}, expected {tuple(tensor.shape)}"
            for name, tensor in wanted.items()
            if name in state and state[name].shape != tensor.shape
        ],
        "has of another kind": [
            name
            for name, tensor in wanted.items()
            if name in state and not _like(state[name], tensor)
        ],
    }
    problems["has numbers that are not finite in"] = [
        name
        for name, tensor in state.items()
        if name not in problems["has of another kind"] and not torch.isfinite(tensor).all()
    ]
    found = [f"{how} {shortened(names)}" for how, names in problems.items() if names]
    if found:
        raise ModelDamaged(f"{what} does not fit its specification: it {'; it '.join(found)}.")


def _like(found: Tensor, wanted: Tensor) -> bool:
    """Whether a tensor is dense, in memory, and of whole or real numbers as wanted."""
    return (
        found.layout == torch.strided
        and found.device.type == "cpu"
        and not found.is_quantized
        and not found.is_complex()
        and found.is_floating_point() == wanted.is_floating_point()
    )


def _read_record(record: Any, path: Path) -> tuple[ModelSpec, Lineage]:
    """The specification and lineage of a checkpoint."""
    contract = Contract(what=f"{path}: its record", error=ModelDamaged)
    if not isinstance(record, Mapping):
        contract.refuse(f"is {type(record).__name__}, expected an object")
    body = dict(record)
    if "schema" in body:
        major, minor = read_schema(body, contract)
        if minor == 0:
            body.setdefault("learnt_factor", None)
        if major != SCHEMA_MAJOR or minor > SCHEMA_MINOR:
            raise ModelMismatch(
                f"{path}: a checkpoint of format {major}.{minor}, this version reads "
                f"{SCHEMA_MAJOR}.{SCHEMA_MINOR}",
                fix="Install a matching tlp-mri.",
            )
    else:
        body = _converted(body)
    text = body.get("spec")
    if not isinstance(text, str):
        contract.refuse(f"has {'no' if text is None else 'an odd'} model specification")
    extra: list[str] = []
    try:
        spec = ModelSpec.from_json(text)
        own = {name: value for name, value in body.items() if name not in ("schema", "spec")}
        lineage = build(Lineage, own, contract, extra)
    except SpecError as error:
        raise SpecError(f"{path}: {error.problem}", fix=error.fixes) from error
    if extra:
        contract.refuse(f"has unknown keys {', '.join(sorted(extra))}")
    if (lineage.config is None) == (lineage.imported is None):
        contract.refuse("says neither how it was trained nor where it was imported from, or both")
    return spec, lineage


def _converted(body: Mapping[str, Any]) -> dict[str, Any]:
    """A record without schema, as the first version wrote it, as one of schema 1.0."""
    values: dict[str, Any] = {**Lineage().to_dict(), **body}
    values.pop("rng", None)  # the state of a training; read by those who resume it
    if isinstance(values["config"], Mapping) and "schema" not in values["config"]:
        values["config"] = {"schema": {"major": CONFIG_MAJOR, "minor": 0}, **values["config"]}
    return values


def shortened(names: list[str]) -> str:
    """The first of several names, and how many more there are."""
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
