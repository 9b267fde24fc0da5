"""The script for a machine with a GPU, tried out on a CPU: nothing is missing, nothing ends it."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.gpu_parts import Place, differences, keeps
from benchmarks.gpu_prepare import Preparation, prepare
from benchmarks.gpu_report import tables, verdicts
from tests.support import TinyModel

ROOT = Path(__file__).resolve().parents[2]

SMALL = ["--batches", "1", "--compile-batches=", "--rounds", "1", "--repeats", "1", "--slices", "2"]


@pytest.fixture(scope="module")
def prepared(tiny: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is taken along: of the bundles only fp32, which was exported already."""
    folder = tmp_path_factory.mktemp("gpu") / "prepared"
    shutil.copytree(tiny.bundle.path, folder / "fp32")
    prepare(
        Preparation(checkpoint=tiny.run.last, folder=folder, count=1, bundles=("fp32",), rtx=False)
    )
    return folder


@pytest.fixture(scope="module")
def tried(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """The record of a whole run on the CPU, and what was printed."""
    folder = tmp_path_factory.mktemp("gpu-run")
    arguments: list[str | Path] = [
        "--run",
        prepared,
        "--json",
        folder / "gpu.json",
        "--figure",
        folder / "gpu.png",
    ]
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "benchmarks.gpu",
            *arguments,
            "--device",
            "cpu",
            "--together",
            *SMALL,
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "TLP_HOME": os.fspath(folder / "home")},
    )
    assert result.returncode == 0, result.stderr
    assert (folder / "gpu.png").stat().st_size > 5000
    return json.loads((folder / "gpu.json").read_text(encoding="utf-8")), result.stdout


def _run(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", *arguments]
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)


def test_every_part_is_recorded_and_those_of_a_gpu_say_that_there_is_none(
    tried: tuple[dict[str, Any], str],
) -> None:
    record, _ = tried
    parts = record["parts"]
    for name in ("rtx/default", "rtx/sm80", "copies", "profile"):
        assert parts[name]["status"] == "not run"
        assert "no GPU" in parts[name]["message"]
        assert parts[name]["result"] is None
    assert [n for n, part in parts.items() if part["status"] == "done"] == [
        "parity", "peers/1", "volume",
    ]  # fmt: skip
    assert {"checkpoint", "gflop", "commit", "slices"} <= set(record["prepared"])
    assert {"libraries", "gpu", "python"} <= set(record["machine"])
    assert record["commands"][0]["argv"][1] == "--run"


def test_parity_measures_what_is_there_and_names_what_is_not(
    tried: tuple[dict[str, Any], str],
) -> None:
    found = tried[0]["parts"]["parity"]["result"]
    ours = found["ours fp32, ort-cpu"]
    for label in ("phantom, prompted", "phantom, no prompt"):
        assert ours[label]["within"]
        assert 0 < ours[label]["against float64"]["max_abs"] < 2e-4
    assert found["plain export, ort-cpu"]["run"]["status"] == "failed"
    assert "is not a model bundle" in found["plain export, ort-cpu"]["run"]["message"]


def test_peers_take_turns_and_a_missing_one_stops_no_other(
    tried: tuple[dict[str, Any], str],
) -> None:
    contest = tried[0]["parts"]["peers/1"]["result"]
    contenders = contest["contenders"]
    assert contest["matrix_tflops"]["status"] == "done"
    status = {name: entry["status"] for name, entry in contenders.items()}
    assert status.pop("ours fp32, ort-cpu") == "done"
    assert {status[n] for n in status if n.startswith("eager")} == {"done"}
    assert {status[n] for n in status if n.startswith("torch.compile")} == {"not run"}
    assert {status[f"{n}, ort-cpu"] for n in ("plain export", "ours fp16", "ours bf16")} == {
        "failed"
    }
    eager = contenders["eager fp32"]
    assert eager["faster_than"]["eager fp32"] == 1
    assert eager["ms"] > 0
    assert eager["device"] == [None], "a CPU has no clock of its own"
    assert contenders["ours fp32, ort-cpu"]["psnr_db"] > 90


def test_no_target_of_a_gpu_is_judged_on_a_cpu(tried: tuple[dict[str, Any], str]) -> None:
    record, said = tried
    judged = {one["target"]: one["reached"] for one in record["verdicts"]}
    assert judged.pop("parity within each precision's bounds") is True
    assert len(judged) == 9
    assert set(judged.values()) == {None}
    assert "| eager fp32 |" in said


