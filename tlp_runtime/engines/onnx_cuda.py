"""Engine ``ort-cuda``: ONNX Runtime's CUDA execution provider."""

from __future__ import annotations

from tlp_runtime.engines.onnx_device import CUDA_PROVIDER, OnnxDeviceEngine
from tlp_runtime.errors import Install


class OnnxCudaEngine(OnnxDeviceEngine):
    """ONNX Runtime on one GPU: bound buffers, one CUDA graph per shape, NHWC, searched kernels."""

    name = "ort-cuda"
    automatic = True
    provider = CUDA_PROVIDER
    libraries = Install(("tlp-mri[gpu]",), purpose="for CUDA and cuDNN")
    captures = True
