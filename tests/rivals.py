"""Fixtures of the published rivals: outputs of their official code, whose weights follow a rule.

Weights, images and noise come from a hash (SplitMix64 of a name's CRC-32) and plain float64
arithmetic, the same everywhere; a fixture holds the keys of the published state dict and outputs.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FOLDER = Path(__file__).parent / "data" / "rivals"

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIXERS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))


@dataclass(frozen=True)
class Fixture:
    """One network's keys, options and outputs."""

    meta: Mapping[str, Any]
    keys: list[tuple[str, list[int]]]
    arrays: Mapping[str, NDArray[Any]]

    @classmethod
    def load(cls, name: str) -> Fixture:
        """The fixture of that name; its weights and inputs are those it was made with."""
        with np.load(FOLDER / f"{name}.npz") as file:
            arrays = {key: file[key] for key in file.files}
        meta, keys = json.loads(str(arrays.pop("meta"))), json.loads(str(arrays.pop("keys")))
        return cls(meta, keys, arrays)

    def state(self) -> dict[str, Tensor]:
        """The published state dict."""
        state = {}
        crc = 0
        for key, shape in self.keys:
            name = _canonical(key)
            gains = self.meta["gains"].items()
            gain = next((g for pattern, g in gains if re.fullmatch(pattern, name)), 1.0)
            array = _weights(name, shape, gain)
            crc = zlib.crc32(np.ascontiguousarray(array).tobytes(), crc)
            state[key] = torch.from_numpy(array)
        assert crc == self.meta["weights_crc32"]
        return state

    def inputs(self) -> dict[str, Tensor]:
        """What the published network was given."""
        return {name: torch.from_numpy(given(spec)) for name, spec in self.meta["inputs"].items()}

    def inner(self) -> Iterator[tuple[str, float]]:
        """Names of the modules whose outputs are kept, and how far ours may be from them."""
        for name, about in self.meta["arrays"].items():
            if not name.startswith("output"):
                yield name, 5 * about["float32_error"]

    def distance(self, name: str, found: Tensor | NDArray[Any]) -> float:
        """The largest difference between a kept array and a whole one of ours."""
        steps = tuple(slice(None, None, s) for s in self.meta["arrays"][name]["steps"])
        array = np.asarray(found)
        assert list(array.shape) == self.meta["arrays"][name]["shape"]
        return float(np.abs(array[steps].astype(np.float64) - self.arrays[name]).max())


def given(spec: Mapping[str, Any]) -> NDArray[Any]:
    """The input that an entry of a fixture's ``inputs`` or ``loop`` describes."""
    if "images" in spec:
        return _images(**spec["images"])
    if "noise" in spec:
        return _noise(spec["noise"]["name"], tuple(spec["noise"]["shape"]))
    return np.array(spec["int64"], np.int64)


def _uniform(name: str, count: int) -> NDArray[np.float64]:
    seed = np.uint64(zlib.crc32(name.encode()) << 32)
    with np.errstate(over="ignore"):
        z = seed + np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN
        for shift, factor in _MIXERS:
            z = (z ^ (z >> np.uint64(shift))) * np.uint64(factor)
    z ^= z >> np.uint64(31)
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _noise(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    count = int(np.prod(shape))
    sums = _uniform(name, 12 * count).reshape(12, count).sum(axis=0) - 6.0
    return np.asarray(sums, np.float32).reshape(shape)


def _canonical(key: str) -> str:
    """The key that seeds a tensor: ResViT's one transformer has three names."""
    return re.sub(
        r"^art_\d+\.transformer\.", "transformer_encoder.", re.sub(r"^(module\.)+", "", key)
    )


def _weights(key: str, shape: list[int], gain: float) -> NDArray[Any]:
    last = key.rsplit(".", 1)[-1]
    if last == "num_batches_tracked":
        return np.array(100, np.int64)
    x = ((2.0 * _uniform(key, int(np.prod(shape))) - 1.0) * np.sqrt(3.0)).reshape(shape)
    if last == "running_mean":
        x = 0.2 * x
    elif last == "running_var":
        x = 0.5 + 0.5 * np.abs(x)
    elif last == "gamma":
        x = 0.8 + 0.1 * x
    elif key.endswith("style.bias"):
        x = 0.1 * x
        x[: len(x) // 2] += 1.0
    elif len(shape) == 4:
        x = gain * x / np.sqrt(float(np.prod(shape[1:])))
    elif len(shape) == 3:
        x = gain * 0.2 * x
    elif len(shape) == 2:
        x = gain * x / np.sqrt(float(shape[1]))
    else:
        x = 1.0 + 0.1 * x if last == "weight" else 0.1 * x
    return np.asarray(x, np.float32)


def _images(
    channels: int, height: int, width: int, batch: int = 1, name: str = "image"
) -> NDArray[np.float32]:
    """An ellipse of smooth, slightly noisy values on -1."""
    v, u = np.meshgrid(
        (2 * np.arange(height) + 1.0) / height - 1,
        (2 * np.arange(width) + 1.0) / width - 1,
        indexing="ij",
    )
    r2 = (u / 0.8) ** 2 + (v / 0.9) ** 2
    out = np.full((batch, channels, height, width), -1.0)
    for b in range(batch):
        for c in range(channels):
            k = 2.0 * _uniform(f"{name}/{b}/{c}", 6) - 1.0
            blob = np.clip(1.0 - ((u - 0.4 * k[0]) ** 2 + (v - 0.4 * k[1]) ** 2) / 0.08, 0.0, 1.0)
            flat = 2.0 * _uniform(f"{name}/{b}/{c}/grain", height * width) - 1.0
            grain = flat.reshape(height, width)
            value = (
                0.2 * k[2]
                + 0.5 * k[3] * (1.0 - 2.0 * r2)
                + 0.5 * k[4] * u * v
                + 0.7 * blob
                + 0.15 * grain
            )
            out[b, c] = np.where(r2 < 1.0, np.clip(value, -1.0, 1.0), -1.0)
    return out.astype(np.float32)
