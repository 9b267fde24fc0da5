"""A run from its folder to its end, with Lightning."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.data import DataLoader, default_collate

from tlp_runtime.errors import MemoryExhausted
from tlp_train.brats import find_cases
from tlp_train.cache import CachedCase, open_cases
from tlp_train.callbacks import MetricsCsv, SampleImages, SaveOnInterrupt
from tlp_train.config import Precision, TrainConfig
from tlp_train.data import EpochSampler, SampleId, SliceDataset
from tlp_train.module import Batch, SynthesisModule
from tlp_train.runs import BEST, LAST, Run

for _name in ("lightning.pytorch", "lightning.fabric"):
    logging.getLogger(_name).setLevel(logging.WARNING)


class SliceData(L.LightningDataModule):
    """Loaders over cached cases; knows how much of an interrupted epoch was already used."""

    def __init__(
        self,
        config: TrainConfig,
        train: Sequence[CachedCase],
        validation: Sequence[CachedCase],
    ) -> None:
        super().__init__()
        self.config = config
        self.train_set = SliceDataset(
            train, config.spec, fuzzy=config.fuzzy if config.fpg else None, seed=config.seed
        )
        self.validation_set = SliceDataset(validation, config.spec, fuzzy=None, seed=config.seed)
        self._batches_used = 0

    def train_dataloader(self) -> DataLoader[Batch]:
        assert self.trainer is not None
        sampler = EpochSampler(
            len(self.train_set),
            seed=self.config.seed,
            epoch=self.trainer.fit_loop.epoch_progress.current.processed,  # type: ignore[attr-defined]
            skip=self._batches_used * self.config.batch_size,
            limit=self.config.slices_per_epoch,
            favoured=self.train_set.tumour_slices() if self.config.tumour_share else None,
            share=self.config.tumour_share,
        )
        return self._loader(self.train_set, sampler, drop_last=True)

    def val_dataloader(self) -> DataLoader[Batch]:
        total = len(self.validation_set)
        step = max(1, total // (self.config.validation_slices or total))
        sampler = [SampleId(0, index) for index in range(step // 2, total, step)]
        return self._loader(self.validation_set, sampler, drop_last=False)

    def _loader(self, dataset: SliceDataset, sampler: Any, *, drop_last: bool) -> DataLoader[Batch]:
        on_gpu = torch.cuda.is_available()
        workers = self.config.workers
        if workers is None:
            workers = min(8, (os.cpu_count() or 2) - 1) if on_gpu else 0
        return DataLoader(
            dataset,
            batch_size=self.config.batch_size,
            sampler=sampler,
            drop_last=drop_last,
            num_workers=workers,
            pin_memory=on_gpu,
            persistent_workers=workers > 0,
        )

    def state_dict(self) -> dict[str, Any]:
        assert self.trainer is not None
        ready = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready
        return {"batches_used": ready % int(self.trainer.num_training_batches)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._batches_used = int(state["batches_used"])


def fit(
    run: Run,
    cache: Path,
    *,
    resume: bool = False,
    progress: bool = True,
    on_case: Callable[[str], None] | None = None,
    on_epoch: Callable[[Mapping[str, str]], None] | None = None,
) -> Run:
    """Train ``run`` to its last epoch and mark it finished.

    Parameters
    ----------
    progress
        Show Lightning's progress bar.
    on_case, on_epoch
        Called with the name of each case that was opened, and each epoch's row of metrics.csv.

    Raises
    ------
    InputError
        Cases that cannot be used; found before training begins.
    TrainingInterrupted
        Ctrl-C; the state is saved.
    MemoryExhausted
        The device ran out of memory.
    """
    config = run.config
    train, validation = _cases(run, cache, on_case)
    L.seed_everything(config.seed, verbose=False)
    data = SliceData(config, train, validation)
    module = SynthesisModule(config)
    if config.precision == "bf16-mixed":
        # Measured: convolutions in bf16 are faster in this order, those in fp32 on a CPU slower.
        module = module.to(memory_format=torch.channels_last)
    callbacks: list[L.Callback] = [
        MetricsCsv(run.folder / "metrics.csv", on_epoch),
        SampleImages(run.folder / "samples", _samples(data.validation_set)),
        SaveOnInterrupt(run.last),
        _checkpoints(run.folder, LAST),
        _checkpoints(run.folder, BEST, monitor="val_psnr", mode="max"),
    ]
    if progress:
        callbacks.append(RichProgressBar(leave=False))
    trainer = L.Trainer(
        accelerator="gpu" if torch.cuda.is_available() else "cpu",
        devices=1,
        precision=config.precision,
        max_epochs=config.epochs,
        logger=TensorBoardLogger(run.folder, name="", version=""),
        callbacks=callbacks,
        enable_progress_bar=progress,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        log_every_n_steps=1,
    )
    run.mark("running")
    try:
        with warnings.catch_warnings():
            # Loading is cheap next to a step on a CPU, and our sampler does resume mid-epoch.
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            warnings.filterwarnings("ignore", message="Checkpoint directory .* exists")
            warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # Lightning's own
            warnings.filterwarnings("ignore", message=".*dataloader is not resumable.*")
            trainer.fit(
                module, datamodule=data, ckpt_path=run.last if resume else None, weights_only=True
            )
    except torch.OutOfMemoryError as error:
        run.mark("interrupted")
        raise MemoryExhausted(
            f"the device ran out of memory with batches of {config.batch_size}; train with a "
            "smaller --batch-size."
        ) from error
    except BaseException:
        run.mark("interrupted")
        raise
    run.mark("finished")
    return replace(run, status="finished")


def fast_precision() -> Precision:
    """``bf16-mixed`` where the GPU or CPU multiplies bf16 in hardware, else ``32-true``."""
    if torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "32-true"
    flags = Path("/proc/cpuinfo")
    known = flags.read_text(encoding="utf-8", errors="replace") if flags.is_file() else ""
    return "bf16-mixed" if "avx512_bf16" in known or "amx_bf16" in known else "32-true"


def _cases(
    run: Run, cache: Path, on_case: Callable[[str], None] | None
) -> tuple[list[CachedCase], list[CachedCase]]:
    """Training and validation cases, opened (and cached) before anything is trained."""
    arrays = (*run.config.spec.inputs, "t1ce", "seg")
    files = {case.name: case for case in find_cases(run.data, arrays)}
    wanted = [files[name] for name in run.split.train + run.split.validation]
    opened = open_cases(wanted, run.config.spec, cache, on_case)
    count = len(run.split.train)
    return opened[:count], opened[count:]


def _samples(dataset: SliceDataset, count: int = 4) -> Batch:
    """The validation slices with most prompt, spread over the cases."""
    cases = dataset.cases
    chosen: list[int] = []
    for number in range(min(count, len(cases))):
        case = cases[number]
        areas = [int((case.arrays["seg"][z] != 0).sum()) for z in range(len(case))]
        best = sorted(range(len(case)), key=lambda z: -areas[z])
        start = int(dataset.ends[number]) - len(case)
        chosen += [start + z for z in best[: max(1, count // len(cases))]]
    batch: Batch = default_collate([dataset[SampleId(0, index)] for index in chosen])
    return batch


def _checkpoints(folder: Path, name: str, **options: Any) -> ModelCheckpoint:
    return ModelCheckpoint(
        dirpath=folder,
        filename=Path(name).stem,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
        auto_insert_metric_name=False,
        **options,
    )
