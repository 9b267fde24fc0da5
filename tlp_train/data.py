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
from tlp_train.decoys import Decoys
from tlp_train.fpg import FuzzyPrompt, sample_rng
from tlp_train.pairing import TARGET_PROMPT, OtherCases
from tlp_train.variation import vary

DECOYS, VARIATION, OTHER = 1, 2, 3
"""Streams of random numbers of their own: prompts are drawn alike with and without them."""

DRAWN = "drawn"
"""Key of the prompt as an unsteady hand draws it."""


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
    decoys
        When the prompt is laid elsewhere, before it is perturbed; None never does.
    varied
        Whether pairs are varied (:mod:`tlp_train.variation`).
    drawn
        Whether an item has ``drawn`` too: its prompt perturbed, never dropped, each time alike.
    others
        Where the T1ce of a sample comes from, with its prompt as ``t1ce_prompt``, when samples are
        unpaired; None takes the sample's own.
    """

    def __init__(
        self,
        cases: Sequence[CachedCase],
        spec: ModelSpec,
        *,
        fuzzy: FuzzyPrompt | None,
        seed: int,
        decoys: Decoys | None = None,
        varied: bool = False,
        drawn: bool = False,
        others: OtherCases | None = None,
    ) -> None:
        self.cases = list(cases)
        self.spec = spec
        self.fuzzy = fuzzy
        self.seed = seed
        self.decoys = decoys
        self.varied = varied
        self.drawn = drawn
        self.others = others
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
        arrays = self._arrays(sample)
        if self.others is not None:
            other = self._arrays(SampleId(sample.epoch, self.other(sample)))
            arrays[OUTPUT_NAME], arrays[TARGET_PROMPT] = other[OUTPUT_NAME], other[PROMPT_NAME]
        return {name: torch.from_numpy(array).unsqueeze(0) for name, array in arrays.items()}

    def other(self, sample: SampleId) -> int:
        """The flat index of the slice that gives an unpaired sample its T1ce."""
        assert self.others is not None
        case, index = self.locate(sample.position)
        number = int(np.searchsorted(self.ends, sample.position, side="right"))
        z = case.first_slice + index
        return self.others.draw(number, sample_rng(self.seed, sample.epoch, case.name, z, OTHER))

    def _arrays(self, sample: SampleId) -> dict[str, NDArray[np.float32]]:
        """A slice with its own T1ce and prompt, as they are drawn in an epoch."""
        case, index = self.locate(sample.position)
        code, drawn = self.spec.prompt, (self.seed, sample.epoch, case.name)
        z = case.first_slice + index
        prompt = case.prompt(index, code)
        arrays = {name: case.image(name, index) for name in (*self.spec.inputs, OUTPUT_NAME)}
        if self.decoys is not None:
            first, rng = arrays[self.spec.inputs[0]], sample_rng(*drawn, z, DECOYS)
            prompt = self.decoys(prompt, first, sample.epoch, code, rng)
        if self.fuzzy is not None:
            prompt = self.fuzzy(prompt, code, sample_rng(*drawn, z))
        arrays[PROMPT_NAME] = prompt
        if self.drawn:
            rng = sample_rng(self.seed, 0, case.name, z)
            arrays[DRAWN] = FuzzyPrompt(drop=0.0)(prompt, code, rng)
        if self.varied:
            rng = sample_rng(*drawn, z, VARIATION)
            arrays = vary(arrays, self.spec.intensity.range, rng)
        return arrays


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
