"""The doctor reports what is wrong, with the line that fixes it, and never fails on it."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
from tlp_cli.fixes import line

from tests.fakes.machines import ADA
from tests.support import TinyModel
from tlp_runtime import doctor
from tlp_runtime.doctor import Diagnosis, Finding, examine
from tlp_runtime.engines import onnx as onnx_engine
from tlp_runtime.engines import openvino
from tlp_runtime.engines.builds import build_engine
from tlp_runtime.engines.cuda import Cuda
from tlp_runtime.engines.options import EngineOptions
from tlp_runtime.engines.registry import engines
from tlp_runtime.engines.select import SelectedEngine, choose
from tlp_runtime.engines.tensorrt.binding import load
from tlp_runtime.errors import DeviceUnavailable
from tlp_runtime.models.bundle import Bundle
from tlp_runtime.warnings import WarningLog


def lines(finding: Finding) -> list[str]:
    """What fixes it, as the command line prints it."""
    return [line(fix) for fix in finding.fixes]


def by_name(findings: tuple[Finding, ...]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def everything(report: Diagnosis) -> list[Finding]:
    return [*report.machine, *report.libraries, *report.engines, *report.model]


def test_a_machine_without_gpu_runs_on_the_cpu_and_says_what_the_others_lack(
    tiny: TinyModel,
) -> None:
    tiny.register()
    report = examine()
    assert report.runs is True
    assert report.gpus == ()
    found = by_name(report.engines)
    assert list(found) == ["trt", "trt-rtx", "ort-trt", "ort-cuda", "ort-cpu", "ov-cpu"]
    assert found["ort-cpu"].state == "ok"
    assert lines(found["ort-cuda"]) == [
        "pip uninstall -y onnxruntime, then pip install 'tlp-mri[gpu]'"
    ]
    assert by_name(report.model)["runs"].detail.startswith("ort-cpu: opened and ran a slice")
    assert by_name(report.libraries)["ONNX Runtime"].detail.startswith("onnxruntime ")
    assert by_name(report.libraries)["OpenVINO"].detail.startswith("openvino ")
    for finding in everything(report):
        assert finding.detail
        assert (finding.state == "ok") <= (finding.fixes == ())
        assert "pip" not in finding.detail  # the line is where lines are
    json.dumps(report.to_dict())


def test_no_model_is_no_fault_of_the_machine() -> None:
    report = examine()
    assert report.runs is None
    assert lines(by_name(report.model)["model"])[:2] == ["tlp train", "tlp export"]
    assert examine("none-such").runs is False


def _versions(monkeypatch: pytest.MonkeyPatch, *there: str) -> None:
    def version(name: str) -> str:
        if name not in there:
            raise PackageNotFoundError(name)
        return "9.9"

    monkeypatch.setattr(onnx_engine, "version", version)
    monkeypatch.setattr(openvino, "version", version)


@pytest.mark.parametrize(
    ("there", "state", "fix"),
    [
        ((), "missing", "pip install 'tlp-mri[cpu]'"),
        (("onnxruntime", "onnxruntime-gpu"), "broken", "pip uninstall -y onnxruntime"),
    ],
)
def test_onnx_runtime_that_is_missing_or_there_twice(
    tiny: TinyModel,
    monkeypatch: pytest.MonkeyPatch,
    there: tuple[str, ...],
    state: str,
    fix: str,
) -> None:
    tiny.register()
    _versions(monkeypatch, *there)
    report = examine()
    found = by_name(report.libraries)["ONNX Runtime"]
    assert found.state == state
    assert lines(found)[0].startswith(fix)
    assert by_name(report.engines)["ort-cpu"].state != "ok"
    assert report.runs is False


def test_a_gpu_is_listed_and_an_engine_that_must_be_built_is_said(
    tiny: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.register()
    monkeypatch.setattr(Cuda, "gpus", lambda self: (ADA,))
    monkeypatch.setattr(
        doctor, "choose", lambda bundle: SelectedEngine("trt-rtx", 0, "as the test says")
    )
    report = examine()
    assert report.gpus == (ADA,)
    assert by_name(report.engines)["trt-rtx"].state == "ok"
    found = by_name(report.model)["runs"]
    assert "the first run builds one" in found.detail
    assert lines(found) == ["tlp export --engine trt-rtx"]
    assert report.runs is None


def test_engines_of_the_bundle_are_checked(
    tiny: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    bundle = Bundle.open(tiny.copy(tmp_path))
    stored = build_engine(
        bundle, EngineOptions(targets=("8.6",)), load("trt-rtx"), None, warn=WarningLog().add
    )
    name = f"engine {stored.folder.name}"

    def engine() -> Finding:
        return by_name(examine(str(bundle.path)).model)[name]

    assert engine().state == "unusable"
    assert "sound; there is no GPU" in engine().detail
    monkeypatch.setattr(Cuda, "gpus", lambda self: (ADA,))
    assert "built for compute capability 8.6, NVIDIA L4 has 8.9" in engine().detail
    assert lines(engine()) == ["tlp export --engine trt-rtx"]
    stored.file.write_bytes(b"short")
    monkeypatch.setattr(Cuda, "gpus", lambda self: ())
    assert engine().state == "broken"
    assert "has 5 bytes" in engine().detail


def test_no_cuda_bindings_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.util import find_spec

    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "cuda" else find_spec(name)
    )
    report = examine()
    found = by_name(report.machine)["CUDA"]
    assert found.state == "missing"
    assert lines(found) == ["pip install 'cuda-bindings>=13'"]


def test_a_bundle_that_cannot_run_here_is_told(
    tiny: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tiny.copy(tmp_path)
    (copy / "generator.onnx").write_bytes(b"damaged")
    report = examine(str(copy))
    assert report.runs is False
    assert "was altered or damaged" in report.model[-1].detail
    tiny.register()
    for kind in engines():
        there = classmethod(lambda cls, index=0: DeviceUnavailable("it is not there"))
        monkeypatch.setattr(kind, "unavailable", there)
    monkeypatch.setattr(doctor, "choose", lambda bundle: choose(device="cuda"))
    report = examine()
    assert report.runs is False
    assert "the device cuda was asked for" in report.model[-1].detail


def test_a_home_that_cannot_be_written_is_told_by_trying(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TLP_HOME", "/proc/home")  # permissions alone would let root write there
    found = by_name(examine().machine)["TLP_HOME"]
    assert found.state == "broken"
    assert "cannot be written to" in found.detail


def test_a_driver_too_old_for_cuda_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cuda, "versions", lambda self: ("12.4", "13.0"))
    report = examine()
    found = by_name(report.machine)["CUDA"]
    assert (found.state, lines(found)) == ("broken", ["Install a newer NVIDIA driver."])


def test_an_engine_without_its_sidecar_is_one_row(tiny: TinyModel, tmp_path: Path) -> None:
    bundle = Bundle.open(tiny.copy(tmp_path))
    (bundle.path / "engines" / "0123").mkdir(parents=True)
    rows = [one for one in examine(str(bundle.path)).model if one.name.startswith("engine")]
    assert [row.state for row in rows] == ["broken"]
    assert "its sidecar cannot be read" in rows[0].detail
