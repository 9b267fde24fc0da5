"""What every engine is: opened from a bundle, run on named arrays, closed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from tlp_runtime.bundle import Bundle
from tlp_runtime.errors import EngineError
from tlp_runtime.spec import ModelSpec

Slices = NDArray[np.float32]


class Engine(ABC):
    """A network ready to run. A context manager.

    Attributes
    ----------
    name
        ``ort-cpu``, ``ort-cuda``, …: the names of tables, JSON and ``--engine``.
    device
        ``cpu`` or ``cuda:<index>``: where it really runs.
    library
        The library and its version.
    """

    name: str
    device: str
    library: str

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle

    @property
    def spec(self) -> ModelSpec:
        """What the network means."""
        return self.bundle.spec

    def run(self, tensors: Mapping[str, Slices]) -> Slices:
        """Synthesise a batch.

        Parameters
        ----------
        tensors
            One (B, 1, H, W) float32 array for each of ``spec.tensor_names``; B is free, H and W
            are the crop's, or others that ``spec.takes``.

        Returns
        -------
        (B, 1, H, W) float32 in [-1, 1].

        Raises
        ------
        EngineError
            Wrong names, shapes or types, or a failure inside the engine.
        MemoryExhausted
            The device ran out of memory.
        """
        expected = self.spec.tensor_names
        if set(tensors) != set(expected):
            raise EngineError(
                f"{self.name}: got tensors {sorted(tensors)}, expected {sorted(expected)}"
            )
        crop, sizes = self.spec.crop, self.spec.sizes
        for name, array in tensors.items():
            if (
                array.dtype != np.float32
                or array.ndim != 4
                or array.shape[1] != 1
                or not self.spec.takes(*array.shape[2:])
            ):
                raise EngineError(
                    f"{self.name}: {name} is {array.dtype} {array.shape}, expected float32 "
                    f"(B, 1, {crop.height}, {crop.width})"
                    + ("" if sizes is None else f", or from {sizes.smallest} to {sizes.largest}")
                )
        shapes = {name: array.shape for name, array in tensors.items()}
        if len(set(shapes.values())) != 1 or not next(iter(shapes.values()))[0]:
            raise EngineError(f"{self.name}: batches are empty, or shapes differ: {shapes}")
        return self._run(tensors)

    @abstractmethod
    def _run(self, tensors: Mapping[str, Slices]) -> Slices: ...

    @abstractmethod
    def close(self) -> None:
        """Release what it holds; it cannot run afterwards."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
