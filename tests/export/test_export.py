"""Exports: valid, equal to their checkpoint, or absent."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from unittest.mock import ANY

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from tests.fakes.engine import TINY_NETWORK
from tests.support import TinyModel
from tlp_export import bundle as bundling
from tlp_export import export, verify
from tlp_export.graph import example_inputs, export_module
from tlp_export.onnx_graph import write_onnx
from tlp_export.options import BOUNDS, ExportOptions
from tlp_export.precision import half_module
from tlp_export.slices import psnr_db
from tlp_runtime.engines.builds import build_engine
from tlp_runtime.engines.options import BatchProfile, EngineOptions
from tlp_runtime.engines.tensorrt.binding import TensorRT, load
from tlp_runtime.engines.tensorrt.build import build_plan
from tlp_runtime.engines.tensorrt.layers import require_precision
from tlp_runtime.engines.tensorrt.run import open_plan
from tlp_runtime.errors import (
    DeviceUnavailable,
    EngineError,
    MemoryExhausted,
    OutputError,
    ParityError,
    UsageError,
)
from tlp_runtime.files.hashes import sha256
from tlp_runtime.models.bundle import Bundle
from tlp_runtime.models.choice import models
from tlp_runtime.models.manifest import Precision
from tlp_runtime.spec.model import ModelSpec
from tlp_runtime.warnings import WarningLog
from tlp_train.checkpoint import load_checkpoint
from tlp_train.networks.tlp.generator import Generator


def test_the_bundle_is_one_valid_file_with_named_tensors(tiny: TinyModel) -> None:
    assert sorted(path.name for path in tiny.bundle.path.iterdir()) == [
        "MODEL_CARD.md", "generator.onnx", "manifest.json", "parity.json", "proof.npz",
        "spec.json",
    ]  # fmt: skip
    model = onnx.load(tiny.bundle.onnx)
    onnx.checker.check_model(model, full_check=True)
    shapes = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert set(shapes) == {"t1", "prompt", "t1ce"}
    for shape in shapes.values():
        assert isinstance(shape[0], str)
        assert shape[1:] == [1, 192, 160]
    assert not [t for t in model.graph.initializer if t.data_location == t.EXTERNAL]


def test_manifest_and_parity_say_what_was_checked(tiny: TinyModel) -> None:
    parity = json.loads((tiny.bundle.path / "parity.json").read_text())
    assert parity["passed"]
    assert {check["inputs"] for check in parity["checks"]} >= {
        "random, batch 1", "phantom, prompted", "phantom, no prompt"
    }  # fmt: skip
    provenance = tiny.bundle.manifest.provenance
    assert provenance.checkpoint is not None
    assert provenance.checkpoint.sha256 == load_checkpoint(tiny.run.last).sha256
    assert provenance.versions["torch"] == torch.__version__
    assert tiny.bundle.manifest.parity.bounds == BOUNDS["fp32"]


@pytest.mark.parametrize("batch", [1, 3, 5])
def test_the_graph_equals_the_checkpoint_at_any_batch(tiny: TinyModel, batch: int) -> None:
    generator = load_checkpoint(tiny.run.last).generator()
    tensors = {
        name: torch.rand(batch, 1, 192, 160) * 2 - 1 for name in tiny.bundle.spec.tensor_names
    }
    session = ort.InferenceSession(os.fspath(tiny.bundle.onnx), providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {name: tensor.numpy() for name, tensor in tensors.items()})
    with torch.no_grad():
        want = generator(*tensors.values()).numpy()
    assert np.abs(got - want).max() < 1e-4


def test_two_inputs_keep_their_names_and_places(tmp_path: Path) -> None:
    torch.manual_seed(0)
    spec = ModelSpec(inputs=("t1", "t2"), network=TINY_NETWORK)
    generator = Generator(spec).eval()
    write_onnx(export_module(generator), spec, tmp_path / "dual.onnx")
    session = ort.InferenceSession(
        os.fspath(tmp_path / "dual.onnx"), providers=["CPUExecutionProvider"]
    )
    tensors = dict(zip(spec.tensor_names, example_inputs(spec, batch=1), strict=True))
    (got,) = session.run(None, {name: tensor.numpy() for name, tensor in tensors.items()})
    with torch.no_grad():
        want = generator(*tensors.values()).numpy()
        swapped = generator(tensors["t2"], tensors["t1"], tensors["prompt"]).numpy()
    assert np.abs(got - want).max() < 1e-4
    assert np.abs(got - swapped).max() > 1e-3


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_export_that_differs_leaves_nothing(
    tiny: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: Precision
) -> None:
    """The graph is traced from other weights than the checkpoint's."""

    def spoiled(generator: Generator, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
        with torch.no_grad():
            generator.decoder.output.weight.mul_(1.2)
        return export_module(generator, dtype)

    monkeypatch.setattr(bundling, "export_module", spoiled)
    with pytest.raises(ParityError, match="Nothing was registered"):
        export(tiny.run.last, ExportOptions(precision=precision), out=tmp_path / "spoiled")
    assert not (tmp_path / "spoiled").exists()
    assert list(models()) == []
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".tmp")]


