"""ONNX Runtime on a CPU or an NVIDIA GPU."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from tlp_runtime.bundle import Bundle
from tlp_runtime.engines.base import Engine, Slices
from tlp_runtime.errors import (
    DependencyConflict,
    DependencyMissing,
    DeviceUnavailable,
    EngineError,
    MemoryExhausted,
    ModelDamaged,
)
from tlp_runtime.spec import OUTPUT_NAME, ModelSpec

logger = logging.getLogger(__name__)

SPEC_KEY = "tlp.spec"
"""Key of the ONNX metadata that holds the model specification."""


def require_onnxruntime() -> str:
    """The one installed flavour and its version, such as ``onnxruntime 1.32.0``.

    Raises
    ------
    DependencyMissing
        Neither flavour is installed.
    DependencyConflict
        Both are; they overwrite each other's files.
    """
    found = {}
    for flavour in ("onnxruntime", "onnxruntime-gpu"):
        try:
            found[flavour] = version(flavour)
        except PackageNotFoundError:
            continue
    if not found:
        raise DependencyMissing(
            "ONNX Runtime is not installed. Install one flavour: pip install 'tlp-mri[cpu]' for "
            "CPUs, or pip install 'tlp-mri[gpu]' for NVIDIA GPUs (which also runs on the CPU)."
        )
    if len(found) == 2:
        raise DependencyConflict(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other. Run: "
            "pip uninstall -y onnxruntime onnxruntime-gpu, then pip install 'tlp-mri[cpu]' or "
            "pip install 'tlp-mri[gpu]'."
        )
    return " ".join(next(iter(found.items())))


class OnnxEngine(Engine):
    """ONNX Runtime. Safe to run from several threads at once.

    Parameters
    ----------
    cuda_index
        The GPU; None runs on the CPU. A GPU that was asked for is what runs, or opening fails:
        ONNX Runtime's fallback to the CPU is off.
    threads
        CPU threads of one run; None leaves it to ONNX Runtime (one a core).
    """

    def __init__(
        self, bundle: Bundle, *, cuda_index: int | None = None, threads: int | None = None
    ) -> None:
        super().__init__(bundle)
        self.library = require_onnxruntime()
        if cuda_index is None and bundle.precision == "bf16":
            raise EngineError(
                f"{bundle.path}: is bf16, which ONNX Runtime cannot run on a CPU. Export it with "
                "--precision fp32 or int8 for CPUs."
            )
        self.name = "ort-cpu" if cuda_index is None else "ort-cuda"
        self.device = "cpu" if cuda_index is None else f"cuda:{cuda_index}"
        self._session = self._open(cuda_index, threads)
        self._check_graph()

    def _open(self, cuda_index: int | None, threads: int | None) -> Any:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        if cuda_index is None:
            providers: list[Any] = ["CPUExecutionProvider"]
        else:
            if "CUDAExecutionProvider" not in ort.get_available_providers():
                raise DeviceUnavailable(
                    f"device cuda:{cuda_index} was asked for, but {self.library} has no CUDA "
                    "support. Install it with pip uninstall -y onnxruntime, then pip install "
                    "'tlp-mri[gpu]', or run with --device cpu."
                )
            ort.preload_dlls()
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
            providers = [("CUDAExecutionProvider", {"device_id": cuda_index})]
        try:
            session = ort.InferenceSession(
                os.fspath(self.bundle.onnx), options, providers=providers
            )
        except Exception as error:
            if cuda_index is not None:
                raise DeviceUnavailable(
                    f"device cuda:{cuda_index} was asked for and cannot be used: "
                    f"{_reason(error)} Check the driver with nvidia-smi, or run with --device cpu."
                ) from error
            raise EngineError(
                f"{self.bundle.onnx}: {self.library} cannot load it: {_reason(error)}"
            ) from error
        if cuda_index is not None and session.get_providers()[0] != "CUDAExecutionProvider":
            raise DeviceUnavailable(
                f"device cuda:{cuda_index} was asked for, but ONNX Runtime would run on "
                f"{session.get_providers()[0]}. Check the driver with nvidia-smi."
            )
        return session

    def _check_graph(self) -> None:
        """The graph must say the same of itself as the bundle does."""
        inputs = tuple(sorted(node.name for node in self._session.get_inputs()))
        outputs = tuple(node.name for node in self._session.get_outputs())
        text = self._session.get_modelmeta().custom_metadata_map.get(SPEC_KEY)
        if text is None or ModelSpec.from_json(text) != self.spec:
            raise ModelDamaged(
                f"{self.bundle.onnx}: its specification is not the bundle's. Export it again."
            )
        if inputs != tuple(sorted(self.spec.tensor_names)) or outputs != (OUTPUT_NAME,):
            raise ModelDamaged(
                f"{self.bundle.onnx}: has inputs {inputs} and outputs {outputs}, expected "
                f"{self.spec.tensor_names} and {OUTPUT_NAME}. Export it again."
            )

    def _run(self, tensors: Mapping[str, Slices]) -> Slices:
        try:
            (image,) = self._session.run([OUTPUT_NAME], dict(tensors))
        except Exception as error:
            text = _reason(error)
            if "memory" in text.lower() and "alloc" in text.lower():
                raise MemoryExhausted(
                    f"{self.name}: out of memory with a batch of "
                    f"{next(iter(tensors.values())).shape[0]} slices. Give a smaller --batch. "
                    f"({text})"
                ) from error
            raise EngineError(f"{self.name}: the run failed: {text}") from error
        return image  # type: ignore[no-any-return]

    def close(self) -> None:
        self._session = None


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
