"""A run without a stop, which stopped and resumed ones are compared with."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.train.runs import new_run
from tlp_train.runs import Run
from tlp_train.trainer import fit


@pytest.fixture(scope="session")
def straight(tmp_path_factory: pytest.TempPathFactory, phantom_dir: Path) -> Run:
    """Four epochs without a stop."""
    folder = tmp_path_factory.mktemp("straight")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TLP_HOME", os.fspath(folder / "home"))
        return fit(new_run(folder / "run", phantom_dir), folder / "cache", progress=False)
