"""Engine ``ort-trt``: ONNX Runtime's TensorRT execution provider."""

from __future__ import annotations

import ctypes.util
import importlib.util
import os
from typing import Any

from tlp_runtime.engines.caches import caches_folder
from tlp_runtime.engines.onnx_device import TENSORRT_PROVIDER, OnnxDeviceEngine
from tlp_runtime.errors import (
    DependencyMissing,
    DeviceError,
    EngineError,
    Install,
    MemoryExhausted,
    SetOption,
)
from tlp_runtime.files.atomic import make_folder

_LIBRARIES = Install(("tlp-mri[gpu,trt]", "tensorrt<11"), purpose="for TensorRT 10")


class OnnxTensorRTEngine(OnnxDeviceEngine):
    """TensorRT inside ONNX Runtime, which builds its engines for every machine by itself.

    Never chosen automatically, since those builds take minutes.
    """

    name = "ort-trt"
    provider = TENSORRT_PROVIDER
    libraries = _LIBRARIES

    @classmethod
    def unavailable(cls, index: int = 0) -> DeviceError | MemoryExhausted | None:
        """Why it cannot run: as for the base class, or TensorRT's library is not found."""
        problem = super().unavailable(index)
        if problem is None and not _has_libnvinfer():
            return DependencyMissing("libnvinfer of TensorRT 10 is not found", fix=_LIBRARIES)
        return problem

    def _providers(self) -> list[Any]:
        caches = make_folder(caches_folder() / "ort-trt")
        smallest, usual, largest = (
            ",".join(f"{name}:{'x'.join(map(str, shape))}" for name in self.spec.tensor_names)
            for shape in self._profile.shapes(self.spec)
        )
        options = {
            "device_id": str(self._index),
            "user_compute_stream": str(int(self._compute)),
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": os.fspath(caches),
            "trt_engine_cache_prefix": self.bundle.onnx_sha256[:16],
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": os.fspath(caches),
            "trt_profile_min_shapes": smallest,
            "trt_profile_opt_shapes": usual,
            "trt_profile_max_shapes": largest,
            # The graph's own types: half precision with float32 islands, or float32.
            "trt_fp16_enable": "0",
        }
        return [(TENSORRT_PROVIDER, options), *super()._providers()]

    def _padded(self, batch: int) -> int:
        if batch > self._profile.maximum:
            raise EngineError(
                f"{self.name}: a batch of {batch} slices, but its engine takes up to "
                f"{self._profile.maximum}",
                fix=SetOption("batch", "a smaller number"),
            )
        return max(batch, self._profile.minimum)


def _has_libnvinfer() -> bool:
    packaged = any(importlib.util.find_spec(name) for name in ("tensorrt_libs", "tensorrt"))
    return packaged or ctypes.util.find_library("nvinfer") is not None
