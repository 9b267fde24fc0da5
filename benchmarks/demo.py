"""The demonstration: the four verbs on the phantom, an evaluation, and a report to look at.

    python -m benchmarks.demo --out demo

Everything runs on the CPU, as the commands a user would type, in a TLP_HOME of its own. The
report is one HTML file with its figures inside.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from benchmarks.demo_report import DemoReport, Slices, as_text, write_report

UNSEEN_SEED = 1000
UNSEEN_CASES = 3
MARKER = ".tlp-demo"
USES = ("none", "seg", "mirrored")
"""Of the prompt: without, the true one, a wrong one."""


@dataclass
class Commands:
    """Runs `tlp` commands and keeps what they cost."""

    folder: Path
    home: Path
    log: list[tuple[str, float]] = field(default_factory=list)

    def tlp(self, *arguments: object) -> None:
        """Run one command in the demo's folder; stop the demo when it fails."""
        words = ["tlp", *map(str, arguments)]
        print(f"\n$ {shlex.join(words)}", flush=True)
        script = Path(sys.executable).with_name("tlp")
        began = time.perf_counter()
        result = subprocess.run(
            [script, *words[1:]],
            cwd=self.folder,
            env={**os.environ, "TLP_HOME": str(self.home)},
            check=False,
        )
        self.log.append((shlex.join(words), time.perf_counter() - began))
        if result.returncode:
            sys.exit(result.returncode)


def main() -> None:
    """Run the demonstration and print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo"))
    folder = parser.parse_args().out.resolve()
    if folder.exists() and any(folder.iterdir()):
        if not (folder / MARKER).exists():
            sys.exit(f"{folder}: exists and was not made by this demo; choose another --out.")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKER).touch()

    began = time.perf_counter()
    run = Commands(folder, folder / "home")
    run.tlp("train")
    run.tlp("export")
    run.tlp("phantom", "--out", "unseen", "--cases", UNSEEN_CASES, "--seed", UNSEEN_SEED)
    case = _most_enhancing(folder / "unseen")
    t1, seg = (case.relative_to(folder) / f"{case.name}_{kind}.nii.gz" for kind in ("t1", "seg"))
    run.tlp("infer", "--t1", t1, "--out", "no-prompt.nii.gz")
    run.tlp("infer", "--t1", t1, "--prompt", seg, "--out", "prompted.nii.gz",
            "--preview", "preview.png")  # fmt: skip
    for use in USES:
        run.tlp("evaluate", "--data", "unseen", "--prompt", use, "--card", "--json", f"{use}.json")
    run.tlp("bench", "--volumes", 1, "--slices", 10, "--json", "bench.json")

    evaluations = {use: _json(folder / f"{use}.json") for use in USES}
    (training,) = (folder / "home" / "runs").iterdir()
    report = DemoReport(
        evaluations=evaluations,
        bench=_json(folder / "bench.json"),
        metrics=training / "metrics.csv",
        case=case.name,
        slices=_slices(folder, case),
        commands=run.log,
        seconds=time.perf_counter() - began,
    )
    write_report(folder / "report.html", report)
    (folder / "demo.json").write_text(
        json.dumps(report.record(), indent=1) + "\n", encoding="utf-8"
    )
    print()
    print(as_text(report.first()))
    print()
    print(as_text(report.rows()))
    gain = report.gain_db
    print(f"\nthe prompt's gain inside the tumour core: {gain:+.2f} dB PSNR on unseen cases")
    print(f"{report.seconds / 60:.1f} minutes; open {folder / 'report.html'}")


def _json(path: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return data


def _load(path: Path) -> NDArray[Any]:
    return np.asanyarray(nib.load(path).dataobj)


def _most_enhancing(folder: Path) -> Path:
    """The case with most enhancing tumour (label 4)."""
    cases = sorted(folder.iterdir())
    return max(cases, key=lambda c: int((_load(c / f"{c.name}_seg.nii.gz") == 4).sum()))


def _slices(folder: Path, case: Path) -> list[Slices]:
    """Three slices through the largest tumour, each array (rows, columns) in [0, 1]."""
    seg = _load(case / f"{case.name}_seg.nii.gz")
    area = np.isin(seg, (1, 4)).sum(axis=(0, 1))
    chosen = np.quantile(np.repeat(np.arange(len(area)), area), (0.25, 0.5, 0.75)).astype(int)

    def unit(path: Path) -> NDArray[np.float64]:
        data: NDArray[np.float64] = _load(path).astype(np.float64)
        return np.asarray(data / data.max())

    images = {
        "T1 (given)": unit(case / f"{case.name}_t1.nii.gz"),
        "synthetic, no prompt": _load(folder / "no-prompt.nii.gz"),
        "synthetic, prompted": _load(folder / "prompted.nii.gz"),
        "T1ce (true)": unit(case / f"{case.name}_t1ce.nii.gz"),
    }
    return [
        Slices(
            int(z),
            {name: data[40:200, 34:226, z].T for name, data in images.items()},
            seg[40:200, 34:226, z].T,
        )
        for z in chosen
    ]


if __name__ == "__main__":
    main()
