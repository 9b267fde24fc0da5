"""Latency of a volume from file to file, and engines side by side."""

from tlp_runtime.bench.latency import Latency
from tlp_runtime.bench.machine import environment, peak_memory_mib
from tlp_runtime.bench.options import SweepOptions
from tlp_runtime.bench.sweep import Contender, Point, measure
from tlp_runtime.bench.volume import STAGES, BenchOptions, BenchReport, bench, write_stand_in

__all__ = [
    "STAGES",
    "BenchOptions",
    "BenchReport",
    "Contender",
    "Latency",
    "Point",
    "SweepOptions",
    "bench",
    "environment",
    "measure",
    "peak_memory_mib",
    "write_stand_in",
]
