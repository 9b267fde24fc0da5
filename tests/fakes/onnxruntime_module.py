"""ONNX Runtime with a CUDA provider that is not there.

Names, inputs and metadata are the real ones of the file; the CUDA provider computes
``clip(first / 2 + prompt / 4, -1, 1)`` on the fake CUDA runtime, in the stream it was given. A CUDA
graph, once captured under an id, is replayed with the addresses it was captured with, as the real
one is.
"""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime

from tests.fakes.cuda_runtime import FakeRuntime


class FakeOnnxRuntime:
    """The module.

    Attributes
    ----------
    loads
        Whether the provider's libraries can be loaded; else sessions silently end on the CPU.
    on_cpu
        Operators that the provider leaves to the CPU.
    says
        What a run fails with.
    """

    __version__ = "9.9.0"
    RunOptions = onnxruntime.RunOptions
    SessionOptions = onnxruntime.SessionOptions

    def __init__(self, cuda: FakeRuntime, *providers: str) -> None:
        self.cuda = cuda
        self.providers = [*providers, "CPUExecutionProvider"]
        self.loads = True
        self.on_cpu: tuple[str, ...] = ("Shape", "Concat")
        self.says = ""
        self.sessions: list[FakeSession] = []
        self.captured: dict[int, dict[str, int]] = {}
        self.preloaded = False

    def preload_dlls(self) -> None:
        self.preloaded = True

    def get_available_providers(self) -> list[str]:
        return self.providers

    def InferenceSession(
        self, path: str, options: Any, *, providers: Any, enable_fallback: int
    ) -> FakeSession:
        assert enable_fallback == 0
        self.sessions.append(FakeSession(self, path, options, providers))
        return self.sessions[-1]


class FakeSession:
    """A session on the fake GPU."""

    def __init__(self, module: FakeOnnxRuntime, path: str, options: Any, providers: Any) -> None:
        self.module = module
        self.real = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        self.providers = dict(providers)
        self.options = next(iter(self.providers.values()))
        self.runs: dict[int, int] = {}
        for name in ("get_inputs", "get_outputs", "get_modelmeta"):
            setattr(self, name, getattr(self.real, name))
        # Only a recorded assignment can be asked for.
        self.recorded = options.get_session_config_entry("session.record_ep_graph_assignment_info")

    def get_providers(self) -> list[str]:
        names = list(self.providers) if self.module.loads else []
        return [*names, "CPUExecutionProvider"]

    def get_provider_graph_assignment_info(self) -> Any:
        assert self.recorded == "1"

        def part(name: str, kinds: tuple[str, ...]) -> Any:
            nodes = [SimpleNamespace(op_type=kind) for kind in kinds]
            return SimpleNamespace(ep_name=name, get_nodes=lambda: nodes)

        gpu = part(next(iter(self.providers)), ("Conv", "MatMul"))
        return [gpu, part("CPUExecutionProvider", self.module.on_cpu)]

    def io_binding(self) -> FakeBound:
        return FakeBound()

    def run_with_iobinding(self, bound: FakeBound, run: Any) -> None:
        module, cuda = self.module, self.module.cuda
        if module.says:
            raise RuntimeError(module.says)
        assert run.get_run_config_entry("disable_synchronize_execution_providers") == "1"
        addresses = dict(bound.addresses)
        if self.options.get("enable_cuda_graph") == "1":
            number = int(run.get_run_config_entry("gpu_graph_id"))
            if number != -1:
                self.runs[number] = self.runs.get(number, 0) + 1
                if self.runs[number] == 2:
                    module.captured[number] = addresses
                addresses = module.captured.get(number, addresses)
        count = math.prod(bound.shape)

        def work() -> None:
            first = next(name for name in addresses if name not in ("prompt", "t1ce"))
            given = cuda.floats(addresses[first], count) / 2
            given = given + cuda.floats(addresses["prompt"], count) / 4
            cuda.floats(addresses["t1ce"], count)[:] = np.clip(given, -1, 1)

        cuda.put(int(self.options["user_compute_stream"]), work)


class FakeBound:
    """An I/O binding."""

    def __init__(self) -> None:
        self.addresses: dict[str, int] = {}
        self.shape: tuple[int, ...] = ()

    def bind_input(
        self, name: str, kind: str, index: int, dtype: Any, shape: list[int], address: int
    ) -> None:
        assert (kind, dtype) == ("cuda", np.float32)
        self.addresses[name], self.shape = address, tuple(shape)

    bind_output = bind_input
