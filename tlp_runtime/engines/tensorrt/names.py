"""TensorRT's classes as annotations: untyped for mypy, read by the test that checks every name."""

from __future__ import annotations

from typing import Any, TypeAlias

Builder: TypeAlias = Any
EngineInspector: TypeAlias = Any
IBuilderConfig: TypeAlias = Any
ICudaEngine: TypeAlias = Any
IExecutionContext: TypeAlias = Any
IHostMemory: TypeAlias = Any
INetworkDefinition: TypeAlias = Any
IOptimizationProfile: TypeAlias = Any
IRuntimeCache: TypeAlias = Any
IRuntimeConfig: TypeAlias = Any
ITimingCache: TypeAlias = Any
OnnxParser: TypeAlias = Any
Runtime: TypeAlias = Any
