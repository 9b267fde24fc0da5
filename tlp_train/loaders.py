"""A run's cases as batches; what was used of an interrupted epoch is not used again."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch.utils.data import DataLoader

from tlp_runtime.errors import InputError, SetOption, UsageError
from tlp_runtime.io.datasets import find_cases
from tlp_runtime.spec.model import BrightnessSpec, ModelSpec
from tlp_runtime.values.checks import BRIGHTNESS_PERCENTILES
from tlp_runtime.values.prompt import require_one_scheme
from tlp_train.cache import CachedCase, open_cases
from tlp_train.data import EpochSampler, SampleId, SliceDataset
from tlp_train.module import Batch
from tlp_train.networks import registry
from tlp_train.pairing import OtherCases
from tlp_train.reference_rows import learn
from tlp_train.runs import Run
from tlp_train.stopping import ignore_signals


class SliceData(L.LightningDataModule):
    """Loaders over a run's cases; knows how much of an interrupted epoch was already used.

    One process of each machine decodes into the cache, then every process opens it.

    Attributes
    ----------
    voxels
        Hashes of the volumes of the training and validation cases, by case and array, once they are
        opened.
    """

    def __init__(
        self,
        run: Run,
        cache: Path,
        on_case: Callable[[str], None] | None = None,
        on_brought: Callable[[list[str]], None] | None = None,
    ) -> None:
        super().__init__()
        self.run = run
        self.config = run.config
        self.cache = cache
        self.on_case = on_case
        self.on_brought = on_brought
        self.voxels: dict[str, dict[str, str]] = {}
        self._batches_used = 0

    def prepare_data(self) -> None:
        brought = [case.name for case in self._open(self.on_case) if case.brought]
        if brought and self.on_brought is not None:
            self.on_brought(brought)

    def setup(self, stage: str) -> None:
        self._require_one_configuration()
        opened = self._open(None)
        self.voxels = {case.name: dict(case.voxels) for case in opened}
        count = len(self.run.split.train)
        config, seed = self.config, self.config.seed
        fuzzy = config.fuzzy if config.fpg else None
        self.brightness = _brightness(opened[:count], config.spec)
        first = config.spec.inputs[0]
        self.learnt_factor = learn([case.examples[first] for case in opened[:count]])
        self.train_set = SliceDataset(
            opened[:count],
            config.spec,
            fuzzy=fuzzy,
            seed=seed,
            decoys=config.decoys,
            varied=config.vary,
        )
        self.train_set.others = self._others(self.train_set)
        self.validation_set = SliceDataset(
            opened[count:], config.spec, fuzzy=None, seed=seed, drawn=config.best == "enhancement"
        )
        if len(self.train_set) < config.global_batch:
            raise UsageError(
                f"{len(self.train_set)} training slices do not fill one batch of "
                f"{config.global_batch}",
                fix=("Give more cases.", SetOption("batch_size", "a smaller number")),
            )

    def _others(self, dataset: SliceDataset) -> OtherCases | None:
        """Where unpaired samples have their T1ce from; None where samples are pairs."""
        config, name = self.config, self.config.spec.network.name
        if not registry.network(name).recipe.unpaired:
            return None
        if len(dataset.cases) < 2:
            raise UsageError(
                f"{name} learns from a T1ce of another case than the inputs, but the training "
                f"split has one case, {dataset.cases[0].name}",
                fix=("Give more cases.", SetOption("network", "one that learns from pairs")),
            )
        lengths = [len(case) for case in dataset.cases]
        favoured = dataset.tumour_slices() if config.tumour_share else None
        return OtherCases(lengths, favoured, config.tumour_share)

    def _require_one_configuration(self) -> None:
        """Raise where this process was told other options than the first one."""
        assert self.trainer is not None
        mine = self.config.to_dict()
        if self.trainer.strategy.broadcast(mine) != mine:
            raise UsageError(
                "the processes of this run were started with different options",
                fix="Start each with the same command.",
            )

    def _open(self, on_case: Callable[[str], None] | None) -> list[CachedCase]:
        split = self.run.split
        arrays = (*self.config.spec.inputs, "t1ce", "seg")
        drawn = self.run.segmentations
        found = find_cases(self.run.data, arrays, segmentations=drawn)
        files = {case.name: case for case in found}
        wanted = split.train + split.validation
        absent = [name for name in wanted if name not in files]
        if absent:
            raise InputError(
                f"{self.run.data}: {len(absent)} cases of the run's split.json are not there: "
                f"{', '.join(absent)}. Put them back, or start a new run."
            )
        cases = [files[name] for name in wanted]
        opened = open_cases(cases, self.config.spec, self.cache, on_case)
        labels = {label for case in opened for label in case.labels}
        require_one_scheme(labels, f"{self.run.data}", self.config.spec.prompt)
        return opened

    def train_dataloader(self) -> DataLoader[Batch]:
        assert self.trainer is not None
        epoch = self.trainer.fit_loop.epoch_progress.current.processed  # type: ignore[attr-defined]
        return self._loader(
            self.train_set, self._sampler(epoch, self._batches_used), drop_last=True
        )

    def _sampler(self, epoch: int, skip: int) -> EpochSampler:
        assert self.trainer is not None
        return EpochSampler(
            len(self.train_set),
            seed=self.config.seed,
            batch=self.config.batch_size,
            epoch=epoch,
            skip=skip,
            limit=self.config.slices_per_epoch,
            favoured=self.train_set.tumour_slices() if self.config.tumour_share else None,
            share=self.config.tumour_share,
            rank=self.trainer.global_rank,
            world=self.trainer.world_size,
        )

    def slices_of(self, epoch: int, batch: int) -> str:
        """The cases and slices of a batch of this process, in words."""
        found = itertools.islice(self._sampler(epoch, batch), self.config.batch_size)
        located = [self.train_set.locate(sample.position) for sample in found]
        return ", ".join(f"{case.name} slice {case.first_slice + z}" for case, z in located)

    def val_dataloader(self) -> DataLoader[Batch]:
        assert self.trainer is not None
        total = len(self.validation_set)
        step = max(1, total // (self.config.validation_slices or total))
        sampler = [SampleId(0, index) for index in range(step // 2, total, step)]
        if self.config.best == "enhancement" and not any(map(self._can_judge, sampler)):
            raise UsageError(
                "the validation slices show no tumour with normal brain opposite, so that the best "
                "checkpoint cannot be judged by enhancement",
                fix=(SetOption("best", "psnr"), "Or validate on other cases."),
            )
        rank, world = self.trainer.global_rank, self.trainer.world_size
        # With fewer slices than processes each takes all of them: none may be left without.
        mine = sampler[rank::world] if len(sampler) >= world else sampler
        return self._loader(self.validation_set, mine, drop_last=False)

    def _can_judge(self, sample: SampleId) -> bool:
        case, index = self.validation_set.locate(sample.position)
        code = self.config.spec.prompt
        exact = case.prompt(index, code)
        return bool(((exact == code.tumour_value) & (exact[:, ::-1] == 0)).any())

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
            worker_init_fn=ignore_signals if workers else None,
        )

    def state_dict(self) -> dict[str, Any]:
        assert self.trainer is not None
        ready = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready
        return {"batches_used": ready % int(self.trainer.num_training_batches)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._batches_used = int(state["batches_used"])


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
