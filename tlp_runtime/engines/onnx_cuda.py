"""Engine ``ort-cuda``: ONNX Runtime's CUDA execution provider."""

from __future__ import annotations

from tlp_runtime.engines.onnx_device import CUDA_PROVIDER, OnnxDeviceEngine
from tlp_runtime.errors import EngineError, Install, RunTask
from tlp_runtime.models.bundle import Bundle


class OnnxCudaEngine(OnnxDeviceEngine):
    """ONNX Runtime on one GPU: bound buffers, one CUDA graph per shape, searched kernels."""

    name = "ort-cuda"
    automatic = True
    provider = CUDA_PROVIDER
    libraries = Install(("tlp-mri[gpu]",), purpose="for CUDA and cuDNN")
    captures = True

    @classmethod
    def unsuited(cls, bundle: Bundle) -> EngineError | None:
        """bf16 and int8: ONNX Runtime cannot run such a graph by CUDA alone (1.31.1, on an H100).

        It has no convolution in bf16, and puts int8's quantised nodes on the CPU.
        """
        if bundle.precision not in ("bf16", "int8"):
            return None
        return EngineError(
            f"{bundle.path}: the bundle is {bundle.precision}, which ONNX Runtime cannot run by "
            "CUDA",
            fix=RunTask("export", (("precision", "fp16"),), "for that engine"),
        )
