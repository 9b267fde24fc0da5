"""What the deployed graph gains on a CPU, in one interleaved run.

    python benchmarks/full_size_model.py --out full-size.ckpt
    python benchmarks/graph.py --checkpoint full-size.ckpt --json graph.json --figure graph.png

Contenders, each on the same phantom slices, in the runtime's default batch: the network as
published in PyTorch, eager and compiled; its plain export and ours at each precision in ONNX
Runtime; OpenVINO on the plain export and on ours (`pip install openvino`; left out, by name, where
it is not installed). They take turns, the medians of all rounds are compared, and ratios are
medians of ratios within a round, since timings drift. PSNR is against the network in float64.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tlp_export.fold import fold, savings
from tlp_export.graph import export_module
from tlp_export.onnx_graph import write_onnx
from tlp_export.precision import DTYPES, to_precision
from tlp_export.quantize import quantize
from tlp_export.slices import (
    Tensors,
    calibration_slices,
    phantom_slices,
    psnr_db,
    run_module,
    unprompted,
)
from tlp_runtime.bench import environment
from tlp_runtime.engines.choice import EngineChoice
from tlp_runtime.models.manifest import LayerCost
from tlp_runtime.spec.model import PROMPT_NAME
from tlp_train.checkpoint import load_checkpoint
from tlp_train.network import Generator
from tlp_train.tables import markdown_table

Run = Callable[[Tensors], NDArray[np.float32]]


@dataclass(frozen=True)
class Contender:
    """One way to run the network."""

    name: str
    gflop: float
    run: Run


@dataclass(frozen=True)
class Figure:
    """What was measured of one."""

    name: str
    gflop: float
    median_s: float
    fastest_s: float
    eager_ratio: float
    plain_ratio: float
    psnr_db: float


EAGER, PLAIN = "PyTorch eager, as published", "plain export, ONNX Runtime"


def contenders(
    generator: Generator, folder: Path, threads: int
) -> tuple[list[Contender], list[LayerCost]]:
    """Everything that can run here; what cannot is said."""
    folded = fold(generator)
    lines = savings(generator.spec)
    before, after = lines[0].before.gflop, lines[-1].after.gflop
    quantized, layers = quantize(folded, calibration_slices(generator.spec))
    half = to_precision(copy.deepcopy(folded), "fp16")
    graphs = {
        PLAIN: (before, export_module(generator)),
        "ours fp32, ONNX Runtime": (after, export_module(folded)),
        "ours int8, ONNX Runtime": (after, export_module(quantized)),
        "ours fp16, ONNX Runtime": (after, export_module(half, DTYPES["fp16"])),
    }
    found = [Contender(EAGER, before, partial(run_module, generator, generator.spec))]
    compiled: Any = torch.compile(copy.deepcopy(generator))
    found.append(
        Contender(
            "torch.compile, as published", before, partial(run_module, compiled, generator.spec)
        )
    )
    for number, (name, (gflop, module)) in enumerate(graphs.items()):
        path = folder / f"{number}.onnx"
        print(f"tracing {name}", flush=True)
        write_onnx(module, generator.spec, path)
        found.append(Contender(name, gflop, _onnxruntime(path, threads)))
        if importlib.util.find_spec("openvino") is None:
            print("OpenVINO is not installed: left out")
        elif number < 2:
            label = "plain export" if number == 0 else "ours fp32"
            found.append(Contender(f"{label}, OpenVINO", gflop, _openvino(path, threads)))
    return found, layers


def measure(found: list[Contender], slices: list[Tensors], rounds: int) -> dict[str, list[float]]:
    """Seconds a slice of every contender in every round, after one that is not counted."""
    seconds: dict[str, list[float]] = {one.name: [] for one in found}
    for number in range(-1, rounds):
        for one in found:
            began = time.perf_counter()
            one.run(slices[number % len(slices)])
            elapsed = (time.perf_counter() - began) / len(slices[0][PROMPT_NAME])
            if number >= 0:
                seconds[one.name].append(elapsed)
        print(f"round {number + 1} of {rounds}", flush=True)
    return seconds


def figures(
    found: list[Contender], seconds: dict[str, list[float]], generator: Generator, given: Tensors
) -> list[Figure]:
    """Medians, ratios and errors."""
    exact = copy.deepcopy(generator).double()
    want = run_module(exact, generator.spec, given, torch.float64)

    def ratio(name: str, to: str) -> float:
        pairs = zip(seconds[to], seconds[name], strict=True)
        return statistics.median(reference / own for reference, own in pairs)

    return [
        Figure(
            one.name,
            one.gflop,
            statistics.median(seconds[one.name]),
            min(seconds[one.name]),
            ratio(one.name, EAGER),
            ratio(one.name, PLAIN),
            psnr_db(float(np.square(one.run(given) - want).mean())),
        )
        for one in found
    ]


def _onnxruntime(path: Path, threads: int) -> Run:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = ort.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
    return lambda tensors: session.run(None, dict(tensors))[0]


def _openvino(path: Path, threads: int) -> Run:
    import openvino

    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    model = openvino.Core().compile_model(os.fspath(path), "CPU", settings)
    return lambda tensors: model(dict(tensors))[0]


def _table(rows: list[Figure]) -> str:
    return markdown_table(
        ["", "GFLOP", "median, s a slice", "x eager", "x plain export", "PSNR, dB"],
        [
            [
                row.name,
                f"{row.gflop:.1f}",
                f"{row.median_s:.2f}",
                f"{row.eager_ratio:.2f}",
                f"{row.plain_ratio:.2f}",
                f"{row.psnr_db:.1f}",
            ]
            for row in rows
        ],
    )


def _figure(rows: list[Figure], path: Path, caption: str) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    ordered = sorted(rows, key=lambda row: -row.median_s)
    figure, axes = pyplot.subplots(figsize=(8, 0.45 * len(ordered) + 1.2))
    colours = ["#2a6f97" if row.name.startswith("ours") else "#a0a0a0" for row in ordered]
    bars = axes.barh(
        [row.name for row in ordered], [row.median_s for row in ordered], color=colours
    )
    axes.bar_label(bars, [f"{row.median_s:.2f} s" for row in ordered], padding=3)
    axes.set_xlabel(f"seconds a slice, median ({caption})")
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=EngineChoice.batch)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    checkpoint = load_checkpoint(options.checkpoint)
    generator = checkpoint.generator()
    both = phantom_slices(generator.spec, options.batch)
    slices = [both, unprompted(both)]
    with tempfile.TemporaryDirectory(prefix="tlp-graph-") as folder:
        found, layers = contenders(generator, Path(folder), options.threads)
        seconds = measure(found, slices, options.rounds)
        rows = figures(found, seconds, generator, both)
    folds = savings(generator.spec)
    machine = environment(f"onnxruntime {version('onnxruntime')}") | {"torch": torch.__version__}
    if importlib.util.find_spec("openvino") is not None:
        machine["openvino"] = version("openvino")
    print(_table(rows))
    if options.json is not None:
        record = {
            "date": date.today().isoformat(),
            "machine": machine,
            "threads": options.threads,
            "batch": options.batch,
            "rounds": options.rounds,
            "network": asdict(generator.spec),
            "contenders": [asdict(row) for row in rows],
            "seconds": seconds,
            "folds": [asdict(line) for line in folds],
            "int8_layers": [asdict(layer) for layer in layers],
        }
        options.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    if options.figure is not None:
        _figure(
            rows,
            options.figure,
            f"{machine['cpu']}, {options.threads} threads, batch {options.batch}",
        )


if __name__ == "__main__":
    main()
