"""ONNX Runtime on an NVIDIA GPU: its CUDA and its TensorRT execution provider."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import time
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from tlp_runtime.engines.cuda import Cuda, require_gpu
from tlp_runtime.engines.device import DeviceEngine
from tlp_runtime.engines.onnx import check_graph, failure, reason, require_onnxruntime
from tlp_runtime.engines.options import BatchProfile
from tlp_runtime.engines.plans import caches_folder
from tlp_runtime.errors import DeviceUnavailable, EngineError, MemoryExhausted
from tlp_runtime.files.atomic import make_folder
from tlp_runtime.models.bundle import Bundle

OrtName = Literal["ort-cuda", "ort-trt"]

PROVIDERS: Mapping[OrtName, str] = {
    "ort-cuda": "CUDAExecutionProvider",
    "ort-trt": "TensorrtExecutionProvider",
}

LIBRARIES: Mapping[str, str] = {
    "ort-cuda": "CUDA and cuDNN for it come with: pip install 'tlp-mri[gpu]'",
    "ort-trt": "It needs TensorRT 10 beside CUDA and cuDNN: pip install 'tlp-mri[gpu,trt]' "
    "'tensorrt<11'",
}
"""What to do where a provider's libraries are missing."""

ON_THE_CPU = frozenset(
    ("Shape", "Size", "Gather", "Concat", "Squeeze", "Unsqueeze", "Slice", "Cast", "Add", "Sub",
     "Mul", "Div", "Mod", "Range", "Constant", "ConstantOfShape", "Expand", "Equal", "Where")
)  # fmt: skip
"""Operators of shapes, a few whole numbers; ONNX Runtime itself puts these on the CPU."""


