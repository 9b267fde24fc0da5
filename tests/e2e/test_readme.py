"""Every command of the README, executed literally, in its order; as a newcomer would."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
OWN_ENVIRONMENT = ("make ", "pip ", "python -m benchmarks.")
"""Commands that are run by themselves: they make an environment, or measure for long."""


def commands() -> list[str]:
    """What stands in indented blocks and in the first cells of tables, without comments."""
    found = []
    for line in README.split("\n"):
        typed = re.match(r" {4}(\S.*?)(?:\s{2,}#.*)?$", line)
        cell = re.match(r"\| `((?:tlp|make|python) [^`]*)` \|", line)
        match = typed or cell
        if match and not line.startswith("    request =") and not line.startswith("    synth"):
            found.append(match[1])
    return found


def test_the_readme_is_short_and_its_verbs_exist() -> None:
    assert len(README.split("\n")) <= 150
    typed = commands()
    assert {"make demo", "make test"} <= set(typed)
    assert [line for line in typed if line.startswith("tlp ")][1:5] == [
        "tlp train",
        "tlp export --engine trt",
        "tlp infer --t1 a.nii.gz --prompt roi.nii.gz",
        "tlp bench",
    ]
    for target in re.findall(r"\]\((?!http)([^)#]+)", README):
        assert (ROOT / target).exists(), target


@pytest.mark.proof
@pytest.mark.timeout(3600)
def test_every_command_of_the_readme_does_what_it_says(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "TLP_HOME": str(tmp_path / "home"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "BROWSER": "true",
    }
    for line in commands():
        if line.startswith(OWN_ENVIRONMENT):
            continue
        if shlex.split(line)[:2] in (["tlp", "view"], ["tlp", "serve"]):
            serves(line, tmp_path, environment)
            continue
        done = subprocess.run(
            line, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for made in ("a_synth-t1ce.nii.gz", "a_synth-t1ce.json", "syntheses", "seg.json", "out.nii.gz"):
        assert (tmp_path / made).exists(), made


def serves(line: str, folder: Path, environment: dict[str, str]) -> None:
    """A server prints its address and ends with Ctrl-C."""
    process = subprocess.Popen(
        shlex.split(line), cwd=folder, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    address = process.stdout.readline()
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert address.startswith("http://127.0.0.1:"), errors
    assert process.returncode in (0, 130), errors
