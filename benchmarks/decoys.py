"""Do decoys teach a network to look, and what do they cost?

    python -m benchmarks.decoys --out decoys                                  # phantom
    python -m benchmarks.decoys --out real --data BRATS --sizes 4,1,2 --arms lab,former-demo
    python -m benchmarks.decoys --out decoys --report-only --json decoys.json

A small network (dim 8, demo's rates) is trained by the preset ``lab`` and by variants of it, for
equal epochs and several seeds, and tested on cases that no training saw, with prompts that are
right, wrong and half right. Fixed before any run: the primary measure is the mirrored false
enhancement of the last checkpoint, paired by case; the price is the Dice of the tumour core with
its own prompt. What is finished is not done again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tlp_export import export
from tlp_export.options import ExportOptions
from tlp_runtime.engines.choice import EngineChoice
from tlp_runtime.engines.processor import processor
from tlp_runtime.files.atomic import write_text
from tlp_runtime.files.markdown import markdown_table
from tlp_runtime.io.case_files import CaseFiles
from tlp_runtime.io.datasets import find_cases
from tlp_runtime.spec.model import IntensitySpec, ModelSpec
from tlp_runtime.synthesis.synthesizer import Synthesizer
from tlp_train.cache import open_cases
from tlp_train.checkpoint import load_checkpoint
from tlp_train.config import TrainConfig, preset
from tlp_train.evaluating import evaluation_slices, needed_arrays, read_case
from tlp_train.metrics import enhancement_metrics, to_unit64
from tlp_train.networks.tlp.options import TLPOptions
from tlp_train.phantom import write_cohort
from tlp_train.prompt_uses import PromptUse
from tlp_train.runs import Run
from tlp_train.split import Split, seeded
from tlp_train.statistics import SeededDifference
from tlp_train.trainer import fit

PHANTOM, UNSEEN = (18, 0), (6, 4242)
"""Cases and seed of what is trained and validated on, and of what is tested on."""

ARMS: Mapping[str, Mapping[str, Any]] = {
    "lab": {},
    "no-decoys": {"decoy_share": 0.0},
    "former-demo": {"decoy_share": 0.0, "vary": False, "best": "psnr", "intensity": "minmax-crop"},
}
"""``lab`` and what others do without; ``former-demo`` is what the preset ``demo`` was before it."""

USES: tuple[PromptUse, ...] = ("none", "seg", "fuzzy", "mirrored", "moved", "oedema")

MEASURES: tuple[tuple[str, PromptUse, str, bool], ...] = (
    ("false enhancement, mirrored", "mirrored", "mirror.false_enhancement", True),
    ("Dice, own prompt", "seg", "enhancement.dice", False),
    ("Dice, fuzzy prompt", "fuzzy", "enhancement.dice", False),
    ("MAE, own prompt", "seg", "enhancement.mae", False),
    ("MAE, no prompt", "none", "enhancement.mae", False),
    ("near miss, moved: false enhancement", "moved", "prompt.false_enhancement", True),
    ("near miss, oedema: false enhancement", "oedema", "prompt.false_enhancement", True),
)
"""Title, prompt, metric, and whether the one nearer to 0 is better; the first is the primary."""

CHECKPOINTS = ("last", "best")

Tensors = Mapping[str, NDArray[Any]]
Runner = Callable[[Tensors], NDArray[np.float32]]
"""From (Z, Y, X) tensors to the network's output."""


@dataclass(frozen=True)
class Plan:
    """Where things lie, and how long is trained."""

    out: Path
    data: Path | None
    sizes: tuple[int, int, int] | None
    epochs: int
    tested: bool = True

    def config(self, arm: str, seed: int) -> TrainConfig:
        """The configuration of one training: ``lab`` small, with what the arm changes."""
        changes = dict(ARMS[arm])
        lab = preset("lab", ("t1",))
        intensity = lab.spec.intensity
        if "intensity" in changes:
            intensity = IntensitySpec(rule=changes.pop("intensity"))
        small = preset(
            "demo",
            ("t1",),
            preset="lab",
            spec=ModelSpec(
                inputs=("t1",), network=TLPOptions(dim=8).as_spec(), intensity=intensity
            ),
            decoy_share=lab.decoy_share,
            vary=lab.vary,
            best=lab.best,
            seed=seed,
            workers=0,
        )
        return replace(small.with_epochs(self.epochs), **changes)

    def cache(self, spec: ModelSpec) -> Path:
        """The folder of decoded slices; one for each rule of intensities."""
        return self.out / f"cache-{spec.intensity.rule}"

    def decode(self, arms: Sequence[str]) -> None:
        """Make the data and the caches, before several trainings need them at once."""
        data, split, _ = self.cases()
        found = find_cases(data, ("t1", "t1ce", "seg"))
        used = [case for case in found if case.name in split.train + split.validation]
        for spec in {self.config(arm, 0).spec for arm in arms}:
            open_cases(used, spec, self.cache(spec))

    def cases(self) -> tuple[Path, Split, list[CaseFiles]]:
        """The folder that is trained on, its split, and what is tested on."""
        wanted = (*needed_arrays(ModelSpec(inputs=("t1",))),)
        if self.data is not None:
            found = find_cases(self.data, wanted)
            split = _split([case.name for case in found], self.sizes)
            return self.data, split, [case for case in found if case.name in split.test]
        folders = []
        for count, seed in (PHANTOM, UNSEEN):
            folder = self.out / f"phantom-{seed}"
            if not folder.is_dir():
                write_cohort(folder, cases=count, seed=seed)
            folders.append(folder)
        names = sorted(path.name for path in folders[0].iterdir())
        split = Split(tuple(names[:-2]), tuple(names[-2:]), ())
        return folders[0], split, find_cases(folders[1], wanted)


