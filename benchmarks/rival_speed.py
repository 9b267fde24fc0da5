"""Every network at its published size, in eager PyTorch and in this toolkit's engines, in turn.

    python -m benchmarks.rival_speed --out speeds --json speeds.json

Weights are random, inputs T1 and T2 without a prompt (TLP has one), batch 1, float32. Each network
is exported, which verifies it, and TensorRT-RTX builds an engine of it; then PyTorch and the
engines run it, each in a process of its own, in turn. What is exported already is not exported
again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.graph import circumstances
from benchmarks.rivals import INPUTS, TorchEngine
from tlp_export import export
from tlp_export.fold import cost
from tlp_runtime.bench.contest import ContenderFailed, Process, compete
from tlp_runtime.engines.base import Engine, Opening
from tlp_runtime.engines.builds import add_engine
from tlp_runtime.engines.choice import EngineChoice
from tlp_runtime.engines.options import BatchProfile, EngineOptions
from tlp_runtime.engines.select import choose
from tlp_runtime.engines.tensorrt.binding import load
from tlp_runtime.errors import TLPError, first_line
from tlp_runtime.files.markdown import markdown_table
from tlp_runtime.models.bundle import Bundle
from tlp_runtime.warnings import WarningLog
from tlp_train.checkpoint import Lineage, load_checkpoint, write_checkpoint
from tlp_train.config import preset
from tlp_train.networks import registry

EAGER = "eager"
ENGINES = ("ort-cpu", "ov-cpu")
LIMIT_S = 600
"""Of one turn."""


class Open:
    """A network open in this process: in PyTorch, or in an engine."""

    def __init__(self, folder: Path, name: str, threads: int) -> None:
        self._engine: Engine
        if name == EAGER:
            torch.set_num_threads(threads)
            checkpoint = load_checkpoint(folder / "random.ckpt")
            self._engine = TorchEngine(checkpoint, torch.device("cpu"))
        else:
            choice = EngineChoice(engine=name, batch=1, threads=threads)
            self._engine = choose(name, "cpu").open(Bundle.open(folder / "bundle"), Opening(choice))
        rng, spec = np.random.default_rng(0), self._engine.spec
        shape = (1, 1, spec.crop.height, spec.crop.width)
        self._given = {n: rng.uniform(-1, 1, shape).astype(np.float32) for n in spec.tensor_names}

    def turn(self, repeats: int) -> float:
        """Seconds per slice, median."""
        return statistics.median(self._engine.timed(self._given).total_s for _ in range(repeats))

    def close(self) -> None:
        """Close the engine."""
        self._engine.close()


def prepare(folder: Path, network: str) -> dict[str, Any]:
    """Export a network of random weights, and let TensorRT-RTX build it."""
    place = folder / "prepared.json"
    if place.is_file():
        found: dict[str, Any] = json.loads(place.read_text(encoding="utf-8"))
        return found
    folder.mkdir(parents=True, exist_ok=True)
    config = preset("paper", INPUTS, network, prompt=network == "tlp")
    torch.manual_seed(0)
    built = registry.build(config.spec)
    write_checkpoint(
        folder / "random.ckpt", config.spec, built.state_dict(), Lineage(config=config)
    )
    began = time.perf_counter()
    exported = export(load_checkpoint(folder / "random.ckpt"), out=folder / "bundle")
    found = {
        "parameters_m": sum(p.numel() for p in built.parameters()) / 1e6,
        "gflop": cost(config.spec).gflop,
        "export_seconds": time.perf_counter() - began,
    }
    began = time.perf_counter()
    try:
        profiles = (BatchProfile(1, 1, 1),)
        stored = add_engine(
            exported.bundle, "trt-rtx", EngineOptions(profiles=profiles), warn=WarningLog().add
        )
        found["tensorrt_rtx"] = {
            "seconds": time.perf_counter() - began,
            "mib": stored.file.stat().st_size / 2**20,
            "version": load("trt-rtx").version,
        }
    except TLPError as error:
        found["tensorrt_rtx"] = {"error": str(error)}
    place.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return found


def measure(folder: Path, rounds: int, repeats: int, threads: int) -> dict[str, Any]:
    """One network in all contenders, in turn."""
    refused: dict[str, str] = {}
    with ExitStack() as stack:
        running = []
        for name in (EAGER, *ENGINES):
            try:
                opening = partial(Open, folder, name, threads)
                process = stack.enter_context(Process(name, opening, limit_s=LIMIT_S))
                process.call("turn", 1)
                running.append(process)
            except ContenderFailed as error:
                refused[name] = first_line(error)
        found = compete(running, rounds, lambda one: one.timed_call("turn", repeats))
    return {
        "seconds": {name: found.median(name) for name in found.seconds},
        "faster_than_eager": {name: found.faster(name, EAGER) for name in found.seconds},
        "failed": {**refused, **found.failed},
        "load": None if found.load is None else asdict(found.load),
    }


def table(networks: dict[str, Any]) -> str:
    """One row for each network."""
    rows = []
    for name, about in networks.items():
        seconds, faster = about["seconds"], about["faster_than_eager"]
        rtx = about["tensorrt_rtx"]
        rows.append(
            [
                f"`{name}`",
                f"{about['parameters_m']:.2f}",
                f"{about['gflop']:.1f}",
                f"{seconds[EAGER]:.3f}" if EAGER in seconds else "",
                *(
                    f"{seconds[one]:.3f} ({faster[one]:.2f} x)"
                    if one in seconds and faster[one]
                    else ""
                    for one in ENGINES
                ),
                rtx.get("error") or f"{rtx['seconds']:.0f} s, {rtx['mib']:.0f} MiB",
            ]
        )
    head = ["", "M parameters", "GFLOP", "eager, s per slice", *ENGINES]
    return markdown_table([*head, "TensorRT-RTX builds it"], rows)


def main() -> None:
    """Prepare and measure each, then print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--networks", default=",".join(registry.NAMES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=2, help="runs of a turn")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    out = options.out.resolve()
    os.environ.setdefault("TLP_HOME", os.fspath(out / "home"))
    record: dict[str, Any] = {
        **circumstances(options),
        "batch": 1,
        "precision": "fp32",
        "networks": {},
    }
    for name in options.networks.split(","):
        about = prepare(out / name, name)
        print(name, about, flush=True)
        about |= measure(out / name, options.rounds, options.repeats, options.threads)
        print(name, about, flush=True)
        record["networks"][name] = about
        if options.json is not None:
            options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(table(record["networks"]))


if __name__ == "__main__":
    main()
