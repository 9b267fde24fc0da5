"""Write the matrix products that `tlp bench` holds engines against.

    python -m benchmarks.matmul_models

Each file makes an N x N matrix sin(s i) cos(s j) from its input s and multiplies it by itself four
times, scaled so that half precision does not overflow. Nothing in it is constant but N, so that no
runtime computes it in advance and the file stays small.
"""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto, helper

from tlp_runtime.bench import limit

TYPES = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
FILES = (("fp32", 1024), ("fp32", 8192), ("fp16", 8192), ("bf16", 8192))


def model(kind: str, size: int) -> onnx.ModelProto:
    """The product of that type and size."""
    wide, narrow = TensorProto.FLOAT, TYPES[kind]
    constants = [
        helper.make_tensor("first", wide, [], [0.0]),
        helper.make_tensor("size", wide, [], [float(size)]),
        helper.make_tensor("step", wide, [], [1.0]),
        helper.make_tensor("column", TensorProto.INT64, [2], [size, 1]),
        helper.make_tensor("row", TensorProto.INT64, [2], [1, size]),
        helper.make_tensor("scale", wide, [1], [2.0 / size]),
        helper.make_tensor("one", TensorProto.INT64, [1], [1]),
    ]
    nodes = [
        helper.make_node("Range", ["first", "size", "step"], ["numbers"]),
        helper.make_node("Mul", ["numbers", "seed"], ["angles"]),
        helper.make_node("Sin", ["angles"], ["sines"]),
        helper.make_node("Cos", ["angles"], ["cosines"]),
        helper.make_node("Reshape", ["sines", "column"], ["left"]),
        helper.make_node("Reshape", ["cosines", "row"], ["right"]),
        helper.make_node("Mul", ["left", "right"], ["wide"]),
        helper.make_node("Cast", ["wide"], ["matrix"], to=narrow),
        helper.make_node("Cast", ["scale"], ["factor"], to=narrow),
    ]
    last = "matrix"
    for number in range(limit.PRODUCTS):
        nodes.append(helper.make_node("MatMul", [last, "matrix"], [f"product{number}"]))
        last = f"scaled{number}"
        nodes.append(helper.make_node("Mul", [f"product{number}", "factor"], [last]))
    nodes += [
        helper.make_node("Cast", [last], ["result"], to=wide),
        helper.make_node("ReduceMax", ["result"], ["largest"], keepdims=0),
        helper.make_node("Reshape", ["largest", "one"], ["out"]),
    ]
    graph = helper.make_graph(
        nodes,
        f"matmul_{kind}_{size}",
        [helper.make_tensor_value_info("seed", wide, [1])],
        [helper.make_tensor_value_info("out", wide, [1])],
        constants,
    )
    opset = [helper.make_opsetid("", 20)]
    made = helper.make_model(graph, opset_imports=opset, ir_version=9, producer_name="tlp-mri")
    onnx.checker.check_model(made, full_check=True)
    return made


def main() -> None:
    folder = Path(limit.__file__).parent
    for kind, size in FILES:
        path = folder / f"matmul_{kind}_{size}.onnx"
        path.write_bytes(model(kind, size).SerializeToString(deterministic=True))
        print(path.name, path.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
