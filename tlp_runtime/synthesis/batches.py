"""Slices of one case, or of many, in shared batches."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tlp_runtime.engines.base import Engine, Slices
from tlp_runtime.errors import MemoryExhausted, UsageError
from tlp_runtime.spec.model import PROMPT_NAME
from tlp_runtime.synthesis.prepare import PreparedCase
from tlp_runtime.values.intensity import to_unit
from tlp_runtime.warnings import BATCH_HALVED, TLPWarning

Place = tuple[NDArray[np.intp], slice, slice]


class Work(Protocol):
    """What a :class:`Batcher` runs: numbered pieces, all of one size.

    Attributes
    ----------
    count
        How many pieces there are.
    window
        (height, width) of each.
    """

    @property
    def count(self) -> int: ...

    @property
    def window(self) -> tuple[int, int]: ...

    def fill(self, first: int, into: Mapping[str, NDArray[np.float32]]) -> None:
        """Copy the inputs of pieces from ``first`` on into (n, height, width) arrays."""

    def put(self, first: int, images: NDArray[np.float32]) -> None:
        """Take the network's (n, height, width) answers from ``first`` on, in [-1, 1]."""


class SliceWork:
    """Slices to run, each in one window or several, and the network's answers.

    Parameters
    ----------
    tensors
        (Z, Y, X) float32 for each of the model's inputs.
    numbers
        The slices to run; None runs all.
    window
        (height, width) of what the network is given at once; None gives it whole slices.
    corners
        (row, column) of each window in a slice.
    weights
        (windows, height, width): each window's share of the result; None where there is one.
    unit
        Whether ``images`` are in [0, 1], as a volume holds them; else in the network's [-1, 1].

    Attributes
    ----------
    images
        (Z, Y, X) float32; 0 where nothing was run.
    left
        Pieces without an answer yet.
    """

    def __init__(
        self,
        tensors: Mapping[str, NDArray[np.float32]],
        *,
        numbers: NDArray[np.intp] | None = None,
        window: tuple[int, int] | None = None,
        corners: Sequence[tuple[int, int]] = ((0, 0),),
        weights: NDArray[np.float32] | None = None,
        unit: bool = True,
    ) -> None:
        self._tensors = tensors
        self.images = np.zeros_like(next(iter(tensors.values())))
        slices, height, width = self.images.shape
        self._numbers = np.arange(slices) if numbers is None else numbers
        self._window = window or (height, width)
        self._corners = corners
        self._weights = weights
        self._unit = unit
        self.left = self.count

    @classmethod
    def of_case(cls, prepared: PreparedCase, *, prompted: bool = True) -> SliceWork:
        """The slices of a case that hold brain, in the windows of its placement.

        Parameters
        ----------
        prompted
            Otherwise those alone that a prompt touches, without it: all others would be the same.
        """
        placement, tensors, wanted = prepared.placement, prepared.tensors, prepared.brain
        if not prompted:
            prompt = tensors[PROMPT_NAME]
            tensors = {**tensors, PROMPT_NAME: np.zeros_like(prompt)}
            wanted = wanted & prompt.any(axis=(1, 2))
        return cls(
            tensors,
            numbers=np.flatnonzero(wanted),
            window=placement.window,
            corners=placement.corners,
            weights=placement.weights if len(placement.corners) > 1 else None,
        )

    @property
    def numbers(self) -> NDArray[np.intp]:
        """The slices to run."""
        return self._numbers

    @property
    def count(self) -> int:
        """Slices to run, times windows."""
        return len(self._numbers) * len(self._corners)

    @property
    def window(self) -> tuple[int, int]:
        """(height, width) of what the network is given."""
        return self._window

    def fill(self, first: int, into: Mapping[str, NDArray[np.float32]]) -> None:
        """Copy the inputs of pieces from ``first`` on into (n, height, width) arrays."""
        for _, where, rows in self._places(first, len(next(iter(into.values())))):
            for name, array in into.items():
                array[rows] = self._tensors[name][where]

    def put(self, first: int, images: NDArray[np.float32]) -> None:
        """Take the network's (n, height, width) answers from ``first`` on, in [-1, 1]."""
        for window, where, rows in self._places(first, len(images)):
            values = to_unit(images[rows]) if self._unit else images[rows]
            if self._weights is None:
                self.images[where] = values
            else:
                self.images[where] += values * self._weights[window]
        self.left -= len(images)

    def _places(self, first: int, count: int) -> Iterator[tuple[int, Place, slice]]:
        """Window by window: its number, where the pieces lie in (Z, Y, X), and which they are."""
        height, width = self._window
        done = 0
        while done < count:
            window, number = divmod(first + done, len(self._numbers))
            which = self._numbers[number : number + count - done]
            top, left = self._corners[window]
            where = (which, slice(top, top + height), slice(left, left + width))
            yield window, where, slice(done, done + len(which))
            done += len(which)


