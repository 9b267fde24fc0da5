"""What the engines of ONNX Runtime on an NVIDIA GPU share."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import time
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np

from tlp_runtime.engines.base import Opening, warnings_of
from tlp_runtime.engines.cuda import Cuda, gpu_problem, require_gpu
from tlp_runtime.engines.device import DeviceEngine
from tlp_runtime.engines.onnx import check_graph, require_onnxruntime, run_error
from tlp_runtime.engines.options import BatchProfile
from tlp_runtime.errors import (
    ChooseAnother,
    DependencyMissing,
    DeviceError,
    DeviceUnavailable,
    EngineError,
    Fix,
    Install,
    MemoryExhausted,
    RunTask,
    SetOption,
    first_line,
)
from tlp_runtime.models.bundle import Bundle
from tlp_runtime.warnings import WarningLog

CUDA_PROVIDER = "CUDAExecutionProvider"
TENSORRT_PROVIDER = "TensorrtExecutionProvider"

ON_THE_CPU = frozenset(
    ("Shape", "Size", "Gather", "Concat", "Squeeze", "Unsqueeze", "Slice", "Cast", "Add", "Sub",
     "Mul", "Div", "Mod", "Range", "Constant", "ConstantOfShape", "Expand", "Equal", "Where")
)  # fmt: skip
"""Operators of shapes, a few whole numbers; ONNX Runtime itself puts these on the CPU."""

_GPU_FLAVOUR = Install(("tlp-mri[gpu]",))
_OTHER_FLAVOUR = Install(("tlp-mri[gpu]",), remove=("onnxruntime",))


class OnnxDeviceEngine(DeviceEngine):
    """ONNX Runtime on one GPU, by one of its execution providers.

    What computes is on the GPU or opening fails: the provider of every node is looked up.

    Parameters
    ----------
    cuda_index
        The GPU.
    profile
        The batches that TensorRT inside ONNX Runtime builds its engine for.
    warnings
        Takes operational warnings.
    cuda, runtime
        Stand-ins for tests; None takes cuda-bindings and onnxruntime.

    Attributes
    ----------
    provider
        The execution provider.
    libraries
        What to install where the provider's libraries are missing.
    captures
        Whether ONNX Runtime captures CUDA graphs with this provider.

    Raises
    ------
    DeviceUnavailable
        No such GPU, or this ONNX Runtime cannot use it.
    EngineError
        The graph cannot be loaded, or would compute on the CPU in part.
    """

    provider: ClassVar[str]
    libraries: ClassVar[Fix]
    captures: ClassVar[bool] = False

    @classmethod
    def unavailable(cls, index: int = 0) -> DeviceError | MemoryExhausted | None:
        """Why it cannot run: ONNX Runtime, its support for the provider, or the GPU is missing."""
        try:
            library = require_onnxruntime()
        except DependencyMissing as error:
            return DependencyMissing(error.problem, fix=_GPU_FLAVOUR)
        except DeviceError as error:
            return error
        try:
            import onnxruntime as ort
        except Exception as error:
            return EngineError(f"{library} cannot be imported ({first_line(error)})")
        if cls.provider not in ort.get_available_providers():
            return DependencyMissing(f"{library} has no CUDA support", fix=_OTHER_FLAVOUR)
        return gpu_problem(index)

    @classmethod
    def open(cls, bundle: Bundle, *, index: int = 0, opening: Opening | None = None) -> Self:
        """Load ``bundle`` on the GPU ``index``."""
        return cls(bundle, cuda_index=index, warnings=warnings_of(opening))

    def __init__(
        self,
        bundle: Bundle,
        *,
        cuda_index: int = 0,
        profile: BatchProfile | None = None,
        warnings: WarningLog | None = None,
        cuda: Cuda | None = None,
        runtime: Any = None,
    ) -> None:
        if runtime is None:
            self.library = require_onnxruntime()
            self._ort: Any = importlib.import_module("onnxruntime")
        else:
            self.library = f"onnxruntime {runtime.__version__}"
            self._ort = runtime
        self._require_provider(cuda_index)
        unsuited = self.unsuited(bundle)
        if unsuited is not None:
            raise unsuited
        cuda = cuda or Cuda()
        require_gpu(cuda, cuda_index)
        super().__init__(bundle, cuda, cuda_index, warnings)
        self._profile = profile or BatchProfile()
        # A graph holds no work of the CPU: shapes that vary, and those of the network as published.
        graph = bundle.manifest.graph
        folded = graph is None or bool(graph.folds)
        self._use_graphs = self.captures and bundle.spec.sizes is None and folded
        began = time.perf_counter()
        self._session = self._open()
        self.opening["open"] = time.perf_counter() - began
        self._bound: dict[tuple[Any, ...], tuple[Any, Any]] = {}
        self._graph_ids = 0

    def _require_provider(self, index: int) -> None:
        if self.provider not in self._ort.get_available_providers():
            raise DeviceUnavailable(
                f"device cuda:{index} was asked for with {self.name}, but {self.library} has no "
                f"{self.provider}",
                fix=(_OTHER_FLAVOUR, SetOption("device", "cpu", "to run without a GPU")),
            )

    def _open(self) -> Any:
        ort = self._ort
        # CUDA, cuDNN and TensorRT as pip installs them, in addition to the system's.
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
                f"{self.name} on {self.device} was asked for and cannot be used: "
                f"{first_line(error)}",
                fix=self.libraries,
            ) from error
        if session.get_providers()[0] != self.provider:
            raise DeviceUnavailable(
                f"{self.name} on {self.device} was asked for, but ONNX Runtime would run on "
                f"{session.get_providers()[0]}: it could not load {self.provider}'s libraries",
                fix=self.libraries,
            )
        check_graph(session, self.bundle)
        self._require_on_gpu(session)
        return session

    def _providers(self) -> list[Any]:
        """The execution providers and their options, the wanted one first."""
        cuda = {
            "device_id": str(self._index),
            "user_compute_stream": str(int(self._compute)),
            "cudnn_conv_algo_search": "EXHAUSTIVE",
            "cudnn_conv_use_max_workspace": "1",
            # Channels-last convolutions plan again whenever the shape changes, which frees what the
            # CUDA graph of another shape still uses (onnxruntime-gpu 1.31.1, H100, fp16).
            "prefer_nhwc": "0",
            # TF32 keeps ten bits: no less than half precision has, but not what fp32 promises.
            "use_tf32": "0" if self.bundle.precision == "fp32" else "1",
            "enable_cuda_graph": "1" if self._use_graphs else "0",
        }
        return [(CUDA_PROVIDER, cuda)]

    def _require_on_gpu(self, session: Any) -> None:
        found: dict[str, set[str]] = {}
        for part in session.get_provider_graph_assignment_info():
            kinds = found.setdefault(part.ep_name, set())
            kinds.update(node.op_type for node in part.get_nodes())
        astray = found.get("CPUExecutionProvider", set()) - ON_THE_CPU
        if astray:
            raise EngineError(
                f"{self.name}: {self.library} would run {', '.join(sorted(astray))} on the CPU, "
                f"though {self.device} was asked for",
                fix=(ChooseAnother("engine", "engine"), RunTask("doctor", purpose="to list them")),
            )
        if self.provider not in found:
            raise EngineError(
                f"{self.name}: ONNX Runtime gave no part of the graph to {self.provider}",
                fix=ChooseAnother("engine", "engine"),
            )

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
            problem = run_error(self.name, shape[0], error)
            if isinstance(problem, MemoryExhausted):
                raise MemoryExhausted(first_line(error)) from error
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
