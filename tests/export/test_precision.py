"""Half precision outside, float32 where much is summed; int8 that keeps its bound or is refused."""

from __future__ import annotations

import copy
import os
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper

from tests.fakes.engine import TINY_NETWORK
from tests.support import TinyModel
from tests.train.test_published import KINDS, published_state
from tlp_export import Exported, export
from tlp_export import quantize as quantization
from tlp_export.fold import fold
from tlp_export.graph import export_module
from tlp_export.options import ExportOptions
from tlp_export.precision import half_module, widened
from tlp_export.quantize import candidates, quantize
from tlp_export.slices import (
    Tensors,
    calibration_slices,
    phantom_slices,
    psnr_db,
    real_slices,
    run_module,
    unprompted,
)
from tlp_export.structure import require_islands
from tlp_export.verify import HALVES
from tlp_runtime.engines.builds import build_engine
from tlp_runtime.engines.options import BatchProfile, EngineOptions
from tlp_runtime.engines.select import choose
from tlp_runtime.engines.tensorrt.binding import load
from tlp_runtime.errors import EngineError, ParityError, UsageError
from tlp_runtime.io.datasets import find_cases
from tlp_runtime.models.bundle import Bundle
from tlp_runtime.models.choice import models
from tlp_runtime.models.manifest import Precision
from tlp_runtime.spec.model import ModelSpec
from tlp_runtime.warnings import WarningLog
from tlp_train.checkpoint import load_checkpoint
from tlp_train.importing import import_weights
from tlp_train.networks.base import SynthesisNetwork
from tlp_train.networks.tlp.generator import Generator

ENGINE_TYPES: dict[Precision, set[str]] = {
    "fp32": {"Float"},
    "fp16": {"Half"},
    "bf16": {"BFloat16"},
    "int8": {"Int8", "Float"},
}


