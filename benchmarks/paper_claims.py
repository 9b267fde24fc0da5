"""What the paper claims, and whether our evaluations show it for other seeds and cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.paper_results import COLUMN, OURS, Results
from tlp_runtime.files.markdown import markdown_table
from tlp_train.evaluation import SYNTHESIS
from tlp_train.statistics import SeededDifference


@dataclass(frozen=True)
class Claim:
    """Is ``better`` better than ``worse``, for other seeds and other cases too?

    Parameters
    ----------
    primary
        The one measure that decides, named before any run.
    keys
        Measures that are shown besides.
    enhancing
        Over the cases with an enhancing label alone.
    """

    text: str
    better: tuple[str, str]
    worse: tuple[str, str]
    keys: tuple[str, ...]
    primary: str = "enhancement.mae"
    enhancing: bool = False


CLAIMS = (
    Claim("prompts help in the tumour, T1", ("t1", "seg"), ("t1", "none"), OURS[1:]),
    Claim("prompts help in the tumour, T1+T2", ("t1-t2", "seg"), ("t1-t2", "none"), OURS[1:]),
    Claim(
        "prompts help in tumours that enhance, T1",
        ("t1", "seg"),
        ("t1", "none"),
        OURS[1:],
        enhancing=True,
    ),
    Claim(
        "prompts help in tumours that enhance, T1+T2",
        ("t1-t2", "seg"),
        ("t1-t2", "none"),
        OURS[1:],
        enhancing=True,
    ),
    Claim(
        "FPG beats deterministic prompts, tested without prompts, T1",
        ("t1", "none"),
        ("t1-no-fpg", "none"),
        ("slice.psnr_db", *OURS),
    ),
    Claim(
        "two inputs beat one, no prompt",
        ("t1-t2", "none"),
        ("t1", "none"),
        ("slice.psnr_db", *OURS),
    ),
    Claim(
        "two inputs beat one, prompted", ("t1-t2", "seg"), ("t1", "seg"), ("slice.psnr_db", *OURS)
    ),
)


def judge(results: Results, claim: Claim) -> list[dict[str, Any]]:
    """The effect on each measure, over the seeds and cases there are, positive where it is better.

    The claim holds where the interval of its primary measure lies above 0.
    """
    verdicts = []
    for key in claim.keys:
        arms = [results.seeds(*arm) for arm in (claim.better, claim.worse)]
        names = results.enhancing if claim.enhancing else results.cases
        rows = [[e.cases for e in arm.values()] for arm in arms]
        cases = [
            name
            for name in sorted(names)
            if all(
                name in seed and key in seed[name].images[SYNTHESIS] for arm in rows for seed in arm
            )
        ]
        if not cases or not all(rows):
            continue
        better, worse = (
            np.array([[seed[n].images[SYNTHESIS][key].mean for n in cases] for seed in arm])
            for arm in rows
        )
        if COLUMN[key].better == "zero":
            better, worse = abs(better), abs(worse)
        sign = 1 if COLUMN[key].better == "higher" else -1
        found = SeededDifference.of(sign * worse, sign * better)
        holds = found.interval is not None and found.interval[0] > 0
        verdicts.append(
            {
                "metric": key,
                "better": better.mean(axis=1).tolist(),
                "worse": worse.mean(axis=1).tolist(),
                "seeds": [sorted(arm) for arm in arms],
                "cases": len(cases),
                "effect": found.mean,
                "interval": found.interval,
                "holds": holds if key == claim.primary else None,
            }
        )
    return verdicts


def claims_table(judged: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Every claim and measure in a row."""
    rows = []
    words = {True: "**yes**", False: "no", None: ""}
    for text, verdicts in judged.items():
        for v in verdicts:
            digits = COLUMN[v["metric"]].digits
            within = "none"
            if v["interval"] is not None:
                within = " to ".join(f"{end:+.{digits}f}" for end in v["interval"])
            rows.append(
                [
                    text,
                    v["metric"],
                    str(v["cases"]),
                    *(", ".join(f"{x:.{digits}f}" for x in v[arm]) for arm in ("better", "worse")),
                    f"{v['effect']:+.{digits}f}",
                    within,
                    words[v["holds"]],
                ]
            )
    return markdown_table(
        ["claim", "measure", "cases", "by seed", "against, by seed", "effect", "95 %", "holds"],
        rows,
    )
