"""`tlp doctor` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tlp_cli.main import main

from tests.support import TinyModel


def test_a_sound_machine_is_exit_0_with_a_table(
    tiny: TinyModel, capfd: pytest.CaptureFixture[str]
) -> None:
    tiny.register()
    assert main(["doctor"]) == 0
    printed = capfd.readouterr()
    for word in ("Python", "GPU", "TensorRT-RTX", "ort-cuda", "pip", "runs"):
        assert word in printed.out
    assert "ort-cpu, ov-cpu can run" in printed.err
    assert "next: tlp bench" in printed.err


def test_json_alone_on_standard_output(tiny: TinyModel, capfd: pytest.CaptureFixture[str]) -> None:
    tiny.register()
    assert main(["doctor", "--json", "-", "--quiet"]) == 0
    record = json.loads(capfd.readouterr().out)
    assert set(record) == {"machine", "gpus", "libraries", "engines", "model", "runs"}
    assert record["runs"] is True
    assert {engine["name"]: engine["state"] for engine in record["engines"]}["ort-cpu"] == "ok"


def test_no_model_is_exit_0_and_a_broken_one_exit_5_with_the_table(
    tiny: TinyModel, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor"]) == 0
    assert "next: tlp train" in capfd.readouterr().err
    copy = tiny.copy(tmp_path)
    (copy / "spec.json").write_text("{}", encoding="utf-8")
    out = tmp_path / "d.json"
    assert main(["doctor", "--model", str(copy), "--json", str(out)]) == 5
    printed = capfd.readouterr()
    assert "ort-cpu" in printed.out
    assert printed.err.count("error:") == 1
    assert "the model cannot run here" in printed.err
    assert json.loads(out.read_text())["runs"] is False