def _split(names: Sequence[str], sizes: tuple[int, int, int] | None) -> Split:
    if sizes is None:
        return seeded(names, 0)
    train, validation, test = sizes
    ordered = sorted(names)[: train + validation + test]
    return Split(
        tuple(ordered[:train]),
        tuple(ordered[train : train + validation]),
        tuple(ordered[train + validation :]),
    )


def job(plan: Plan, arm: str, seed: int) -> None:
    """Train one network and test both of its checkpoints, unless it is done."""
    data, split, tests = plan.cases()
    folder = plan.out / "runs" / f"{arm}-{seed}"
    began = time.perf_counter()
    run = Run.open(folder) if (folder / "run.json").is_file() else None
    if run is None:
        run = Run.create(folder, plan.config(arm, seed), data, split)
    if run.status != "finished":
        fit(run, plan.cache(run.config.spec), resume=run.last.is_file(), progress=False)
    trained = time.perf_counter() - began
    for name in CHECKPOINTS if plan.tested else ():
        place = plan.out / "results" / f"{arm}-{seed}-{name}.json"
        if place.is_file():
            continue
        found = measure(folder / f"{name}.ckpt", tests)
        place.parent.mkdir(exist_ok=True)
        write_text(place, json.dumps({"cases": found, "training_seconds": trained}, indent=1))


def measure(checkpoint: Path, cases: Sequence[CaseFiles]) -> dict[str, dict[str, dict[str, float]]]:
    """Enhancement's measures by prompt use and case."""
    spec, run = runner(checkpoint)
    found: dict[str, dict[str, dict[str, float]]] = {use: {} for use in USES}
    for case in cases:
        volumes = read_case(case, spec)
        for use in USES:
            slices = evaluation_slices(volumes, spec, use, case.name)
            unit = slices.published(to_unit64(run(slices.tensors)))
            values = enhancement_metrics(slices.truth, unit)
            found[use][case.name] = {key: held[0] for key, held in values.items()}
    return found


def runner(checkpoint: Path) -> tuple[ModelSpec, Runner]:
    """The network of a checkpoint and what runs it: PyTorch on a GPU, else its export.

    The export lies next to the checkpoint; ONNX Runtime is ten times faster on a CPU.
    """
    held = load_checkpoint(checkpoint)
    if torch.cuda.is_available():
        network = held.generator().cuda()
        return held.spec, lambda tensors: _on_gpu(network, held.spec, tensors)
    folder = checkpoint.with_suffix(".bundle")
    if not folder.is_dir():
        export(held, ExportOptions(), out=folder)
    synthesizer = Synthesizer.open(folder, choice=EngineChoice(device="cpu"))
    return held.spec, synthesizer.run_slices


def _on_gpu(network: torch.nn.Module, spec: ModelSpec, tensors: Tensors) -> NDArray[np.float32]:
    made = []
    with torch.inference_mode():
        for first in range(0, len(tensors["prompt"]), 8):
            parts = (
                torch.from_numpy(tensors[name][first : first + 8, None]).cuda()
                for name in spec.tensor_names
            )
            made.append(network(*parts).cpu().numpy()[:, 0])
    return np.concatenate(made)


