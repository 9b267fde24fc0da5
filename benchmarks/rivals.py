"""Networks next to each other: each trained for the same time on the phantom, then tested.

    python -m benchmarks.rivals --out rivals --size demo --seconds 180 --json rivals.json
    python -m benchmarks.rivals --out rivals --size published --seconds 320 --at-once 8 \
        --json rivals.json                        # on a GPU, best under CUDA MPS

Every network is trained by its own recipe for as many updates as fit into the time, and once more
for half of it: a network that is better by more than 0.3 dB on the same cases after the whole time,
or was not tried for half of it, is marked untrained, and nobody wins against it. Its published form
has no prompt; `+prompt` rows have one, of which nothing is told in these tests. Speed and memory of
eager PyTorch are measured before, alone.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tlp_export.fold import cost
from tlp_runtime.bench.machine import environment
from tlp_runtime.engines.base import Engine, Slices
from tlp_runtime.files.atomic import write_text
from tlp_runtime.files.markdown import markdown_table
from tlp_runtime.io.datasets import find_cases
from tlp_runtime.models.bundle import Bundle
from tlp_runtime.models.manifest import ONNX, Manifest
from tlp_runtime.spec.model import OUTPUT_NAME, PROMPT_NAME
from tlp_runtime.synthesis.synthesizer import Synthesizer
from tlp_train.cache import open_cases
from tlp_train.callbacks import read_metrics
from tlp_train.checkpoint import Checkpoint, load_checkpoint
from tlp_train.config import ROBUST, TrainConfig, preset
from tlp_train.evaluating import evaluate
from tlp_train.evaluation import SYNTHESIS
from tlp_train.module import SynthesisModule
from tlp_train.networks import registry
from tlp_train.pairing import TARGET_PROMPT
from tlp_train.phantom import write_cohort
from tlp_train.runs import Run
from tlp_train.split import Split
from tlp_train.step import Step, alone, parts_of
from tlp_train.trainer import fit

INPUTS = ("t1", "t2")
CASES, SEED, SIZES = 28, 0, (16, 2, 10)
EPOCH = 1000
"""Slices of an epoch at most."""

HALF, HALF_CASES = 0.5, 5
"""The share of the time that tells whether there is a plateau, and on how many test cases."""

UNTRAINED_DB = 0.3
PSNR = "slice.psnr_db"
SHOWN = {
    PSNR: "PSNR, dB",
    "slice.ssim": "SSIM",
    "slice.nmse": "NMSE",
    "brain.psnr_db": "fitted brain, dB",
    "enhancement.mae": "enhancement MAE",
}
"""What the table has of an evaluation; the record has all of it."""


@dataclass(frozen=True)
class Arm:
    """A network, with or without prompt."""

    network: str
    prompt: bool

    @property
    def name(self) -> str:
        """As rows are called."""
        return f"{self.network}{'+prompt' if self.prompt else ''}"


ARMS = {
    arm.name: arm
    for arm in (
        Arm("tlp", prompt=True),
        Arm("unet", prompt=True),
        *(Arm(name, prompt=False) for name in registry.NAMES),
    )
}


@dataclass(frozen=True)
class Plan:
    """Where things lie, how large the networks are and how long they are trained."""

    out: Path
    size: str
    seconds: float

    @property
    def device(self) -> torch.device:
        """What is trained on."""
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def config(self, arm: Arm, seed: int) -> TrainConfig:
        """The recipe of the size, with intensities that suit the phantom; epochs come later."""
        name = "demo" if self.size == "demo" else "paper"
        config = preset(name, INPUTS, arm.network, prompt=arm.prompt)
        return replace(
            config,
            spec=replace(config.spec, intensity=ROBUST),
            seed=seed,
            tumour_share=0.5,
            validation_slices=24,
            workers=0,
            accumulate=4 if config.batch_size == 20 else 1,
        )

    def data(self) -> tuple[Path, Split]:
        """The phantom and its parts."""
        folder = self.out / "phantom"
        if not folder.is_dir():
            write_cohort(folder, cases=CASES, seed=SEED)
        names = sorted(path.name for path in folder.iterdir())
        train, validation, _ = SIZES
        return folder, Split(
            tuple(names[:train]),
            tuple(names[train : train + validation]),
            tuple(names[train + validation :]),
        )

    def decode(self) -> None:
        """Fill the cache that all trainings read."""
        folder, split = self.data()
        used = set(split.train + split.validation)
        found = [c for c in find_cases(folder, (*INPUTS, "t1ce", "seg")) if c.name in used]
        open_cases(found, self.config(ARMS["tlp"], 0).spec, self.out / "cache")


class TorchEngine(Engine):
    """A checkpoint's network as it is trained, in PyTorch."""

    name = "torch"

    def __init__(self, checkpoint: Checkpoint, device: torch.device) -> None:
        manifest = Manifest(graph_dtype="fp32", compute_precision="fp32", files={ONNX: "0" * 64})
        super().__init__(Bundle(checkpoint.path, checkpoint.spec, manifest))
        self.device, self.library = device.type, f"torch {torch.__version__}"
        self.network = checkpoint.generator().to(device)

    def _run(self, tensors: Mapping[str, Any]) -> Slices:
        given = (
            torch.from_numpy(np.ascontiguousarray(tensors[name])).to(self.device)
            for name in self.spec.tensor_names
        )
        with torch.inference_mode():
            image: Slices = self.network(*given).float().cpu().numpy()
        return image

    def close(self) -> None:
        """Nothing to give back."""


