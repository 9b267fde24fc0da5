"""Memory does not grow with the number of cases, and the journal of many is soon read."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def simulate(folder: Path, cases: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.fakes.many_cases", str(folder), str(cases)]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    result: dict[str, Any] = json.loads(told.stdout)
    assert result["done"] == result["known"] == cases
    return result


def grown(result: dict[str, Any]) -> float:
    """The most memory after the first hundred cases, in shares of what it was there."""
    memory = {int(cases): mib for cases, mib in result["memory_mib"].items()}
    growth: float = max(memory.values()) / memory[min(memory)]
    return growth


def test_memory_is_flat_over_four_hundred_cases(tmp_path: Path) -> None:
    assert grown(simulate(tmp_path, 400)) < 1.15


@pytest.mark.proof
@pytest.mark.timeout(1200)
def test_memory_is_flat_over_ten_thousand_cases(tmp_path: Path) -> None:
    result = simulate(tmp_path, 10_000)
    assert grown(result) < 1.15, "80 to 86 MiB in the end, 89 at most, when this was written"
    assert result["replay_s"] < 10
