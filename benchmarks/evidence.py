"""How well an evidence map tells enhancement that is made up, and what its threshold costs.

    python -m benchmarks.evidence decoys/runs/lab-0/last.ckpt decoys/runs/no-decoys-0/last.ckpt \
        --data decoys/phantom-4242 --json evidence.json

Of each network and each wrong or right prompt: the area under the ROC curve of the map, by voxel,
for enhancement that was made and is not true; and for several thresholds the share of it that is
flagged, and the share of true enhancement that is flagged too. Voxels are those of the brain that
the prompt marks, so that the easy ones far from it do not flatter the figure.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from benchmarks.decoys import machine, runner
from tlp_runtime.files.markdown import markdown_table
from tlp_runtime.io.case_files import CaseFiles
from tlp_runtime.io.datasets import find_cases
from tlp_runtime.synthesis.evidence import DRAWN
from tlp_train.checkpoint import load_checkpoint
from tlp_train.evaluating import evaluation_slices, needed_arrays, read_case
from tlp_train.metrics import ENHANCING, LinearFit, to_unit64
from tlp_train.prompt_uses import PromptUse

USES: tuple[PromptUse, ...] = ("seg", "mirrored", "moved", "oedema")
THRESHOLDS = (0.05, 0.1, 0.15, 0.2, 0.3)

Voxels = Mapping[str, NDArray[Any]]


def voxels(checkpoint: Path, cases: Sequence[CaseFiles]) -> dict[str, Voxels]:
    """By prompt, of all cases: the change, and which voxels were made up and truly enhance."""
    spec, run = runner(checkpoint)
    found: dict[str, list[tuple[NDArray[Any], ...]]] = {use: [] for use in USES}
    for case in cases:
        volumes = read_case(case, spec)
        bare = evaluation_slices(volumes, spec, "none", case.name)
        plain = to_unit64(run(bare.tensors))
        brain = bare.tensors[spec.inputs[0]] > spec.intensity.range[0]
        level = float(np.median(plain[brain]))
        for use in USES:
            slices = evaluation_slices(volumes, spec, use, case.name)
            made = to_unit64(run(slices.tensors))
            truth, normal = slices.truth, slices.truth.normal
            true_level = float(np.median(truth.t1ce[normal]))
            t1 = LinearFit.of_medians(truth.t1[normal], truth.t1ce[normal])(truth.t1)
            image = slices.published(made)
            fitted = LinearFit.of_medians(image[normal], truth.t1ce[normal])(image)
            assert truth.prompted is not None
            marked = truth.prompted & truth.brain
            found[use].append(
                (
                    ((made - plain) / level)[marked].astype(np.float32),
                    ((fitted - truth.t1ce) / true_level)[marked] > ENHANCING,
                    ((truth.t1ce - t1) / true_level)[marked] > ENHANCING,
                )
            )
    names = ("change", "made_up", "true")
    return {
        use: dict(zip(names, map(np.concatenate, zip(*held, strict=True)), strict=True))
        for use, held in found.items()
    }


def together(parts: Sequence[Voxels]) -> Voxels:
    """The voxels of several prompts."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def auroc(score: NDArray[Any], positive: NDArray[np.bool_]) -> float | None:
    """Area under the ROC curve, ties counted half; None without both kinds."""
    count, rest = int(positive.sum()), int((~positive).sum())
    if not count or not rest:
        return None
    ranks = rankdata(score)[positive].sum()
    return float((ranks - count * (count + 1) / 2) / (count * rest))


def measures(found: Voxels) -> dict[str, Any]:
    """Of the voxels of one prompt or several."""
    change, made_up, true = found["change"], found["made_up"], found["true"]

    def share(flagged: NDArray[np.bool_], of: NDArray[np.bool_]) -> float | None:
        return float(flagged[of].mean()) if of.any() else None

    return {
        "voxels": len(change),
        "made_up": float(made_up.mean()),
        "true": float(true.mean()),
        "auroc": auroc(change, made_up),
        "flagged": {
            str(least): {
                "made_up": share(change > least, made_up),
                "true": share(change > least, true & ~made_up),
                "neither": share(change > least, ~made_up & ~true),
            }
            for least in THRESHOLDS
        },
    }


def main() -> None:
    """Measure every network, print and keep."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("--data", type=Path, required=True, help="cases that no training saw")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    record: dict[str, Any] = {"machine": machine(), "threshold": DRAWN, "networks": {}}
    rows = []
    for checkpoint in options.checkpoints:
        spec = load_checkpoint(checkpoint).spec
        cases = find_cases(options.data, needed_arrays(spec))
        found = voxels(checkpoint, cases)
        name = f"{checkpoint.parent.name}/{checkpoint.name}"
        kinds = {**found, "wrong": together([found[use] for use in USES if use != "seg"]),
                 "all": together(list(found.values()))}  # fmt: skip
        record["networks"][name] = {use: measures(one) for use, one in kinds.items()}
        for use, one in record["networks"][name].items():
            area = "-" if one["auroc"] is None else f"{one['auroc']:.3f}"
            cells = [
                "/".join("-" if v is None else f"{v:.2f}" for v in kept.values())
                for kept in one["flagged"].values()
            ]
            rows.append([name, use, f"{one['made_up']:.2f}", f"{one['true']:.2f}", area, *cells])
        if options.json is not None:
            options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    heads = [f"> {least:g}: made up/true/neither" for least in THRESHOLDS]
    print(markdown_table(["network", "prompt", "made up", "true", "AUROC", *heads], rows))


if __name__ == "__main__":
    main()
