"""A machine with a GPU and TensorRT that are not there, and what its network computes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.fakes.cuda_runtime import FakeRuntime
from tests.fakes.tensorrt_binding import FakeBinding
from tlp_runtime.engines.builds import build_engine
from tlp_runtime.engines.cuda import Cuda, Gpu
from tlp_runtime.engines.options import EngineOptions
from tlp_runtime.engines.plans import StoredEngine
from tlp_runtime.engines.registry import find_engine
from tlp_runtime.engines.tensorrt.binding import TensorRT
from tlp_runtime.engines.tensorrt.engine import TensorRTEngine
from tlp_runtime.engines.tensorrt.flavours import FlavourName
from tlp_runtime.errors import EngineError
from tlp_runtime.models.bundle import Bundle
from tlp_runtime.warnings import WarningLog

Arrays = dict[str, NDArray[np.float32]]


class Machine:
    """TensorRT of one version, and a copy of a bundle that a test may damage."""

    def __init__(self, version: str, folder: Path, bundle: Bundle) -> None:
        self.cuda = FakeRuntime()
        self.heard = WarningLog()
        self.module = FakeBinding(version, self.cuda)
        self.bundle = Bundle.open(shutil.copytree(bundle.path, folder / f"bundle for {version}"))

    @property
    def flavour(self) -> FlavourName:
        return "trt" if self.module.flavour == "trt" else "trt-rtx"

    @property
    def gpu(self) -> Gpu:
        return Cuda(self.cuda).gpus()[0]

    @property
    def binding(self) -> TensorRT:
        return TensorRT(self.flavour, self.module)

    def build(self, progress: Any = None, **options: Any) -> StoredEngine:
        gpu = self.gpu if self.cuda.gpus else None
        return build_engine(
            self.bundle,
            EngineOptions(**options),
            self.binding,
            gpu,
            warn=self.heard.add,
            progress=progress,
        )

    def open(self, **options: Any) -> TensorRTEngine:
        kind = find_engine(self.flavour)
        assert issubclass(kind, TensorRTEngine)
        return kind(
            self.bundle,
            cuda=Cuda(self.cuda),
            binding=self.binding,
            warnings=WarningLog(self.heard.add),
            **options,
        )

    def refusal(self) -> str:
        """What opening says when building is refused; nothing may have been built."""
        before = self.module.builds
        with pytest.raises(EngineError) as e:
            self.open(build=False)
        assert e.value.exit_code == 5
        assert self.module.builds == before
        assert "\n" not in str(e.value)
        return str(e.value)


def inputs(batch: int, seed: int = 0) -> Arrays:
    """Noise for a network of one image."""
    rng = np.random.default_rng(seed)
    shape = (batch, 1, 192, 160)
    return {name: rng.uniform(-1, 1, shape).astype(np.float32) for name in ("t1", "prompt")}


def expected(tensors: Arrays) -> NDArray[np.float32]:
    """What the stand-ins for TensorRT and ONNX Runtime compute of it."""
    image: NDArray[np.float32] = np.clip(tensors["t1"] / 2 + tensors["prompt"] / 4, -1, 1)
    return image