def rate(config: TrainConfig, device: torch.device, seconds: float) -> float:
    """Steps a second, by some steps on random slices, after as many for warming up."""
    module = alone(SynthesisModule(config).to(device))
    crop = config.spec.crop
    shape = (config.batch_size, 1, crop.height, crop.width)
    names = (*INPUTS, PROMPT_NAME, OUTPUT_NAME, TARGET_PROMPT)
    batch = {name: torch.rand(shape, device=device) * 2 - 1 for name in names}
    batch |= module.draws(config.batch_size)
    parts = parts_of(batch, config.accumulate)
    made = 0.0
    for _ in range(2):
        began, steps = time.perf_counter(), 0
        while steps < 3 or time.perf_counter() - began < seconds / 2:
            Step(module, parts, 0).run()
            if device.type == "cuda":
                torch.cuda.synchronize()
            steps += 1
        made = steps / (time.perf_counter() - began)
    return made


def job(plan: Plan, arm: Arm, seed: int, share: float) -> None:
    """Train one network for a share of the time, and test it."""
    place = plan.out / "results" / f"{arm.name}-{seed}-{share}.json"
    if place.is_file():
        return
    folder, split = plan.data()
    config = plan.config(arm, seed)
    began = time.perf_counter()
    steps = rate(config, plan.device, min(20.0, plan.seconds / 8)) * plan.seconds * share
    slices = max(4 * config.batch_size, int(steps) * config.batch_size)
    epochs = max(4, -(-slices // EPOCH))
    config = replace(
        config,
        epochs=epochs,
        constant_epochs=epochs // 2,
        slices_per_epoch=max(config.batch_size, slices // epochs),
    )
    calibrated = time.perf_counter() - began
    run = Run.create(plan.out / "runs" / place.stem, config, folder, split)
    began = time.perf_counter()
    run = fit(run, plan.out / "cache", progress=False)
    trained = time.perf_counter() - began
    rows = read_metrics(run.metrics)
    names = split.test[:HALF_CASES] if share == HALF else split.test
    tests = [c for c in find_cases(folder, (*INPUTS, "t1ce", "seg")) if c.name in names]
    last = load_checkpoint(run.last)
    with Synthesizer(TorchEngine(last, plan.device), batch=4) as synthesizer:
        found = evaluate(
            synthesizer, tests, "none", model=arm.name, data="phantom",
            learnt=last.lineage.learnt_factor,
        )  # fmt: skip
    record = {
        "arm": arm.name, "seed": seed, "share": share, "seconds": trained,
        "calibration_seconds": calibrated, "updates": int(rows[-1]["step"]),
        "slices": int(rows[-1]["step"]) * config.batch_size, "batch": config.batch_size,
        "learning_rate": config.learning_rate,
        "validation_psnr": [float(row["val_psnr"]) for row in rows],
        "summary": {
            image: {key: asdict(value) for key, value in of.items() if value.count}
            for image, of in found.summary.items()
        },
        "cases": {
            name: {key: value.mean for key, value in case.images[SYNTHESIS].items()}
            for name, case in found.cases.items()
        },
    }  # fmt: skip
    place.parent.mkdir(exist_ok=True)
    write_text(place, json.dumps(record, indent=1))


def speed(plan: Plan, arm: Arm) -> dict[str, Any]:
    """Size, work, and what one slice takes in eager PyTorch, float32."""
    spec = plan.config(arm, 0).spec
    torch.manual_seed(0)
    network = registry.build(spec).eval().to(plan.device)
    on_gpu = plan.device.type == "cuda"
    found: dict[str, Any] = {
        "options": dict(spec.network.options),
        "parameters_m": sum(p.numel() for p in network.parameters()) / 1e6,
        "gflop": cost(spec).gflop,
    }
    for batch in (1, 16) if on_gpu else (1,):
        shape = (batch, 1, spec.crop.height, spec.crop.width)
        tensors = [torch.rand(shape, device=plan.device) for _ in spec.tensor_names]
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        times = []
        with torch.inference_mode():
            for turn in range(13):
                began = time.perf_counter()
                network(*tensors)
                if on_gpu:
                    torch.cuda.synchronize()
                if turn >= 3:
                    times.append((time.perf_counter() - began) / batch)
        found[f"seconds_per_slice_batch_{batch}"] = statistics.median(times)
        if on_gpu:
            found[f"memory_mib_batch_{batch}"] = torch.cuda.max_memory_allocated() / 2**20
    return found


def report(plan: Plan, arms: Sequence[str], speeds: Mapping[str, Any]) -> dict[str, Any]:
    """All results there are, and the table of them."""
    results = [json.loads(p.read_text()) for p in sorted((plan.out / "results").glob("*.json"))]
    references: Mapping[str, Any] = next(
        (one["summary"] for one in results if one["share"] == 1.0), {}
    )
    rows = [
        [f"*{image}*", "", "", "", *_measured([of]), "", ""]
        for image, of in references.items()
        if image != SYNTHESIS
    ]
    for name in arms:
        whole = [one for one in results if one["arm"] == name and one["share"] == 1.0]
        halves = [one for one in results if one["arm"] == name and one["share"] == HALF]
        if not whole:
            continue
        gained = _gained(whole, halves)
        about = speeds.get(name, {})
        rows.append(
            [
                name,
                f"{about.get('parameters_m', float('nan')):.2f}",
                f"{about.get('gflop', float('nan')):.1f}",
                f"{whole[0]['updates']} x {whole[0]['batch']}",
                *_measured([one["summary"][SYNTHESIS] for one in whole]),
                "not tried" if gained is None else f"{gained:+.2f}",
                "" if gained is not None and gained <= UNTRAINED_DB else "untrained",
            ]
        )
    head = ["", "M parameters", "GFLOP", "updates", *SHOWN.values(), "by the second half, dB", ""]
    print(markdown_table(head, rows), flush=True)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else environment("")["cpu"]
    return {
        "date": date.today().isoformat(), "threads": torch.get_num_threads(),
        "device": device, "torch": torch.__version__, "precision": "fp32", "size": plan.size,
        "seconds": plan.seconds, "data": f"phantom, {CASES} cases, seed {SEED}, parts {SIZES}",
        "untrained_above_db": UNTRAINED_DB, "speed": dict(speeds), "results": results,
    }  # fmt: skip


def _measured(summaries: Sequence[Any]) -> list[str]:
    """Means over seeds, with the first seed's 95 % interval over cases."""
    cells = []
    for key in SHOWN:
        digits = 2 if key.endswith("_db") else 3
        mean = statistics.mean(one[key]["mean"] for one in summaries)
        within = summaries[0][key]["interval"]
        told = "" if within is None else f" [{', '.join(f'{end:.{digits}f}' for end in within)}]"
        cells.append(f"{mean:.{digits}f}{told}")
    return cells


def _gained(whole: Sequence[Any], halves: Sequence[Any]) -> float | None:
    """What the whole time is better by than half of it, dB, over the cases that both have."""
    gains = [
        one["cases"][case][PSNR] - half["cases"][case][PSNR]
        for one in whole
        for half in halves
        if one["seed"] == half["seed"]
        for case in half["cases"]
    ]
    return statistics.mean(gains) if gains else None


def main() -> None:
    """Measure, train and test what is not done yet, then report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", choices=("demo", "published"), default="demo")
    parser.add_argument("--seconds", type=float, default=240)
    parser.add_argument("--arms", default=",".join(ARMS), help=", ".join(ARMS))
    parser.add_argument("--halves", default=None, metavar="ARMS", help="by default those of --arms")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--at-once", type=int, default=1, help="trainings side by side, on a GPU")
    parser.add_argument("--speed-only", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--job", metavar="ARM/SEED/SHARE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    plan = Plan(options.out.resolve(), options.size, options.seconds)
    os.environ.setdefault("TLP_HOME", os.fspath(plan.out / "home"))
    if options.job is not None:
        arm, seed, share = options.job.split("/")
        job(plan, ARMS[arm], int(seed), float(share))
        return
    arms = options.arms.split(",")
    halves = arms if options.halves is None else options.halves.split(",")
    unknown = {*arms, *halves} - set(ARMS)
    if unknown:
        parser.error(f"no such arm: {', '.join(sorted(unknown))}")
    plan.out.mkdir(parents=True, exist_ok=True)
    speeds = {name: speed(plan, ARMS[name]) for name in arms}
    for name, found in speeds.items():
        print(name, {k: v for k, v in found.items() if k != "options"}, flush=True)
    failed = []
    if not options.speed_only:
        plan.decode()
        jobs = [
            f"{arm}/{seed}/{share}"
            for seed in range(options.seeds)
            for share in (1.0, HALF)
            for arm in (arms if share == 1.0 else halves)
        ]
        with ThreadPoolExecutor(options.at_once) as pool:
            codes = list(pool.map(_start, jobs))
        failed = [one for one, code in zip(jobs, codes, strict=True) if code]
    record = report(plan, arms, speeds)
    record["failed"] = failed
    if options.json is not None:
        options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def _start(wanted: str) -> int:
    """One training in a process of its own."""
    began = time.perf_counter()
    argv = [sys.executable, "-m", "benchmarks.rivals", *sys.argv[1:], "--job", wanted]
    code = subprocess.run(argv, env=os.environ, check=False).returncode
    print(f"{wanted}: {time.perf_counter() - began:.0f} s, exit {code}", flush=True)
    return code


if __name__ == "__main__":
    main()
