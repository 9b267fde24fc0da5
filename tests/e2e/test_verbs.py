"""The four verbs as a user types them, and real scans in every axis order."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from tlp_cli.main import main

from tests.support import TinyModel
from tlp_runtime.io.nifti import read_volume

TLP = Path(sys.executable).with_name("tlp")


def _tlp(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [TLP, *arguments],
        cwd=folder,
        env={**os.environ, "TLP_HOME": str(folder / "home")},
        capture_output=True,
        text=True,
        check=False,
    )


def _last_lines(result: subprocess.CompletedProcess[str]) -> tuple[str, str]:
    """What a verb says it made, and the next command."""
    assert result.returncode == 0, result.stderr
    lines = result.stderr.strip().splitlines()
    made = [line for line in lines if line.startswith("made ")]
    following = [line for line in lines if line.startswith("next: ")]
    return made[-1], following[-1]


def test_the_four_verbs_one_after_another(tmp_path: Path) -> None:
    """A tiny network, trained for a moment; `make proof` has the demo preset as it is."""
    result = _tlp(tmp_path, "phantom", "--out", "phantom", "--cases", "3", "--seed", "5")
    assert _last_lines(result)[1].startswith("next: tlp train")
    case = sorted((tmp_path / "phantom").iterdir())[0]
    shutil.copy(case / f"{case.name}_t1.nii.gz", tmp_path / "a.nii.gz")
    shutil.copy(case / f"{case.name}_seg.nii.gz", tmp_path / "roi.nii.gz")

    result = _tlp(
        tmp_path, "train", "--data", "phantom", "--preset", "demo", "--epochs", "1",
        "--slices-per-epoch", "4", "--network-option", "dim=4", "--network-option", "blocks=1,1,1",
        "--network-option", "heads=2,2,2", "--network-option", "refinement_blocks=1",
    )  # fmt: skip
    assert _last_lines(result)[1] == "next: tlp export"
    assert "inputs: t1 (default)" in result.stderr

    result = _tlp(tmp_path, "export", "--engine", "trt")
    made, following = _last_lines(result)
    assert following == "next: tlp infer --t1 t1.nii.gz --prompt roi.nii.gz"
    assert "made engine trt-rtx" in made
    assert list((tmp_path / "home" / "models").glob("*/engines/*/generator.engine"))

    result = _tlp(tmp_path, "infer", "--t1", "a.nii.gz", "--prompt", "roi.nii.gz")
    assert _last_lines(result) == ("made a_synth-t1ce.nii.gz", "next: tlp bench")
    assert read_volume(tmp_path / "a_synth-t1ce.nii.gz").shape == (240, 240, 155)

    result = _tlp(tmp_path, "bench", "--volumes", "1", "--slices", "2", "--warmup", "0")
    assert _last_lines(result)[1].startswith("next: tlp")
    assert "one volume" in result.stdout


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_tlp_train_saves_and_says_how_to_resume(
    tmp_path: Path, phantom_dir: Path, number: int, code: int
) -> None:
    process = subprocess.Popen(
        [TLP, "train", "--data", phantom_dir, "--preset", "demo", "--out", "run",
         "--slices-per-epoch", "100", "--epochs", "50", "--precision", "32-true"],
        cwd=tmp_path,
        env={**os.environ, "TLP_HOME": str(tmp_path / "home")},
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    scalars = tmp_path / "run"
    deadline = time.monotonic() + 300
    while not list(scalars.glob("events.*")) and time.monotonic() < deadline:
        time.sleep(0.5)
    time.sleep(5)  # within the first epoch
    process.send_signal(number)
    _, said = process.communicate(timeout=120)
    assert process.returncode == code, said
    assert "next: tlp train --resume" in said
    assert "Traceback" not in said
    assert (tmp_path / "run" / "last.ckpt").is_file()


def _reorient(source: Path, target: Path, orientation: str) -> None:
    image = nib.load(source)
    transform = ornt_transform(io_orientation(image.affine), axcodes2ornt(orientation))
    nib.save(image.as_reoriented(transform), target)


@pytest.fixture(scope="session")
def real_case_names() -> list[str]:
    """The seven real cases."""
    return [
        f"BraTS2021_{n}" for n in ("00006", "01476", "01478", "01479", "01480", "01483", "01485")
    ]


def _check_every_axis_order(model: Path, case: Path, folder: Path) -> None:
    """Run a case as it is and as RAS, LIA and PSR; compare grids and voxels."""
    original = case / f"{case.name}_t1.nii.gz"
    results = {}
    for orientation in ("LPS", "RAS", "LIA", "PSR"):
        t1, roi = folder / f"{orientation}.nii.gz", folder / f"{orientation}_roi.nii.gz"
        _reorient(original, t1, orientation)
        # The prompt comes in an axis order of its own.
        _reorient(case / f"{case.name}_seg.nii.gz", roi, "RSP")
        out = folder / f"{orientation}_out.nii.gz"
        arguments = ["infer", "--t1", str(t1), "--prompt", str(roi), "--out", str(out)]
        assert main([*arguments, "--model", str(model), "-q"]) == 0
        given, made = nib.load(t1), nib.load(out)
        assert made.shape == given.shape
        np.testing.assert_array_equal(made.affine, given.affine)
        for code in ("sform_code", "qform_code"):
            assert made.header[code] == given.header[code]
        assert "".join(nib.aff2axcodes(made.affine)) == orientation
        results[orientation] = read_volume(out).reoriented("LPS").data
    for orientation, data in results.items():
        np.testing.assert_array_equal(data, results["LPS"], err_msg=orientation)
    assert results["LPS"].max() > 0


@pytest.mark.proof
def test_a_real_case_in_four_axis_orders(tiny: TinyModel, real_cases: Path, tmp_path: Path) -> None:
    _check_every_axis_order(tiny.bundle.path, real_cases / "BraTS2021_00006", tmp_path)


@pytest.mark.proof
@pytest.mark.timeout(3600)
def test_the_four_verbs_literally_and_every_real_case(
    real_cases: Path, real_case_names: list[str], tmp_path: Path
) -> None:
    """The demo preset with no further option; its model on all real cases in four axis orders."""
    result = _tlp(tmp_path, "phantom", "--out", "phantom", "--cases", "1", "--seed", "5")
    case = sorted((tmp_path / "phantom").iterdir())[0]
    shutil.copy(case / f"{case.name}_t1.nii.gz", tmp_path / "a.nii.gz")
    shutil.copy(case / f"{case.name}_seg.nii.gz", tmp_path / "roi.nii.gz")
    for arguments in (
        ("train",),
        ("export", "--engine", "trt"),
        ("infer", "--t1", "a.nii.gz", "--prompt", "roi.nii.gz"),
        ("bench",),
    ):
        result = _tlp(tmp_path, *arguments)
        _last_lines(result)
    (model,) = (tmp_path / "home" / "models").iterdir()
    for name in real_case_names:
        folder = tmp_path / name
        folder.mkdir()
        _check_every_axis_order(model, real_cases / name, folder)


@pytest.mark.proof
@pytest.mark.timeout(3600)
def test_the_demonstration_shows_the_prompt_s_gain(tmp_path: Path) -> None:
    """`make demo` end to end: the gain is real, and the report is there."""
    import json

    words = [sys.executable, "-m", "benchmarks.demo", "--out", str(tmp_path / "demo")]
    subprocess.run(words, check=True, cwd=Path(__file__).resolve().parents[2])
    figures = {
        use: json.loads((tmp_path / "demo" / f"{use}.json").read_text())["summary"]["synthesis"]
        for use in ("none", "seg")
    }
    gain = figures["seg"]["core.psnr_db"]["mean"] - figures["none"]["core.psnr_db"]["mean"]
    assert gain > 1.0
    report = (tmp_path / "demo" / "report.html").read_text()
    assert report.count("data:image/png;base64,") == 2
    assert "Three numbers to look at first" in report
    record = json.loads((tmp_path / "demo" / "demo.json").read_text())
    wrong = record["evaluations"]["mirrored"]["summary"]["synthesis"]["mirror.false_enhancement"]
    assert wrong["mean"] > 0, "a model that was trained on true prompts alone obeys a wrong one"
    (card,) = (tmp_path / "demo" / "home" / "models").glob("*/MODEL_CARD.md")
    assert card.read_text().count("### 3 cases of unseen") == 3
    assert "http://" not in report
    assert "https://" not in report
