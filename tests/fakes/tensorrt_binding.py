"""TensorRT bindings of a given version without TensorRT: its names and no others.

Every class is cut down to the names that the version's list has, and setting any other attribute
fails as it does on the real objects. Engines compute ``clip(first / 2 + prompt / 4, -1, 1)`` on the
fake CUDA runtime, in whatever order its streams take.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from tests.fakes.cuda_runtime import FakeRuntime

LISTS = Path(__file__).parents[1] / "data" / "tensorrt_api"
VERSIONS = {
    "10.16.1": ("trt", "tensorrt-10.16.1.txt"),
    "11.4.0": ("trt", "tensorrt-11.4.0.txt"),
    "1.7.1": ("trt-rtx", "tensorrt_rtx-1.7.1.txt"),
}
MAGIC = b"FAKETRT!"
HEADER = 64


def names(version: str) -> frozenset[str]:
    """Every public name of that version's bindings."""
    return frozenset((LISTS / VERSIONS[version][1]).read_text(encoding="utf-8").split())


class FakeBinding:
    """A module.

    Attributes
    ----------
    contexts_fail, opens_fail
        What TensorRT says instead of making a context, or of opening an engine.
    layer_type
        Of the convolutions of an engine that is built; None tells the graph's.
    """

    def __init__(self, version: str, cuda: FakeRuntime) -> None:
        self.__version__ = version
        self.flavour = VERSIONS[version][0]
        self._cuda = cuda
        self._known = names(version)
        self.contexts_fail = ""
        self.opens_fail = ""
        self.layer_type: str | None = None
        self.builds = 0
        self.kernel_caches: list[bytes] = []
        self.ran: list[tuple[int | None, NDArray[np.float32]]] = []
        """Profile and first input of every run."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self._known:
            raise AttributeError(f"module {self.flavour} {self.__version__} has no {name}")
        made = _CLASSES[name](self) if name in _CLASSES else self._enum(name)
        setattr(self, name, made)
        return made

    def _enum(self, name: str) -> Any:
        members = [
            item.partition(".")[2]
            for item in sorted(self._known)
            if item.startswith(f"{name}.") and item.partition(".")[2].isupper()
        ]
        if name == "ComputeCapability":
            values = {m: int(m[2:]) if m.startswith("SM") else ("NONE", "CURRENT").index(m)
                      for m in members}  # fmt: skip
            return _IntEnum(name, values)
        return _IntEnum(name, {member: number for number, member in enumerate(members)})

    def strict(self, kind: str, cls: type) -> Any:
        """``cls`` with none but the version's names."""
        allowed = {name.partition(".")[2] for name in self._known if name.startswith(f"{kind}.")}
        body = {
            name: value
            for name, value in vars(cls).items()
            if name.startswith("_") or name in allowed
        }
        body.pop("__dict__", None)
        body.pop("__weakref__", None)

        def set_attribute(self: Any, name: str, value: Any) -> None:
            if not name.startswith("_") and name not in allowed:
                raise AttributeError(f"{kind} has no {name}")
            object.__setattr__(self, name, value)

        body["__setattr__"] = set_attribute
        return type(kind, cls.__bases__, body)


def _IntEnum(name: str, values: dict[str, int]) -> Any:
    from enum import IntEnum

    return IntEnum(name, values)


def _ilogger(trt: FakeBinding) -> Any:
    class Severity(Enum):
        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2
        INFO = 3
        VERBOSE = 4

    class ILogger:
        def __init__(self) -> None: ...

    ILogger.Severity = Severity  # type: ignore[attr-defined]
    return ILogger


def _monitor(trt: FakeBinding) -> Any:
    class IProgressMonitor:
        def __init__(self) -> None: ...

    return IProgressMonitor


def _say(trt: FakeBinding, logger: Any, severity: str, text: str) -> None:
    logger.log(trt.ILogger.Severity[severity], text)