@pytest.fixture(scope="module", params=list(KINDS))
def published(
    request: pytest.FixtureRequest, fixtures_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> SynthesisNetwork:
    """The published network's weights."""
    folder = tmp_path_factory.mktemp("published")
    torch.save(published_state(fixtures_dir, request.param), folder / "net.pth")
    path = import_weights(
        folder / "net.pth", KINDS[request.param], folder / "net.ckpt", overwrite=False
    )
    return load_checkpoint(path).generator()


def psnr(got: np.ndarray, want: np.ndarray) -> float:
    return psnr_db(float(np.square(got.astype(np.float64) - want).mean()))


def fixture_of(generator: Generator, folder: Path) -> tuple[Tensors, np.ndarray]:
    """The fixture's inputs, and what the published network made of them."""
    kind = "dual" if len(generator.spec.inputs) == 2 else "single"
    with np.load(folder / f"authors_{kind}_dim8.npz") as data:
        tensors = {name: data[f"input.{name}"] for name in generator.spec.tensor_names}
        return tensors, data["output_t1ce"]


def test_half_precision_gives_the_published_output(
    published: Generator, fixtures_dir: Path
) -> None:
    tensors, want = fixture_of(published, fixtures_dir)
    folded = run_module(fold(published), published.spec, tensors)
    assert np.abs(folded - want).max() <= 1e-5
    for precision, least in zip(HALVES, (60.0, 45.0), strict=True):
        got = run_module(half_module(published, precision), published.spec, tensors)
        assert got.dtype == np.float32
        assert np.isfinite(got).all()
        assert psnr(got, want) > least


def test_the_network_as_published_overflows_where_ours_does_not(
    published: Generator, fixtures_dir: Path
) -> None:
    """q and k are normalised, so a constant on them changes nothing but the sums of squares."""
    tensors, want = fixture_of(published, fixtures_dir)
    large = copy.deepcopy(published)
    for name, parameter in large.named_parameters():
        if name.endswith("qkv_depthwise.weight"):
            parameter.data[: 2 * len(parameter) // 3] *= 2**14
    plain = export_module(copy.deepcopy(large).half(), torch.float16)
    spoilt = run_module(plain, published.spec, tensors)
    assert not (np.isfinite(spoilt).all() and psnr(spoilt, want) > 60)
    assert psnr(run_module(half_module(large, "fp16"), published.spec, tensors), want) > 60


@pytest.mark.proof
def test_half_precision_on_the_phantom_and_every_real_case(
    published: Generator, real_cases: Path
) -> None:
    module = half_module(published, "fp16")
    cases = find_cases(real_cases, (*published.spec.inputs, "seg"))
    assert len(cases) == 7
    slices = [phantom_slices(published.spec, 3)]
    slices += [real_slices(case, published.spec, 3) for case in cases]
    for prompted in slices:
        for given in (prompted, unprompted(prompted)):
            got = run_module(module, published.spec, given)
            assert np.isfinite(got).all()
            assert psnr(got, run_module(published, published.spec, given)) > 60


@pytest.fixture(scope="module")
def bundles(tiny: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> dict[Precision, Exported]:
    """The tiny model at every precision but fp32."""
    folder = tmp_path_factory.mktemp("precisions")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TLP_HOME", os.fspath(folder))
        return {
            precision: export(
                load_checkpoint(tiny.run.last), options=ExportOptions(precision=precision)
            )
            for precision in (*HALVES, "int8")
        }


@pytest.mark.parametrize("precision", HALVES)
def test_every_island_is_in_the_graph(
    bundles: dict[Precision, Exported], precision: Precision
) -> None:
    graph = onnx.load(bundles[precision].bundle.onnx)
    # Three blocks in the encoder, four in the decoder: two LayerNorms, two L2 norms, a softmax
    # and a Gram product each; one spatial attention: a norm, a softmax and a product.
    assert require_islands(graph) == 6 * 7 + 3
    halves = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
    kinds = {tensor.data_type for tensor in graph.graph.initializer if len(tensor.dims) == 4}
    assert kinds == {halves[precision]}


@pytest.mark.parametrize("target", ["LayerNormalization", "ReduceSum", "Softmax", "MatMul"])
def test_a_sum_in_half_precision_is_found(bundles: dict[Precision, Exported], target: str) -> None:
    """The first such node is made to compute between casts to float16."""
    spoilt = onnx.load(bundles["fp16"].bundle.onnx)
    makers = {name: node for node in spoilt.graph.node for name in node.output}
    nodes = list(spoilt.graph.node)
    if target == "MatMul":  # the Gram product, which a Softmax sees
        node = next(n for n in nodes if n.op_type == "Softmax")
        while node.op_type != "MatMul":
            node = makers[node.input[0]]
    else:
        node = next(n for n in nodes if n.op_type == target)
    floats = 1 if target in ("ReduceSum", "Softmax") else len(node.input)
    before = []
    for position in range(floats):
        narrow = f"narrow{position}"
        before.append(
            helper.make_node("Cast", [node.input[position]], [narrow], to=TensorProto.FLOAT16)
        )
        node.input[position] = narrow
    after = helper.make_node("Cast", ["half"], [node.output[0]], to=TensorProto.FLOAT)
    node.output[0] = "half"
    index = nodes.index(node)
    del spoilt.graph.node[:]
    spoilt.graph.node.extend([*nodes[:index], *before, node, after, *nodes[index + 1 :]])
    del spoilt.graph.value_info[:]
    with pytest.raises(ParityError, match=f"{target} .* runs in FLOAT16"):
        require_islands(spoilt)


def test_a_bfloat16_graph_is_checked_in_float32(
    bundles: dict[Precision, Exported], tiny: TinyModel
) -> None:
    graph = onnx.load(bundles["bf16"].bundle.onnx)
    with pytest.raises(Exception, match="Could not find an implementation"):
        ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    wide = widened(graph)
    assert TensorProto.BFLOAT16 not in {t.data_type for t in wide.graph.initializer}
    session = ort.InferenceSession(wide.SerializeToString(), providers=["CPUExecutionProvider"])
    tensors = phantom_slices(tiny.bundle.spec, 1)
    want = run_module(load_checkpoint(tiny.run.last).generator(), tiny.bundle.spec, tensors)
    (got,) = session.run(None, dict(tensors))
    assert psnr(got, want) > 45


@pytest.mark.parametrize("precision", [*HALVES, "int8"])
def test_every_precision_becomes_a_bundle_that_says_so(
    bundles: dict[Precision, Exported], precision: Precision
) -> None:
    exported = bundles[precision]
    bundle = Bundle.open(exported.bundle.path)
    assert bundle.precision == precision
    assert precision in exported.name
    assert bundle.manifest.parity.bounds == exported.parity.bounds
    assert exported.parity.psnr_db >= exported.parity.bounds["psnr_db"]
    executors = {check.executor for check in exported.parity.checks}
    assert any("PyTorch" in name for name in executors) == (precision in HALVES)
    graph = onnx.load(bundle.onnx)
    kinds = {v.type.tensor_type.elem_type for v in (*graph.graph.input, *graph.graph.output)}
    assert kinds == {TensorProto.FLOAT}
    assert bundle.manifest.graph == exported.report
    assert exported.report.nodes == len(graph.graph.node)
    if precision == "bf16":
        with pytest.raises(EngineError, match="bf16, which ONNX Runtime cannot run on a CPU"):
            choose("ort-cpu").open(bundle)
    else:
        with choose("ort-cpu").open(bundle) as engine:
            image = engine.run(phantom_slices(bundle.spec, 1))
        assert image.dtype == np.float32
        assert np.isfinite(image).all()


@pytest.mark.parametrize("precision", [*HALVES, "int8"])
def test_tensorrt_builds_the_graph(
    bundles: dict[Precision, Exported], precision: Precision
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    options = EngineOptions(profiles=(BatchProfile(1, 2, 4),))
    built = build_engine(
        bundles[precision].bundle, options, load("trt-rtx"), None, warn=WarningLog().add
    )
    assert built.file.stat().st_size > 100_000
    assert built.sidecar.precision == precision
    # As found in the built engine, not as asked for.
    convolutions = set(built.sidecar.layers["correlation"])
    assert convolutions == ENGINE_TYPES[precision]


def test_half_precision_of_the_plain_graph_is_refused() -> None:
    with pytest.raises(UsageError, match="precision fp16 needs the folded graph"):
        ExportOptions(precision="fp16", fold=False)
    with pytest.raises(UsageError, match="exclude: only for int8"):
        ExportOptions(precision="fp16", exclude=("decoder",))


@pytest.fixture(scope="module")
def folded() -> SynthesisNetwork:
    torch.manual_seed(0)
    return fold(Generator(ModelSpec(inputs=("t1", "t2"), network=TINY_NETWORK)))


def test_int8_is_real_in_the_graph_and_in_the_runtime(
    bundles: dict[Precision, Exported], tiny: TinyModel, tmp_path: Path
) -> None:
    exported = bundles["int8"]
    original = fold(load_checkpoint(tiny.run.last).generator())
    found = candidates(original)
    layers = len(found)
    graph = onnx.load(exported.bundle.onnx).graph
    int8 = [t for t in graph.initializer if t.data_type == TensorProto.INT8 and len(t.dims) == 4]
    assert len(int8) == layers
    options = ort.SessionOptions()
    options.optimized_model_filepath = os.fspath(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(
        os.fspath(exported.bundle.onnx), options, providers=["CPUExecutionProvider"]
    )
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert kinds.count("QLinearConv") == layers
    costs = exported.report.layers
    assert [cost.psnr_db for cost in costs] == sorted(cost.psnr_db for cost in costs)
    assert {cost.name for cost in costs} == set(found)
    assert all(cost.gflop > 0 for cost in costs)


def test_excluded_layers_stay_float32(folded: Generator) -> None:
    slices = calibration_slices(folded.spec, count=1)
    quantized, costs = quantize(folded, slices, exclude=("decoder", "bottleneck.fusions.0"))
    assert costs
    assert not any(cost.name.startswith("decoder") for cost in costs)
    kinds = {
        name: type(module).__name__
        for name, module in quantized.named_modules()
        if name.endswith(("ffn.spatial", "fusions.0.conv"))
    }
    assert set(kinds.values()) == {"Conv2d", "QuantizedConv2d"}
    for name, kind in kinds.items():
        kept = name.startswith(("decoder", "bottleneck.fusions.0"))
        assert kind == ("Conv2d" if kept else "QuantizedConv2d")
    with pytest.raises(UsageError, match="exclude nonsense: no such layer"):
        quantize(folded, slices, exclude=("nonsense",))
    with pytest.raises(UsageError, match="leaves nothing"):
        quantize(folded, slices, exclude=("",))


def test_int8_below_its_bound_is_refused_with_its_figure(tiny: TinyModel, tmp_path: Path) -> None:
    with pytest.raises(ParityError, match=r"PSNR \d+\.\d dB.*psnr_db 200.*costliest layers: .* dB"):
        export(
            tiny.run.last,
            ExportOptions(precision="int8", min_psnr_db=200),
            out=tmp_path / "int8",
        )
    assert not (tmp_path / "int8").exists()
    assert list(models()) == []


def test_a_range_is_narrowed_where_outliers_would_cost_more() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=100_000).astype(np.float32)
    values[0] = 12.0
    seen = quantization.Range()
    seen.see(torch.from_numpy(values), rng)
    assert 0 < seen.scale() < 12 / quantization.LEVELS
    only_zero = quantization.Range()
    only_zero.see(torch.zeros(10), rng)
    assert only_zero.scale() > 0
