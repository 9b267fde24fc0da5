"""ONNX Runtime on a CPU, and what its engines on a GPU share."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from tlp_runtime.engines.base import Engine, Slices
from tlp_runtime.errors import (
    DependencyConflict,
    DependencyMissing,
    EngineError,
    MemoryExhausted,
    ModelDamaged,
)
from tlp_runtime.models.bundle import Bundle
from tlp_runtime.spec.model import OUTPUT_NAME, ModelSpec

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
    """ONNX Runtime on the CPU. Runs from several threads proceed side by side.

    Parameters
    ----------
    threads
        Of one run; None leaves it to ONNX Runtime (one a core).
    """

    name = "ort-cpu"
    device = "cpu"

    def __init__(self, bundle: Bundle, *, threads: int | None = None) -> None:
        super().__init__(bundle)
        self.library = require_onnxruntime()
        if bundle.precision == "bf16":
            raise EngineError(
                f"{bundle.path}: is bf16, which ONNX Runtime cannot run on a CPU. Export it with "
                "--precision fp32 or int8 for CPUs."
            )
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
                f"{bundle.onnx}: {self.library} cannot load it: {reason(error)}"
            ) from error
        check_graph(self._session, bundle)
        self.opening["open"] = time.perf_counter() - began

    def _run(self, tensors: Mapping[str, Slices]) -> Slices:
        try:
            (image,) = self._session.run([OUTPUT_NAME], dict(tensors))
        except Exception as error:
            batch = next(iter(tensors.values())).shape[0]
            raise failure(self.name, batch, error) from error
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
            f"{bundle.onnx}: its specification is not the bundle's. Export it again."
        )
    if inputs != tuple(sorted(spec.tensor_names)) or outputs != (OUTPUT_NAME,):
        raise ModelDamaged(
            f"{bundle.onnx}: has inputs {inputs} and outputs {outputs}, expected "
            f"{spec.tensor_names} and {OUTPUT_NAME}. Export it again."
        )


def failure(name: str, batch: int, error: Exception) -> EngineError | MemoryExhausted:
    """What became of a run, told apart by ONNX Runtime's words."""
    text = reason(error)
    if re.search(r"failed to allocate|bad_alloc|out of memory|alloc.*memory", text, re.IGNORECASE):
        return MemoryExhausted(
            f"{name}: out of memory with a batch of {batch} slices. Give a smaller --batch. "
            f"({text})"
        )
    return EngineError(f"{name}: the run failed: {text}")


def reason(error: Exception) -> str:
    """The first line of what ONNX Runtime says."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
