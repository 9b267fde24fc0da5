"""The model repository, read with Triton's own protobuf."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from tests.support import TinyModel
from tlp_export.triton import Plan, write_repository
from tlp_runtime.errors import OutputError, UsageError
from tlp_runtime.files.hashes import sha256
from tlp_runtime.models.bundle import Bundle
from tlp_runtime.spec.model import ModelSpec, SizeSpec


def parse(folder: Path) -> Any:
    """Triton's own reading of a model's configuration; unknown fields are errors."""
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    text = (folder / "config.pbtxt").read_text(encoding="utf-8")
    return text_format.Parse(text, model_config_pb2.ModelConfig())


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    (tmp_path / "generator.engine").write_bytes(b"an engine")
    return Plan(tmp_path / "generator.engine", "trt", ((1, 1, 2), (4, 8, 32)))


def test_the_configuration_is_that_of_the_graph(tiny_dual: Bundle, tmp_path: Path) -> None:
    names = write_repository(tiny_dual, tmp_path / "models")
    assert names == ("tiny-t1-t2_onnx",)
    folder = tmp_path / "models" / names[0]
    config = parse(folder)
    assert (config.name, config.backend) == (names[0], "onnxruntime")
    session = ort.InferenceSession(
        os.fspath(folder / "1" / config.default_model_filename), providers=["CPUExecutionProvider"]
    )
    for declared, real in (
        (config.input, session.get_inputs()),
        (config.output, session.get_outputs()),
    ):
        assert {t.name: list(t.dims) for t in declared} == {n.name: n.shape[1:] for n in real}
        assert {t.data_type for t in declared} == {11}  # TYPE_FP32
    assert config.max_batch_size == 16
    assert list(config.dynamic_batching.preferred_batch_size) == [4, 8, 16]
    assert config.dynamic_batching.max_queue_delay_microseconds > 0
    assert sha256(folder / "1" / "model.onnx") == tiny_dual.onnx_sha256
    feed = {
        t.name: np.zeros((config.max_batch_size // 8, *t.dims), np.float32) for t in config.input
    }
    (image,) = session.run([config.output[0].name], feed)
    assert image.shape == (2, 1, 192, 160)


def test_clients_can_read_the_specification(tiny: TinyModel, tmp_path: Path) -> None:
    (name,) = write_repository(tiny.bundle, tmp_path)
    text = parse(tmp_path / name).parameters["tlp.spec"].string_value
    assert ModelSpec.from_json(text) == tiny.bundle.spec


def test_an_engine_is_a_model_of_its_own(tiny: TinyModel, plan: Plan, tmp_path: Path) -> None:
    names = write_repository(tiny.bundle, tmp_path / "models", plan)
    assert names == ("tiny-t1_onnx", "tiny-t1_tensorrt")
    folder = tmp_path / "models" / names[1]
    config = parse(folder)
    assert config.platform == "tensorrt_plan"
    assert config.max_batch_size == 32
    assert list(config.dynamic_batching.preferred_batch_size) == [1, 8]
    (group,) = config.instance_group
    assert group.kind == group.KIND_GPU
    assert list(group.profile) == ["0", "1"]
    assert (folder / "1" / "model.plan").read_bytes() == b"an engine"


def test_slices_of_any_size_are_declared_so(tiny: TinyModel, tmp_path: Path) -> None:
    spec = dataclasses.replace(
        tiny.bundle.spec, sizes=SizeSpec(smallest=(64, 64), largest=(240, 240))
    )
    (name,) = write_repository(dataclasses.replace(tiny.bundle, spec=spec), tmp_path)
    assert {tuple(t.dims) for t in parse(tmp_path / name).input} == {(1, -1, -1)}


def test_bf16_goes_to_gpus_only(tiny: TinyModel, tmp_path: Path) -> None:
    manifest = dataclasses.replace(tiny.bundle.manifest, compute_precision="bf16")
    (name,) = write_repository(dataclasses.replace(tiny.bundle, manifest=manifest), tmp_path)
    (group,) = parse(tmp_path / name).instance_group
    assert group.kind == group.KIND_GPU
    (name,) = write_repository(tiny.bundle, tmp_path, overwrite=True)
    (group,) = parse(tmp_path / name).instance_group
    assert group.kind == group.KIND_AUTO


def test_odd_names_become_names_that_triton_takes(tiny: TinyModel, tmp_path: Path) -> None:
    odd = tmp_path / 'scän "1" of 2'
    odd.symlink_to(tiny.bundle.path)
    (name,) = write_repository(dataclasses.replace(tiny.bundle, path=odd), tmp_path / "models")
    assert name == "sc-n--1--of-2_onnx"
    assert parse(tmp_path / "models" / name).name == name


def test_what_triton_cannot_run_is_refused(tiny: TinyModel, plan: Plan, tmp_path: Path) -> None:
    for changed, message in (
        ({"flavour": "trt-rtx"}, "enterprise TensorRT only"),
        ({"profiles": ((2, 4, 8),)}, "Triton sends single slices"),
    ):
        with pytest.raises(UsageError, match=message):
            write_repository(tiny.bundle, tmp_path / "m", dataclasses.replace(plan, **changed))
    assert not (tmp_path / "m").exists()


def test_a_model_that_is_there_is_kept(tiny: TinyModel, tmp_path: Path) -> None:
    (name,) = write_repository(tiny.bundle, tmp_path)
    (tmp_path / name / "1" / "model.onnx").write_bytes(b"mine")
    with pytest.raises(OutputError, match="exists already"):
        write_repository(tiny.bundle, tmp_path)
    assert (tmp_path / name / "1" / "model.onnx").read_bytes() == b"mine"
    write_repository(tiny.bundle, tmp_path, overwrite=True)
    assert sha256(tmp_path / name / "1" / "model.onnx") == tiny.bundle.onnx_sha256