def report(plan: Plan, arms: Sequence[str], seeds: Sequence[int]) -> dict[str, Any]:
    """Every measure of every arm, and what the first arm differs by from each other one."""
    record: dict[str, Any] = {
        "machine": machine(),
        "epochs": plan.epochs,
        "data": "phantom" if plan.data is None else "real cases",
        "arms": {arm: _plain(plan.config(arm, 0)) for arm in arms},
        "measures": {},
    }
    for name in CHECKPOINTS:
        held = {arm: _read(plan, arm, seeds, name) for arm in arms}
        rows = []
        for title, use, key, to_zero in MEASURES:
            values = {arm: _values(held[arm], use, key) for arm in arms}
            one = {arm: {"by_seed": v.mean(axis=1).tolist()} for arm, v in values.items()}
            for other in arms[1:]:
                left, right = (
                    np.abs(values[arm]) if to_zero else values[arm] for arm in (other, arms[0])
                )
                one[other][f"{arms[0]} minus this"] = asdict(SeededDifference.of(left, right))
            record["measures"].setdefault(name, {})[title] = one
            rows.append(_row(title, arms, values, one))
        print(f"\n{name} checkpoint, {len(seeds)} seeds, {plan.epochs} epochs")
        print(markdown_table(["", *arms, *(f"{arms[0]} - {arm}" for arm in arms[1:])], rows))
    return record


def _row(
    title: str, arms: Sequence[str], values: Mapping[str, NDArray[Any]], one: Mapping[str, Any]
) -> list[str]:
    cells = [
        f"{v.mean():.3f} ({', '.join(f'{mean:.3f}' for mean in v.mean(axis=1))})"
        for v in (values[arm] for arm in arms)
    ]
    for other in arms[1:]:
        found = one[other][f"{arms[0]} minus this"]
        between = found["interval"]
        within = "" if between is None else f" [{between[0]:+.3f}, {between[1]:+.3f}]"
        cells.append(f"{found['mean']:+.3f}{within}")
    return [title, *cells]


def _values(held: Sequence[Mapping[str, Any]], use: str, key: str) -> NDArray[np.float64]:
    """A metric of each seed and case, (seeds, cases); cases that have it under every seed."""
    names = [
        name
        for name in held[0]["cases"][use]
        if all(key in one["cases"][use][name] for one in held)
    ]
    return np.array([[one["cases"][use][name][key] for name in names] for one in held])


def _read(plan: Plan, arm: str, seeds: Sequence[int], name: str) -> list[dict[str, Any]]:
    folder = plan.out / "results"
    return [
        json.loads((folder / f"{arm}-{seed}-{name}.json").read_text(encoding="utf-8"))
        for seed in seeds
    ]


def _plain(config: TrainConfig) -> dict[str, Any]:
    named = (
        "epochs", "slices_per_epoch", "batch_size", "learning_rate", "decoy_share", "decoy_epoch",
        "vary", "best",
    )  # fmt: skip
    return {
        **{name: getattr(config, name) for name in named},
        "intensity": asdict(config.spec.intensity),
    }


def machine() -> dict[str, Any]:
    """What the figures were made on."""
    on_gpu = torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name() if on_gpu else processor()["cpu"],
        "torch": torch.__version__,
        "precision": "fp32",
    }


def _three(text: str) -> tuple[int, int, int]:
    train, validation, test = map(int, text.split(","))
    return train, validation, test


def main() -> None:
    """Train and test what is not done yet, then report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="BraTS cases; without it: the phantom")
    parser.add_argument("--sizes", type=_three, metavar="N,N,N", help="train, validation, test")
    parser.add_argument("--arms", default="lab,no-decoys", help=", ".join(ARMS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--at-once", type=int, default=1, help="trainings side by side, on a GPU")
    parser.add_argument("--train-only", action="store_true", help="tests and report come later")
    parser.add_argument("--report-only", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--job", metavar="ARM/SEED", help=argparse.SUPPRESS)
    options = parser.parse_args()
    tested = not options.train_only
    plan = Plan(options.out.resolve(), options.data, options.sizes, options.epochs, tested)
    os.environ.setdefault("TLP_HOME", os.fspath(plan.out / "home"))
    if options.job is not None:
        arm, seed = options.job.split("/")
        job(plan, arm, int(seed))
        return
    arms, seeds = options.arms.split(","), range(options.seeds)
    unknown = set(arms) - set(ARMS)
    if unknown:
        parser.error(f"no such arm: {', '.join(sorted(unknown))}")
    plan.out.mkdir(parents=True, exist_ok=True)
    if not options.report_only:
        plan.decode(arms)
        jobs = [f"{arm}/{seed}" for seed in seeds for arm in arms]
        with ThreadPoolExecutor(options.at_once) as pool:
            codes = list(pool.map(_start, jobs))
        if any(codes):
            sys.exit(f"failed: {', '.join(j for j, c in zip(jobs, codes, strict=True) if c)}")
    if not tested:
        return
    record = report(plan, arms, seeds)
    if options.json is not None:
        options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _start(wanted: str) -> int:
    """One training in a process of its own."""
    began = time.perf_counter()
    argv = [sys.executable, "-m", "benchmarks.decoys", *sys.argv[1:], "--job", wanted]
    code = subprocess.run(argv, env=os.environ, check=False).returncode
    print(f"{wanted}: {time.perf_counter() - began:.0f} s", flush=True)
    return code


if __name__ == "__main__":
    main()
