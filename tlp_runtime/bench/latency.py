"""Latency percentiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Latency:
    """Percentiles in milliseconds over ``count`` measurements."""

    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    count: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Latency:
        """Linear interpolation between the nearest ranks (numpy's default)."""
        p50, p90, p95, p99 = (1e3 * float(v) for v in np.percentile(seconds, (50, 90, 95, 99)))
        return cls(p50, p90, p95, p99, len(seconds))
