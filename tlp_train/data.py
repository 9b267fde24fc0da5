"""Cached cases to training batches: stateless samples and a sampler that can resume anywhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from tlp_runtime.spec.model import OUTPUT_NAME, PROMPT_NAME, ModelSpec
from tlp_train.cache import CachedCase
from tlp_train.fpg import FuzzyPrompt, sample_rng


class SampleId(NamedTuple):
    """A slice of the flattened data set, as drawn in one epoch."""

    epoch: int
    position: int


class SliceDataset(Dataset[dict[str, Tensor]]):
    """Slices of several cases with their target and prompt.

    An item is a dictionary of (1, H, W) float32 tensors: ``spec.inputs``, ``prompt`` and ``t1ce``.
    It depends on nothing but its :class:`SampleId` and the seed.

    Parameters
    ----------
    fuzzy
        How prompts are perturbed; None gives the exact segmentation.
    """

    def __init__(
        self,
        cases: Sequence[CachedCase],
        spec: ModelSpec,
        *,
        fuzzy: FuzzyPrompt | None,
        seed: int,
    ) -> None:
        self.cases = list(cases)
        self.spec = spec
        self.fuzzy = fuzzy
        self.seed = seed
        self.ends = np.cumsum([len(case) for case in self.cases])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def locate(self, index: int) -> tuple[CachedCase, int]:
        """The case of a flat index and the slice's index within it."""
        number = int(np.searchsorted(self.ends, index, side="right"))
        case = self.cases[number]
        return case, index - int(self.ends[number]) + len(case)

    def tumour_slices(self) -> NDArray[np.int64]:
        """Flat indices of the slices with tumour; reads every segmentation once."""
        code = self.spec.prompt
        held = [
            (case.prompt(slice(None), code) == code.tumour_value).any(axis=(1, 2))
            for case in self.cases
        ]
        return np.flatnonzero(np.concatenate(held))

    def __getitem__(self, sample: SampleId) -> dict[str, Tensor]:
        case, index = self.locate(sample.position)
        prompt = case.prompt(index, self.spec.prompt)
        if self.fuzzy is not None:
            z = case.first_slice + index
            rng = sample_rng(self.seed, sample.epoch, case.name, z)
            prompt = self.fuzzy(prompt, self.spec.prompt, rng)
        arrays = {name: case.image(name, index) for name in (*self.spec.inputs, OUTPUT_NAME)}
        arrays[PROMPT_NAME] = prompt
        return {name: torch.from_numpy(array).unsqueeze(0) for name, array in arrays.items()}


class EpochSampler(Sampler[SampleId]):
    """A seeded shuffle an epoch, from a batch within it on.

    Parameters
    ----------
    size
        Slices there are.
    limit
        Slices of an epoch; None takes all.
    batch
        Samples of a batch of one process.
    skip
        Batches of the first epoch that were already used before a resume.
    rank, world
        This process and how many there are. Every batch of the shuffle is shared out among them
        in order, so that two processes see together what one with the doubled batch sees.
    favoured, share
        Indices of which ``share`` of an epoch is drawn, beside the shuffle.
    """

    def __init__(
        self,
        size: int,
        *,
        seed: int,
        batch: int = 1,
        epoch: int = 0,
        skip: int = 0,
        limit: int | None = None,
        favoured: NDArray[np.int64] | None = None,
        share: float = 0.0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.size = size
        self.seed = seed
        self.favoured = favoured
        self.share = share
        self.epoch = epoch
        self.skip = skip
        self.limit = min(limit or size, size)
        self.batch = batch
        self.rank = rank
        self.world = world

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before each epoch."""
        if epoch != self.epoch:
            self.epoch, self.skip = epoch, 0

    def __len__(self) -> int:
        # The whole epoch, also when resuming within it: the trainer counts batches from its start.
        return self._batches * self.batch

    @property
    def _batches(self) -> int:
        """Whole batches of an epoch; what does not fill one on every process is left out."""
        return self.limit // (self.batch * self.world)

    def __iter__(self) -> Iterator[SampleId]:
        rng = np.random.default_rng((self.seed, self.epoch))
        order = rng.permutation(self.size)[: self.limit]
        if self.favoured is not None and len(self.favoured):
            replaced = rng.random(self.limit) < self.share
            order[replaced] = rng.choice(self.favoured, int(replaced.sum()))
        shared = order[: self._batches * self.world * self.batch]
        mine = shared.reshape(self._batches, self.world, self.batch)[self.skip :, self.rank]
        for index in mine.ravel():
            yield SampleId(self.epoch, int(index))
