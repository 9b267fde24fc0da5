"""The side-by-side part of `tlp bench` as a user runs it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from tlp_cli.main import main

from tests.support import TinyModel


@pytest.fixture(autouse=True)
def _registered(tiny: TinyModel) -> None:
    tiny.register()


def test_engines_side_by_side_with_files(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    paths = {kind: tmp_path / f"out.{kind}" for kind in ("json", "csv", "png")}
    arguments = ["bench", "--engines", "ort-cpu,ort-cuda", "--batches", "1,2", "--runs", "2"]
    arguments += ["--json", str(paths["json"]), "--csv", str(paths["csv"])]
    assert main([*arguments, "--figure", str(paths["png"])]) == 0
    printed = capfd.readouterr()
    assert "ort-cpu fp32" in printed.out.replace("\n", " ")
    assert "ort-cuda with" in printed.err
    assert "was asked for" in printed.err
    record = json.loads(paths["json"].read_text())
    able, unable = record["contenders"]
    assert [point["batch"] for point in able["points"]] == [1, 2]
    assert able["first_call"]["open"] > 0
    assert able["limit"]["tflops"] > 0
    assert unable["engine"] == "ort-cuda"
    assert unable["points"] == []
    assert record["environment"]["engine_library"].startswith("onnxruntime")
    rows = list(csv.DictReader(paths["csv"].read_text(encoding="utf-8").splitlines()))
    assert [row["batch"] for row in rows] == ["1", "2"]
    assert float(rows[0]["p95_ms"]) == able["points"][0]["latency"]["p95_ms"]
    assert paths["png"].read_bytes().startswith(b"\x89PNG")


def test_nothing_that_can_run_is_exit_5(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--engines", "ort-cuda,trt"]) == 5
    printed = capfd.readouterr()
    assert "nothing could be measured" in printed.err
    assert printed.err.count("error:") == 1


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--engines", "fast"], 2, "expected some of trt, trt-rtx"),
        (["--batches", "1,x"], 2, "batches '1,x': expected whole numbers"),
        (["--concurrency", "0"], 2, "concurrency '0': expected whole numbers"),
        (["--batches", "1", "--t1", "a.nii.gz"], 2, "a sweep runs slices of noise"),
        (["--batches", "1", "--csv", "none/a.csv"], 9, "does not exist"),
    ],
)
def test_what_cannot_be_asked_is_refused(
    arguments: list[str], code: int, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *arguments]) == code
    assert message in capfd.readouterr().err.replace("\n", " ")
