"""ONNX Runtime on a CPU, and what its engines on a GPU share."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any, ClassVar, Self

from tlp_runtime.engines.base import Engine, Opening, Slices, warnings_of
from tlp_runtime.errors import (
    DependencyConflict,
    DependencyMissing,
    DeviceError,
    EngineError,
    Install,
    MemoryExhausted,
    ModelDamaged,
    RunTask,
    SetOption,
    first_line,
)
from tlp_runtime.models.bundle import Bundle
from tlp_runtime.spec.model import OUTPUT_NAME, ModelSpec
from tlp_runtime.warnings import WarningLog

SPEC_KEY = "tlp.spec"
"""Key of the ONNX metadata that holds the model specification."""


def require_onnxruntime() -> str:
    """The one installed flavour and its version, such as ``onnxruntime 1.32.0``.

    Raises
    ------
    DependencyMissing
        Neither flavour is installed.
    DependencyConflict
        Both are, and overwrite each other's files; or one is that lacks some of its own.
    """
    found = {}
    for flavour in ("onnxruntime", "onnxruntime-gpu"):
        try:
            found[flavour] = version(flavour) or "of an unknown version"
        except PackageNotFoundError:
            continue
    if not found:
        raise DependencyMissing(
            "ONNX Runtime is not installed",
            fix=(
                Install(("tlp-mri[cpu]",), purpose="for CPUs"),
                Install(("tlp-mri[gpu]",), purpose="for NVIDIA GPUs (it also runs on the CPU)"),
            ),
        )
    if len(found) == 2:
        both = ("onnxruntime", "onnxruntime-gpu")
        raise DependencyConflict(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other",
            fix=(
                Install(("tlp-mri[cpu]",), remove=both, purpose="for CPUs"),
                Install(("tlp-mri[gpu]",), remove=both, purpose="for NVIDIA GPUs"),
            ),
        )
    ((flavour, number),) = found.items()
    try:
        import onnxruntime

        onnxruntime.InferenceSession  # noqa: B018 - what is left of an uninstalled one has none
    except Exception as error:  # whatever is left of it may raise
        raise DependencyConflict(
            f"{flavour} {number} is installed, but files of it are missing or damaged "
            f"({first_line(error)})",
            fix=Install((flavour,), again=True),
        ) from error
    return f"{flavour} {number}"


class OnnxEngine(Engine):
    """ONNX Runtime on the CPU. Runs from several threads proceed side by side.

    Parameters
    ----------
    threads
        Threads of one run; None leaves it to ONNX Runtime (one per core).
    warnings
        Takes operational warnings.
    """

    name: ClassVar[str] = "ort-cpu"
    automatic = True
    device = "cpu"

    @classmethod
    def unavailable(cls, index: int = 0) -> DeviceError | None:
        """Why it cannot run: ONNX Runtime is missing, or installed twice."""
        try:
            require_onnxruntime()
        except DeviceError as error:
            return error
        return None

    @classmethod
    def unsuited(cls, bundle: Bundle) -> EngineError | None:
        """bf16: ONNX Runtime has no such convolution on a CPU."""
        if bundle.precision != "bf16":
            return None
        return EngineError(
            f"{bundle.path}: the bundle is bf16, which ONNX Runtime cannot run on a CPU",
            fix=RunTask("export", (("precision", "fp32"),), "for CPUs (or int8)"),
        )

    @classmethod
    def open(cls, bundle: Bundle, *, index: int = 0, opening: Opening | None = None) -> Self:
        """Load ``bundle``; threads are those of ``opening``."""
        threads = None if opening is None else opening.choice.threads
        return cls(bundle, threads=threads, warnings=warnings_of(opening))

    def __init__(
        self, bundle: Bundle, *, threads: int | None = None, warnings: WarningLog | None = None
    ) -> None:
        super().__init__(bundle, warnings)
        self.library = require_onnxruntime()
        unsuited = self.unsuited(bundle)
        if unsuited is not None:
            raise unsuited
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        began = time.perf_counter()
        try:
            self._session = ort.InferenceSession(
                os.fspath(bundle.onnx), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise EngineError(
                f"{bundle.onnx}: {self.library} cannot load it: {first_line(error)}"
            ) from error
        check_graph(self._session, bundle)
        self.opening["open"] = time.perf_counter() - began

    def _run(self, tensors: Mapping[str, Slices]) -> Slices:
        try:
            (image,) = self._session.run([OUTPUT_NAME], dict(tensors))
        except Exception as error:
            batch = next(iter(tensors.values())).shape[0]
            raise run_error(self.name, batch, error) from error
        return image  # type: ignore[no-any-return]

    def close(self) -> None:
        self._session = None


def check_graph(session: Any, bundle: Bundle) -> None:
    """The graph must say the same of itself as the bundle does. Raises :class:`ModelDamaged`."""
    inputs = tuple(sorted(node.name for node in session.get_inputs()))
    outputs = tuple(node.name for node in session.get_outputs())
    text = session.get_modelmeta().custom_metadata_map.get(SPEC_KEY)
    spec = bundle.spec
    if text is None or ModelSpec.from_json(text) != spec:
        raise ModelDamaged(
            f"{bundle.onnx}: its specification is not the bundle's.",
            fix="Export it again.",
        )
    if inputs != tuple(sorted(spec.tensor_names)) or outputs != (OUTPUT_NAME,):
        raise ModelDamaged(
            f"{bundle.onnx}: has inputs {inputs} and outputs {outputs}, expected "
            f"{spec.tensor_names} and {OUTPUT_NAME}.",
            fix="Export it again.",
        )


def run_error(name: str, batch: int, error: Exception) -> EngineError | MemoryExhausted:
    """The error of a failed run.

    ONNX Runtime has no type of its own for a lack of memory, so that its text has to decide.
    """
    text = first_line(error)
    if re.search(r"failed to allocate|bad_alloc|out of memory|alloc.*memory", text, re.IGNORECASE):
        return MemoryExhausted(
            f"{name}: out of memory with a batch of {batch} slices ({text})",
            fix=SetOption("batch", "a smaller number"),
        )
    return EngineError(f"{name}: the run failed: {text}")
