"""Bundles, the register and the choice of a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.support import TinyModel, as_schema_1
from tlp_runtime import Synthesizer
from tlp_runtime.engines.choice import EngineChoice
from tlp_runtime.engines.onnx import SPEC_KEY, OnnxEngine
from tlp_runtime.errors import (
    EngineError,
    ModelDamaged,
    ModelMismatch,
    ModelMissing,
    SpecError,
)
from tlp_runtime.files.hashes import sha256
from tlp_runtime.models.bundle import Bundle
from tlp_runtime.models.choice import find_bundle
from tlp_runtime.models.manifest import FILES
from tlp_runtime.synthesis.request import Prompt, Request


@pytest.mark.parametrize("name", FILES)
def test_any_altered_file_is_noticed(tiny: TinyModel, tmp_path: Path, name: str) -> None:
    copy = tiny.copy(tmp_path)
    file = copy / name
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.write_bytes(raw)
    with pytest.raises(ModelDamaged, match=rf"{name} was altered"):
        Bundle.open(copy)


@pytest.mark.parametrize("name", FILES)
def test_any_missing_file_is_noticed(tiny: TinyModel, tmp_path: Path, name: str) -> None:
    copy = tiny.copy(tmp_path)
    (copy / name).unlink()
    with pytest.raises(ModelDamaged, match=f"{name} is missing"):
        Bundle.open(copy)


def test_manifests_that_cannot_be_read(tiny: TinyModel, tmp_path: Path) -> None:
    copy = tiny.copy(tmp_path)
    manifest = json.loads((copy / "manifest.json").read_text())
    for broken, message in (
        ("{", "cannot be read"),
        (json.dumps({**manifest, "schema": {"major": 9, "minor": 0}}), "schema 9"),
        (json.dumps({**manifest, "files": {}}), "lacks file hashes"),
    ):
        (copy / "manifest.json").write_text(broken)
        with pytest.raises(ModelDamaged, match=message):
            Bundle.open(copy)


def test_a_folder_that_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(ModelMissing, match=r"is not a model bundle: manifest\.json is missing"):
        Bundle.open(tmp_path)


def test_an_onnx_of_another_specification_is_refused(tiny: TinyModel, tmp_path: Path) -> None:
    """Hashes that match are not enough: the graph must say the same of itself."""
    import hashlib

    copy = tiny.copy(tmp_path)
    spec = json.loads((copy / "spec.json").read_text())
    spec["prompt"]["oedema_value"] = 0.25
    (copy / "spec.json").write_text(json.dumps(spec))
    manifest = json.loads((copy / "manifest.json").read_text())
    digest = hashlib.sha256((copy / "spec.json").read_bytes()).hexdigest()
    manifest["files"]["spec.json"] = digest
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ModelDamaged, match="specification is not the bundle's"):
        OnnxEngine(Bundle.open(copy))


def test_nothing_registered(tmp_path: Path) -> None:
    with pytest.raises(ModelMissing, match="Run the task train"):
        find_bundle(None, ("t1",))
    with pytest.raises(ModelMissing, match="neither a bundle folder nor a registered model"):
        find_bundle("nobody", ("t1",))


def test_a_model_for_other_inputs(tiny: TinyModel) -> None:
    tiny.register()
    with pytest.raises(ModelMismatch, match=r"no registered model takes T1 and T2.*\(T1\)"):
        find_bundle(None, ("t1", "t2"))
    with pytest.raises(ModelMismatch, match="takes T1"):
        find_bundle(str(tiny.bundle.path), ("t2",))


def test_engine_refuses_other_tensors(tiny: TinyModel) -> None:
    good = np.zeros((1, 1, 192, 160), np.float32)
    with OnnxEngine(tiny.bundle) as engine:
        assert engine.run({"t1": good, "prompt": good}).shape == good.shape
        cases: tuple[tuple[dict[str, Any], str], ...] = (
            ({"t1": good}, "got tensors"),
            ({"t1": good, "prompt": good.astype(np.float64)}, "float64"),
            ({"t1": good, "prompt": good[..., :80]}, "expected float32"),
            ({"t1": good, "prompt": np.zeros((2, 1, 192, 160), np.float32)}, "differ"),
            ({"t1": good[:0], "prompt": good[:0]}, "empty"),
        )
        for tensors, message in cases:
            with pytest.raises(EngineError, match=message):
                engine.run(tensors)


def test_python_api_opens_the_registered_model(tiny: TinyModel, phantom_case: Path) -> None:
    tiny.register()
    name = phantom_case.name
    with Synthesizer.open(inputs=("t1",), choice=EngineChoice(device="cpu")) as synthesizer:
        result = synthesizer.run(
            Request(
                images={"t1": phantom_case / f"{name}_t1.nii.gz"},
                prompt=Prompt(phantom_case / f"{name}_seg.nii.gz"),
            )
        )
    assert result.volume.shape == (240, 240, 155)
    assert 0 <= result.volume.data.min() < result.volume.data.max() <= 1


def test_specs_of_another_major_are_refused(tiny: TinyModel) -> None:
    text = tiny.bundle.spec.to_json().replace('"major": 2', '"major": 3')
    with pytest.raises(SpecError, match=r"schema 3\.0"):
        type(tiny.bundle.spec).from_json(text)


def test_a_bundle_of_schema_1_is_opened_and_runs(tiny: TinyModel, tmp_path: Path) -> None:
    """As versions before networks were a registry made it: in spec.json and in the graph."""
    folder = tiny.copy(tmp_path)
    old = json.dumps(as_schema_1(json.loads(tiny.bundle.spec.to_json())))
    (folder / "spec.json").write_text(old)
    graph = onnx.load(folder / "generator.onnx")
    (entry,) = (one for one in graph.metadata_props if one.key == SPEC_KEY)
    entry.value = old
    onnx.save(graph, folder / "generator.onnx")
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in ("spec.json", "generator.onnx"):
        manifest["files"][name] = sha256(folder / name)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    bundle = Bundle.open(folder)
    assert bundle.spec == tiny.bundle.spec
    with OnnxEngine.open(bundle) as engine, OnnxEngine.open(tiny.bundle) as now:
        ones = dict.fromkeys(bundle.spec.tensor_names, np.ones((1, 1, 192, 160), np.float32))
        assert np.array_equal(engine.run(ones), now.run(ones))
