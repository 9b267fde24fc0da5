"""An engine whose answer is known, without torch or ONNX Runtime."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tlp_runtime.engines.base import Engine, Slices
from tlp_runtime.models.bundle import Bundle
from tlp_runtime.models.manifest import ONNX, Manifest
from tlp_runtime.spec.model import ModelSpec, NetworkSpec

TINY_NETWORK = NetworkSpec(
    name="tlp",
    options={
        "dim": 4, "levels": 2, "blocks": (1, 1, 1), "heads": (2, 2, 2), "refinement_blocks": 1,
        "ffn_expansion": 2.0, "ffn": "conv", "local_fusion": True, "global_fusion": True,
    },
    multiple=4,
)  # fmt: skip


class FakeEngine(Engine):
    """Returns a fixed function of its inputs, so that the pipeline's own work can be checked."""

    name = "fake"
    device = "cpu"
    library = "none"

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(
            Bundle(
                Path("fake"),
                spec,
                Manifest(graph_dtype="fp32", compute_precision="fp32", files={ONNX: "0" * 64}),
            )
        )
        self.batches: list[int] = []

    def _run(self, tensors: Mapping[str, Slices]) -> Slices:
        first = tensors[self.spec.inputs[0]]
        self.batches.append(len(first))
        return np.clip(first * 0.5 + tensors["prompt"] * 0.25, -1, 1).astype(np.float32)

    def close(self) -> None: ...


class GatedEngine(FakeEngine):
    """Runs when it is let, and remembers which slices it saw."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)
        self.seen: list[int] = []
        self.images: list[np.ndarray] = []
        self.fails: Exception | None = None

    def _run(self, tensors: Mapping[str, Slices]) -> Slices:
        self.entered.release()
        assert self.gate.wait(20)
        self.seen.append(len(tensors["prompt"]))
        self.images.extend(tensors["t1"][:, 0].copy())
        if self.fails is not None:
            raise self.fails
        return super()._run(tensors)
