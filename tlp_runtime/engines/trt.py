"""Engine ``trt``: enterprise TensorRT."""

from __future__ import annotations

from tlp_runtime.engines.tensorrt.engine import TensorRTEngine


class EnterpriseEngine(TensorRTEngine):
    """Enterprise TensorRT on one GPU."""

    name = "trt"
    flavour = "trt"
