"""The rate of matrix products in the same library on the same device, to compare engines with.

The products are ONNX files of a kilobyte that make their matrices from one number as they run
(``benchmarks/matmul_models.py`` wrote them); ONNX Runtime runs them on the engine's own device.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tlp_runtime.engines.onnx import require_onnxruntime
from tlp_runtime.engines.onnx_device import CUDA_PROVIDER
from tlp_runtime.errors import DependencyMissing, first_line
from tlp_runtime.models.manifest import Precision

PRODUCTS = 4
"""Matrix products in each file, one after the other."""

SIZES = {"cpu": 1024, "cuda": 8192}
ROUNDS = 7


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


def matrix_rate(
    device: str,
    precision: Precision,
    *,
    threads: int | None = None,
    size: int | None = None,
    rounds: int = ROUNDS,
) -> Limit | str:
    """Measure the rate; where it cannot be measured, return a sentence that says why.

    Parameters
    ----------
    device
        ``cpu`` or ``cuda:<index>``.
    precision
        The engine's. CPUs multiply in float32 whatever it is, and so do GPUs for int8, which this
        has no product of; ``what`` says so.
    """
    on_gpu = device != "cpu"
    kind = precision if on_gpu and precision in ("fp16", "bf16") else "fp32"
    side = size or SIZES["cuda" if on_gpu else "cpu"]
    path = Path(__file__).parent / f"matmul_{kind}_{side}.onnx"
    try:
        library = require_onnxruntime()
        import onnxruntime as ort
    except DependencyMissing as error:
        return str(error)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    providers: list[Any] = ["CPUExecutionProvider"]
    if on_gpu:
        if CUDA_PROVIDER not in ort.get_available_providers():
            return f"no matrix product to compare with: {library} has no CUDA support"
        with contextlib.redirect_stdout(sys.stderr):  # it prints what it cannot find
            ort.preload_dlls()
        providers = [(CUDA_PROVIDER, {"device_id": device.partition(":")[2]})]
    try:
        session = ort.InferenceSession(os.fspath(path), options, providers=providers)
        if on_gpu and session.get_providers()[0] != CUDA_PROVIDER:
            return "no matrix product to compare with: CUDA's libraries cannot be loaded"
        seconds = []
        for number in range(rounds + 1):
            began = time.perf_counter()
            session.run(None, {"seed": np.full(1, 0.5 + 0.01 * number, np.float32)})
            if number:
                seconds.append(time.perf_counter() - began)
    except Exception as error:
        return f"no matrix product to compare with: {first_line(error)}"
    tflops = PRODUCTS * 2 * side**3 / statistics.median(seconds) / 1e12
    return Limit(tflops, f"{kind} {side} x {side}, {library}")