def works_of(prepared: PreparedCase) -> tuple[SliceWork, ...]:
    """The slices of a case; for evidence, those that its prompt touches once more without it."""
    prompted = SliceWork.of_case(prepared)
    if prepared.request.evidence:
        without = SliceWork.of_case(prepared, prompted=False)
        if without.count:
            return prompted, without
    return (prompted,)


@dataclass(frozen=True)
class Ran:
    """One run of the engine.

    Parameters
    ----------
    count
        Pieces.
    began, ended
        ``time.perf_counter`` when the engine had both the batch and the answer before it, and
        when its own answer came.
    works
        Whose pieces these were, each once.
    warnings
        What went wrong before this run succeeded.
    """

    count: int
    began: float
    ended: float
    works: tuple[Work, ...]
    warnings: tuple[TLPWarning, ...] = ()

    @property
    def seconds(self) -> float:
        """Duration in seconds."""
        return self.ended - self.began


@dataclass(frozen=True)
class _Run:
    """Consecutive pieces of one work."""

    work: Work
    first: int
    count: int


class Batcher:
    """Runs pieces of one work after another, in batches that works share.

    Parameters
    ----------
    batch
        Pieces per run. Halved, with a warning, when the device's memory runs out.
    """

    def __init__(self, engine: Engine, batch: int) -> None:
        if batch < 1:
            raise UsageError(f"a batch of {batch}: expected at least 1.")
        self.engine = engine
        self.batch = batch
        self._waiting: deque[_Run] = deque()
        self._flying: deque[tuple[list[_Run], float]] = deque()
        self._ended = False

    def run(self, works: Iterable[Work | None]) -> Iterator[Ran]:
        """Run every piece, in order.

        Parameters
        ----------
        works
            Taken when their pieces are needed to fill a batch. None stands for "no more for now":
            what is left is run in a smaller batch, and its answers are taken, before the next is
            asked for. Works of another size never share a batch.

        Raises
        ------
        EngineError, MemoryExhausted
            The network could not be run.
        """
        source = iter(works)
        self._ended, ended = False, 0.0
        warnings: tuple[TLPWarning, ...] = ()
        while not self._ended or self._waiting:
            try:
                for images in self.engine.run_batches(self._feeds(source)):
                    runs, handed = self._flying.popleft()
                    began, ended = max(handed, ended), time.perf_counter()
                    done = 0
                    for run in runs:
                        run.work.put(run.first, images[done : done + run.count, 0])
                        done += run.count
                    works_of = tuple(dict.fromkeys(run.work for run in runs))
                    yield Ran(done, began, ended, works_of, warnings)
                    warnings = ()
            except MemoryExhausted as error:
                if self.batch == 1:
                    raise
                self.batch //= 2
                self._waiting.extendleft(
                    run for runs, _ in reversed(self._flying) for run in reversed(runs)
                )
                self._flying.clear()
                warnings += (
                    BATCH_HALVED.warning(
                        f"{error.problem.rstrip('.')}. Going on with batches of {self.batch}.",
                        batch=self.batch,
                    ),
                )

    def _feeds(self, source: Iterator[Work | None]) -> Iterator[dict[str, Slices]]:
        """Batches until works, or works for now, are at their end."""
        paused = False
        while True:
            while not paused and sum(run.count for run in self._waiting) < self.batch:
                try:
                    work = next(source)
                except StopIteration:
                    self._ended, work = True, None
                if work is None:
                    paused = True
                else:
                    self._waiting.append(_Run(work, 0, work.count))
            if not self._waiting:
                return
            runs = self._next()
            tensors = self._tensors(runs)
            self._flying.append((runs, time.perf_counter()))
            yield tensors

    def _next(self) -> list[_Run]:
        """The next batch: runs of one size, the last cut where the batch is full."""
        window = self._waiting[0].work.window
        runs: list[_Run] = []
        room = self.batch
        while room and self._waiting and self._waiting[0].work.window == window:
            run = self._waiting.popleft()
            taken = min(run.count, room)
            runs.append(_Run(run.work, run.first, taken))
            room -= taken
            if taken < run.count:
                self._waiting.appendleft(_Run(run.work, run.first + taken, run.count - taken))
        return runs

    def _tensors(self, runs: list[_Run]) -> dict[str, Slices]:
        shape = (sum(run.count for run in runs), 1, *runs[0].work.window)
        names = self.engine.spec.tensor_names
        tensors = {name: np.empty(shape, np.float32) for name in names}
        done = 0
        for run in runs:
            rows = slice(done, done + run.count)
            run.work.fill(run.first, {name: array[rows, 0] for name, array in tensors.items()})
            done += run.count
        return tensors
