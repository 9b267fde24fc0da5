"""What runs in which precision: half outside, float32 islands inside."""

from __future__ import annotations

import onnx
import torch
from onnx import TensorProto, numpy_helper
from torch import nn

from tlp_export.fold import fold
from tlp_export.graph import Graph, export_module
from tlp_runtime.models.manifest import Precision
from tlp_train.networks.base import SynthesisNetwork

DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "int8": torch.float32,
}
"""Of everything but the islands and the quantised convolutions."""


def to_precision(generator: SynthesisNetwork, precision: Precision) -> SynthesisNetwork:
    """Cast the products of a folded generator, in place; its islands stay float32.

    What is multiplied with what follows from the tensors' types: the islands of
    :mod:`tlp_export.graph` widen what they take and narrow what they return.
    """
    for module in generator.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            module.to(DTYPES[precision])
    return generator


def half_module(generator: SynthesisNetwork, precision: Precision) -> Graph:
    """What is traced of a checkpoint's generator for a half-precision graph."""
    return export_module(to_precision(fold(generator), precision), DTYPES[precision])


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