def test_a_part_that_takes_too_long_is_ended_and_recorded(prepared: Path, tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    out.write_text(json.dumps({"parts": {"copies": {"status": "done", "result": None}}}))
    _run(
        "--run", prepared, "--json", out, "--device", "cpu", "--parts", "parity", "--limit", "0.05"
    )
    parts = json.loads(out.read_text(encoding="utf-8"))["parts"]
    assert parts["parity"]["status"] == "failed"
    assert "ended after --limit 0.05 s" in parts["parity"]["message"]
    assert parts["copies"]["status"] == "done", "what an earlier session found is kept"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_asked_for_and_absent_is_recorded(prepared: Path, tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    _run("--run", prepared, "--json", out, "--parts", "rtx,volume", *SMALL)
    record = json.loads(out.read_text(encoding="utf-8"))
    for target in ("default", "sm80"):
        assert "there is no engine: --no-rtx" in record["parts"][f"rtx/{target}"]["message"]
    engines = record["parts"]["volume"]["result"]["engines"]
    assert "was asked for" in engines["ours fp32, ort-cuda"]["message"]
    assert {one["reached"] for one in record["verdicts"]} == {None}


@pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed"
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.proof
def test_everything_can_be_prepared(tiny: TinyModel, tmp_path: Path) -> None:
    folder = tmp_path / "prepared"
    prepared = prepare(Preparation(checkpoint=tiny.run.last, folder=folder, count=1))
    assert set(prepared["mib"]) == {
        "plain", "fp32", "fp16", "bf16", "int8", "rtx", "slices", "weights.pt",
    }  # fmt: skip
    place = Place(folder, "cuda")
    for target in ("default", "sm80"):
        assert prepared["rtx"][target].startswith("built by TensorRT-RTX")
        bundle = place.rtx_bundle(target)
        (engine,) = (bundle.path / "engines").iterdir()
        assert json.loads((engine / "engine.json").read_text())["compute_capabilities"] == []
    _run("--run", folder, "--json", tmp_path / "gpu.json", "--parts", "rtx")
    record = json.loads((tmp_path / "gpu.json").read_text())
    assert {one["reached"] for one in record["verdicts"]} == {None}, "without a GPU none is judged"
    parts = record["parts"]
    for target in ("default", "sm80"):
        found = parts[f"rtx/{target}"]["result"]
        assert found["opens"]["status"] == found["runs"]["status"] == "failed"
        assert found["opens without asking its header"]["status"] == "failed"


def test_values_that_are_not_finite_are_never_within_bounds() -> None:
    image = np.zeros((1, 1, 2, 2), np.float32)
    image[0, 0, 0, 0] = np.nan
    own = differences(np.full_like(image, 1e-3), np.zeros_like(image))
    assert own["max_abs"] == pytest.approx(1e-3)
    assert own["psnr_db"] == pytest.approx(10 * np.log10(4e6))
    found = differences(image, np.zeros_like(image))
    bounds = {"max_abs": 2e-4, "rms": 2e-5, "torch_fp32_factor": 2.0}
    assert not keeps(found, bounds, own)
    assert not keeps(found, {"psnr_db": 1.0}, own)
    assert keeps(differences(np.full_like(image, 1.9e-3), np.zeros_like(image)), bounds, own)
    assert not keeps(differences(np.full_like(image, 2.1e-3), np.zeros_like(image)), bounds, own)


def _entry(family: str, precision: str, ms: float, **ratios: float) -> dict[str, Any]:
    return {
        "status": "done", "family": family, "precision": precision, "ms": ms, "host_ms": ms + 1,
        "gflop": "folded" if family == "ours" else "published", "finite": True, "psnr_db": 60.0,
        "faster_than": {name.replace("_", " "): ratio for name, ratio in ratios.items()},
    }  # fmt: skip


def test_verdicts_say_how_far() -> None:
    """120 GFLOP a slice, 32 slices in 12.8 ms: 300 of 800 TFLOP/s; 2500 slices a second."""
    faster = {"eager fp32": 7.0, "torch.compile fp16": 1.2}
    ours = _entry("ours", "fp16", 12.8) | {"faster_than": faster}
    contest = {
        "matrix_tflops": {
            "status": "done", "side": 8192, "tf32": 400.0, "fp16": 800.0, "bf16": 800.0,
        },
        "contenders": {"ours fp16, ort-cuda": ours, "eager fp32": _entry("eager", "fp32", 89.6)},
    }  # fmt: skip
    volume = {"status": "done", "compute_ms": 66.0, "total_ms": 80.0}
    parts = {
        "rtx/default": {
            "status": "failed", "message": "exit status -11", "device": "cuda",
            "result": {"opens": {"status": "done"}},
        },
        "peers/32": {"status": "done", "device": "cuda", "result": contest},
        "volume": {
            "status": "done", "device": "cuda",
            "result": {"slices": 100, "engines": {"ours": {"batches": {"32": volume}}}},
        },
    }  # fmt: skip
    judged = verdicts(parts, {"published": 195.0, "folded": 120.0})
    found = {one["target"]: (one["reached"], one["said"]) for one in judged}
    rtx = found["TensorRT-RTX engine (default) loads and runs"]
    assert rtx == (False, "opens: done; exit status -11")
    reached, said = found["ours at its best batch at least 6 x eager fp32"]
    assert reached
    assert "7.00 x, ours fp16, ort-cuda, batch 32, 2500 slices/s" in said
    reached, said = found["at least 1.3 x torch.compile in the same precision (fp16)"]
    assert not reached
    assert said.endswith("1.08 x short")
    reached, said = found["at least 35% of the measured bf16 matrix rate, folded GFLOP"]
    assert reached
    assert "300.0 TFLOP/s of 800 (37.5%)" in said
    reached, said = found["100 slices on the device in under 60 ms"]
    assert not reached
    assert "compute 66.0 ms" in said
    assert "37.5%" in tables(parts, {"published": 195.0, "folded": 120.0}, judged)
