"""Runtime and server are what a hospital installs: they must never pull in torch or onnx."""

from __future__ import annotations

import pkgutil
import subprocess
import sys

import tlp_runtime
import tlp_server

# nibabel itself looks for scipy, so scipy is not in this list.
HEAVY = ("torch", "onnx", "onnxscript", "monai", "lightning", "skimage", "matplotlib")


def _modules() -> list[str]:
    return [
        module.name
        for package in (tlp_runtime, tlp_server)
        for module in pkgutil.walk_packages(package.__path__, prefix=f"{package.__name__}.")
    ]


def test_a_process_with_all_of_runtime_and_server_has_neither_torch_nor_onnx() -> None:
    assert len(_modules()) > 15
    code = (
        f"import importlib, sys\nfor name in {_modules()!r}: importlib.import_module(name)\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_options_of_training_and_export_need_no_heavy_library() -> None:
    """The command line derives its flags from them."""
    code = (
        "import sys, tlp_export.options, tlp_train.config\n"
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
