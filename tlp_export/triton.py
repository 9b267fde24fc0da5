"""A model repository for NVIDIA Triton Inference Server: ONNX, and enterprise TensorRT besides."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from tlp_runtime.errors import SetOption, UsageError
from tlp_runtime.files.atomic import atomic_folder
from tlp_runtime.models.bundle import Bundle
from tlp_runtime.spec.model import OUTPUT_NAME

CONFIG = "config.pbtxt"
SPEC_PARAMETER = "tlp.spec"
"""Key of the parameter that tells clients crop, intensity rule and prompt code."""

MAX_BATCH = 16
QUEUE_DELAY_US = 2000
"""How long a request may wait for others to share its batch."""


@dataclass(frozen=True)
class Plan:
    """A built TensorRT engine.

    Parameters
    ----------
    profiles
        (least, usual, most) slices a batch, of each optimisation profile.
    """

    file: Path
    flavour: str
    profiles: tuple[tuple[int, int, int], ...]


def write_repository(
    bundle: Bundle, folder: Path, plan: Plan | None = None, *, overwrite: bool = False
) -> tuple[str, ...]:
    """Add ``bundle`` to the model repository ``folder``; returns the names of its models.

    ``<name>_onnx`` runs in Triton's ONNX Runtime backend; with ``plan``, ``<name>_tensorrt`` runs
    in its TensorRT backend. Both gather requests into batches. Each model's folder is whole or
    absent.

    Raises
    ------
    UsageError
        A plan that Triton cannot run.
    OutputError
        A model of that name is there already, or the folder cannot be written.
    """
    if plan is not None and plan.flavour != "trt":
        raise UsageError(
            f"an engine of {plan.flavour}: Triton's TensorRT backend opens those of enterprise "
            "TensorRT only",
            fix="Leave the engine out; the ONNX model is written without it.",
        )
    if plan is not None and min(least for least, _, _ in plan.profiles) > 1:
        raise UsageError(
            "Triton sends single slices too, and no profile of the engine takes one",
            fix=SetOption("profiles", "1,4,16"),
        )
    stem = re.sub(r"[^A-Za-z0-9_.-]", "-", bundle.name)
    gpu_only = bundle.precision == "bf16"
    onnx = _config(
        bundle,
        f"{stem}_onnx",
        'backend: "onnxruntime"',
        file="model.onnx",
        largest=MAX_BATCH,
        preferred=tuple(size for size in (4, 8, MAX_BATCH)),
        instances="kind: KIND_GPU" if gpu_only else "kind: KIND_AUTO",
    )
    models = [(f"{stem}_onnx", onnx, bundle.onnx, "model.onnx")]
    if plan is not None:
        numbers = ", ".join(f'"{index}"' for index in range(len(plan.profiles)))
        config = _config(
            bundle,
            f"{stem}_tensorrt",
            'platform: "tensorrt_plan"',
            file="model.plan",
            largest=max(most for _, _, most in plan.profiles),
            preferred=tuple(sorted({usual for _, usual, _ in plan.profiles})),
            instances=f"kind: KIND_GPU, count: 1, profile: [ {numbers} ]",
        )
        models.append((f"{stem}_tensorrt", config, plan.file, "model.plan"))
    for name, config, source, file in models:
        with atomic_folder(folder / name, overwrite=overwrite) as temporary:
            (temporary / "1").mkdir()
            shutil.copyfile(source, temporary / "1" / file)
            (temporary / CONFIG).write_text(config, encoding="utf-8")
    return tuple(name for name, *_ in models)


def _config(
    bundle: Bundle,
    name: str,
    backend: str,
    *,
    file: str,
    largest: int,
    preferred: tuple[int, ...],
    instances: str,
) -> str:
    """A model's configuration in protobuf's text format; the batch axis is left out of dims."""
    spec = bundle.spec
    sides = (-1, -1) if spec.sizes is not None else (spec.crop.height, spec.crop.width)
    dims = f"dims: [ 1, {sides[0]}, {sides[1]} ]"
    inputs = ",\n".join(
        f'  {{ name: "{tensor}", data_type: TYPE_FP32, {dims} }}' for tensor in spec.tensor_names
    )
    sizes = ", ".join(str(size) for size in preferred)
    text = json.dumps(spec.to_json())  # JSON's escapes of a string are the text format's
    return f"""name: "{name}"
{backend}
default_model_filename: "{file}"
max_batch_size: {largest}
input [
{inputs}
]
output [
  {{ name: "{OUTPUT_NAME}", data_type: TYPE_FP32, {dims} }}
]
dynamic_batching {{
  preferred_batch_size: [ {sizes} ]
  max_queue_delay_microseconds: {QUEUE_DELAY_US}
}}
instance_group [ {{ {instances} }} ]
version_policy {{ latest {{ num_versions: 1 }} }}
parameters {{ key: "{SPEC_PARAMETER}", value: {{ string_value: {text} }} }}
"""
