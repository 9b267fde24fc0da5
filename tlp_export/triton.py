"""A model repository for NVIDIA Triton Inference Server: ONNX, and enterprise TensorRT besides."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tlp_runtime.errors import ChooseAnother, SetOption, UsageError
from tlp_runtime.files.atomic import atomic_folder, entries, require_folder
from tlp_runtime.models.bundle import Bundle
from tlp_runtime.spec.model import OUTPUT_NAME

CONFIG = "config.pbtxt"
ONNX_FILE, PLAN_FILE = "model.onnx", "model.plan"
VERSION = "1"
"""The only version of each model."""

SPEC_PARAMETER = "tlp.spec"
"""Key of the parameter that tells clients crop, intensity rule and prompt code."""

MAX_BATCH = 16
QUEUE_DELAY_US = 2000
"""How long a request may wait for others to share its batch."""

_ELSEWHERE = ChooseAnother("triton", "folder", "for the model repository")


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
        A model of that name is there already and may not be replaced, or the folder cannot be
        written.
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
    stem = _stem(bundle.name)
    gpu_only = bundle.precision == "bf16"
    onnx = _config(
        bundle,
        f"{stem}_onnx",
        'backend: "onnxruntime"',
        file=ONNX_FILE,
        largest=MAX_BATCH,
        preferred=tuple(size for size in (4, 8, MAX_BATCH)),
        instances="kind: KIND_GPU" if gpu_only else "kind: KIND_AUTO",
    )
    models = [(f"{stem}_onnx", onnx, bundle.onnx, ONNX_FILE)]
    if plan is not None:
        numbers = ", ".join(f'"{index}"' for index in range(len(plan.profiles)))
        config = _config(
            bundle,
            f"{stem}_tensorrt",
            'platform: "tensorrt_plan"',
            file=PLAN_FILE,
            largest=max(most for _, _, most in plan.profiles),
            preferred=tuple(sorted({usual for _, usual, _ in plan.profiles})),
            instances=f"kind: KIND_GPU, count: 1, profile: [ {numbers} ]",
        )
        models.append((f"{stem}_tensorrt", config, plan.file, PLAN_FILE))
    # Before the first is written:
    require_repository(folder, bundle.name, with_plan=plan is not None, overwrite=overwrite)
    for name, config, source, file in models:
        place = folder / name
        with atomic_folder(place, overwrite=overwrite, foreign=_foreign) as temporary:
            (temporary / VERSION).mkdir()
            shutil.copyfile(source, temporary / VERSION / file)
            (temporary / CONFIG).write_text(config, encoding="utf-8")
    return tuple(name for name, *_ in models)


def require_repository(
    folder: Path, bundle_name: str, *, with_plan: bool = False, overwrite: bool = False
) -> None:
    """Raise before an export when its models could not be added to the repository ``folder``.

    Parameters
    ----------
    bundle_name
        Name of the bundle that is going to be added.
    with_plan
        Whether a TensorRT engine is going to be added too.

    Raises
    ------
    OutputError
        As :func:`write_repository`.
    """
    for backend in ("onnx", "tensorrt") if with_plan else ("onnx",):
        place = folder / f"{_stem(bundle_name)}_{backend}"
        require_folder(place, overwrite=overwrite, foreign=_foreign, fix=_ELSEWHERE)


def _stem(name: str) -> str:
    """A bundle's name in the characters that Triton takes."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", name)


def _foreign(folder: Path) -> Iterator[Path]:
    """What a folder holds besides a model that this module wrote."""
    try:
        ours = SPEC_PARAMETER in (folder / CONFIG).read_text(encoding="utf-8")
    except (OSError, ValueError):
        ours = False
    for path in entries(folder):
        if ours and path.name == VERSION and path.is_dir():
            yield from (file for file in entries(path) if file.name not in (ONNX_FILE, PLAN_FILE))
        elif not (ours and path.name == CONFIG):
            yield path


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