class OnnxDeviceEngine(DeviceEngine):
    """ONNX Runtime on one GPU: bound buffers, one CUDA graph a shape, NHWC, searched convolutions.

    What computes is on the GPU or opening fails: the provider of every node is looked up.

    Parameters
    ----------
    name
        ``ort-cuda``, or ``ort-trt`` where ONNX Runtime finds TensorRT's libraries.
    cuda_index
        The GPU.
    profile
        ``ort-trt``: the batches its engine is built for.
    cuda, runtime
        Stand-ins for tests; None takes cuda-bindings and onnxruntime.

    Raises
    ------
    DeviceUnavailable
        No such GPU, or this ONNX Runtime cannot use it.
    EngineError
        The graph cannot be loaded, or would compute on the CPU in part.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        name: OrtName = "ort-cuda",
        cuda_index: int = 0,
        profile: BatchProfile | None = None,
        cuda: Cuda | None = None,
        runtime: Any = None,
    ) -> None:
        self.name = name
        self._provider = PROVIDERS[name]
        if runtime is None:
            self.library = require_onnxruntime()
            self._ort: Any = importlib.import_module("onnxruntime")
        else:
            self.library = f"onnxruntime {runtime.__version__}"
            self._ort = runtime
        self._require_provider(cuda_index)
        cuda = cuda or Cuda()
        require_gpu(cuda, cuda_index)
        super().__init__(bundle, cuda, cuda_index)
        self._profile = profile or BatchProfile()
        self._use_graphs = name == "ort-cuda" and bundle.spec.sizes is None
        began = time.perf_counter()
        self._session = self._open()
        self.opening["open"] = time.perf_counter() - began
        self._bound: dict[tuple[Any, ...], tuple[Any, Any]] = {}
        self._graph_ids = 0

    def _require_provider(self, index: int) -> None:
        if self._provider not in self._ort.get_available_providers():
            raise DeviceUnavailable(
                f"device cuda:{index} was asked for with {self.name}, but {self.library} has no "
                f"{self._provider}. Install one that has: pip uninstall -y onnxruntime, then "
                "pip install 'tlp-mri[gpu]'; or run with --device cpu."
            )

    def _open(self) -> Any:
        ort = self._ort
        # CUDA, cuDNN and TensorRT as pip installs them, beside the system's.
        if hasattr(ort, "preload_dlls"):
            with contextlib.redirect_stdout(sys.stderr):  # it prints what it cannot find
                ort.preload_dlls()
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        try:
            session = ort.InferenceSession(
                os.fspath(self.bundle.onnx),
                options,
                providers=self._providers(),
                enable_fallback=0,  # else a failure would be answered by a session on the CPU
            )
        except Exception as error:
            raise DeviceUnavailable(
                f"{self.name} on {self.device} was asked for and cannot be used: {reason(error)} "
                f"{LIBRARIES[self.name]}"
            ) from error
        if session.get_providers()[0] != self._provider:
            raise DeviceUnavailable(
                f"{self.name} on {self.device} was asked for, but ONNX Runtime would run on "
                f"{session.get_providers()[0]}: it could not load {self._provider}'s libraries. "
                f"{LIBRARIES[self.name]}"
            )
        check_graph(session, self.bundle)
        self._require_on_gpu(session)
        return session

    def _providers(self) -> list[Any]:
        stream = str(int(self._compute))
        cuda = {
            "device_id": str(self._index),
            "user_compute_stream": stream,
            "cudnn_conv_algo_search": "EXHAUSTIVE",
            "cudnn_conv_use_max_workspace": "1",
            "prefer_nhwc": "1",
            "use_tf32": "1",
            "enable_cuda_graph": "1" if self._use_graphs else "0",
        }
        if self.name == "ort-cuda":
            return [("CUDAExecutionProvider", cuda)]
        caches = make_folder(caches_folder() / "ort-trt")
        smallest, usual, largest = (
            ",".join(f"{name}:{'x'.join(map(str, shape))}" for name in self.spec.tensor_names)
            for shape in self._profile.shapes(self.spec)
        )
        trt = {
            "device_id": str(self._index),
            "user_compute_stream": stream,
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
        return [("TensorrtExecutionProvider", trt), ("CUDAExecutionProvider", cuda)]

    def _require_on_gpu(self, session: Any) -> None:
        found: dict[str, set[str]] = {}
        for part in session.get_provider_graph_assignment_info():
            kinds = found.setdefault(part.ep_name, set())
            kinds.update(node.op_type for node in part.get_nodes())
        astray = found.get("CPUExecutionProvider", set()) - ON_THE_CPU
        if astray:
            raise EngineError(
                f"{self.name}: {self.library} would run {', '.join(sorted(astray))} on the CPU, "
                f"though {self.device} was asked for. Use another engine (tlp doctor lists them)."
            )
        if self.name == "ort-trt" and "TensorrtExecutionProvider" not in found:
            raise EngineError(
                f"{self.name}: ONNX Runtime gave no part of the graph to TensorRT. Use ort-cuda."
            )

    def _padded(self, batch: int) -> int:
        if self.name == "ort-cuda":
            return batch
        if batch > self._profile.maximum:
            raise EngineError(
                f"{self.name}: a batch of {batch} slices, but its engine takes up to "
                f"{self._profile.maximum}. Give a smaller --batch."
            )
        return max(batch, self._profile.minimum)

    def _enqueue(
        self, addresses: Mapping[str, int], shape: tuple[int, ...], slot: int | None
    ) -> None:
        key = (slot, shape)
        if slot is None:
            binding, run = self._bind(addresses, shape, graph=-1)
        elif key in self._bound:
            binding, run = self._bound[key]
        else:
            self._graph_ids += 1
            binding, run = self._bound[key] = self._bind(addresses, shape, graph=self._graph_ids)
        try:
            self._session.run_with_iobinding(binding, run)
        except Exception as error:
            problem = failure(self.name, shape[0], error)
            if isinstance(problem, MemoryExhausted):
                raise MemoryExhausted(reason(error)) from error
            raise problem from error

    def _bind(
        self, addresses: Mapping[str, int], shape: tuple[int, ...], *, graph: int
    ) -> tuple[Any, Any]:
        binding = self._session.io_binding()
        for name, address in addresses.items():
            bind = binding.bind_input if name in self.spec.tensor_names else binding.bind_output
            bind(name, "cuda", self._index, np.float32, list(shape), address)
        run = self._ort.RunOptions()
        # The caller waits by events; -1 runs without a graph.
        run.add_run_config_entry("disable_synchronize_execution_providers", "1")
        if self._use_graphs:
            run.add_run_config_entry("gpu_graph_id", str(graph))
        return binding, run

    def _forget(self, slot: int | None = None) -> None:
        for key in [key for key in self._bound if slot in (None, key[0])]:
            del self._bound[key]

    def close(self) -> None:
        """Release the session, then buffers and streams."""
        if self._closed:
            return
        self._settle()
        self._bound.clear()
        self._session = None
        super().close()
