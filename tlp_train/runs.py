"""Run folders: what a training was told, how far it came, and the newest finished one."""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from tlp_runtime.errors import ChooseAnother, ModelDamaged, ModelMissing, OutputError, RunTask
from tlp_runtime.files.atomic import entries, make_folder, write_text
from tlp_runtime.models.store import Register, home
from tlp_train.config import TrainConfig
from tlp_train.split import Split

Status = Literal["running", "interrupted", "finished"]

LAST, BEST = "last.ckpt", "best.ckpt"


@dataclass(frozen=True)
class Run:
    """A run folder: ``run.json``, ``split.json``, ``metrics.csv``, samples and checkpoints."""

    folder: Path
    config: TrainConfig
    data: Path
    split: Split
    status: Status

    @property
    def last(self) -> Path:
        """The newest state; after the last epoch, the result that the presets export."""
        return self.folder / LAST

    @property
    def best(self) -> Path:
        """The state of highest validation PSNR without prompt."""
        return self.folder / BEST

    @classmethod
    def create(cls, folder: Path | None, config: TrainConfig, data: Path, split: Split) -> Run:
        """Make and register a run; ``folder`` None takes a new one under ``TLP_HOME``.

        Raises
        ------
        OutputError
            ``folder`` exists and is not empty, or cannot be made.
        """
        if folder is None:
            folder = _fresh(home() / "runs", config)
        if folder.exists() and (not folder.is_dir() or any(entries(folder))):
            raise OutputError(
                f"{folder}: exists and is not an empty folder",
                fix=(
                    ChooseAnother("out", "folder"),
                    RunTask("train", (("resume", str(folder)),), "to continue that run"),
                ),
            )
        make_folder(folder)
        run = cls(folder, config, data.resolve(), split, "running")
        write_text(folder / "split.json", split.to_json())
        run.mark("running")  # last: other processes of the run wait for its record
        Register("runs").add(folder.name, folder)
        return run

    @classmethod
    def open(cls, folder: Path) -> Run:
        """Read a run folder.

        Raises
        ------
        ModelMissing, ModelDamaged
            It is no run folder, or its record cannot be read.
        """
        record_file = folder / "run.json"
        if not record_file.is_file():
            raise ModelMissing(f"{folder}: is no run folder (it has no run.json).")
        try:
            record = json.loads(record_file.read_text(encoding="utf-8"))
            return cls(
                folder,
                TrainConfig.from_dict(record["config"]),
                Path(record["data"]),
                Split.from_json(folder / "split.json"),
                record["status"],
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelDamaged(f"{record_file}: cannot be read ({error!r}).") from error

    def mark(self, status: Status) -> None:
        """Record how far the run has come."""
        record: dict[str, Any] = {
            "status": status,
            "updated": datetime.now().astimezone().isoformat(timespec="seconds"),
            "data": str(self.data),
            "config": self.config.to_dict(),
            "versions": {name: version(name) for name in ("tlp-mri", "torch", "lightning", "monai")}
            | {"python": platform.python_version()},
        }
        write_text(self.folder / "run.json", json.dumps(record, indent=2) + "\n")


def newest_finished() -> Run:
    """The finished run that was started last.

    Raises
    ------
    ModelMissing
        There is none.
    """
    for entry in reversed(list(Register("runs"))):
        try:
            run = Run.open(entry.path)
        except (ModelMissing, ModelDamaged):
            continue
        if run.status == "finished":
            return run
    raise ModelMissing(
        "no finished training run was found",
        fix=(RunTask("train", purpose="to train a model"), "Or name a checkpoint."),
    )


def _fresh(parent: Path, config: TrainConfig) -> Path:
    name = f"{datetime.now():%Y%m%d-%H%M%S}-{'-'.join(config.spec.inputs)}-{config.preset}"
    folder, number = parent / name, 2
    while folder.exists():
        folder, number = parent / f"{name}-{number}", number + 1
    return folder
