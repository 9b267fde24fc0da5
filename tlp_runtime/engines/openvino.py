"""Engine ``ov-cpu``: OpenVINO on the CPU, and the only one there that computes in bf16."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import os
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar, Self

from tlp_runtime.engines.base import Engine, Opening, Slices, warnings_of
from tlp_runtime.engines.caches import caches_folder, keep
from tlp_runtime.engines.onnx import run_error
from tlp_runtime.engines.processor import cores
from tlp_runtime.errors import (
    DependencyConflict,
    DependencyMissing,
    DeviceError,
    EngineError,
    Install,
    ModelDamaged,
    RunTask,
    SetOption,
    first_line,
)
from tlp_runtime.models.bundle import Bundle
from tlp_runtime.models.manifest import Precision
from tlp_runtime.spec.model import OUTPUT_NAME
from tlp_runtime.warnings import PRECISION_SLOW, WarningLog

HINTS: Mapping[Precision, str] = {"fp32": "f32", "fp16": "f32", "bf16": "bf16", "int8": "f32"}
"""What each precision is computed in. Without a word OpenVINO takes bf16 wherever it can."""

GRAPHS = 6
"""Compiled graphs that are held at once, each with weights of its own."""

_HINT = "INFERENCE_PRECISION_HINT"
_HASH_BYTES = 32

Shape = tuple[int, ...]


def require_openvino() -> str:
    """OpenVINO and its version, such as ``openvino 2026.4.1``.

    Raises
    ------
    DependencyMissing
        It is not installed.
    DependencyConflict
        It is, and cannot be imported.
    """
    try:
        number = version("openvino")
    except PackageNotFoundError:
        raise DependencyMissing(
            "OpenVINO is not installed", fix=Install(("tlp-mri[openvino]",))
        ) from None
    try:
        import openvino

        openvino.Core  # noqa: B018 - what is left of an uninstalled one has none
    except Exception as error:  # whatever is left of it may raise
        raise DependencyConflict(
            f"openvino {number} is installed, but files of it are missing or damaged "
            f"({first_line(error)})",
            fix=Install(("openvino",), again=True),
        ) from error
    return f"openvino {number}"


@functools.cache
def computes_bf16() -> bool:
    """Whether this processor multiplies bf16 itself, by what OpenVINO says of it."""
    import openvino

    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _seal(file: Path, blob: bytes) -> bytes:
    """What a kept graph begins with: it covers the name, which says what the graph is of."""
    return hashlib.sha256(file.name.encode() + blob).digest()


@dataclass
class _Graph:
    """A graph compiled for one shape, and requests that wait for work."""

    compiled: Any
    from_cache: bool
    _idle: list[Any] = field(default_factory=list)

    def take(self) -> Any:
        """A request that nobody else has."""
        try:
            return self._idle.pop()
        except IndexError:
            return self.compiled.create_infer_request()

    def give(self, request: Any) -> None:
        """Take a request back."""
        self._idle.append(request)


@dataclass(frozen=True)
class _Flight:
    """A run that has begun, of so many slices."""

    graph: _Graph
    request: Any
    count: int


class OpenVinoEngine(Engine):
    """OpenVINO on the CPU. Runs from several threads proceed side by side.

    Graphs are compiled for one shape each: for the batch that is asked for, and for powers of two
    that other batches are padded to. Compiled graphs are kept under ``TLP_HOME``.

    Parameters
    ----------
    threads
        Threads of all runs together; None takes one per core.
    batch
        The usual number of slices per run.
    streams
        Runs in flight at once; they share the threads.
    warnings
        Takes operational warnings.
    """

    name: ClassVar[str] = "ov-cpu"
    automatic = True
    device = "cpu"

    @classmethod
    def unavailable(cls, index: int = 0) -> DeviceError | None:
        """Why it cannot run: OpenVINO is missing or damaged."""
        try:
            require_openvino()
        except DeviceError as error:
            return error
        return None

    @classmethod
    def unsuited(cls, bundle: Bundle) -> EngineError | None:
        """bf16 on a processor without it, where it is right but slow."""
        if bundle.precision != "bf16" or computes_bf16():
            return None
        return EngineError(
            f"{bundle.path}: the bundle is bf16, which this processor does not compute in",
            fix=(
                RunTask("export", (("precision", "fp32"),), "for such processors"),
                SetOption("engine", cls.name, "to run it all the same, slowly"),
            ),
        )

    @classmethod
    def open(cls, bundle: Bundle, *, index: int = 0, opening: Opening | None = None) -> Self:
        """Load ``bundle``; threads, batch and streams are those of ``opening``."""
        opening = opening or Opening()
        return cls(
            bundle,
            threads=opening.choice.threads,
            batch=opening.choice.batch,
            streams=opening.streams,
            warnings=warnings_of(opening),
        )

    def __init__(
        self,
        bundle: Bundle,
        *,
        threads: int | None = None,
        batch: int = 4,
        streams: int = 1,
        warnings: WarningLog | None = None,
    ) -> None:
        super().__init__(bundle, warnings)
        self.library = require_openvino()
        import openvino

        hint = HINTS[bundle.precision]
        if hint == "bf16" and not computes_bf16():
            hint = "f32"
            self.warnings.add(
                PRECISION_SLOW.warning(
                    f"This processor does not compute in bf16: {bundle.name} runs in float32.",
                    precision=bundle.precision,
                )
            )
        self._batch, self._streams = batch, streams
        self._settings: dict[str, Any] = {
            _HINT: hint,
            "INFERENCE_NUM_THREADS": threads or cores(),
            "NUM_STREAMS": streams,
            # Several engines and processes would all be pinned to the same cores.
            "ENABLE_CPU_PINNING": False,
        }
        self._core: Any = openvino.Core()
        self._lock = threading.Lock()
        self._graphs: OrderedDict[Shape, _Graph] = OrderedDict()
        crop = bundle.spec.crop
        began = time.perf_counter()
        usual = self._graph((batch, 1, crop.height, crop.width))
        self.opening["open"] = time.perf_counter() - began
        self.variant = f"{hint}, {'from a cache' if usual.from_cache else 'compiled'}"

    def run_batches(self, batches: Iterable[Mapping[str, Any]]) -> Generator[Slices]:
        """Run one batch after another, with as many in flight as there are streams."""
        flying: deque[_Flight] = deque()
        try:
            for tensors in batches:
                self.require(tensors)
                flying.append(self._start(tensors))
                if len(flying) == self._streams:
                    yield self._collect(flying.popleft())
            while flying:
                yield self._collect(flying.popleft())
        finally:
            for flight in flying:
                with contextlib.suppress(Exception):  # nobody asks for these any more
                    flight.request.wait()

    def _run(self, tensors: Mapping[str, Slices]) -> Slices:
        return self._collect(self._start(tensors))

    def _start(self, tensors: Mapping[str, Slices]) -> _Flight:
        count, *rest = next(iter(tensors.values())).shape
        graph = self._graph((self._padded(count), *rest))
        request = graph.take()
        for name, array in tensors.items():
            data = request.get_tensor(name).data
            data[:count] = array
            data[count:] = 0
        request.start_async()
        return _Flight(graph, request, count)

    def _collect(self, flight: _Flight) -> Slices:
        try:
            flight.request.wait()
        except Exception as error:
            raise run_error(self.name, flight.count, error) from error
        image: Slices = flight.request.get_tensor(OUTPUT_NAME).data[: flight.count].copy()
        flight.graph.give(flight.request)
        return image

    def _padded(self, batch: int) -> int:
        """The smallest batch that holds this one, of those that graphs are compiled for."""
        power = 1 << (batch - 1).bit_length()
        return min(power, self._batch) if batch <= self._batch else power

    def _graph(self, shape: Shape) -> _Graph:
        with self._lock:
            if shape not in self._graphs:
                if len(self._graphs) == GRAPHS:
                    self._graphs.popitem(last=False)
                self._graphs[shape] = self._opened(shape)
            self._graphs.move_to_end(shape)
            return self._graphs[shape]

    def _opened(self, shape: Shape) -> _Graph:
        """The graph for one shape, from the cache or compiled and put there."""
        file = self._cache_file(shape)
        compiled = self._cached(file)
        if compiled is not None:
            return _Graph(compiled, from_cache=True)
        compiled = self._compiled(shape)
        blob = compiled.export_model()
        content = blob.getvalue() if isinstance(blob, io.BytesIO) else bytes(blob)
        keep(file, _seal(file, content) + content, warn=self.warnings.add)
        return _Graph(compiled, from_cache=False)

    def _compiled(self, shape: Shape) -> Any:
        spec, path = self.spec, self.bundle.onnx
        try:
            model = self._core.read_model(os.fspath(path))
            found = {node.any_name for node in model.inputs}, {n.any_name for n in model.outputs}
            if found == (set(spec.tensor_names), {OUTPUT_NAME}):
                model.reshape({name: list(shape) for name in spec.tensor_names})
                compiled = self._core.compile_model(model, "CPU", self._settings)
        except Exception as error:
            failed = run_error(self.name, shape[0], error)
            if not isinstance(failed, EngineError):
                raise failed from error
            raise EngineError(
                f"{path}: {self.library} cannot load it: {first_line(error)}"
            ) from error
        if found != (set(spec.tensor_names), {OUTPUT_NAME}):
            raise ModelDamaged(
                f"{path}: has inputs {sorted(found[0])} and outputs {sorted(found[1])}, expected "
                f"{spec.tensor_names} and {OUTPUT_NAME}.",
                fix="Export it again.",
            )
        if not self._is_as_asked(compiled):
            raise EngineError(
                f"{self.name}: {self.library} would compute in another precision than "
                f"{self._settings[_HINT]}"
            )
        return compiled

    def _cached(self, file: Path) -> Any:
        """The compiled graph that was kept; None if there is none, or it is of no use here."""
        try:
            content = file.read_bytes()
        except OSError:
            return None
        expected, blob = content[:_HASH_BYTES], content[_HASH_BYTES:]
        if _seal(file, blob) != expected:
            return None
        try:
            # The settings again: without them it would compute in what the library prefers.
            compiled = self._core.import_model(io.BytesIO(blob), "CPU", self._settings)
        except Exception:  # whatever the library makes of it, it can be compiled again
            return None
        return compiled if self._is_as_asked(compiled) else None

    def _is_as_asked(self, compiled: Any) -> bool:
        return bool(compiled.get_property(_HINT).get_type_name() == self._settings[_HINT])

    def _cache_file(self, shape: Shape) -> Path:
        identity = {
            "library": self.library,
            "machine": self.machine(),
            "onnx": self.bundle.onnx_sha256,
            "shape": shape,
            "settings": self._settings,
        }
        key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        return caches_folder() / "ov-cpu" / f"{key[:32]}.blob"

    def close(self) -> None:
        """Release the compiled graphs."""
        self._graphs.clear()
