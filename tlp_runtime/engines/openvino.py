"""Engine ``ov-cpu``: OpenVINO on the CPU, and the only one there that computes in bf16."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import os
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any, ClassVar, Self

import numpy as np

from tlp_runtime.engines.base import Engine, Opening, Slices, warnings_of
from tlp_runtime.engines.caches import caches_folder, keep_sealed, kept_sealed
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

HINTS: Mapping[Precision, str] = {"fp32": "f32", "fp16": "f32", "bf16": "bf16", "int8": "bf16"}
"""What each precision, and what int8 leaves over, is computed in where the processor can.

Without a word OpenVINO takes bf16 for everything, wherever it can.
"""

GRAPHS = 4
"""Compiled graphs, one per size of a slice, that are held at once, each with its weights."""

STREAMS = 4
"""Most runs in flight, unless more are asked for."""

_HINT = "INFERENCE_PRECISION_HINT"
_CORE_LOCK = threading.Lock()

Size = tuple[int, int]
"""Height and width of a slice."""


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


def openvino_core() -> Any:
    """OpenVINO's ``Core``: the only one of this process, and never released.

    On Linux every Core that uses the CPU gives the thread that made it a stack for signals, and at
    its end puts back the one that it found, which another Core may have freed, and frees its own,
    which another thread may use. Python's signal handlers run on that stack: Ctrl-C would crash.
    """
    with _CORE_LOCK:
        return _core()


@functools.cache
def _core() -> Any:
    import openvino

    return openvino.Core()


@functools.cache
def computes_bf16() -> bool:
    """Whether this processor multiplies bf16 itself, by what OpenVINO says of it."""
    return "BF16" in openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@dataclass
class _Graph:
    """A graph compiled for one slice of one size, and requests that wait for work."""

    compiled: Any
    kept: bool
    """Loaded from a cache, instead of compiled."""
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


class _Flight:
    """The run of one slice of a batch, which begins here.

    Parameters
    ----------
    number, of
        Which slice, of how many.
    """

    def __init__(self, graph: _Graph, tensors: Mapping[str, Slices], number: int, of: int) -> None:
        self.of = of
        self._graph, self._request = graph, graph.take()
        for name, array in tensors.items():
            self._request.get_tensor(name).data[:] = array[number : number + 1]
        self._request.start_async()

    def collect(self, engine: str) -> Slices:
        """Wait for the answer, (1, 1, H, W)."""
        try:
            self._request.wait()
        except Exception as error:
            raise run_error(engine, 1, error) from error
        image: Slices = self._request.get_tensor(OUTPUT_NAME).data.copy()
        self._graph.give(self._request)
        return image

    def give_up(self) -> None:
        """Wait until it is over; nobody asks for it any more."""
        with contextlib.suppress(Exception):
            self._request.wait()


class OpenVinoEngine(Engine):
    """OpenVINO on the CPU. Runs from several threads proceed side by side.

    Slices run singly, several of them in flight: larger batches are no faster, and so a slice's
    result does not depend on its batch. Compiled graphs are kept under ``TLP_HOME``.

    Parameters
    ----------
    threads
        Threads of all runs together; None takes one per core.
    streams
        Slices in flight at once, which share the threads; None takes one for every four threads,
        up to :data:`STREAMS`.
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
    def prefers(cls, bundle: Bundle) -> bool:
        """int8, whose other operators run in bf16 here."""
        return bundle.precision == "int8" and computes_bf16()

    @classmethod
    def open(cls, bundle: Bundle, *, index: int = 0, opening: Opening | None = None) -> Self:
        """Load ``bundle`` with the threads of ``opening``."""
        opening = opening or Opening()
        return cls(bundle, threads=opening.choice.threads, warnings=warnings_of(opening))

    def __init__(
        self,
        bundle: Bundle,
        *,
        threads: int | None = None,
        streams: int | None = None,
        warnings: WarningLog | None = None,
    ) -> None:
        super().__init__(bundle, warnings)
        self.library = require_openvino()
        hint = HINTS[bundle.precision] if computes_bf16() else "f32"
        if self.unsuited(bundle) is not None:
            self.warnings.add(
                PRECISION_SLOW.warning(
                    f"This processor does not compute in bf16: {bundle.name} runs in float32.",
                    precision=bundle.precision,
                )
            )
        threads = threads or cores()
        self._streams = streams or max(1, min(STREAMS, threads // 4))
        self._settings: dict[str, Any] = {
            _HINT: hint,
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": self._streams,
            # Several engines and processes would all be pinned to the same cores.
            "ENABLE_CPU_PINNING": False,
        }
        self._lock = threading.Lock()
        self._graphs: OrderedDict[Size, _Graph] = OrderedDict()
        crop = bundle.spec.crop
        began = time.perf_counter()
        usual = self._graph((crop.height, crop.width))
        self.opening["open"] = time.perf_counter() - began
        self.variant = f"{hint}, {'kept' if usual.kept else 'compiled'}"

    def run_batches(self, batches: Iterable[Mapping[str, Any]]) -> Generator[Slices]:
        """Run one batch after another, with as many slices in flight as there are streams."""
        flying: deque[_Flight] = deque()
        landed: list[Slices] = []

        def land() -> Iterator[Slices]:
            flight = flying.popleft()
            landed.append(flight.collect(self.name))
            if len(landed) == flight.of:
                yield np.concatenate(landed)
                landed.clear()

        try:
            for tensors in batches:
                self.require(tensors)
                count, _, *size = next(iter(tensors.values())).shape
                graph = self._graph((size[0], size[1]))
                for number in range(count):
                    if len(flying) == self._streams:
                        yield from land()
                    flying.append(_Flight(graph, tensors, number, count))
                while self._streams == 1 and flying:  # nothing is gained by waiting
                    yield from land()
            while flying:
                yield from land()
        finally:
            for flight in flying:
                flight.give_up()

    def _run(self, tensors: Mapping[str, Slices]) -> Slices:
        (image,) = self.run_batches([tensors])
        return image

    def _graph(self, size: Size) -> _Graph:
        with self._lock:
            if size not in self._graphs:
                if len(self._graphs) == GRAPHS:
                    self._graphs.popitem(last=False)
                self._graphs[size] = self._opened(size)
            self._graphs.move_to_end(size)
            return self._graphs[size]

    def _opened(self, size: Size) -> _Graph:
        """The graph for slices of one size: the kept one, or compiled and kept."""
        made_of = {"onnx": self.bundle.onnx_sha256, "size": size, "settings": self._settings}
        name = hashlib.sha256(repr(made_of).encode()).hexdigest()[:32]
        file = caches_folder() / self.name / f"{name}.blob"  # a newer library takes its place
        identity = {**made_of, "library": self.library, "machine": self.machine()}
        blob = kept_sealed(file, identity)
        compiled = None if blob is None else self._loaded(blob)
        if compiled is not None:
            return _Graph(compiled, kept=True)
        compiled = self._compiled(size)
        keep_sealed(file, identity, compiled.export_model().getvalue(), warn=self.warnings.add)
        return _Graph(compiled, kept=False)

    def _loaded(self, blob: bytes) -> Any:
        """A kept graph; None if it is of no use here."""
        try:
            # The settings again: without them it is computed in what the library prefers.
            compiled = openvino_core().import_model(io.BytesIO(blob), "CPU", self._settings)
        except Exception:  # whatever the library makes of it, it can be compiled again
            return None
        return compiled if self._is_as_asked(compiled) else None

    def _compiled(self, size: Size) -> Any:
        spec, path = self.spec, self.bundle.onnx
        try:
            model = openvino_core().read_model(os.fspath(path))
            found = {node.any_name for node in model.inputs}, {n.any_name for n in model.outputs}
            if found == (set(spec.tensor_names), {OUTPUT_NAME}):
                model.reshape({name: [1, 1, *size] for name in spec.tensor_names})
                compiled = openvino_core().compile_model(model, "CPU", self._settings)
        except Exception as error:
            failed = run_error(self.name, 1, error)
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

    def _is_as_asked(self, compiled: Any) -> bool:
        return bool(compiled.get_property(_HINT).get_type_name() == self._settings[_HINT])

    def close(self) -> None:
        """Release the compiled graphs."""
        self._graphs.clear()
