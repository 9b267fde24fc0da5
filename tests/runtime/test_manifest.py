"""The manifest is a typed contract: old ones open, newer ones are told, odd ones are refused."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import TinyModel
from tlp_runtime.errors import ModelDamaged, ModelMismatch
from tlp_runtime.files.hashes import sha256
from tlp_runtime.models.bundle import Bundle
from tlp_runtime.models.manifest import PROOF, read_manifest
from tlp_runtime.models.proof import read_proof
from tlp_runtime.warnings import MANIFEST_NEWER, WarningLog


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Change the manifest of a copy."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    change(manifest)
    path.write_text(json.dumps(manifest), encoding="utf-8")
    return folder


def as_schema_1(manifest: dict[str, Any]) -> None:
    """What the versions before wrote."""
    for key in ("kind", "graph_dtype", "proof", "training_voxels", "truth_voxels", "metrics",
                "learnt_factor", "signature"):  # fmt: skip
        del manifest[key]
    manifest["precision"] = manifest.pop("compute_precision")
    manifest["schema"] = {"major": 1, "minor": 0}
    del manifest["files"][PROOF]
    for key in ("ancestors", "differs"):
        del manifest["provenance"][key]


def test_a_bundle_says_what_it_is(tiny: TinyModel) -> None:
    manifest = tiny.bundle.manifest
    assert (manifest.kind, manifest.graph_dtype, manifest.compute_precision) == (
        "synthesis", "fp32", "fp32"
    )  # fmt: skip
    assert tiny.bundle.precision == "fp32"
    assert manifest.parity.passed
    assert manifest.graph is not None
    assert [line.name for line in manifest.graph.folds][:2] == ["ffn", "gram"]
    assert len(manifest.training_voxels) == 6, "T1 and T1ce of three cases"
    assert (manifest.truth_voxels, manifest.metrics, manifest.signature) == ((), {}, None)
    written = json.loads((tiny.bundle.path / "manifest.json").read_text(encoding="utf-8"))
    assert written == json.loads(manifest.to_json())
    assert read_manifest(tiny.bundle.path / "manifest.json") == manifest


def test_bundles_of_schema_1_still_open(tiny: TinyModel, tmp_path: Path) -> None:
    old = edit(tiny.copy(tmp_path), as_schema_1)
    (old / PROOF).unlink()
    bundle = Bundle.open(old)
    assert bundle.warnings == ()
    assert bundle.proof() is None
    assert bundle.manifest == replace(
        tiny.bundle.manifest,
        proof=None,
        files=bundle.manifest.files,
        training_voxels=(),
        learnt_factor=None,
    )
    # The first ones had no report of the graph, and no origin of imported weights.
    edit(old, lambda one: (one.pop("graph"), one["provenance"].pop("imported")))
    assert Bundle.open(old).manifest.graph is None


def test_bundles_of_schema_2_0_still_open(tiny: TinyModel, tmp_path: Path) -> None:
    def as_2_0(manifest: dict[str, Any]) -> None:
        manifest["schema"] = {"major": 2, "minor": 0}
        for key in ("ancestors", "differs"):
            del manifest["provenance"][key]

    bundle = Bundle.open(edit(tiny.copy(tmp_path), as_2_0))
    assert bundle.warnings == ()
    assert bundle.manifest == tiny.bundle.manifest


def test_keys_of_a_newer_minor_version_are_ignored_with_a_warning(
    tiny: TinyModel, tmp_path: Path
) -> None:
    def newer(manifest: dict[str, Any]) -> None:
        manifest["schema"]["minor"] += 1
        manifest["colour"] = "red"
        manifest["provenance"]["site"] = "here"

    bundle = Bundle.open(edit(tiny.copy(tmp_path), newer))
    (warning,) = bundle.warnings
    assert warning.code == MANIFEST_NEWER
    assert warning.numbers == {"keys": "colour, provenance.site"}
    assert bundle.manifest == tiny.bundle.manifest


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda one: one.update(colour="red"), "unknown keys colour"),
        (lambda one: one["parity"].update(colour="red"), r"unknown keys parity\.colour"),
        (lambda one: one.pop("compute_precision"), "missing keys compute_precision"),
        (lambda one: one.update(graph_dtype="fp8"), "graph_dtype is 'fp8', expected one of"),
        (lambda one: one["files"].update({"spec.json": 3}), r"files\.spec\.json is 3"),
        (lambda one: one["files"].pop("spec.json"), "lacks file hashes: spec.json"),
        (lambda one: one["files"].pop(PROOF), "lacks file hashes: proof.npz"),
        (lambda one: one["files"].update({"../x": "0"}), "names files outside of the bundle"),
        (lambda one: one.update(metrics=[1]), r"metrics is \[1\], expected an object"),
        (lambda one: one["graph"]["folds"].append(1), r"graph\.folds\[9\]\. is 1"),
        (lambda one: one.update(schema={"major": 2}), "expected {major, minor}"),
        (lambda one: one.update(schema={"major": 3, "minor": 0}), r"schema 3\.0, this version"),
    ],
)  # fmt: skip
def test_what_is_not_of_the_contract_is_refused_by_name(
    tiny: TinyModel, tmp_path: Path, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    with pytest.raises(ModelDamaged, match=said) as e:
        Bundle.open(edit(tiny.copy(tmp_path), change))
    assert "manifest.json" in str(e.value)
    assert e.value.fixes


def test_a_bundle_of_another_kind_is_not_used(tiny: TinyModel, tmp_path: Path) -> None:
    copy = edit(tiny.copy(tmp_path), lambda one: one.update(kind="segmentation"))
    with pytest.raises(ModelMismatch, match="kind 'segmentation', expected synthesis"):
        Bundle.open(copy)


def test_the_proof_slice_is_a_slice_with_a_prompt_and_its_output(tiny: TinyModel) -> None:
    proof = tiny.bundle.proof()
    assert proof is not None
    assert list(proof.inputs) == ["t1", "prompt"]
    for array in (*proof.inputs.values(), proof.expected):
        assert array.shape == (1, 1, 192, 160)
        assert array.dtype == np.float32
    assert proof.inputs["prompt"].max() == 1.0
    assert np.abs(proof.expected).max() <= 1


def test_a_proof_slice_is_the_same_bytes_again(tiny: TinyModel, tmp_path: Path) -> None:
    proof = tiny.bundle.proof()
    assert proof is not None
    proof.save(tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == (tiny.bundle.path / PROOF).read_bytes()
    with zipfile.ZipFile(tmp_path / "again.npz") as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


@pytest.mark.parametrize("content", ["text", "other arrays", "objects"])
def test_a_proof_slice_that_cannot_be_one_is_refused(
    tiny: TinyModel, tmp_path: Path, content: str
) -> None:
    path = tmp_path / PROOF
    if content == "text":
        path.write_text("no archive")
    elif content == "other arrays":
        np.savez(path, other=np.zeros((1, 1, 4, 4), np.float32))
    else:
        np.savez(path, other=np.array([{}], dtype=object))
    with pytest.raises(ModelDamaged, match=r"proof\.npz: (cannot be read|holds)"):
        read_proof(path, tiny.bundle.spec)


def test_an_altered_proof_slice_is_noticed(tiny: TinyModel, tmp_path: Path) -> None:
    copy = tiny.copy(tmp_path)
    with (copy / PROOF).open("ab") as handle:
        handle.write(b"x")
    with pytest.raises(ModelDamaged, match=r"proof\.npz was altered"):
        Bundle.open(copy)
    edit(copy, lambda one: one["files"].update({PROOF: sha256(copy / PROOF)}))
    heard = WarningLog()
    assert read_manifest(copy / "manifest.json", warn=heard.add).files[PROOF]
    assert not len(heard)
