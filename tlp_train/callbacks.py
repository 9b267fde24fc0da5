"""What a run leaves behind as it goes: metrics.csv and sample images."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from torch import Tensor
from torch.utils.data import default_collate

from tlp_runtime.files.atomic import atomic_file, write_text
from tlp_runtime.spec.model import OUTPUT_NAME, PROMPT_NAME
from tlp_train.data import SampleId, SliceDataset
from tlp_train.judging import JUDGED
from tlp_train.module import DISCRIMINATOR, SynthesisModule

COLUMNS = (
    "epoch",
    "step",
    "learning_rate",
    "train_l1",
    "train_generator",
    DISCRIMINATOR,
    "val_psnr",
    "val_l1",
    "seconds",
    "step_seconds",
    "data_wait",
)


REQUIRED = tuple(name for name in COLUMNS if name != DISCRIMINATOR)
"""Columns that every run has; plain regression has no discriminator."""


class MetricsCsv(L.Callback):
    """One row an epoch; a resumed run goes on from the rows before it.

    ``seconds`` is an epoch with its validation, ``step_seconds`` the time from its first step's
    start to its last one's end, and ``data_wait`` the share of that which passed between steps,
    waiting for data and for the trainer itself. Of an epoch that was interrupted they are those of
    its parts together, without the time between.

    Parameters
    ----------
    on_epoch
        Called with each row.
    """

    def __init__(self, path: Path, on_epoch: Callable[[Mapping[str, str]], None] | None) -> None:
        self.path = path
        self.on_epoch = on_epoch
        self._started = self._first_step = self._last_step = self._waited = 0.0
        self._before = {"seconds": 0.0, "steps": 0.0, "waited": 0.0}

    def state_dict(self) -> dict[str, Any]:
        """The seconds of the epoch so far."""
        return self._spent()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the seconds of the epoch's part before the resume."""
        self._before = {name: float(state_dict[name]) for name in self._before}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._begin()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._before = dict.fromkeys(self._before, 0.0)
        self._begin()

    def _begin(self) -> None:
        self._started = time.perf_counter()
        self._first_step = self._last_step = self._waited = 0.0

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any
    ) -> None:
        now = time.perf_counter()
        if self._first_step:
            self._waited += now - self._last_step
        else:
            self._first_step = now

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any
    ) -> None:
        if trainer.is_last_batch and torch.cuda.is_available():
            torch.cuda.synchronize()  # once an epoch, so that the steps are done when timed
        self._last_step = time.perf_counter()

    def _spent(self) -> dict[str, float]:
        """Seconds of the epoch so far: all, in and between steps, between steps."""
        parts = {
            "seconds": time.perf_counter() - self._started if self._started else 0.0,
            "steps": self._last_step - self._first_step if self._last_step else 0.0,
            "waited": self._waited,
        }
        return {name: value + self._before[name] for name, value in parts.items()}

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, SynthesisModule)
        means = pl_module.epoch_means()  # of all processes
        if not trainer.is_global_zero:
            return
        epoch, spent = trainer.current_epoch, self._spent()
        found: dict[str, Any] = {**trainer.callback_metrics, **means}
        columns = [name for name in (*COLUMNS, *JUDGED) if name in (*REQUIRED, *found)]
        row = {name: f"{float(found[name]):.6g}" for name in columns if name in found}
        row |= {
            "epoch": str(epoch),
            # Lightning counts every optimiser's step.
            "step": str(trainer.global_step // len(pl_module.sides)),
            "learning_rate": f"{trainer.optimizers[0].param_groups[0]['lr']:.6g}",
            "seconds": f"{spent['seconds']:.1f}",
            "step_seconds": f"{spent['steps']:.4f}",
            "data_wait": f"{spent['waited'] / max(1e-9, spent['steps']):.4f}",
        }
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(old for old in read_metrics(self.path) if int(old["epoch"]) < epoch)
        writer.writerow(row)
        write_text(self.path, text.getvalue())
        if self.on_epoch is not None:
            self.on_epoch(row)


def read_metrics(path: Path) -> list[dict[str, str]]:
    """The whole rows of a run's ``metrics.csv``; none when it does not exist yet.

    A row that is cut short, as in a copy that was interrupted, is left out.
    """
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8", errors="replace")
    rows = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1]))
    return [row for row in rows if _is_whole(row)]


def _is_whole(row: Mapping[str, Any]) -> bool:
    try:
        further = [name for name in (DISCRIMINATOR, *JUDGED) if name in row]
        whole = [float(row[name]) for name in (*REQUIRED, *further)]
        return int(row["epoch"]) >= 0 and len(whole) == len(row)
    except (KeyError, TypeError, ValueError):
        return False


class SampleImages(L.Callback):
    """Fixed validation slices after each epoch: inputs, prompt, both syntheses, target."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.batch: dict[str, Tensor] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.batch = _samples(trainer.datamodule.validation_set)  # type: ignore[attr-defined]

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        assert isinstance(pl_module, SynthesisModule)
        batch = {name: tensor.to(pl_module.device) for name, tensor in self.batch.items()}
        bare = {**batch, PROMPT_NAME: torch.zeros_like(batch[PROMPT_NAME])}
        pl_module.eval()
        with torch.no_grad():
            without, prompted = pl_module(bare), pl_module(batch)
        pl_module.train()
        panels = [batch[name] for name in pl_module.config.spec.inputs]
        panels += [batch[PROMPT_NAME] * 2 - 1, without, prompted, batch[OUTPUT_NAME]]
        rows = torch.cat([panel.float().cpu() for panel in panels], dim=3).squeeze(1)
        picture = torch.cat(list(rows), dim=0).clamp(-1, 1)
        grey = ((picture + 1) * 127.5).round().numpy().astype(np.uint8)
        self.folder.mkdir(exist_ok=True)
        path = self.folder / f"epoch-{trainer.current_epoch:03d}.png"
        with atomic_file(path, overwrite=True) as temporary:
            Image.fromarray(grey).save(temporary)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image(
                    "samples", grey, trainer.current_epoch, dataformats="HW"
                )


def _samples(dataset: SliceDataset, count: int = 4) -> dict[str, Tensor]:
    """The validation slices with most prompt, spread over the cases, with exact prompts."""
    cases = dataset.cases
    chosen: list[int] = []
    for number in range(min(count, len(cases))):
        case = cases[number]
        areas = [int((case.arrays["seg"][z] != 0).sum()) for z in range(len(case))]
        best = sorted(range(len(case)), key=lambda z: -areas[z])
        start = int(dataset.ends[number]) - len(case)
        chosen += [start + z for z in best[: max(1, count // len(cases))]]
    batch: dict[str, Tensor] = default_collate([dataset[SampleId(0, i)] for i in chosen])
    return batch
