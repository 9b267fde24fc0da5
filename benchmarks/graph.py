"""What the deployed graph gains on a CPU: every contender in a process of its own, in turn.

    python -m benchmarks.full_size_model --out full-size.ckpt
    python -m benchmarks.gpu --prepare prepared --checkpoint full-size.ckpt --no-rtx
    python -m benchmarks.graph --prepared prepared --json graph.json --figure graph.png

Contenders: the network as published in PyTorch, eager (fp32, bf16) and compiled; its plain export
in ONNX Runtime and in OpenVINO; ours in each engine and precision. Ratios are medians of ratios
within a round. Each is held against a matrix product in its own library and type, of the same
round. PSNR is against the network in float64.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import date
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.gpu_parts import Place, differences
from benchmarks.gpu_peers import EAGER, OpenEngine, OpenTorch, Turn
from tlp_runtime.bench import environment
from tlp_runtime.bench.contest import ContenderFailed, Process, Rounds, compete
from tlp_runtime.bench.limit import Product, open_product
from tlp_runtime.bench.machine import peak_memory_mib
from tlp_runtime.engines.choice import EngineChoice
from tlp_runtime.engines.openvino import OpenVinoEngine, openvino_core
from tlp_runtime.files.markdown import markdown_table
from tlp_runtime.models.manifest import ONNX
from tlp_train.networks.tlp.generator import Generator

OURS = (
    ("fp32", "ort-cpu"), ("int8", "ort-cpu"), ("fp32", "ov-cpu"), ("bf16", "ov-cpu"),
    ("int8", "ov-cpu"),
)  # fmt: skip
REFERENCE = "ours fp32, ort-cpu"


@dataclass(frozen=True)
class Contender:
    """One way to run the network, and which of the two counts of operations is its work."""

    name: str
    gflop: str
    open: Callable[[], Any]


@dataclass(frozen=True)
class Figure:
    """What was measured of one.

    Parameters
    ----------
    seconds
        Per slice, median over rounds.
    gflops
        GFLOP/s, from the operations of its graph.
    share
        Of the matrix product's rate in the same round, median.
    """

    name: str
    batch: int
    seconds: float
    eager_ratio: float | None
    ours_ratio: float | None
    gflops: float
    share: float | None
    psnr_db: float | None
    memory_mib: float


class OpenPlain:
    """The plain export in OpenVINO, as somebody without this toolkit would run it."""

    def __init__(self, place: Place, batch: int, hint: str, threads: int) -> None:
        core = openvino_core()
        model = core.read_model(os.fspath(place.folder / "plain" / ONNX))
        self._given = place.batch(batch)
        model.reshape({name: list(a.shape) for name, a in self._given.tensors.items()})
        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": hint,
            "PERFORMANCE_HINT": "LATENCY",
        }
        self._model = core.compile_model(model, "CPU", settings)
        self._product = open_product(
            OpenVinoEngine.name, "cpu", "bf16" if hint == "bf16" else "fp32", threads
        )

    def turn(self, repeats: int) -> list[Turn]:
        """Timed runs."""
        turns = []
        for _ in range(repeats):
            began = time.perf_counter()
            self._model(dict(self._given.tensors))
            turns.append(Turn(None, (time.perf_counter() - began) * 1e3))
        return turns

    def gap(self) -> dict[str, Any]:
        """How far its image is from the reference."""
        return differences(self._model(dict(self._given.tensors))[0], self._given.reference)

    def product(self) -> float | None:
        """TFLOP/s of matrix products in OpenVINO."""
        return self._product.tflops() if isinstance(self._product, Product) else None

    def memory_mib(self) -> float | None:
        """The process's peak so far."""
        return peak_memory_mib()


def contenders(place: Place, batch: int, threads: int) -> Iterator[Contender]:
    """Everything that can run here."""
    types = {"fp32": torch.float32, "bf16": torch.bfloat16}
    for name, dtype in types.items():
        build = partial(_torch, dtype=dtype, threads=threads, compiled=False)
        yield Contender(
            f"eager {name}", "published", partial(OpenTorch, place, batch, build, dtype)
        )
    build = partial(_torch, dtype=torch.float32, threads=threads, compiled=True)
    compiled = partial(OpenTorch, place, batch, build, torch.float32)
    yield Contender("torch.compile fp32", "published", compiled)
    choice = EngineChoice(engine="ort-cpu", batch=batch, threads=threads)
    plain = partial(OpenEngine, place, batch, "plain", choice)
    yield Contender("plain export, ONNX Runtime", "published", plain)
    for hint in ("f32", "bf16"):
        opened = partial(OpenPlain, place, batch, hint, threads)
        yield Contender(f"plain export, OpenVINO {hint}", "published", opened)
    for which, engine in OURS:
        choice = EngineChoice(engine=engine, batch=batch, threads=threads)
        opening = partial(OpenEngine, place, batch, which, choice)
        yield Contender(f"ours {which}, {engine}", "folded", opening)


