"""The benchmarks that nothing else runs: small, from command line to record."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import TinyModel
from tlp_train.phantom import write_cohort

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.proof


def measured(name: str, *arguments: str | Path, record: Path) -> dict[str, Any]:
    """Run ``python -m benchmarks.NAME`` and read its ``--json``."""
    argv = [sys.executable, "-m", f"benchmarks.{name}", *(os.fspath(one) for one in arguments)]
    done = subprocess.run(
        [*argv, "--json", os.fspath(record)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
    return found


def test_cohort(tmp_path: Path) -> None:
    write_cohort(tmp_path / "phantom", cases=8, seed=7)
    found = measured(
        "cohort", "--data", tmp_path / "phantom", "--rounds", "1", record=tmp_path / "cohort.json"
    )
    assert found["cases"] == 7, "the eighth case of this seed is healthy: its prompt marks nothing"
    assert set(found["cases_per_s"]) == {"plain", "sequential", "pipeline", "files", "engine"}
    assert min(found["cases_per_s"].values()) > 0


def test_viewer(tmp_path: Path, tiny: TinyModel, phantom_dir: Path) -> None:
    t1 = sorted(phantom_dir.glob("*/*_t1.nii.gz"))[0]
    given = ("--t1", t1, "--model", tiny.bundle.path, "--engine", "ort-cpu", "--strokes", "10")
    found = measured("viewer", *given, record=tmp_path / "viewer.json")
    assert found["machine"]["engine_library"].startswith("ort-cpu on cpu")


def test_training(tmp_path: Path) -> None:
    given = ("--preset", "demo", "--steps", "2", "--repeats", "1", "--workers", "1")
    found = measured(
        "training", *given, "--variants", "fp32", "--inputs", "t1", record=tmp_path / "train.json"
    )
    assert found["variants"]["fp32"]["step_seconds"] > 0
    assert set(found["loader_slices_per_second"]) == {"0", "1"}


@pytest.mark.timeout(1800)
def test_decoys_and_evidence(tmp_path: Path, phantom_dir: Path) -> None:
    out = tmp_path / "decoys"
    given = ("--out", out, "--data", phantom_dir, "--sizes", "1,1,1", "--seeds", "1")
    wanted = ("--arms", "lab,no-decoys", "--epochs", "1")
    found = measured("decoys", *given, *wanted, record=tmp_path / "decoys.json")
    assert set(found["measures"]) == {"last", "best"}
    assert {len(arms) for arms in found["measures"]["last"].values()} == {2}
    checkpoint = out / "runs" / "lab-0" / "last.ckpt"
    found = measured("evidence", checkpoint, "--data", phantom_dir, record=tmp_path / "e.json")
    assert set(found["networks"]["lab-0/last.ckpt"]) == {
        "seg", "mirrored", "moved", "oedema", "wrong", "all",
    }  # fmt: skip
