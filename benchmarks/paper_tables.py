"""Every experiment of the paper as one resumable run: Tables I to IV, prompts, Figs. 2 to 6.

Table I has the paper's rivals, and a U-Net and pix2pix, each trained by its own recipe.

    python -m benchmarks.paper_tables --preset demo --out paper-demo          # phantom, CPU
    python -m benchmarks.paper_tables --data BraTS2021 --preset paper --split list.txt \
        --out paper --train '--devices 4 --precision bf16-mixed'              # GPUs

Each model is trained, exported and evaluated by the commands a user would type, in a TLP_HOME
inside --out. What is finished is not done again: start the same command once more after an
interruption, or with more --seeds. Tables and figures are written anew at the end, from whatever
is there.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.paper_report import write_report
from benchmarks.paper_results import MODELS, Model
from tlp_runtime.io.datasets import find_cases
from tlp_train.runs import LAST, Run
from tlp_train.split import seeded

PHANTOM_CASES = 28
PHANTOM_SIZES = "16,2,10"


@dataclass(frozen=True)
class Plan:
    """Where things lie, and what every command is told."""

    out: Path
    data: Path
    split: Path
    split_sizes: str | None
    preset: str
    train: list[str]
    evaluate: list[str]

    def tlp(self, *arguments: object) -> None:
        """Run one command; stop when it fails."""
        words = ["tlp", *map(str, arguments)]
        print(f"\n$ {shlex.join(words)}", flush=True)
        began = time.perf_counter()
        code = subprocess.run(
            [Path(sys.executable).with_name("tlp"), *words[1:]],
            env={**os.environ, "TLP_HOME": str(self.out / "home")},
            check=False,
        ).returncode
        print(f"{time.perf_counter() - began:.0f} s", flush=True)
        if code:
            sys.exit(code)

    def model(self, model: Model, seed: int) -> None:
        """Train, export and evaluate one model, each unless it is done."""
        name = f"{model.name}_seed{seed}"
        run, bundle = self.out / "runs" / name, self.out / "models" / name
        if (run / "run.json").is_file() and not (run / LAST).is_file():
            shutil.rmtree(run)  # stopped before its first epoch was saved
        if not run.is_dir():
            sizes = ["--split-sizes", self.split_sizes] if self.split_sizes else []
            self.tlp(
                "train", "--data", self.data, "--inputs", ",".join(model.inputs),
                "--preset", self.preset, "--split", self.split, *sizes, "--seed", seed,
                "--cache", self.out / "cache", "--out", run, *model.options, *self.train,
            )  # fmt: skip
        elif Run.open(run).status != "finished":
            self.tlp("train", "--resume", run, "--cache", self.out / "cache")
        if not bundle.is_dir():
            self.tlp("export", run, "--out", bundle)
        measured = self.out / "benches" / f"{model.name}.json"
        if seed == 0 and not measured.is_file():
            measured.parent.mkdir(exist_ok=True)
            self.tlp(
                "bench", "--model", bundle, "--volumes", 1, "--slices", 20, "--json", measured,
                "--quiet",
            )  # fmt: skip
        # One seed of the wrong prompt is enough: no claim is made of it.
        for use in model.prompts if seed == 0 else model.prompts[:2]:
            path = self.out / "evaluations" / f"{name}_{use}.json"
            if not path.is_file():
                path.parent.mkdir(exist_ok=True)
                self.tlp(
                    "evaluate", "--data", self.data, "--model", bundle, "--prompt", use,
                    "--split", run / "split.json", "--json", path, "--quiet", *self.evaluate,
                )  # fmt: skip


def main() -> None:
    """Parse, run what is not done yet, report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="BraTS cases; without it: the phantom")
    parser.add_argument("--preset", choices=("demo", "lab", "paper"), required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--split", type=Path, help="list of case ids; default: seeded, kept")
    parser.add_argument("--split-sizes", metavar="N,N,N")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each model, seeds 0, 1, …")
    parser.add_argument("--only", metavar="NAME[,NAME]", help=", ".join(MODELS))
    parser.add_argument("--train", default="", help="further options of tlp train")
    parser.add_argument("--evaluate", default="", help="further options of tlp evaluate")
    parser.add_argument("--report-only", action="store_true", help="only write tables and figures")
    options = parser.parse_args()
    names = options.only.split(",") if options.only else list(MODELS)
    unknown = [name for name in names if name not in MODELS]
    if unknown or options.seeds < 1:
        parser.error(f"no such model: {', '.join(unknown)}" if unknown else "--seeds: at least 1")

    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    data, split, sizes = options.data, options.split, options.split_sizes
    if data is None:
        data, sizes = out / "data", PHANTOM_SIZES
        made = Plan(out, data, data, sizes, options.preset, [], [])
        if not data.is_dir():
            made.tlp("phantom", "--out", data, "--cases", PHANTOM_CASES, "--seed", 0)
    if split is None:
        split = out / "split.txt"
        found = [case.name for case in find_cases(data, ("t1", "t2", "t1ce", "seg"))]
        if options.data is not None and sizes is None:
            parts = seeded(found, 0)
            found = [*parts.train, *parts.validation, *parts.test]
            sizes = ",".join(str(len(part)) for part in (parts.train, parts.validation, parts.test))
        if not split.is_file():
            split.write_text("\n".join(found) + "\n", encoding="utf-8")
    plan = Plan(
        out,
        data.resolve(),
        split.resolve(),
        sizes,
        options.preset,
        shlex.split(options.train),
        shlex.split(options.evaluate),
    )
    if not options.report_only:
        for seed in range(options.seeds):  # a whole set first, then the next seed
            for name in names:
                plan.model(MODELS[name], seed)
    write_report(out, options.preset, plan.data)


if __name__ == "__main__":
    main()
