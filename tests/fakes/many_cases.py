"""A run over many small cases with an engine of a fixed rate; prints its memory and its journal.

python -m tests.fakes.many_cases FOLDER CASES
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from dataclasses import replace
from pathlib import Path

from tests.cohorts import SlowEngine, run, write_cases
from tlp_runtime.cohort.cases import folder_cases
from tlp_runtime.cohort.job import Outcome
from tlp_runtime.cohort.journal import Journal
from tlp_runtime.cohort.run import Summary

DISTINCT = 100


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def main() -> None:
    folder, count = Path(sys.argv[1]), int(sys.argv[2])
    found = folder_cases(write_cases(folder / "data", min(count, DISTINCT)), prompts=True)
    cases = [
        replace(found[number % DISTINCT], name=f"{number}", output=f"{number}.nii.gz")
        for number in range(count)
    ]
    memory: dict[int, float] = {}

    def sample(outcome: Outcome, summary: Summary) -> None:
        if summary.finished % 100 == 0:
            memory[summary.finished] = resident_mib()

    began = time.perf_counter()
    summary = run(cases, folder / "out", SlowEngine(0.002), batch=16, on_outcome=sample)
    seconds = time.perf_counter() - began
    began = time.perf_counter()
    with Journal(folder / "out" / "journal.jsonl") as journal:
        known = len(journal.finished)
    replay = time.perf_counter() - began
    result = {
        "done": summary.done,
        "seconds": seconds,
        "memory_mib": memory,
        "replay_s": replay,
        "known": known,
        "files": len(os.listdir(folder / "out")),
    }
    sys.stdout.write(json.dumps(result))


if __name__ == "__main__":
    main()
