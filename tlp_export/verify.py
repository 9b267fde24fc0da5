"""Is the exported graph the same function as its checkpoint?

The reference is the checkpoint in float64 on the CPU (docs/adr/0004). The graph runs in ONNX
Runtime on the CPU, which computes half precision in float32 between casts; so what is traced runs
in PyTorch in half precision too, where an overflow would show; and bf16 and int8 graphs run in
OpenVINO, where that is installed and the processor computes in bf16.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn
from torch.overrides import TorchFunctionMode

from tlp_export.libraries import parity_error
from tlp_export.options import BOUNDS, Bounds
from tlp_export.precision import half_module, widened
from tlp_export.slices import (
    PROOF_SLICE,
    Labelled,
    Tensors,
    phantom_slices,
    proof_slice,
    psnr_db,
    random_slices,
    real_slices,
    run_module,
    unprompted,
)
from tlp_export.structure import require_islands, require_structure
from tlp_runtime.engines.onnx import require_onnxruntime
from tlp_runtime.engines.openvino import (
    HINTS,
    OpenVinoEngine,
    computes_bf16,
    openvino_core,
    require_openvino,
)
from tlp_runtime.io.case_files import CaseFiles
from tlp_runtime.models.bundle import Bundle
from tlp_runtime.models.manifest import Precision
from tlp_runtime.spec.model import OUTPUT_NAME, PROMPT_NAME, ModelSpec
from tlp_train.networks.base import SynthesisNetwork

Run = Callable[[Tensors], NDArray[np.float32]]

HALVES: tuple[Precision, ...] = ("fp16", "bf16")


@dataclass(frozen=True)
class Check:
    """One set of slices through one executor, against the reference.

    Parameters
    ----------
    executor
        What ran the network under test.
    worst_slice, worst_psnr_db
        The slice of the set that is furthest from the reference.
    torch_fp32_max_abs, torch_fp32_rms
        How far PyTorch's own fp32 is from the same reference: what rounding alone does.
    """

    inputs: str
    executor: str
    slices: int
    max_abs: float
    rms: float
    psnr_db: float
    worst_slice: int
    worst_psnr_db: float
    torch_fp32_max_abs: float
    torch_fp32_rms: float

    def keeps(self, bounds: Bounds) -> bool:
        """Whether every bound is kept; a NaN keeps none."""
        if "psnr_db" in bounds:
            return self.psnr_db >= bounds["psnr_db"]
        factor = bounds["torch_fp32_factor"]
        return self.max_abs <= max(
            bounds["max_abs"], factor * self.torch_fp32_max_abs
        ) and self.rms <= max(bounds["rms"], factor * self.torch_fp32_rms)

    def __str__(self) -> str:
        return (
            f"{self.inputs} ({self.executor}): max {self.max_abs:.2e}, RMS {self.rms:.2e}, PSNR "
            f"{self.psnr_db:.1f} dB; PyTorch's own fp32: max {self.torch_fp32_max_abs:.2e}, RMS "
            f"{self.torch_fp32_rms:.2e}"
        )


@dataclass(frozen=True)
class Parity:
    """All checks of one graph against ``bounds``."""

    checks: tuple[Check, ...]
    bounds: Bounds

    @property
    def max_abs(self) -> float:
        """The largest difference of any check."""
        return max(check.max_abs for check in self.checks)

    @property
    def psnr_db(self) -> float:
        """The lowest PSNR of any check."""
        return min(check.psnr_db for check in self.checks)

    @property
    def passed(self) -> bool:
        """Whether every check keeps every bound."""
        return all(check.keeps(self.bounds) for check in self.checks)

    def require(self) -> None:
        """Raise :class:`ParityError`, with the figures of what failed, unless all passed."""
        failed = [str(check) for check in self.checks if not check.keeps(self.bounds)]
        if failed:
            allowed = ", ".join(f"{name} {value:g}" for name, value in self.bounds.items())
            raise parity_error(
                f"the graph differs from its reference: {'; '.join(failed)}. Allowed: {allowed}."
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for ``parity.json``; the PSNR of equal images is null."""
        data = asdict(self) | {
            "max_abs": self.max_abs,
            "psnr_db": self.psnr_db,
            "passed": self.passed,
        }
        for part in (data, *data["checks"]):
            part |= {k: None for k, v in part.items() if v == float("inf")}
        return data


