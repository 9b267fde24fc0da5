"""The lowest versions that pyproject.toml declares, as constraints for pip.

    python -m tests.floors EXTRA... > floors.txt

PyTorch is left out: its pinned build is always used, others bring gigabytes of CUDA.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?>=([0-9][^,;\s]*)")
_TOOLS = ("test", "dev")
"""Extras of tools, which follow their newest versions."""


def floors(extras: Sequence[str]) -> Iterator[str]:
    """``name==version`` of each dependency of the package and of these extras."""
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    optional = project["optional-dependencies"]
    required = [
        *project["dependencies"],
        *(one for extra in extras if extra not in _TOOLS for one in optional[extra]),
    ]
    for requirement in dict.fromkeys(required):
        found = _REQUIREMENT.fullmatch(requirement)
        if found is None:
            raise SystemExit(f"{requirement}: expected NAME>=VERSION")
        if found[1] != "torch":
            yield f"{found[1]}=={found[2]}"


if __name__ == "__main__":
    sys.stdout.writelines(f"{line}\n" for line in floors(sys.argv[1:]))
