"""What the TensorRT engines, enterprise and RTX, share; run without torch."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

from tlp_runtime.engines import builds
from tlp_runtime.engines.base import Opening, warnings_of
from tlp_runtime.engines.caches import caches_folder, keep
from tlp_runtime.engines.cuda import Cuda, DeviceMemory, gpu_problem, require_gpu
from tlp_runtime.engines.device import DeviceEngine
from tlp_runtime.engines.tensorrt.binding import TensorRT, installed, load
from tlp_runtime.engines.tensorrt.build import BuildProgress
from tlp_runtime.engines.tensorrt.flavours import FlavourName
from tlp_runtime.engines.tensorrt.run import Context, OpenEngine, open_plan
from tlp_runtime.errors import (
    DependencyMissing,
    DeviceError,
    EngineError,
    Install,
    MemoryExhausted,
    RunTask,
    SetOption,
)
from tlp_runtime.models.bundle import Bundle
from tlp_runtime.spec.model import OUTPUT_NAME, ModelSpec
from tlp_runtime.warnings import NO_CUDA_GRAPHS, WarningLog


class TensorRTEngine(DeviceEngine):
    """TensorRT on one GPU.

    Where no engine fits, a warning says why and, unless ``build`` is off, one is built from the
    bundle's ONNX. Work memory is as large as the largest batch run so far needs.

    Parameters
    ----------
    cuda_index
        The GPU.
    build
        Whether an engine may be built where none fits.
    progress
        Follows a build.
    warnings
        Takes operational warnings.
    cuda, binding
        Stand-ins for tests; None takes the real ones.

    Raises
    ------
    DeviceUnavailable, DependencyMissing
        No such GPU, or TensorRT is not installed.
    EngineError
        No engine can be opened; the message says why for each.
    """

    flavour: ClassVar[FlavourName]
    automatic = True
    builds = True

    @classmethod
    def unavailable(cls, index: int = 0) -> DeviceError | MemoryExhausted | None:
        """Why it cannot run: the flavour is missing or broken, or there is no such GPU."""
        if cls.flavour not in installed():
            product = "TensorRT-RTX" if cls.flavour == "trt-rtx" else "TensorRT"
            return DependencyMissing(
                f"{product} is not installed", fix=Install((f"tlp-mri[{cls.flavour}]",))
            )
        problem = gpu_problem(index)
        if problem is not None:
            return problem
        try:
            load(cls.flavour)
        except DeviceError as error:
            return error
        return None

    @classmethod
    def open(cls, bundle: Bundle, *, index: int = 0, opening: Opening | None = None) -> Self:
        """Load ``bundle`` on the GPU ``index``, building an engine if ``opening`` allows it."""
        opening = opening or Opening()
        return cls(
            bundle,
            cuda_index=index,
            build=opening.choice.build,
            progress=opening.progress,
            warnings=warnings_of(opening),
        )

    def __init__(
        self,
        bundle: Bundle,
        *,
        cuda_index: int = 0,
        build: bool = True,
        progress: BuildProgress | None = None,
        warnings: WarningLog | None = None,
        cuda: Cuda | None = None,
        binding: TensorRT | None = None,
    ) -> None:
        warnings = WarningLog() if warnings is None else warnings
        cuda = cuda or Cuda()
        gpu = require_gpu(cuda, cuda_index)
        cuda.use(cuda_index)
        began = time.perf_counter()
        found = builds.obtain(
            bundle,
            self.flavour,
            gpu,
            partial(_open, bundle.spec),
            warn=warnings.add,
            build=build,
            binding=binding,
            progress=progress,
        )
        super().__init__(bundle, cuda, cuda_index, warnings)
        self._opened, self.stored = found.opened, found.stored
        self.opening["open"] = time.perf_counter() - began - found.build_s
        if found.build_s:
            self.opening["build"] = found.build_s
        owner = self._opened.owner
        self.library = f"{owner.product} {owner.version}"
        self._profiles = [
            tuple(shape[0] for shape in shapes)
            for shapes in self._opened.profiles(bundle.spec.tensor_names[0])
        ]
        self._gpu = gpu
        self._contexts: dict[int, Context] = {}
        self._shapes: dict[int, tuple[int, ...]] = {}
        self._workspace = DeviceMemory(cuda)
        self._seen: set[tuple[Any, ...]] = set()
        self._graphs: dict[tuple[Any, ...], Any] = {}
        self._captures = True

    def _profile(self, batch: int) -> tuple[int, int]:
        """(profile, batch to run) for ``batch`` slices: least padding, then the nearest tuning."""
        fits = [
            (max(batch, low), abs(usual - batch), index)
            for index, (low, usual, high) in enumerate(self._profiles)
            if batch <= high
        ]
        if not fits:
            ranges = " and ".join(f"{low} to {high}" for low, _, high in self._profiles)
            raise EngineError(
                f"{self.name}: a batch of {batch} slices, but this engine takes {ranges}",
                fix=(
                    SetOption("batch", "a smaller number"),
                    RunTask("export", (("batch", f"1,{batch},{batch}"),), "for such batches"),
                ),
            )
        padded, _, index = min(fits)
        return index, padded

    def _padded(self, batch: int) -> int:
        return self._profile(batch)[1]

    def _context(self, index: int) -> Context:
        if index not in self._contexts:
            cache = self._kernels_file(index)
            known = cache.read_bytes() if cache.is_file() else b""
            self._contexts[index] = self._opened.context(index, int(self._compute), known)
        return self._contexts[index]

    def _kernels_file(self, index: int) -> Path:
        name = self.stored.sidecar.fingerprint
        return caches_folder() / f"kernels-{name}-{index}-{self._gpu.uuid}.cache"

    def _enqueue(
        self, addresses: Mapping[str, int], shape: tuple[int, ...], slot: int | None
    ) -> None:
        index, _ = self._profile(shape[0])
        context, key = self._context(index), (index, slot, shape)
        if key in self._graphs:
            self._cuda.call("cudaGraphLaunch", self._graphs[key], self._compute)
            return
        if self._shapes.get(index) != shape:
            needed = context.needs(self.spec.tensor_names, shape)
            if needed > self._workspace.size:
                self._cuda.call("cudaStreamSynchronize", self._compute)
                self._forget()
                self._shapes.clear()
                self._workspace.reserve(needed)
            context.give(self._workspace.address, self._workspace.size)
            self._shapes[index] = shape
        capture = slot is not None and self._captures and not context.captures_itself
        # The first run of a shape allocates and loads kernels, which a capture must not.
        if capture and key in self._seen and self._capture(context, key, addresses):
            self._cuda.call("cudaGraphLaunch", self._graphs[key], self._compute)
            return
        context.enqueue(addresses, int(self._compute))
        self._seen.add(key)

    def _capture(
        self, context: Context, key: tuple[Any, ...], addresses: Mapping[str, int]
    ) -> bool:
        """Record a run as a CUDA graph; where that fails, warn once and run without."""
        self._cuda.begin_capture(self._compute)
        try:
            context.enqueue(addresses, int(self._compute))
        except EngineError as error:
            failure: EngineError | None = error
        else:
            failure = None
        try:
            self._graphs[key] = self._cuda.end_capture(self._compute)
        except EngineError as error:
            failure = failure or error
        if failure is None:
            return True
        self._graphs.pop(key, None)
        self._captures = False
        self.warnings.add(
            NO_CUDA_GRAPHS.warning(
                f"{self.name}: CUDA graphs cannot be used, runs are slower: {failure}"
            )
        )
        return False

    def _forget(self, slot: int | None = None) -> None:
        for key in [key for key in self._graphs if slot in (None, key[1])]:
            self._cuda.call("cudaGraphExecDestroy", self._graphs.pop(key))
        self._seen -= {key for key in self._seen if slot in (None, key[1])}

    def _release(self) -> None:
        super()._release()
        self._shapes.clear()
        self._workspace.free()

    def close(self) -> None:
        """Release everything; keep what TensorRT-RTX compiled for the next process."""
        if self._closed:
            return
        self._cuda.use(self._index)
        for index, context in self._contexts.items():
            kernels = context.cache()
            if kernels:
                keep(self._kernels_file(index), kernels, warn=self.warnings.add)
        self._settle()
        self._contexts.clear()
        super().close()


def _open(spec: ModelSpec, owner: TensorRT, plan: bytes) -> OpenEngine:
    """Open an engine and check that it is the model's."""
    opened = open_plan(owner, plan)
    expected = dict.fromkeys(spec.tensor_names, ("INPUT", "FLOAT"))
    expected[OUTPUT_NAME] = ("OUTPUT", "FLOAT")
    found = opened.tensors()
    if found != expected:
        raise EngineError(f"its tensors are {found}, expected {expected}")
    return opened
