"""The traced network as one ONNX file."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import onnx
import torch

from tlp_export.graph import Graph, example_inputs
from tlp_export.libraries import parity_error
from tlp_runtime.engines.onnx import SPEC_KEY
from tlp_runtime.errors import first_line
from tlp_runtime.models.manifest import Precision
from tlp_runtime.spec.model import OUTPUT_NAME, ModelSpec

OPSET = 20
BF16_OPSET = 22
"""The first in which a convolution may be bfloat16."""


def opset_of(precision: Precision) -> int:
    """The opset of a graph of that precision."""
    return BF16_OPSET if precision == "bf16" else OPSET


def write_onnx(graph: Graph, spec: ModelSpec, path: Path) -> int:
    """Trace ``graph`` into one ONNX file, specification inside; returns its number of nodes.

    The batch axis is dynamic; height and width are where ``spec.sizes`` says so. What the network
    draws at random is an input too, with an initializer of its name: its default, so that nobody
    has to give it. The same module gives the same bytes, wherever it is exported: the file holds
    no traces of the tracing.

    Raises
    ------
    ParityError
        The network cannot be traced, or the file does not pass ``onnx.checker``.
    """
    axes: dict[int, Any] = {0: torch.export.Dim("batch")}
    if spec.sizes is not None:
        step = spec.network.multiple
        for axis, name in ((2, "height"), (3, "width")):
            low, high = spec.sizes.smallest[axis - 2], spec.sizes.largest[axis - 2]
            if low < high:
                steps = torch.export.Dim(f"{name}_steps", min=low // step, max=high // step)
                axes[axis] = step * steps
    half = {parameter.dtype for parameter in graph.parameters()}
    opset = BF16_OPSET if torch.bfloat16 in half else OPSET
    inputs = example_inputs(spec)
    drawn = graph.drawn
    for name in ("torch.onnx", "onnxscript", "onnx_ir"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        # The exporter warns of its own internals; the graph is checked by value below.
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                graph,
                (*inputs, *drawn.values()),
                dynamo=True,
                opset_version=opset,
                input_names=[*spec.tensor_names, *drawn],
                output_names=[OUTPUT_NAME],
                dynamic_shapes=((*(axes for _ in inputs), *({} for _ in drawn)),),
                external_data=False,
                optimize=True,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise parity_error(f"the network cannot be traced: {first_line(error)}.") from error
        if program is None:
            raise parity_error("the network cannot be traced: the exporter returned nothing.")
        program.save(str(path), external_data=False)
    model = onnx.load(path)
    for name, tensor in drawn.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(tensor.numpy(), name))
    _fix_shapes(model.graph)
    _strip(model)
    entry = model.metadata_props.add()
    entry.key, entry.value = SPEC_KEY, spec.to_json()
    try:
        onnx.checker.check_model(model, full_check=True)
    except onnx.checker.ValidationError as error:
        raise parity_error(f"the graph is not valid ONNX: {first_line(error)}.") from error
    onnx.save(model, path)
    return len(model.graph.node)


def _strip(model: onnx.ModelProto) -> None:
    """Remove what the exporter notes of the machine it ran on: stack traces, files, module paths.

    Half of the metadata, and different in every folder. Names of nodes and tensors stay.
    """
    graph = model.graph
    values = (*graph.input, *graph.output, *graph.value_info)
    for part in (model, graph, *graph.node, *graph.initializer, *values, *model.functions):
        part.ClearField("doc_string")
        part.ClearField("metadata_props")


def _fix_shapes(graph: onnx.GraphProto) -> None:
    """Write shapes that only the batch varies into the reshapes, instead of reading them at run.

    ONNX Runtime reads shapes on the CPU, which a graph that is to stay on a GPU, and be captured
    there, should not need. Graphs of dynamic height and width keep theirs.
    """
    known = {
        value.name: [axis.dim_value or -1 for axis in value.type.tensor_type.shape.dim]
        for value in graph.value_info
    }
    read = {node.output[0]: node for node in graph.node if node.op_type == "Shape"}
    for node in graph.node:
        source = read.get(node.input[1]) if node.op_type == "Reshape" else None
        shape = known.get(source.input[0]) if source is not None else None
        if source is None or shape is None or shape.count(-1) != 1:
            continue
        name = f"{source.output[0]}_fixed"
        if name not in {tensor.name for tensor in graph.initializer}:
            graph.initializer.append(
                onnx.helper.make_tensor(name, onnx.TensorProto.INT64, [len(shape)], shape)
            )
        node.input[1] = name
    used = {name for node in graph.node for name in node.input}
    for node in read.values():
        if node.output[0] not in used:
            graph.node.remove(node)