def agreement(parity: Parity) -> str:
    """The figure that the bounds are about, and the bound."""
    if "psnr_db" in parity.bounds:
        return f"lowest PSNR {parity.psnr_db:.1f} dB (allowed {parity.bounds['psnr_db']:g})"
    return f"largest difference {parity.max_abs:.1e} (allowed {parity.bounds['max_abs']:.0e})"


def check_parity(
    generator: SynthesisNetwork,
    onnx_file: Path,
    precision: Precision = "fp32",
    *,
    bounds: Bounds | None = None,
    cases: Sequence[CaseFiles] = (),
    module: nn.Module | None = None,
) -> Parity:
    """Compare a graph with the checkpoint's generator, by structure and by value.

    Random and phantom slices are run, and the two slices with most prompt of each of ``cases``,
    with and without their prompt.

    Parameters
    ----------
    generator
        The checkpoint's, unfolded, float32.
    bounds
        Instead of the precision's own.
    module
        The module that was traced, to be run in half precision; None folds the generator again.

    Raises
    ------
    ParityError
        Wrong names, shapes or types, a sum in half precision, or a shape that differs. Missed
        bounds are in the result; see :meth:`Parity.require`.
    """
    spec = generator.spec
    library, run = _opened(onnx_file, spec, precision)
    runs = {library: run}
    if precision in HALVES:
        half = half_module(generator, precision) if module is None else module
        runs[f"PyTorch {torch.__version__} CPU {precision}"] = _half_run(half, spec)
    if precision in ("bf16", "int8") and OpenVinoEngine.unavailable() is None and computes_bf16():
        runs[f"{require_openvino()} CPU {precision}"] = _openvino_run(onnx_file, precision)
    checks = tuple(_checks(generator, runs, labelled_slices(spec, cases)))
    return Parity(checks, BOUNDS[precision] if bounds is None else bounds)


def labelled_slices(spec: ModelSpec, cases: Sequence[CaseFiles] = ()) -> Iterator[Labelled]:
    """Random, phantom and real slices, prompted and not."""
    yield from random_slices(spec)
    phantom = phantom_slices(spec, 2)
    if spec.network.prompt:
        yield "phantom, prompted", phantom
    yield "phantom, no prompt", unprompted(phantom)
    yield PROOF_SLICE, proof_slice(spec)
    for case in cases:
        tensors = real_slices(case, spec, 2)
        if PROMPT_NAME in tensors and tensors[PROMPT_NAME].any():
            yield f"{case.name}, prompted", tensors
        yield f"{case.name}, no prompt", unprompted(tensors)


def check_alone(bundle: Bundle) -> Parity:
    """What can be checked of a bundle's graph without its checkpoint.

    Structure; the proof slice against its expected output, where the bundle has one; and that
    phantom and random slices in one batch give what they give one by one.

    Raises
    ------
    ParityError
        As :func:`check_parity`, and values that are not finite or lie outside [-1, 1].
    ModelDamaged
        The proof slice cannot be read.
    """
    spec, proof, record = bundle.spec, bundle.proof(), bundle.manifest.proof
    library, run = _opened(bundle.onnx, spec, bundle.precision)
    checks = []
    if proof is not None and record is not None:
        check = _check(PROOF_SLICE, library, run(proof.inputs), proof.expected)
        checks.append(
            replace(
                check,
                torch_fp32_max_abs=record.torch_fp32_max_abs,
                torch_fp32_rms=record.torch_fp32_rms,
            )
        )
    for label, tensors in labelled_slices(spec):
        together = run(tensors)
        if not (np.isfinite(together).all() and np.abs(together).max() <= 1):
            raise parity_error(f"{label}: values that are not finite, or outside [-1, 1].")
        singles = [
            run({name: array[i : i + 1] for name, array in tensors.items()})
            for i in range(len(together))
        ]
        one_by_one = np.concatenate(singles)
        checks.append(
            _check(f"{label}, batch against single slices", library, together, one_by_one)
        )
    return Parity(tuple(checks), bounds_of(bundle))


