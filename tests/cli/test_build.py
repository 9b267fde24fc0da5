"""`tlp build`: an engine added to a bundle that is there already."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tlp_cli.main import main

from tests.fakes.machine import Machine
from tests.support import TinyModel
from tlp_runtime.engines import builds
from tlp_runtime.models.choice import models


@pytest.fixture
def machine(tiny: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """TensorRT-RTX and a GPU, as far as building goes."""
    machine = Machine("1.7.1", tmp_path, tiny.bundle)
    monkeypatch.setattr(builds, "load", lambda flavour: machine.binding)
    monkeypatch.setattr(builds, "pick_flavour", lambda gpu: machine.flavour)
    monkeypatch.setattr(builds, "current_gpu", lambda: machine.gpu)
    return machine


def test_engines_are_added_and_those_there_are_kept(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = str(machine.bundle.path)
    before = (machine.bundle.path / "manifest.json").read_bytes()
    assert main(["build", bundle]) == 0
    assert "builder: TensorRT-RTX 1.7.1 (Fake RTX)" in capsys.readouterr().err
    options = ["--batch", "1,2,4", "--batch", "8,8,8", "--target", "8.6", "--json", "-"]
    assert main(["build", bundle, "--engine", "trt-rtx", *options]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["engine"]["compute_capabilities"] == ["8.6"]
    assert [one["maximum"] for one in record["engine"]["options"]["profiles"]] == [4, 8]
    folders = {path.name for path in (machine.bundle.path / "engines").iterdir()}
    assert len(folders) == 2
    assert record["engine"]["fingerprint"] in folders
    assert (machine.bundle.path / "manifest.json").read_bytes() == before
    with machine.open(build=False) as engine:
        assert engine.stored.folder.parent == machine.bundle.path / "engines"


def test_a_registered_name_is_enough(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    models().add("my-model", machine.bundle.path)
    assert main(["build", "my-model", "--builder-level", "1"]) == 0
    assert "next: tlp infer --model my-model --engine trt-rtx" in capsys.readouterr().err
    assert len(list((machine.bundle.path / "engines").iterdir())) == 1


def test_what_is_wrong_is_said_before_anything_is_built(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = str(machine.bundle.path)
    for arguments, code in (
        (["build"], 2),
        (["build", bundle, "--batch", "4"], 2),
        (["build", bundle, "--engine", "onnx"], 2),
        (["build", bundle, "--builder-level", "9"], 2),
        (["build", "no such model"], 4),
    ):
        assert main(arguments) == code, arguments
    assert machine.module.builds == 0
    assert not (machine.bundle.path / "engines").exists()


def test_without_tensorrt_it_is_exit_5_and_the_line_that_installs_it(
    tiny: TinyModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(builds, "installed", dict)
    assert main(["build", str(tiny.bundle.path)]) == 5
    assert "pip install 'tlp-mri[trt-rtx]'" in " ".join(capsys.readouterr().err.split())


def test_building_needs_neither_torch_nor_onnx(machine: Machine, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom tlp_cli.main import main\n"
        f"main(['build', {os.fspath(machine.bundle.path)!r}, '--engine', 'trt-rtx', '-q'])\n"
        "print([name for name in ('torch', 'onnx') if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
