"""The rate of matrix products in the same library on the same device, to compare engines with.

The products are ONNX files of a kilobyte that make their matrices from one number as they run
(``benchmarks/matmul_models.py`` wrote them). OpenVINO runs them for its engine, ONNX Runtime for
all others, on the engine's own device.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlp_runtime.engines.onnx import require_onnxruntime
from tlp_runtime.engines.onnx_device import CUDA_PROVIDER
from tlp_runtime.engines.openvino import HINTS, OpenVinoEngine, openvino_core, require_openvino
from tlp_runtime.engines.processor import cores
from tlp_runtime.errors import DependencyMissing, first_line
from tlp_runtime.models.manifest import Precision

PRODUCTS = 4
"""Matrix products in each file, one after the other."""

SIZES = {"cpu": 1024, "cuda": 8192}
RUNS = 5

Run = Callable[[NDArray[np.float32]], Any]


@dataclass(frozen=True)
class Limit:
    """A measured rate of matrix products.

    Parameters
    ----------
    tflops
        Median over rounds.
    what
        Type, size and library.
    """

    tflops: float
    what: str


class Product:
    """Matrix products that can be timed, again and again.

    Parameters
    ----------
    run
        Makes :data:`PRODUCTS` products of matrices of ``side``, from a seed.
    what
        Type, size and library.
    """

    def __init__(self, run: Run, side: int, what: str) -> None:
        self.what = what
        self._run, self._side = run, side
        self._seeds = itertools.count(1)
        self._once()

    def tflops(self) -> float:
        """The rate, median of some runs."""
        seconds = statistics.median(self._once() for _ in range(RUNS))
        return PRODUCTS * 2 * self._side**3 / seconds / 1e12

    def _once(self) -> float:
        seed = np.full(1, 0.5 + 0.01 * (next(self._seeds) % 50), np.float32)
        began = time.perf_counter()
        self._run(seed)
        return time.perf_counter() - began


def open_product(
    engine: str, device: str, precision: Precision, threads: int | None = None
) -> Product | str:
    """The products that an engine is held against; a sentence where there are none.

    Parameters
    ----------
    device
        ``cpu`` or ``cuda:<index>``.
    precision
        The engine's. ONNX Runtime multiplies in float32 on a CPU whatever it is, and int8, which
        this has no product of, is held against float32; ``what`` says so.
    """
    on_gpu = device != "cpu"
    kind: Precision = precision if on_gpu and precision in ("fp16", "bf16") else "fp32"
    side = SIZES["cuda" if on_gpu else "cpu"]
    path = Path(__file__).parent / f"matmul_{kind}_{side}.onnx"
    try:
        if engine == OpenVinoEngine.name:
            run, library = _openvino(path, HINTS[precision], threads), require_openvino()
            kind = "bf16" if precision == "bf16" else "fp32"
        else:
            library = require_onnxruntime()
            run = _onnxruntime(path, library, device, threads)
        return Product(run, side, f"{kind} {side} x {side}, {library}")
    except DependencyMissing as error:
        return str(error)
    except Exception as error:
        return f"no matrix product to compare with: {first_line(error)}"


def _onnxruntime(path: Path, library: str, device: str, threads: int | None) -> Run:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    providers: list[Any] = ["CPUExecutionProvider"]
    if device != "cpu":
        if CUDA_PROVIDER not in ort.get_available_providers():
            raise RuntimeError(f"{library} has no CUDA support")
        with contextlib.redirect_stdout(sys.stderr):  # it prints what it cannot find
            ort.preload_dlls()
        providers = [(CUDA_PROVIDER, {"device_id": device.partition(":")[2]})]
    session = ort.InferenceSession(os.fspath(path), options, providers=providers)
    if device != "cpu" and session.get_providers()[0] != CUDA_PROVIDER:
        raise RuntimeError("CUDA's libraries cannot be loaded")
    return lambda seed: session.run(None, {"seed": seed})


def _openvino(path: Path, hint: str, threads: int | None) -> Run:
    require_openvino()
    settings = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads or cores()}
    model = openvino_core().compile_model(os.fspath(path), "CPU", settings)
    return lambda seed: model({"seed": seed})