def bounds_of(bundle: Bundle) -> Bounds:
    """The bounds that a bundle's graph was held to."""
    return bundle.manifest.parity.bounds or BOUNDS[bundle.precision]


def _checks(
    generator: SynthesisNetwork, runs: Mapping[str, Run], slices: Iterable[Labelled]
) -> Iterator[Check]:
    spec, exact = generator.spec, copy.deepcopy(generator).double()
    for label, tensors in slices:
        want = run_module(exact, spec, tensors, torch.float64)
        own = run_module(generator, spec, tensors)
        for executor, run in runs.items():
            got = run(tensors)
            if got.shape != want.shape:
                raise parity_error(f"{label} gives shape {got.shape}, expected {want.shape}.")
            yield _check(label, executor, got, want, own)


def _check(
    label: str,
    executor: str,
    got: NDArray[np.float32],
    want: NDArray[Any],
    own: NDArray[np.float32] | None = None,
) -> Check:
    difference = np.abs(got - want)
    rounding = np.zeros_like(difference) if own is None else np.abs(own - want)
    errors = np.square(difference).mean(axis=(1, 2, 3))
    worst = int(np.argmax(np.where(np.isnan(errors), np.inf, errors)))
    return Check(
        label,
        executor,
        len(got),
        float(difference.max()),
        float(np.sqrt(errors.mean())),
        psnr_db(float(errors.mean())),
        worst,
        psnr_db(float(errors[worst])),
        float(rounding.max()),
        float(np.sqrt(np.square(rounding).mean())),
    )


def _opened(onnx_file: Path, spec: ModelSpec, precision: Precision) -> tuple[str, Run]:
    """A graph of sound structure in ONNX Runtime on the CPU, and what to call that."""
    model = onnx.load(onnx_file)
    require_structure(model, spec)
    if precision in HALVES:
        require_islands(model)
    executor, source = f"{require_onnxruntime()} CPU", os.fspath(onnx_file)
    if precision == "bf16":
        executor, source = f"{executor}, widened to float32", widened(model).SerializeToString()
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])

    def run(tensors: Tensors) -> NDArray[np.float32]:
        (image,) = session.run([OUTPUT_NAME], dict(tensors))
        return image  # type: ignore[no-any-return]

    return executor, run


def _openvino_run(onnx_file: Path, precision: Precision) -> Run:
    """The graph as the engine ``ov-cpu`` computes it."""
    core = openvino_core()
    compiled: dict[tuple[int, ...], Any] = {}

    def run(tensors: Tensors) -> NDArray[np.float32]:
        shape = next(iter(tensors.values())).shape
        if shape not in compiled:
            model = core.read_model(os.fspath(onnx_file))
            model.reshape({name: list(shape) for name in tensors})
            settings = {"INFERENCE_PRECISION_HINT": HINTS[precision]}
            compiled[shape] = core.compile_model(model, "CPU", settings)
        image: NDArray[np.float32] = compiled[shape](dict(tensors))[OUTPUT_NAME]
        return image

    return run


_PRODUCTS = (torch.conv2d, torch.conv_transpose2d, torch.nn.functional.linear)


class _AccumulateInFloat32(TorchFunctionMode):
    """Half-precision products as accelerators compute them: summed in float32.

    PyTorch's own convolutions take 100 s per slice of the paper's network on two CPU cores; these
    take 2.
    """

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if function not in _PRODUCTS or args[0].dtype not in (torch.float16, torch.bfloat16):
            return function(*args, **kwargs)
        wider: list[Any] = [a.float() if isinstance(a, torch.Tensor) else a for a in args]
        return function(*wider, **kwargs).to(args[0].dtype)


def _half_run(module: nn.Module, spec: ModelSpec) -> Run:
    def run(tensors: Tensors) -> NDArray[np.float32]:
        with _AccumulateInFloat32():
            return run_module(module, spec, tensors)

    return run
