"""What can be read off a graph without running it: names, shapes, types, float32 islands."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import TensorProto, shape_inference

from tlp_export.libraries import parity_error
from tlp_runtime.engines.onnx import SPEC_KEY
from tlp_runtime.spec.model import OUTPUT_NAME, ModelSpec

SUMS = ("LayerNormalization", "GroupNormalization", "InstanceNormalization", "Softmax")
"""Operators that sum over many values, besides every Reduce*."""

_PASSES_ON = ("Mul", "Div", "Add", "Sub", "Cast", "Reshape", "Transpose", "Unsqueeze", "Squeeze")


def require_structure(model: onnx.ModelProto, spec: ModelSpec) -> None:
    """Check names, shapes, types and the specification inside; inputs with a default may be any.

    Raises
    ------
    ParityError
        What was found and what was expected.
    """
    sizes: tuple[int | None, ...] = (spec.crop.height, spec.crop.width)
    if spec.sizes is not None:
        sides = zip(spec.sizes.smallest, spec.sizes.largest, strict=True)
        sizes = tuple(low if low == high else None for low, high in sides)
    expected = dict.fromkeys(spec.tensor_names, (TensorProto.FLOAT, None, 1, *sizes))
    defaults = {tensor.name for tensor in model.graph.initializer}
    for values, wanted in (
        ([value for value in model.graph.input if value.name not in defaults], expected),
        (model.graph.output, {OUTPUT_NAME: next(iter(expected.values()))}),
    ):
        found = {
            value.name: (
                value.type.tensor_type.elem_type,
                *(
                    d.dim_value if d.HasField("dim_value") else None
                    for d in value.type.tensor_type.shape.dim
                ),
            )
            for value in values
        }
        if found != wanted:
            raise parity_error(
                f"the graph has {found}, expected {wanted} (type {TensorProto.FLOAT} is float32, "
                "None is any size)."
            )
    inside = [entry.value for entry in model.metadata_props if entry.key == SPEC_KEY]
    if [ModelSpec.from_json(text) for text in inside] != [spec]:
        raise parity_error("the specification inside the graph is not the model's.")


def require_islands(model: onnx.ModelProto) -> int:
    """Check that every sum over many values is float32; returns how many there are.

    Such are Reduce*, the norms, Softmax, and the matrix products whose results a Softmax sees
    (the Gram matrices and the scores between positions).

    Raises
    ------
    ParityError
        One is not, or its type is not known.
    """
    typed = shape_inference.infer_shapes(model, strict_mode=True).graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*typed.value_info, *typed.input)}
    types |= {t.name: t.data_type for t in typed.initializer}
    found = 0
    for node in _sums(typed):
        found += 1
        kind = types.get(node.input[0], TensorProto.UNDEFINED)
        if kind != TensorProto.FLOAT:
            raise parity_error(
                f"the graph's {node.op_type} {node.name} runs in "
                f"{TensorProto.DataType.Name(kind)}, expected FLOAT: sums over many values "
                "overflow in half precision."
            )
    return found


def _sums(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    makers = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        if node.op_type.startswith("Reduce") or node.op_type in SUMS:
            yield node
        if node.op_type == "Softmax":
            yield from _products(makers, node.input[0])


def _products(makers: dict[str, onnx.NodeProto], name: str) -> Iterator[onnx.NodeProto]:
    """The matrix products that ``name`` was made of, through elementwise steps."""
    node = makers.get(name)
    if node is None:
        return
    if node.op_type in ("MatMul", "Gemm", "Einsum"):
        yield node
    elif node.op_type in _PASSES_ON:
        for source in node.input:
            yield from _products(makers, source)
