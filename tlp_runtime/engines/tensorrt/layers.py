"""The types that a built engine computes in, from the engine or from the log of its build."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence

from tlp_runtime.errors import EngineError
from tlp_runtime.models.manifest import Precision
from tlp_runtime.warnings import LAYERS_UNKNOWN, Warn

Layers = Mapping[str, Mapping[str, int]]
"""Kinds of layer, and how many of each compute in which type, by the type of their first input."""

_TYPES = {
    "float": "Float", "fp32": "Float", "half": "Half", "fp16": "Half", "bfloat16": "BFloat16",
    "bf16": "BFloat16", "int8": "Int8", "fp8": "FP8", "int32": "Int32", "int64": "Int64",
    "bool": "Bool",
}  # fmt: skip
_WANTED: Mapping[Precision, str] = {
    "fp32": "Float",
    "fp16": "Half",
    "bf16": "BFloat16",
    "int8": "Int8",
}


def layers_of_log(lines: Sequence[str]) -> Layers:
    """Layers from the list that a verbose build ends with (``Datatype: Half``)."""
    listed = [
        line for line in lines if re.match(r"VERBOSE (Engine Layer Information|Layers):", line)
    ]
    told = []
    for line in listed[-1].splitlines() if listed else ():
        kind = re.search(r"LayerType: (\w+)", line)
        dtype = re.search(r"Inputs: \[ ?\{[^}]*?Datatype: (\w+)", line)
        if kind and dtype:
            told.append((kind[1], dtype[1]))
    return _count(told)


def layers_of_json(text: str) -> Layers:
    """Layers from the engine inspector (``Half``, or ``Row major linear FP16 format``)."""
    told = []
    for layer in json.loads(text).get("Layers", ()):
        inputs = layer.get("Inputs") if isinstance(layer, dict) else None
        if inputs:
            said = inputs[0].get("Datatype") or inputs[0].get("Format/Datatype", "")
            told.append((str(layer.get("LayerType", "unknown")), str(said)))
    return _count(told)


def require_precision(layers: Layers, precision: Precision, *, warn: Warn) -> None:
    """Most of the built engine's convolutions must compute in the bundle's precision.

    Not all: TensorRT may take a cast into a convolution, and int8 leaves those that cost accuracy
    in float32, for which any int8 will do. Where nothing is known about them, there is a warning.

    Raises
    ------
    EngineError
        They do not.
    """
    found: dict[str, int] = {}
    for kind, types in layers.items():
        if "conv" in kind.lower() or kind == "correlation":
            for dtype, count in types.items():
                found[dtype] = found.get(dtype, 0) + count
    if not found:
        warn(
            LAYERS_UNKNOWN.warning(
                "TensorRT does not report what the engine's convolutions compute in."
            )
        )
        return
    wanted = _WANTED[precision]
    right, total = found.get(wanted, 0), sum(found.values())
    if not right or (precision != "int8" and right <= total / 2):
        raise EngineError(
            f"the built engine is not {precision}: its convolutions compute in {found}, expected "
            f"{wanted}. Nothing was kept",
            fix="Report this with the build log.",
        )


def _count(told: Iterable[tuple[str, str]]) -> Layers:
    counts: dict[str, dict[str, int]] = {}
    for kind, said in told:
        known = [_TYPES[word] for word in re.findall(r"\w+", said.lower()) if word in _TYPES]
        dtype = known[0] if known else said
        types = counts.setdefault(kind, {})
        types[dtype] = types.get(dtype, 0) + 1
    return counts