def check_of(max_abs: float, rms: float, torch_max: float, torch_rms: float) -> verify.Check:
    psnr = psnr_db(rms**2)
    return verify.Check("x", "y", 1, max_abs, rms, psnr, 0, psnr, torch_max, torch_rms)


@pytest.mark.parametrize("precision", BOUNDS)
def test_nan_is_never_parity(precision: Precision) -> None:
    check = check_of(float("nan"), float("nan"), 1.0, 1.0)
    parity = verify.Parity((check,), BOUNDS[precision])
    assert not parity.passed
    with pytest.raises(ParityError, match="nan"):
        parity.require()


@pytest.mark.parametrize(
    ("values", "passes"),
    [
        ((2e-4, 2e-5, 0.0, 0.0), True),
        ((2.1e-4, 2e-5, 1e-5, 1e-5), False),
        ((2e-4, 2.1e-5, 1e-5, 1e-5), False),
        ((5e-4, 5e-5, 3e-4, 3e-5), True),
        ((7e-4, 5e-5, 3e-4, 3e-5), False),
    ],
)
def test_fp32_bounds_are_fixed_or_a_multiple_of_pytorch_s_own_rounding(
    values: tuple[float, float, float, float], passes: bool
) -> None:
    assert verify.Parity((check_of(*values),), BOUNDS["fp32"]).passed == passes


@pytest.mark.parametrize(("rms", "passes"), [(1.9e-3, True), (2.1e-3, False)])
def test_the_fp16_bound_is_a_psnr(rms: float, passes: bool) -> None:
    assert verify.Parity((check_of(1, rms, 0, 0),), BOUNDS["fp16"]).passed == passes


def test_an_existing_bundle_is_kept(tiny: TinyModel) -> None:
    with pytest.raises(OutputError, match="exists already"):
        export(tiny.run.last, out=tiny.bundle.path)
    assert Bundle.open(tiny.bundle.path).onnx_sha256 == tiny.bundle.onnx_sha256


def test_no_shape_is_read_at_run_where_only_the_batch_varies(tiny: TinyModel) -> None:
    """ONNX Runtime would read it on the CPU, in the midst of a graph that is on a GPU."""
    kinds = {node.op_type for node in onnx.load(tiny.bundle.onnx).graph.node}
    assert "Conv" in kinds
    assert not kinds & {"Shape", "Gather", "Squeeze", "Unsqueeze", "Slice"}


def test_batch_profiles_are_checked() -> None:
    assert BatchProfile.parse("2,4,8") == BatchProfile(2, 4, 8)
    for text in ("4", "1,2", "a,b,c", "4,2,8", "0,1,2"):
        with pytest.raises(UsageError, match="batch profile"):
            BatchProfile.parse(text)


@pytest.fixture
def rtx() -> TensorRT:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    return load("trt-rtx")


