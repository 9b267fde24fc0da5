"""GPUs and installed libraries that a test pretends there are."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from types import ModuleType

import pytest

from tlp_runtime.engines import onnx as onnx_engine
from tlp_runtime.engines.cuda import Gpu

HOPPER = Gpu(0, "NVIDIA H200", (9, 0), 143771, "GPU-0")
ADA = Gpu(0, "NVIDIA L4", (8, 9), 23034, "GPU-1")


def installed(
    monkeypatch: pytest.MonkeyPatch, *flavours: str, place: ModuleType = onnx_engine
) -> None:
    """Let an engine's module find these packages installed, and no others."""

    def version(name: str) -> str:
        if name not in flavours:
            raise PackageNotFoundError(name)
        return "9.9"

    monkeypatch.setattr(place, "version", version)
