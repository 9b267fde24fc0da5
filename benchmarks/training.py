"""How fast training is, what it waits for, and what each option gains: one run, one table.

    python -m benchmarks.training --preset demo                        # phantom, CPU
    python -m benchmarks.training --data BraTS2021 --preset paper --json training.json   # GPU

First the loader alone, with 0 to --workers processes. Then whole epochs by `fit`, as `tlp train`
runs them, for each option; the epochs of all options are interleaved and medians taken, since
timings drift. The first epoch of each (warm-up, compilation) is left out. ``data wait`` is the
share of an epoch's time that passes between steps, the trainer's own work included, so that
it is an upper bound of the wait for data.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from tlp_runtime.files.markdown import markdown_table
from tlp_runtime.io.datasets import find_cases
from tlp_train.cache import open_cases
from tlp_train.callbacks import read_metrics
from tlp_train.config import TrainConfig, preset
from tlp_train.data import EpochSampler, SliceDataset
from tlp_train.phantom import write_cohort
from tlp_train.runs import Run
from tlp_train.split import Split
from tlp_train.trainer import fit

VARIANTS: dict[str, dict[str, Any]] = {
    "fp32": {"precision": "32-true", "channels_last": False},
    "fp32 channels-last": {"precision": "32-true", "channels_last": True},
    "bf16": {"precision": "bf16-mixed", "channels_last": False},
    "bf16 channels-last": {"precision": "bf16-mixed", "channels_last": True},
    "bf16 channels-last compiled": {
        "precision": "bf16-mixed",
        "channels_last": True,
        "compile": True,
    },
}


def loader_rates(config: TrainConfig, data: Path, cache: Path, most: int) -> dict[int, float]:
    """Slices a second by number of worker processes, prompts perturbed, batches collated."""
    arrays = (*config.spec.inputs, "t1ce", "seg")
    cases = open_cases(find_cases(data, arrays), config.spec, cache)
    dataset = SliceDataset(cases, config.spec, fuzzy=config.fuzzy, seed=0)
    rates = {}
    for workers in sorted({0, 1, 2, 4, 8, most}):
        if workers > most:
            continue
        sampler = EpochSampler(len(dataset), seed=0, batch=config.batch_size)
        loader = DataLoader(
            dataset, batch_size=config.batch_size, sampler=sampler, num_workers=workers
        )
        batches = iter(loader)
        next(batches)  # processes have started
        began = time.perf_counter()
        count = sum(1 for _ in batches) * config.batch_size
        rates[workers] = count / (time.perf_counter() - began)
    return rates


def epoch(config: TrainConfig, data: Path, folder: Path) -> Mapping[str, str]:
    """Train two epochs in a run of its own; the last one's metrics."""
    names = tuple(sorted(path.name for path in data.iterdir()))
    run = Run.create(folder / "run", config, data, Split(names[:-1], names[-1:], ()))
    fit(run, folder.parent.parent / "cache", progress=False)
    return read_metrics(run.folder / "metrics.csv")[-1]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="BraTS cases; without it: three of the phantom")
    parser.add_argument("--preset", choices=("demo", "lab", "paper"), required=True)
    parser.add_argument("--inputs", default="t1,t2")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--steps", type=int, default=20, help="steps of an epoch")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, default=(os.cpu_count() or 2) - 1)
    parser.add_argument("--variants", default=",".join(VARIANTS), help=", ".join(VARIANTS))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    names = options.variants.split(",")
    unknown = [name for name in names if name not in VARIANTS]
    if unknown:
        parser.error(f"no such variant: {', '.join(unknown)}")

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        os.environ["TLP_HOME"] = str(folder / "home")
        data = options.data
        if data is None:
            data = folder / "phantom"
            write_cohort(data, cases=3, seed=0)
        config = preset(options.preset, tuple(options.inputs.split(",")))
        batch = options.batch_size or config.batch_size
        config = replace(
            config,
            batch_size=batch,
            epochs=2,
            constant_epochs=2,
            slices_per_epoch=batch * options.steps,
            validation_slices=batch,
        )
        rates = loader_rates(config, data, folder / "cache", options.workers)
        seconds: dict[str, list[float]] = {name: [] for name in names}
        waits: dict[str, list[float]] = {name: [] for name in names}
        for repeat in range(options.repeats):
            for name in names:
                row = epoch(replace(config, **VARIANTS[name]), data, folder / f"{repeat}" / name)
                seconds[name].append(float(row["step_seconds"]) / options.steps)
                waits[name].append(float(row["data_wait"]))

    on_gpu = torch.cuda.is_available()
    result = {
        "device": torch.cuda.get_device_name() if on_gpu else platform.processor() or "CPU",
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "preset": options.preset,
        "inputs": options.inputs,
        "batch": batch,
        "steps": options.steps,
        "repeats": options.repeats,
        "loader_slices_per_second": rates,
        "variants": {
            name: {
                "step_seconds": statistics.median(seconds[name]),
                "slices_per_second": batch / statistics.median(seconds[name]),
                "data_wait": statistics.median(waits[name]),
            }
            for name in names
        },
    }
    print(f"{result['device']}, torch {result['torch']}, {options.preset}, batch {batch}\n")
    print(
        markdown_table(
            ["loader workers", "slices/s"], [[str(n), f"{r:.0f}"] for n, r in rates.items()]
        )
    )
    print()
    first = statistics.median(seconds[names[0]])
    print(
        markdown_table(
            ["", "ms a step", "slices/s", "faster than the first", "data wait"],
            [
                [
                    name,
                    f"{1000 * statistics.median(seconds[name]):.0f}",
                    f"{batch / statistics.median(seconds[name]):.1f}",
                    f"{first / statistics.median(seconds[name]):.2f}",
                    f"{100 * statistics.median(waits[name]):.1f} %",
                ]
                for name in names
            ],
        )
    )
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
