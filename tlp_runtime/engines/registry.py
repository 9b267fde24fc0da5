"""Every engine there is. One line registers one more."""

from __future__ import annotations

from typing import TypeVar

from tlp_runtime.engines.base import Engine
from tlp_runtime.engines.choice import AUTO
from tlp_runtime.engines.onnx import OnnxEngine
from tlp_runtime.engines.onnx_cuda import OnnxCudaEngine
from tlp_runtime.engines.onnx_tensorrt import OnnxTensorRTEngine
from tlp_runtime.engines.openvino import OpenVinoEngine
from tlp_runtime.engines.trt import EnterpriseEngine
from tlp_runtime.engines.trt_rtx import RtxEngine
from tlp_runtime.errors import UsageError

Kind = TypeVar("Kind", bound=type[Engine])

_ENGINES: dict[str, type[Engine]] = {}


def register(engine: Kind) -> Kind:
    """Make an engine known; of several that may be chosen automatically, earlier ones win.

    Raises
    ------
    ValueError
        Its name is taken.
    """
    if engine.name in (AUTO, *_ENGINES):
        raise ValueError(f"the engine name {engine.name} is taken")
    _ENGINES[engine.name] = engine
    return engine


def unregister(name: str) -> None:
    """Forget an engine."""
    del _ENGINES[name]


def engines() -> tuple[type[Engine], ...]:
    """Every engine, in the order of registration."""
    return tuple(_ENGINES.values())


def engine_names() -> tuple[str, ...]:
    """The names of all engines."""
    return tuple(_ENGINES)


def find_engine(name: str) -> type[Engine]:
    """The engine of that name.

    Raises
    ------
    UsageError
        There is none; the message lists those there are.
    """
    if name not in _ENGINES:
        raise UsageError(f"engine {name!r}: expected {AUTO} or one of {', '.join(_ENGINES)}.")
    return _ENGINES[name]


register(EnterpriseEngine)
register(RtxEngine)
register(OnnxTensorRTEngine)
register(OnnxCudaEngine)
register(OnnxEngine)
register(OpenVinoEngine)
