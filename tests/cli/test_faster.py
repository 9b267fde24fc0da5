"""Where the engine is left to the toolkit, one line names a faster model, proven the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tlp_cli.main import main

from tests.scans import scan
from tests.servers import saved
from tests.support import TinyModel
from tlp_runtime.engines import openvino
from tlp_runtime.models.bundle import MANIFEST
from tlp_runtime.models.choice import models


@pytest.fixture
def told(tiny: TinyModel, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What `tlp infer` says where a bundle of these changes to the manifest is registered too."""
    tiny.register()

    def run(*words: str, **changes: Any) -> str:
        copy = tiny.copy(tmp_path)
        manifest = json.loads((copy / MANIFEST).read_text(encoding="utf-8"))
        manifest |= {"graph_dtype": "bf16", "compute_precision": "bf16"} | changes
        (copy / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
        models().add("quick one", copy)
        t1 = saved(scan(), tmp_path / "t1.nii.gz")
        out = tmp_path / "out.nii.gz"
        assert main(["infer", "--t1", str(t1), "--out", str(out), *words]) == 0
        return " ".join(capfd.readouterr().err.split())

    return run


LINE = "the same model in bf16, proven on export, is faster here: --model 'quick one'"


@pytest.fixture(autouse=True)
def processor_with_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino, "computes_bf16", lambda: True)


def test_it_is_named_in_one_line(told: Callable[..., str]) -> None:
    said = told()
    assert LINE in said
    assert "engine: ort-cpu" in said, "it is not taken unasked"


def test_it_is_not_named_where_the_engine_was_chosen(told: Callable[..., str]) -> None:
    assert "faster" not in told("--engine", "ort-cpu")


@pytest.mark.parametrize(
    "changes",
    [
        {"parity": {"bounds": {"psnr_db": 45.0}, "passed": False}},
        {"proof": None},
        {"graph_dtype": "fp32", "compute_precision": "fp32"},
        {"graph_dtype": "fp16", "compute_precision": "fp16"},
    ],
)
def test_what_is_unproven_or_not_faster_is_not_named(
    told: Callable[..., str], changes: dict[str, Any]
) -> None:
    assert "faster" not in told(**changes)


def test_another_checkpoint_is_another_model(told: Callable[..., str], tiny: TinyModel) -> None:
    origin = json.loads((tiny.bundle.path / MANIFEST).read_text(encoding="utf-8"))["provenance"]
    origin["checkpoint"]["sha256"] = "0" * 64
    assert "faster" not in told(provenance=origin)


def test_a_processor_without_bf16_is_not_told_of_it(
    told: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino, "computes_bf16", lambda: False)
    assert "faster" not in told()
