"""Checkpoints: Lightning's file with our specification inside, loaded as tensors only."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tlp_runtime.errors import (
    ModelDamaged,
    ModelMismatch,
    ModelMissing,
    RunTask,
    UnsafeCheckpoint,
)
from tlp_runtime.files.hashes import sha256
from tlp_runtime.spec.model import ModelSpec
from tlp_train.config import TrainConfig
from tlp_train.network import Generator

_GENERATOR = "generator."
IMPORTED = "imported"
"""Key of the origin of a checkpoint that was not trained here."""


@dataclass(frozen=True)
class Checkpoint:
    """A trained generator and where it came from.

    Parameters
    ----------
    sha256
        Of the file.
    epoch
        Epochs that were finished; 0 of imported weights.
    config
        How it was trained; None of imported weights.
    imported
        ``file`` and ``sha256`` of the weights it was imported from; None if it was trained here.
    """

    path: Path
    sha256: str
    spec: ModelSpec
    epoch: int
    config: TrainConfig | None
    imported: Mapping[str, str] | None
    generator_state: Mapping[str, Tensor]

    def generator(self, spec: ModelSpec | None = None) -> Generator:
        """The network with these weights, in evaluation mode.

        Parameters
        ----------
        spec
            What the network means where that differs from the checkpoint's own, such as in the
            sizes of slices it is exported for.
        """
        network = Generator(self.spec if spec is None else spec)
        try:
            network.load_state_dict(dict(self.generator_state))
        except RuntimeError as error:
            raise ModelDamaged(
                f"{self.path}: its weights do not fit its specification: {error}"
            ) from error
        return network.eval()


def load_checkpoint(path: Path) -> Checkpoint:
    """Read what ``tlp train`` or ``tlp import`` wrote. Code inside a file is never executed.

    Raises
    ------
    ModelMissing
        No such file.
    UnsafeCheckpoint
        It holds objects other than tensors and plain values.
    ModelDamaged
        It is cut short or no checkpoint at all.
    ModelMismatch
        A sound file without our specification.
    """
    data = load_safely(path)
    ours = data.get("tlp") if isinstance(data, dict) else None
    if not isinstance(ours, dict) or "state_dict" not in data:
        raise ModelMismatch(
            f"{path}: holds no TLP model specification; expected a checkpoint of this toolkit",
            fix=RunTask("import", purpose="to make one of weights of the published implementation"),
        )
    state = {
        name.removeprefix(_GENERATOR): tensor
        for name, tensor in data["state_dict"].items()
        if name.startswith(_GENERATOR)
    }
    return Checkpoint(
        path=path,
        sha256=sha256(path),
        spec=ModelSpec.from_json(ours["spec"]),
        config=TrainConfig.from_dict(ours["config"]) if IMPORTED not in ours else None,
        imported=ours.get(IMPORTED),
        epoch=int(data.get("epoch", -1)) + 1,
        generator_state=state,
    )


def write_checkpoint(
    path: Path, spec: ModelSpec, generator_state: Mapping[str, Tensor], record: Mapping[str, Any]
) -> None:
    """Write a checkpoint of a generator alone, with what is known of its origin."""
    torch.save(
        {
            "state_dict": {f"{_GENERATOR}{name}": t for name, t in generator_state.items()},
            "tlp": {"spec": spec.to_json(), **record},
        },
        path,
    )


def load_safely(path: Path) -> Any:
    """``torch.load`` of tensors and plain values only, with errors that say what is wrong."""
    if not path.is_file():
        raise ModelMissing(f"{path}: no such checkpoint.")
    try:
        with warnings.catch_warnings():
            # torch warns of odd pickles before it refuses them; the error below says it.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if not zipfile.is_zipfile(path) and not _looks_like_pickle(path):
            raise ModelDamaged(f"{path}: is no checkpoint, or damaged.") from error
        raise UnsafeCheckpoint(
            f"{path}: holds objects other than tensors and plain values and was not loaded, since "
            "loading could run code. Expected a checkpoint of this toolkit, or a plain state dict."
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise ModelDamaged(
            f"{path}: is damaged or cut short ({str(error).splitlines()[0]}). Copy it again."
        ) from error


def _looks_like_pickle(path: Path) -> bool:
    with path.open("rb") as handle:
        return handle.read(1) == b"\x80"