def measure(
    place: Place, everyone: list[Contender], batch: int, rounds: int, repeats: int
) -> tuple[list[Figure], Rounds]:
    """One batch size: open everything, then rounds in which all take turns."""
    gaps: dict[str, dict[str, Any]] = {}
    products: dict[str, list[float | None]] = {}
    refused: dict[str, str] = {}
    with ExitStack() as stack:
        running = []
        for one in everyone:
            print(f"opening {one.name}", flush=True)
            try:
                process = stack.enter_context(Process(one.name, one.open))
                gaps[one.name] = process.call("gap")
            except ContenderFailed as error:
                refused[one.name] = str(error)
                continue
            products[one.name] = []
            running.append(process)

        def turn(process: Process) -> tuple[float, float]:
            products[process.name].append(process.call("product"))
            turns, cpu_s = process.timed_call("turn", repeats)
            return statistics.median(one.host_ms for one in turns) / 1e3 / batch, cpu_s

        found = compete(running, rounds, turn)
        found.failed |= refused
        memory = {one.name: one.call("memory_mib") for one in running if one.name in found.seconds}
    gflop = place.record["gflop"]
    figures = []
    for one in everyone:
        if one.name not in found.seconds:
            continue
        work, seconds = gflop[one.gflop], found.seconds[one.name]
        shares = [
            work / own / 1e3 / product
            for own, product in zip(seconds, products[one.name], strict=True)
            if product
        ]
        figures.append(
            Figure(
                one.name,
                batch,
                found.median(one.name),
                found.faster(one.name, EAGER),
                found.faster(one.name, REFERENCE),
                work / found.median(one.name),
                statistics.median(shares) if shares else None,
                gaps[one.name]["psnr_db"],
                memory[one.name],
            )
        )
    return figures, found


def circumstances(options: argparse.Namespace) -> dict[str, Any]:
    """When, where and how often it is measured, for a record."""
    libraries = ("torch", "onnxruntime", "openvino")
    return {
        "date": date.today().isoformat(),
        "machine": environment(", ".join(f"{name} {version(name)}" for name in libraries)),
        "threads": options.threads,
        "rounds": options.rounds,
        "repeats": options.repeats,
    }


def _torch(
    place: Place, module: Generator, *, dtype: torch.dtype, threads: int, compiled: bool
) -> Any:
    torch.set_num_threads(threads)
    moved: nn.Module = module.to(dtype)
    return torch.compile(moved, dynamic=False) if compiled else moved


def _table(rows: list[Figure]) -> str:
    return markdown_table(
        [
            "", "s per slice", "x eager fp32", f"x {REFERENCE}", "GFLOP/s", "of matrix product",
            "PSNR, dB", "peak MiB",
        ],
        [
            [
                row.name,
                f"{row.seconds:.3f}",
                _number(row.eager_ratio),
                _number(row.ours_ratio),
                f"{row.gflops:.0f}",
                "" if row.share is None else f"{row.share:.0%}",
                "not finite" if row.psnr_db is None else f"{row.psnr_db:.1f}",
                f"{row.memory_mib:.0f}",
            ]
            for row in rows
        ],
    )  # fmt: skip


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _figure(rows: list[Figure], path: Path, caption: str) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    ordered = sorted(rows, key=lambda row: -row.seconds)
    figure, axes = pyplot.subplots(figsize=(8, 0.45 * len(ordered) + 1.2))
    colours = ["#2a6f97" if row.name.startswith("ours") else "#a0a0a0" for row in ordered]
    names = [f"{row.name}, batch {row.batch}" for row in ordered]
    bars = axes.barh(names, [row.seconds for row in ordered], color=colours)
    axes.bar_label(bars, [f"{row.seconds:.2f} s" for row in ordered], padding=3)
    axes.set_xlabel(f"seconds per slice, median ({caption})")
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prepared", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--repeats", type=int, default=2, help="runs of a turn")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batches", default="1,4")
    parser.add_argument("--only", default="", help="beginnings of names, separated by semicolons")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    place = Place(options.prepared, "cpu")
    record: dict[str, Any] = {
        **circumstances(options),
        "checkpoint": place.record["checkpoint"],
        "gflop": place.record["gflop"],
        "batches": {},
    }
    everything: list[Figure] = []
    for batch in map(int, options.batches.split(",")):
        wanted = tuple(options.only.split(";"))
        everyone = [
            one for one in contenders(place, batch, options.threads) if one.name.startswith(wanted)
        ]
        figures, found = measure(place, everyone, batch, options.rounds, options.repeats)
        everything += figures
        print(
            f"\n{record['machine']['cpu']}, {options.threads} threads, batch {batch}: {found.load}"
        )
        print(_table(figures))
        for name, why in found.failed.items():
            print(f"{name}: {why}")
        record["batches"][batch] = {
            "contenders": [asdict(row) for row in figures],
            "seconds": found.seconds,
            "failed": found.failed,
            "load": None if found.load is None else asdict(found.load),
        }
        if options.json is not None:
            options.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    if options.figure is not None:
        caption = f"{record['machine']['cpu']}, {options.threads} threads"
        _figure(everything, options.figure, caption)


if __name__ == "__main__":
    main()
