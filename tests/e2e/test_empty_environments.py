"""The built wheel in empty environments: one exports, one infers, each with its extras alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.scans import scan
from tests.servers import saved
from tests.support import TinyModel

ROOT = Path(__file__).resolve().parents[2]


class Environment:
    """A virtual environment with the wheel and some extras.

    Parameters
    ----------
    before
        Requirements that are installed first.
    """

    def __init__(self, folder: Path, wheel: Path, extras: str, *before: str) -> None:
        self.bin = folder / "bin"
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pip = [str(self.bin / "pip"), "install", "--quiet", "--disable-pip-version-check"]
        for wanted in (*before, f"{wheel}[{extras}]"):
            constraints = ROOT / "constraints.txt"
            subprocess.run([*pip, "-c", constraints, wanted], check=True, cwd=folder)

    def run(self, home: Path, *words: str | Path, code: int = 0) -> str:
        """What a program of the environment prints, to both outputs."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("TLP_", "PYTHON"))}
        done = subprocess.run(
            [self.bin / words[0], *words[1:]],
            cwd=home.parent,
            env={**clean, "TLP_HOME": str(home)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def has(self, home: Path, *modules: str) -> list[str]:
        """Which of the modules can be imported."""
        code = (
            "import importlib.util as u\n"
            f"print(*[name for name in {modules!r} if u.find_spec(name)])"
        )
        return self.run(home, "python", "-c", code).split()


@pytest.mark.proof
@pytest.mark.timeout(3600)
def test_the_wheel_exports_and_infers_with_its_extras_alone(
    tiny: TinyModel, tmp_path: Path
) -> None:
    wheels = tmp_path / "wheels"
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir"]
    subprocess.run([*command, wheels, ROOT], check=True)
    (wheel,) = wheels.glob("*.whl")
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").split("\n")
    (torch,) = (line for line in pins if line.startswith("torch=="))
    work = tmp_path / "work"
    work.mkdir()
    shutil.copy(tiny.run.last, work / "last.ckpt")
    saved(scan(), work / "a.nii.gz")

    exporting = Environment(tmp_path / "exporting", wheel, "export,cpu", torch)
    home = work / "home-of-exports"
    assert exporting.has(home, "monai", "lightning", "skimage", "torch", "onnx") == [
        "torch",
        "onnx",
    ]
    exporting.run(home, "tlp", "export", "last.ckpt", "--out", "bundle")
    exporting.run(home, "tlp", "verify", "bundle", "--reference", "last.ckpt")
    code = (
        "import tlp_export; made = tlp_export.export('last.ckpt', "
        "tlp_export.ExportOptions(precision='fp16'), out='half'); print(made.name)"
    )
    assert exporting.run(home, "python", "-c", code).split()[-1] == "half"

    inferring = Environment(tmp_path / "inferring", wheel, "cpu")
    home = work / "home"
    assert inferring.has(home, "torch", "onnx", "fastapi", "onnxruntime") == ["onnxruntime"]
    assert "tlp-mri" in inferring.run(home, "tlp", "--version")
    assert "tlp-mri" in inferring.run(home, "python", "-m", "tlp_cli", "--version")
    inferring.run(home, "tlp", "models", "add", "bundle")
    shutil.rmtree(work / "bundle")
    inferring.run(home, "tlp", "infer", "--t1", "a.nii.gz", "--out", "one.nii.gz")
    home.rename(work / "moved")
    inferring.run(work / "moved", "tlp", "infer", "--t1", "a.nii.gz", "--out", "two.nii.gz")
    one, two = (nib.load(work / f"{name}.nii.gz").get_fdata() for name in ("one", "two"))
    assert one.any()
    np.testing.assert_array_equal(one, two)
    assert "tlp-mri[train]" in inferring.run(work / "moved", "tlp", "train", code=5)