def _builder(trt: FakeBinding) -> Any:
    class Builder:
        def __init__(self, logger: Any) -> None:
            self._logger = logger

        def create_network(self, flags: int) -> Any:
            assert flags == 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
            return SimpleNamespace(sha=None, inputs=(), half=False)

        def create_builder_config(self) -> Any:
            return trt.strict("IBuilderConfig", _Config)(trt)

        def create_optimization_profile(self) -> Any:
            return trt.strict("IOptimizationProfile", _Profile)()

        def build_serialized_network(self, network: Any, config: Any) -> Any:
            monitor = config.progress_monitor
            monitor.phase_start("Building engine", None, 3)
            for step in range(3):
                if not monitor.step_complete("Building engine", step):
                    monitor.phase_finish("Building engine")
                    return None
            monitor.phase_finish("Building engine")
            trt.builds += 1
            kind = trt.layer_type or ("Half" if network.half else "Float")
            said = f"LayerType: correlation, Inputs: [ {{ Name: x, Datatype: {kind} }}]"
            _say(trt, self._logger, "VERBOSE", f"Layers:\nName: conv, {said}")
            body = {
                "flavour": trt.flavour, "version": trt.__version__, "inputs": network.inputs,
                "sha": network.sha, "targets": config._targets,
                "profiles": [profile._shapes for profile in config._profiles],
                "tf32": trt.BuilderFlag.TF32 in config._flags,
            }  # fmt: skip
            text = json.dumps(body).encode() + bytes(2000)
            header = MAGIC + struct.pack("<Q", len(text)) + trt.flavour.encode()
            plan = header.ljust(HEADER, b"\0") + text
            return memoryview(plan)

    return trt.strict("Builder", Builder)


class _Config:
    def __init__(self, trt: FakeBinding) -> None:
        self._trt = trt
        self._profiles: list[Any] = []
        self._targets: list[str] = []
        self._timings: Any = None
        self._flags: list[Any] = [trt.BuilderFlag.TF32]  # TensorRT's own default
        self.progress_monitor: Any = None
        self.profiling_verbosity: Any = None

    def add_optimization_profile(self, profile: Any) -> int:
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def set_memory_pool_limit(self, pool: Any, size: int) -> None:
        assert size >= 2**20

    def set_flag(self, flag: Any) -> None:
        self._flags.append(flag)

    def clear_flag(self, flag: Any) -> None:
        self._flags.remove(flag)

    def create_timing_cache(self, known: bytes) -> Any:
        return None if known == b"foreign" else SimpleNamespace(serialize=lambda: known + b"+1")

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        assert cache is not None
        self._timings = cache
        return True

    def get_timing_cache(self) -> Any:
        return self._timings

    def set_compute_capability(self, item: Any, index: int) -> bool:
        assert index < self.num_compute_capabilities  # type: ignore[attr-defined]
        self._targets.append(item.name)
        return True


class _Profile:
    def __init__(self) -> None:
        self._shapes: dict[str, Any] = {}

    def set_shape(self, name: str, smallest: Any, usual: Any, largest: Any) -> None:
        self._shapes[name] = [list(smallest), list(usual), list(largest)]


def _parser(trt: FakeBinding) -> Any:
    class OnnxParser:
        def __init__(self, network: Any, logger: Any) -> None:
            self._network = network
            self.num_errors = 0

        def parse_from_file(self, path: str) -> bool:
            try:
                model = onnx.load(path)
            except Exception:
                self.num_errors = 1
                return False
            self._network.inputs = [value.name for value in model.graph.input]
            self._network.sha = hashlib.sha256(Path(path).read_bytes()).hexdigest()
            self._network.half = any(t.data_type == 10 for t in model.graph.initializer)
            return True

        def get_error(self, index: int) -> str:
            return "not a model"

    return trt.strict("OnnxParser", OnnxParser)


def _runtime(trt: FakeBinding) -> Any:
    class Runtime:
        def __init__(self, logger: Any) -> None:
            self._logger = logger
            if "Runtime.engine_header_size" in trt._known:
                self.engine_header_size = HEADER

        def get_engine_validity(self, header: bytes) -> Any:
            assert len(header) <= HEADER
            return (trt.EngineValidity.VALID if header.startswith(MAGIC) else
                    trt.EngineValidity.INVALID, 0)  # fmt: skip

        def deserialize_cuda_engine(self, plan: bytes) -> Any:
            if not trt._cuda.gpus:
                _say(trt, self._logger, "ERROR", "no CUDA-capable device (cudaError 35)")
                return None
            if trt.opens_fail:
                _say(trt, self._logger, "ERROR", trt.opens_fail)
                return None
            (size,) = struct.unpack("<Q", plan[8:16])
            assert len(plan) == HEADER + size, "the toolkit opened bytes that it had not checked"
            body = json.loads(plan[HEADER:].rstrip(b"\0"))
            return trt.strict("ICudaEngine", _Engine)(trt, self._logger, body)

    return trt.strict("Runtime", Runtime)


