"""What runs in which precision: half outside, float32 islands inside, checked in the graph."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import torch
from onnx import TensorProto, numpy_helper, shape_inference
from torch import nn

from tlp_export.fold import fold
from tlp_export.graph import export_module
from tlp_runtime.bundle import Precision
from tlp_runtime.errors import ParityError
from tlp_train.network import Generator

DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "int8": torch.float32,
}
"""Of everything but the islands and the quantised convolutions."""

SUMS = ("LayerNormalization", "GroupNormalization", "InstanceNormalization", "Softmax")
"""Operators that sum over many values, besides every Reduce*."""

_PASSES_ON = ("Mul", "Div", "Add", "Sub", "Cast", "Reshape", "Transpose", "Unsqueeze", "Squeeze")


def to_precision(generator: Generator, precision: Precision) -> Generator:
    """Cast the convolutions of a folded generator, in place; its islands stay float32.

    What is multiplied with what follows from the tensors' types: the islands of
    :mod:`tlp_export.graph` widen what they take and narrow what they return.
    """
    for module in generator.modules():
        if isinstance(module, nn.Conv2d):
            module.to(DTYPES[precision])
    return generator


def half_module(generator: Generator, precision: Precision) -> nn.Module:
    """What is traced of a checkpoint's generator for a half-precision graph."""
    return export_module(to_precision(fold(generator), precision), DTYPES[precision])


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
            raise ParityError(
                f"the graph's {node.op_type} {node.name} runs in "
                f"{TensorProto.DataType.Name(kind)}, expected FLOAT: sums over many values "
                "overflow in half precision. Nothing was registered."
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


def widened(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with float32 in the place of bfloat16.

    ONNX Runtime has no bfloat16 convolution on a CPU; so its wiring and weights are still checked
    by value.
    """
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    del wide.graph.value_info[:]
    for tensor in wide.graph.initializer:
        if tensor.data_type == TensorProto.BFLOAT16:
            values = numpy_helper.to_array(tensor).astype("float32")
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for node in wide.graph.node:
        for attribute in node.attribute:
            if attribute.name == "to" and attribute.i == TensorProto.BFLOAT16:
                attribute.i = TensorProto.FLOAT
            if attribute.name == "value" and attribute.t.data_type == TensorProto.BFLOAT16:
                values = numpy_helper.to_array(attribute.t).astype("float32")
                attribute.t.CopyFrom(numpy_helper.from_array(values, attribute.t.name))
    return wide