@pytest.mark.parametrize("inputs", ["t1", "t1 and t2"])
def test_a_real_engine_is_built_and_described(
    tiny: TinyModel, tiny_dual: Bundle, rtx: TensorRT, tmp_path: Path, inputs: str
) -> None:
    original = tiny.bundle if inputs == "t1" else tiny_dual
    shutil.copytree(original.path, tmp_path / "copy")
    bundle = Bundle.open(tmp_path / "copy")
    options = EngineOptions(profiles=(BatchProfile(1, 1, 2), BatchProfile(4, 8, 16)), level=2)
    built = build_engine(bundle, options, rtx, None, warn=WarningLog().add)
    assert built.file.stat().st_size > 100_000
    assert built.sidecar.version == rtx.version
    assert built.sidecar.engine_sha256 == sha256(built.file)
    assert built.sidecar.layers["correlation"] == {"Float": ANY}
    assert built.sidecar.layers_from in ("build log", "engine")
    assert built.options == options
    assert "Engine" in (built.folder / "build.log").read_text(encoding="utf-8")
    assert built.read()[4:] != b""
    assert Bundle.open(bundle.path).onnx_sha256 == bundle.onnx_sha256  # still sound
    # No GPU: opening it fails in one clear line, and nothing else is tried.
    with pytest.raises((EngineError, MemoryExhausted), match="TensorRT-RTX cannot open the engine"):
        open_plan(rtx, built.read())


def test_a_real_engine_of_two_inputs_in_half_precision(rtx: TensorRT, tmp_path: Path) -> None:
    spec = ModelSpec(inputs=("t1", "t2"), network=TINY_NETWORK)
    module = half_module(Generator(spec).eval(), "fp16")
    write_onnx(module, spec, tmp_path / "dual.onnx")
    options = EngineOptions()
    result = build_plan(rtx, tmp_path / "dual.onnx", options.shapes(spec), options)
    assert len(result.plan) > 100_000
    assert result.layers["correlation"] == {"Half": ANY}
    require_precision(result.layers, "fp16", warn=WarningLog().add)


def test_real_engines_are_built_for_chosen_gpus(
    tiny: TinyModel, rtx: TensorRT, tmp_path: Path
) -> None:
    bundle = Bundle.open(tiny.copy(tmp_path))
    one = build_engine(
        bundle, EngineOptions(targets=("8.6", "12.0")), rtx, None, warn=WarningLog().add
    )
    assert one.sidecar.compute_capabilities == ("8.6", "12.0")
    with pytest.raises(EngineError, match=r"compute capabilities 9\.0: TensorRT-RTX builds for"):
        build_engine(bundle, EngineOptions(targets=("9.0",)), rtx, None, warn=WarningLog().add)
    with pytest.raises(DeviceUnavailable, match="builds on the GPU"):
        build_engine(bundle, EngineOptions(targets=("current",)), rtx, None, warn=WarningLog().add)
    assert [folder.name for folder in one.folder.parent.iterdir()] == [one.folder.name]


def test_ctrl_c_cancels_a_real_build_and_leaves_nothing(
    tiny: TinyModel, rtx: TensorRT, tmp_path: Path
) -> None:
    bundle = Bundle.open(tiny.copy(tmp_path))
    told: list[str] = []

    class Interrupting:
        def start(self, phase: str, steps: int) -> None:
            told.append(phase)

        def step(self, phase: str, done: int) -> None:
            if len(told) > 4:
                signal.raise_signal(signal.SIGINT)

        def finish(self, phase: str) -> None: ...

    with pytest.raises(KeyboardInterrupt):
        build_engine(
            bundle, EngineOptions(), rtx, None, progress=Interrupting(), warn=WarningLog().add
        )
    assert told[0] == "Building engine"
    assert not (bundle.path / "engines").exists()
    # The bindings are sound after it.
    assert build_engine(bundle, EngineOptions(), rtx, None, warn=WarningLog().add).file.is_file()


def test_a_graph_tensorrt_cannot_read_is_one_message(
    tiny: TinyModel, rtx: TensorRT, tmp_path: Path
) -> None:
    bundle = Bundle.open(tiny.copy(tmp_path))
    bundle.onnx.write_bytes(b"no graph")
    with pytest.raises(EngineError, match="cannot read"):
        build_engine(bundle, EngineOptions(), rtx, None, warn=WarningLog().add)
    assert not (bundle.path / "engines").exists()