class _Engine:
    def __init__(self, trt: FakeBinding, logger: Any, body: dict[str, Any]) -> None:
        self._trt, self._logger, self._body = trt, logger, body
        self._names = [*body["inputs"], "t1ce"]
        self.num_io_tensors = len(self._names)
        self.num_optimization_profiles = len(body["profiles"])

    def get_tensor_name(self, index: int) -> str:
        return str(self._names[index])

    def get_tensor_mode(self, name: str) -> Any:
        mode = self._trt.TensorIOMode
        return mode.OUTPUT if name == "t1ce" else mode.INPUT

    def get_tensor_dtype(self, name: str) -> Any:
        return self._trt.DataType.FLOAT

    def get_tensor_profile_shape(self, name: str, index: int) -> Any:
        return self._body["profiles"][index][name]

    def create_engine_inspector(self) -> Any:
        kind = self._trt.layer_type or "Float"
        layer = {"LayerType": "Convolution", "Inputs": [{"Format/Datatype": kind}]}
        return SimpleNamespace(
            get_engine_information=lambda how: json.dumps({"Layers": [layer, "a name alone"]})
        )

    def create_runtime_config(self) -> Any:
        return self._trt.strict("IRuntimeConfig", _RuntimeConfig)(self._trt)

    def create_execution_context(self, config: Any) -> Any:
        if self._trt.contexts_fail:
            _say(self._trt, self._logger, "ERROR", self._trt.contexts_fail)
            return None
        assert config._strategy == self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        return self._trt.strict("IExecutionContext", _Context)(self._trt, self._body)


class _RuntimeConfig:
    def __init__(self, trt: FakeBinding) -> None:
        self._trt = trt
        self._strategy: Any = None

    def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
        self._strategy = strategy

    def create_runtime_cache(self) -> Any:
        return self._trt.strict("IRuntimeCache", _KernelCache)(self._trt)

    def set_runtime_cache(self, cache: Any) -> bool:
        return cache is not None


class _KernelCache:
    def __init__(self, trt: FakeBinding) -> None:
        self._trt = trt

    def deserialize(self, known: bytes) -> bool:
        self._trt.kernel_caches.append(known)
        return True

    def serialize(self) -> Any:
        return memoryview(b"kernels")


class _Context:
    def __init__(self, trt: FakeBinding, body: dict[str, Any]) -> None:
        self._trt, self._body = trt, body
        self._profile: int | None = None
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._lent = (0, 0)
        self._warm: set[tuple[int, ...]] = set()

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        self._profile = index
        return index < len(self._body["profiles"])

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert self._profile is not None
        smallest, _, largest = self._body["profiles"][self._profile][name]
        self._shapes[name] = shape
        return all(a <= b <= c for a, b, c in zip(smallest, shape, largest, strict=True))

    def update_device_memory_size_for_shapes(self) -> int:
        return 1000 * math.prod(next(iter(self._shapes.values()))[:1])

    def set_device_memory(self, address: int, size: int) -> None:
        self._lent = (address, size)

    def set_tensor_address(self, name: str, address: int) -> bool:
        assert name in (*self._body["inputs"], "t1ce")
        self._addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        cuda = self._trt._cuda
        shape = next(iter(self._shapes.values()))
        if cuda.capturing(stream):
            assert shape in self._warm, "a shape's first run allocates, it cannot be captured"
        self._warm.add(shape)
        lent, size = self._lent
        assert size >= self.update_device_memory_size_for_shapes()
        count = math.prod(shape)
        addresses = dict(self._addresses)
        first = next(name for name in self._body["inputs"] if name != "prompt")

        profile = self._profile

        def run() -> None:
            cuda.floats(lent, size // 4).fill(np.nan)
            inputs = cuda.floats(addresses[first], count).reshape(shape).copy()
            self._trt.ran.append((profile, inputs))
            given = cuda.floats(addresses[first], count) / 2
            given = given + cuda.floats(addresses["prompt"], count) / 4
            cuda.floats(addresses["t1ce"], count)[:] = np.clip(given, -1, 1)

        cuda.put(stream, run)
        return True


_CLASSES = {
    "ILogger": _ilogger,
    "IProgressMonitor": _monitor,
    "Builder": _builder,
    "OnnxParser": _parser,
    "Runtime": _runtime,
}
