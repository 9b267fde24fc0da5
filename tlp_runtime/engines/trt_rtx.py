"""Engine ``trt-rtx``: TensorRT-RTX."""

from __future__ import annotations

from tlp_runtime.engines.cuda import Cuda
from tlp_runtime.engines.tensorrt.engine import TensorRTEngine
from tlp_runtime.errors import ChooseAnother, DeviceError, DeviceUnavailable, MemoryExhausted

CAPABILITIES = ((7, 5), (8, 0), (8, 6), (8, 9), (12, 0), (12, 1))
"""GPUs that TensorRT-RTX 1.7 names; no Hopper (9.0) and no data-centre Blackwell (10.x)."""


class RtxEngine(TensorRTEngine):
    """TensorRT-RTX on one GPU."""

    name = "trt-rtx"
    flavour = "trt-rtx"

    @classmethod
    def unavailable(cls, index: int = 0) -> DeviceError | MemoryExhausted | None:
        """Why it cannot run: as for the base class, or the GPU is not supported."""
        problem = super().unavailable(index)
        if problem is not None:
            return problem
        gpu = Cuda().gpus()[index]
        if gpu.compute_capability not in CAPABILITIES:
            return DeviceUnavailable(
                f"TensorRT-RTX does not support {gpu.name} (compute capability {gpu.capability}); "
                "enterprise TensorRT does",
                fix=ChooseAnother("engine", "engine"),
            )
        return None
