"""A run from its folder to its end, with Lightning."""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy
from torch.utils.data import DataLoader

from tlp_runtime.errors import (
    DeviceUnavailable,
    InputError,
    MemoryExhausted,
    SetOption,
    UsageError,
)
from tlp_runtime.io.brats import find_cases
from tlp_runtime.spec.model import BrightnessSpec, ModelSpec
from tlp_runtime.values.checks import BRIGHTNESS_PERCENTILES
from tlp_train.cache import CachedCase, open_cases
from tlp_train.callbacks import MetricsCsv, SampleImages, SaveOnInterrupt
from tlp_train.config import TrainingPrecision
from tlp_train.data import EpochSampler, SampleId, SliceDataset
from tlp_train.module import Batch, SynthesisModule
from tlp_train.runs import BEST, LAST, Run, Status

RUN_VARIABLE = "TLP_RUN"
"""Environment variable that tells processes started by Lightning which run folder is theirs."""

for _name in ("lightning.pytorch", "lightning.fabric"):
    logging.getLogger(_name).setLevel(logging.WARNING)


class SliceData(L.LightningDataModule):
    """Loaders over a run's cases; knows how much of an interrupted epoch was already used.

    One process of each machine decodes into the cache, then every process opens it.
    """

    def __init__(self, run: Run, cache: Path, on_case: Callable[[str], None] | None = None) -> None:
        super().__init__()
        self.run = run
        self.config = run.config
        self.cache = cache
        self.on_case = on_case
        self._batches_used = 0

    def prepare_data(self) -> None:
        self._open(self.on_case)

    def setup(self, stage: str) -> None:
        opened = self._open(None)
        count = len(self.run.split.train)
        config, seed = self.config, self.config.seed
        fuzzy = config.fuzzy if config.fpg else None
        self.brightness = _brightness(opened[:count], config.spec)
        self.train_set = SliceDataset(opened[:count], config.spec, fuzzy=fuzzy, seed=seed)
        self.validation_set = SliceDataset(opened[count:], config.spec, fuzzy=None, seed=seed)
        if len(self.train_set) < config.global_batch:
            raise UsageError(
                f"{len(self.train_set)} training slices do not fill one batch of "
                f"{config.global_batch}",
                fix=("Give more cases.", SetOption("batch_size", "a smaller number")),
            )

    def _open(self, on_case: Callable[[str], None] | None) -> list[CachedCase]:
        split = self.run.split
        arrays = (*self.config.spec.inputs, "t1ce", "seg")
        files = {case.name: case for case in find_cases(self.run.data, arrays)}
        wanted = split.train + split.validation
        absent = [name for name in wanted if name not in files]
        if absent:
            raise InputError(
                f"{self.run.data}: {len(absent)} cases of the run's split.json are not there: "
                f"{', '.join(absent)}. Put them back, or train anew."
            )
        return open_cases([files[name] for name in wanted], self.config.spec, self.cache, on_case)

    def train_dataloader(self) -> DataLoader[Batch]:
        assert self.trainer is not None
        sampler = EpochSampler(
            len(self.train_set),
            seed=self.config.seed,
            batch=self.config.batch_size,
            epoch=self.trainer.fit_loop.epoch_progress.current.processed,  # type: ignore[attr-defined]
            skip=self._batches_used,
            limit=self.config.slices_per_epoch,
            favoured=self.train_set.tumour_slices() if self.config.tumour_share else None,
            share=self.config.tumour_share,
            rank=self.trainer.global_rank,
            world=self.trainer.world_size,
        )
        return self._loader(self.train_set, sampler, drop_last=True)

    def val_dataloader(self) -> DataLoader[Batch]:
        assert self.trainer is not None
        total = len(self.validation_set)
        step = max(1, total // (self.config.validation_slices or total))
        sampler = [SampleId(0, index) for index in range(step // 2, total, step)]
        rank, world = self.trainer.global_rank, self.trainer.world_size
        # With fewer slices than processes each takes all of them: none may be left without.
        mine = sampler[rank::world] if len(sampler) >= world else sampler
        return self._loader(self.validation_set, mine, drop_last=False)

    def _loader(self, dataset: SliceDataset, sampler: Any, *, drop_last: bool) -> DataLoader[Batch]:
        on_gpu = torch.cuda.is_available()
        workers = self.config.workers
        if workers is None:
            cores = (os.cpu_count() or 2) // self.config.devices
            workers = max(1, min(8, cores - 1)) if on_gpu else 0
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

    With several devices, Lightning starts this program once more for each of them; torchrun and
    SLURM have started them already. Each calls ``fit`` on the same run folder.

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
    DeviceUnavailable
        Fewer GPUs than asked for.
    TrainingInterrupted
        Ctrl-C; the state is saved.
    MemoryExhausted
        The device ran out of memory.
    """
    config = run.config
    on_gpu = torch.cuda.is_available()
    if on_gpu and torch.cuda.device_count() < config.devices:
        raise DeviceUnavailable(
            f"{config.devices} devices were asked for, but this machine has "
            f"{torch.cuda.device_count()} GPUs",
            fix=SetOption("devices", str(torch.cuda.device_count())),
        )
    L.seed_everything(config.seed, verbose=False)
    data = SliceData(run, cache, on_case)
    module = SynthesisModule(config)
    channels_last = config.channels_last
    if channels_last is None:
        channels_last = config.precision == "bf16-mixed"
    if channels_last:
        module = module.to(memory_format=torch.channels_last)
    if config.compile:
        module.generator.compile()
        module.discriminator.compile()
    callbacks: list[L.Callback] = [
        MetricsCsv(run.folder / "metrics.csv", on_epoch),
        SampleImages(run.folder / "samples"),
        SaveOnInterrupt(run.last),
        _checkpoints(run.folder, LAST),
        _checkpoints(run.folder, BEST, monitor="val_psnr", mode="max"),
    ]
    if progress:
        callbacks.append(RichProgressBar(leave=False))
    several = config.devices * config.nodes > 1
    trainer = L.Trainer(
        accelerator="gpu" if on_gpu else "cpu",
        devices=config.devices,
        num_nodes=config.nodes,
        # Each of the two steps leaves the other network's parameters without a gradient.
        strategy=DDPStrategy(find_unused_parameters=True) if several else "auto",
        sync_batchnorm=several and on_gpu,
        benchmark=on_gpu,
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
    run = _marked(run, "running")
    os.environ[RUN_VARIABLE] = str(run.folder.resolve())  # for processes Lightning starts
    try:
        with warnings.catch_warnings():
            # Loading is cheap next to a step on a CPU, and our sampler does resume mid-epoch.
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            warnings.filterwarnings("ignore", message="Checkpoint directory .* exists")
            warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # Lightning's own
            warnings.filterwarnings("ignore", message=".*dataloader is not resumable.*")
            # Of a 1 x 1 kernel's strides, which mean nothing.
            warnings.filterwarnings("ignore", message="Grad strides do not match")
            # Only the discriminator's step leaves parameters unused; both share one strategy.
            warnings.filterwarnings("ignore", message=".*find_unused_parameters=True.*")
            trainer.fit(
                module, datamodule=data, ckpt_path=run.last if resume else None, weights_only=True
            )
    except torch.OutOfMemoryError as error:
        _marked(run, "interrupted")
        raise MemoryExhausted(
            f"the device ran out of memory with batches of {config.batch_size} in "
            f"{config.accumulate} parts",
            fix=(
                SetOption("accumulate", "a larger number", "for the same result in less memory"),
                SetOption("batch_size", "a smaller number"),
            ),
        ) from error
    except BaseException:
        _marked(run, "interrupted")
        raise
    finally:
        os.environ.pop(RUN_VARIABLE, None)  # a later program of this one's is another run's
    return _marked(run, "finished")


def _brightness(cases: Sequence[CachedCase], spec: ModelSpec) -> tuple[BrightnessSpec, ...]:
    """What the brains of the training cases look like, for each input."""
    made = []
    for name in spec.inputs:
        found = np.array([case.brightness[name] for case in cases])
        made.append(
            BrightnessSpec(
                modality=name,
                percentiles=BRIGHTNESS_PERCENTILES,
                mean=tuple(float(v) for v in found.mean(axis=0)),
                spread=tuple(float(v) for v in found.std(axis=0)),
            )
        )
    return tuple(made)


def is_first_process() -> bool:
    """Whether this process is the only one or the first of a distributed run."""
    known = (os.environ.get(name) for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
    return int(next((rank for rank in known if rank), "0")) == 0


def join_run(folder: Path | None, *, patience_s: float = 600) -> Run:
    """The run folder that the first process of this distributed run makes.

    Parameters
    ----------
    folder
        As given to every process; None takes what the first process tells those it starts.

    Raises
    ------
    UsageError
        Started by torchrun or SLURM, where processes cannot be told, without a folder.
    ModelMissing
        The folder did not appear.
    """
    told = os.environ.get(RUN_VARIABLE)
    if folder is None and told:
        return Run.open(Path(told))
    if folder is None:
        raise UsageError(
            "processes started by torchrun or SLURM must be given one run folder",
            fix=SetOption("out", "DIR"),
        )
    deadline = time.monotonic() + patience_s
    while not (folder / "run.json").is_file() and time.monotonic() < deadline:
        time.sleep(0.5)
    return Run.open(folder)


def _marked(run: Run, status: Status) -> Run:
    if is_first_process():
        run.mark(status)
    return replace(run, status=status)


def fast_precision() -> TrainingPrecision:
    """``bf16-mixed`` where the GPU or CPU multiplies bf16 in hardware, else ``32-true``."""
    if torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "32-true"
    flags = Path("/proc/cpuinfo")
    known = flags.read_text(encoding="utf-8", errors="replace") if flags.is_file() else ""
    return "bf16-mixed" if "avx512_bf16" in known or "amx_bf16" in known else "32-true"


def _checkpoints(folder: Path, name: str, **options: Any) -> ModelCheckpoint:
    return ModelCheckpoint(
        dirpath=folder,
        filename=Path(name).stem,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
        auto_insert_metric_name=False,
        **options,
    )
