"""The runtime is what a hospital installs: it must never pull in torch or onnx."""

from __future__ import annotations

import pkgutil
import subprocess
import sys

import tlp_runtime

# nibabel itself looks for scipy, so scipy is not in this list.
HEAVY = ("torch", "onnx", "onnxscript", "monai", "lightning", "skimage", "matplotlib")


def _modules() -> list[str]:
    return [
        module.name for module in pkgutil.walk_packages(tlp_runtime.__path__, prefix="tlp_runtime.")
    ]


def test_a_process_with_all_of_the_runtime_has_neither_torch_nor_onnx() -> None:
    assert len(_modules()) > 15
    code = (
        f"import importlib, sys\nfor name in {_modules()!r}: importlib.import_module(name)\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_help_needs_no_heavy_library() -> None:
    code = (
        "import sys\nfrom tlp_cli.main import main\nassert main(['train', '--help']) == 0\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stderr.strip() == "[]"
