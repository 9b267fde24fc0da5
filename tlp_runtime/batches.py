"""Slices in shared batches: what one case, or many, ask of an engine."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tlp_runtime.engines.base import Engine, Slices
from tlp_runtime.errors import MemoryExhausted, UsageError
from tlp_runtime.intensity import to_unit
from tlp_runtime.prepare import Prepared

logger = logging.getLogger(__name__)


class Work(Protocol):
    """Numbered pieces for the network, all of one size.

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

    def fill(self, piece: int, into: Mapping[str, NDArray[np.float32]]) -> None:
        """Copy a piece's inputs into (height, width) arrays."""

    def put(self, piece: int, image: NDArray[np.float32]) -> None:
        """Take the network's (height, width) answer, in [-1, 1]."""


class Stack:
    """One case: its slices to run, in every window of its placement, and what became of them.

    Attributes
    ----------
    slices
        (Z, Y, X) float32 in [0, 1]; 0 where nothing was run.
    left
        Pieces without an answer yet.
    """

    def __init__(self, prepared: Prepared) -> None:
        self.prepared = prepared
        self.slices = np.zeros_like(next(iter(prepared.tensors.values())))
        self._run = np.flatnonzero(prepared.brain)
        corners = prepared.placement.corners
        self._weights = prepared.placement.weights if len(corners) > 1 else None
        self.left = self.count

    @property
    def count(self) -> int:
        """Slices to run, times windows."""
        return len(self._run) * len(self.prepared.placement.corners)

    @property
    def window(self) -> tuple[int, int]:
        """(height, width) of what the network is given."""
        return self.prepared.placement.window

    def fill(self, piece: int, into: Mapping[str, NDArray[np.float32]]) -> None:
        """Copy a piece's inputs into (height, width) arrays."""
        _, where = self._place(piece)
        for name, array in into.items():
            array[...] = self.prepared.tensors[name][where]

    def put(self, piece: int, image: NDArray[np.float32]) -> None:
        """Take the network's (height, width) answer, in [-1, 1]."""
        window, where = self._place(piece)
        if self._weights is None:
            self.slices[where] = to_unit(image)
        else:
            self.slices[where] += to_unit(image) * self._weights[window]
        self.left -= 1

    def _place(self, piece: int) -> tuple[int, tuple[int, slice, slice]]:
        """A piece's window, and where it lies in (Z, Y, X)."""
        window, number = divmod(piece, len(self._run))
        top, left = self.prepared.placement.corners[window]
        height, width = self.window
        where = (int(self._run[number]), slice(top, top + height), slice(left, left + width))
        return window, where


class Sheaf:
    """Prepared slices of no particular case.

    Parameters
    ----------
    tensors
        (N, height, width) float32 for each of the model's inputs.

    Attributes
    ----------
    images
        (N, height, width), in [-1, 1].
    """

    def __init__(self, tensors: Mapping[str, NDArray[np.float32]]) -> None:
        self._tensors = tensors
        self.images = np.empty_like(next(iter(tensors.values())))

    @property
    def count(self) -> int:
        """N."""
        return len(self.images)

    @property
    def window(self) -> tuple[int, int]:
        """(height, width)."""
        _, height, width = self.images.shape
        return height, width

    def fill(self, piece: int, into: Mapping[str, NDArray[np.float32]]) -> None:
        """Copy a slice's inputs into (height, width) arrays."""
        for name, array in into.items():
            array[...] = self._tensors[name][piece]

    def put(self, piece: int, image: NDArray[np.float32]) -> None:
        """Take the network's answer."""
        self.images[piece] = image


@dataclass(frozen=True)
class Ran:
    """One run of the engine.

    Parameters
    ----------
    began, ended
        When the answer before it was taken, or the engine was called, and when its own was:
        ``time.perf_counter``.
    works
        Whose pieces these were, each once.
    """

    count: int
    began: float
    ended: float
    works: tuple[Work, ...]

    @property
    def seconds(self) -> float:
        """From the one to the other."""
        return self.ended - self.began


class Batcher:
    """Runs pieces of one work after another, in batches that works share.

    Parameters
    ----------
    batch
        Pieces a run. Halved, with a warning, when the device's memory runs out.
    """

    def __init__(self, engine: Engine, batch: int) -> None:
        if batch < 1:
            raise UsageError(f"--batch {batch}: expected at least 1.")
        self.engine = engine
        self.batch = batch
        self._waiting: deque[tuple[Work, int]] = deque()
        self._flying: deque[list[tuple[Work, int]]] = deque()
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
        self._ended = False
        while not self._ended or self._waiting:
            began = time.perf_counter()
            try:
                for images in self.engine.run_batches(self._feeds(source)):
                    pieces = self._flying.popleft()
                    for (work, piece), image in zip(pieces, images[:, 0], strict=True):
                        work.put(piece, image)
                    ended = time.perf_counter()
                    works_of = tuple({id(work): work for work, _ in pieces}.values())
                    yield Ran(len(pieces), began, ended, works_of)
                    began = time.perf_counter()
            except MemoryExhausted as error:
                if self.batch == 1:
                    raise
                self.batch //= 2
                again = [piece for pieces in self._flying for piece in pieces]
                self._waiting.extendleft(reversed(again))
                self._flying.clear()
                logger.warning("%s Going on with batches of %d.", error, self.batch)

    def _feeds(self, source: Iterator[Work | None]) -> Iterator[dict[str, Slices]]:
        """Batches until works, or works for now, are at their end."""
        paused = False
        while True:
            while not paused and len(self._waiting) < self.batch:
                try:
                    work = next(source)
                except StopIteration:
                    self._ended, work = True, None
                if work is None:
                    paused = True
                else:
                    self._waiting.extend((work, piece) for piece in range(work.count))
            if not self._waiting:
                return
            pieces = self._next()
            self._flying.append(pieces)
            yield self._tensors(pieces)

    def _next(self) -> list[tuple[Work, int]]:
        window = self._waiting[0][0].window
        pieces: list[tuple[Work, int]] = []
        while self._waiting and len(pieces) < self.batch and self._waiting[0][0].window == window:
            pieces.append(self._waiting.popleft())
        return pieces

    def _tensors(self, pieces: list[tuple[Work, int]]) -> dict[str, Slices]:
        height, width = pieces[0][0].window
        names = self.engine.spec.tensor_names
        tensors = {name: np.empty((len(pieces), 1, height, width), np.float32) for name in names}
        for row, (work, piece) in enumerate(pieces):
            work.fill(piece, {name: array[row, 0] for name, array in tensors.items()})
        return tensors
