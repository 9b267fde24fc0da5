"""Is the exported graph the same function as its checkpoint?"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tlp_runtime.engines.onnx import require_onnxruntime
from tlp_runtime.errors import ParityError
from tlp_runtime.spec import OUTPUT_NAME, PROMPT_NAME, ModelSpec
from tlp_runtime.synthesize import prepare
from tlp_runtime.volume import Volume
from tlp_train.network import Generator
from tlp_train.phantom import make_case

FP32_BOUNDS = {"max_abs": 2e-4, "rms": 2e-5, "torch_fp32_factor": 2.0}
"""Largest and root-mean-square difference allowed, on the network's [-1, 1] scale.

A fortieth of an 8-bit grey level. Layer normalisation of flat background magnifies fp32 rounding,
by how much depends on the weights: PyTorch's own fp32 was measured up to 5e-4 from its float64,
ONNX Runtime's up to 3e-4 on the same slices. So where PyTorch's own fp32 is far from float64, the
graph may be ``torch_fp32_factor`` times as far, and no further.
"""

Tensors = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Check:
    """One set of inputs: how many slices, and how far apart the two outputs are.

    ``torch_fp32_max_abs`` and ``torch_fp32_rms`` are how far PyTorch's own fp32 is from the same
    reference: what rounding alone does.
    """

    inputs: str
    slices: int
    max_abs: float
    rms: float
    torch_fp32_max_abs: float
    torch_fp32_rms: float

    def keeps(self, bounds: dict[str, float]) -> bool:
        """Whether both differences keep their bound; a NaN keeps none."""
        factor = bounds["torch_fp32_factor"]
        return self.max_abs <= max(
            bounds["max_abs"], factor * self.torch_fp32_max_abs
        ) and self.rms <= max(bounds["rms"], factor * self.torch_fp32_rms)


@dataclass(frozen=True)
class Parity:
    """All checks of one export against ``bounds``."""

    checks: tuple[Check, ...]
    bounds: dict[str, float]
    library: str

    @property
    def max_abs(self) -> float:
        """The largest difference of any check."""
        return max(check.max_abs for check in self.checks)

    @property
    def passed(self) -> bool:
        """Whether every check keeps every bound."""
        return all(check.keeps(self.bounds) for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for ``parity.json``."""
        return {**asdict(self), "max_abs": self.max_abs, "passed": self.passed}


def check_parity(generator: Generator, onnx_file: Path) -> Parity:
    """Compare the graph in ONNX Runtime with the checkpoint in float64, both on the CPU.

    Random and phantom slices in batches of one and two are run, with and without prompt.

    Raises
    ------
    ParityError
        A bound is missed; the message gives every figure.
    """
    library = require_onnxruntime()
    import onnxruntime as ort

    session = ort.InferenceSession(os.fspath(onnx_file), providers=["CPUExecutionProvider"])
    exact = copy.deepcopy(generator).double()
    checks = []
    for label, tensors in _inputs(generator.spec):
        (got,) = session.run([OUTPUT_NAME], tensors)
        images = [torch.from_numpy(tensors[name]) for name in generator.spec.tensor_names]
        with torch.no_grad():
            want = exact(*(image.double() for image in images)).numpy()
            rounded = generator(*images).numpy()
        if got.shape != want.shape:
            raise ParityError(f"export: {label} gives shape {got.shape}, expected {want.shape}.")
        difference, rounding = np.abs(got - want), np.abs(rounded - want)
        checks.append(
            Check(
                label,
                len(got),
                float(difference.max()),
                float(np.sqrt(np.square(difference).mean())),
                float(rounding.max()),
                float(np.sqrt(np.square(rounding).mean())),
            )
        )
    parity = Parity(tuple(checks), FP32_BOUNDS, library)
    if not parity.passed:
        figures = "; ".join(
            f"{c.inputs}: max {c.max_abs:.2e}, RMS {c.rms:.2e} (PyTorch's own fp32 "
            f"{c.torch_fp32_max_abs:.2e}, {c.torch_fp32_rms:.2e})"
            for c in checks
        )
        raise ParityError(
            f"the exported graph differs from its checkpoint: {figures}. Allowed: max "
            f"{FP32_BOUNDS['max_abs']:.0e}, RMS {FP32_BOUNDS['rms']:.0e}, or "
            f"{FP32_BOUNDS['torch_fp32_factor']:g} times PyTorch's own. Nothing was registered."
        )
    return parity


def _inputs(spec: ModelSpec) -> Iterator[tuple[str, Tensors]]:
    """Fresh random slices and phantom slices, prompted and not."""
    rng = np.random.default_rng()
    for batch in (1, 2):
        shape = (batch, 1, spec.crop.height, spec.crop.width)
        tensors = {n: rng.uniform(-1, 1, shape).astype(np.float32) for n in spec.inputs}
        tensors[PROMPT_NAME] = rng.choice(
            np.array([0, spec.prompt.oedema_value, spec.prompt.tumour_value], np.float32), shape
        )
        yield f"random, batch {batch}", tensors
    tensors = phantom_slices(spec, count=2)
    yield "phantom, prompted", tensors
    yield "phantom, no prompt", {**tensors, PROMPT_NAME: np.zeros_like(tensors[PROMPT_NAME])}


def phantom_slices(spec: ModelSpec, count: int, seed: int = 7) -> Tensors:
    """The ``count`` slices with most prompt of the first phantom case of ``seed`` that has any."""
    for index in range(100):
        case = make_case(seed, index)
        if case.seg.any():
            break
    prepared = prepare(
        {name: Volume(getattr(case, name), case.affine, name=name) for name in spec.inputs},
        Volume(case.seg, case.affine, name="seg"),
        spec,
    )
    area = (prepared.tensors[PROMPT_NAME] > 0).sum(axis=(1, 2))
    chosen = np.sort(np.argsort(-area)[:count])
    return {name: array[chosen, None] for name, array in prepared.tensors.items()}
