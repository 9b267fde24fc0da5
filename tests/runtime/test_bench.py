"""Latency statistics and the report of a benchmark."""

from __future__ import annotations

import pytest

from tests.support import TinyModel
from tlp_runtime import Synthesizer
from tlp_runtime.bench import STAGES, BenchOptions, Latency, bench
from tlp_runtime.engines.onnx import OnnxEngine
from tlp_runtime.errors import UsageError


def test_percentiles_are_in_milliseconds() -> None:
    latency = Latency.of([0.001 * n for n in range(1, 102)])
    assert latency.p50_ms == pytest.approx(51)
    assert latency.p90_ms == pytest.approx(91)
    assert latency.p99_ms == pytest.approx(100)
    assert latency.count == 101


def test_a_benchmark_counts_what_it_says(tiny: TinyModel) -> None:
    with Synthesizer(OnnxEngine(tiny.bundle), batch=8) as synthesizer:
        report = bench(synthesizer, options=BenchOptions(volumes=2, slices=3, warmup=1))
    assert report.volume.count == 2
    assert report.slice_batch1.count == 3
    assert set(report.stages) == set(STAGES)
    assert all(latency.count == 2 and latency.p50_ms > 0 for latency in report.stages.values())
    assert report.volume.p50_ms == pytest.approx(
        sum(latency.p50_ms for latency in report.stages.values()), rel=0.2
    )
    assert report.slices == 135
    assert report.environment["engine_library"].startswith("onnxruntime")


def test_nothing_to_measure_is_refused() -> None:
    with pytest.raises(UsageError, match="volumes is 0, expected at least 1"):
        BenchOptions(volumes=0)
