"""What the tests share: phantom cases, a tiny trained model and its bundle, the real cases."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import DATA_DIR, DUAL, PHANTOM, REAL_CASES, TinyModel
from tlp_runtime.engines.cuda import gpu_problem
from tlp_runtime.models.bundle import Bundle


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip, by name, GPU tests without a GPU and proofs unless they were asked for."""
    for item in items:
        if item.get_closest_marker("gpu") and gpu_problem(0) is not None:
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU; none is here"))
        if item.get_closest_marker("proof") and "proof" not in str(config.option.markexpr):
            item.add_marker(pytest.mark.skip(reason="a long proof; run by make proof"))


@pytest.fixture(autouse=True)
def tlp_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A ``TLP_HOME`` of its own for every test."""
    home = tmp_path / "tlp home"
    monkeypatch.setenv("TLP_HOME", os.fspath(home))
    return home


@pytest.fixture(autouse=True)
def log_levels() -> Iterator[None]:
    """A command sets the loggers' levels for its process; a test does not for the next one."""
    loggers = [
        logging.getLogger(name)
        for name in (None, "tlp_runtime", "tlp_train", "tlp_export", "tlp_server")
    ]
    before = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, before, strict=True):
        logger.setLevel(level)


@pytest.fixture(scope="session")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what was made beforehand (TLP_TEST_ASSETS), or made now, which takes PyTorch."""
    folder = tmp_path_factory.mktemp("assets")
    given = os.environ.get("TLP_TEST_ASSETS")
    if given:
        shutil.copytree(given, folder, dirs_exist_ok=True)
    else:
        from tests.assets import make

        make(folder)
    return folder


@pytest.fixture(scope="session")
def phantom_dir(assets: Path) -> Path:
    """Four phantom cases, of which at least the first has a tumour."""
    return assets / PHANTOM


@pytest.fixture(scope="session")
def phantom_case(phantom_dir: Path) -> Path:
    """One case folder with a tumour."""
    return sorted(phantom_dir.iterdir())[0]


@pytest.fixture(scope="session")
def tiny(assets: Path) -> TinyModel:
    """A T1 model of a few parameters, trained for a moment, and its exported bundle."""
    return TinyModel(assets)


@pytest.fixture(scope="session")
def tiny_dual(assets: Path) -> Bundle:
    """A T1 and T2 model of random weights."""
    return Bundle.open(assets / DUAL)


@pytest.fixture(scope="session")
def fixtures_dir() -> Path:
    """Outputs of the published network and hashes of the published arrays."""
    return DATA_DIR


@pytest.fixture(scope="session")
def real_cases() -> Path:
    """Real BraTS cases; the test is skipped where there are none."""
    if not REAL_CASES.is_dir():
        pytest.skip(f"no real BraTS cases at {REAL_CASES}")
    return REAL_CASES
