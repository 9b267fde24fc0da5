"""A cohort on a Ray cluster of two local machines, one of which dies midway."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tlp_cli.main import main

from tests.cohorts import outputs, write_cases
from tests.support import TinyModel

pytestmark = [pytest.mark.proof, pytest.mark.timeout(600)]

BIN = Path(sys.executable).parent


def ray(*arguments: str) -> None:
    subprocess.run(
        [BIN / "ray", *arguments], check=True, capture_output=True, timeout=120,
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "PATH": f"{BIN}:{os.environ['PATH']}"},
    )  # fmt: skip


def processes(name: bytes) -> list[int]:
    """Of programs of that name, in order; a ``raylet`` stands for a machine."""
    found = []
    for status in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            program = status.read_bytes().split(b"\0")[0]
        except OSError:
            continue
        if name in program:
            found.append(int(status.parent.name))
    return sorted(found)


@pytest.fixture
def cluster() -> Iterator[str]:
    """Two machines of one core."""
    address = "127.0.0.1:6399"
    ray("start", "--head", "--port=6399", "--num-cpus=1", "--include-dashboard=false")
    try:
        ray("start", f"--address={address}", "--num-cpus=1")
        assert len(processes(b"raylet/raylet")) == 2
        yield address
    finally:
        ray("stop", "--force")


def command(data: Path, out: Path, model: TinyModel, *more: str) -> list[str]:
    return ["infer", "--cases", str(data), "--out", str(out), "--model", str(model.bundle.path),
            *more]  # fmt: skip


def lines(out: Path) -> list[dict[str, object]]:
    """The journal without what may differ: times, places, order, warnings about the cluster."""
    kept = []
    for text in (out / "journal.jsonl").read_text().splitlines():
        line = json.loads(text)
        if line["event"] == "warning":
            continue
        for key in ("time", "seconds", "worker", "command"):
            line.pop(key, None)
        kept.append(line)
    return sorted(kept, key=lambda line: json.dumps(line, sort_keys=True))


@pytest.mark.parametrize("victim", [b"raylet/raylet", b"ray::Worker"], ids=["machine", "actor"])
def test_a_death_midway_changes_neither_outputs_nor_journal(
    cluster: str, victim: bytes, tiny: TinyModel, tmp_path: Path
) -> None:
    data = write_cases(tmp_path / "däta 1", 40, slices=20, plane=(240, 240))
    (data / "case-007" / "case-007_t1.nii.gz").write_bytes(b"broken")
    assert main(command(data, tmp_path / "local", tiny)) == 8
    out = tmp_path / "ray"
    process = subprocess.Popen(
        [BIN / "tlp", *command(data, out, tiny, "--ray", cluster)], stderr=subprocess.PIPE
    )
    journal = out / "journal.jsonl"
    while not journal.exists() or journal.read_text().count('"done"') < 5:
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(processes(victim)[-1], signal.SIGKILL)
    done_before = journal.read_text().count('"done"')
    _, said = process.communicate(timeout=400)
    assert process.returncode == 8, said
    assert b"a worker died; its cases go to the others" in said
    assert done_before < 35
    assert outputs(out) == outputs(tmp_path / "local")
    assert lines(out) == lines(tmp_path / "local")
    warnings = [one for one in map(json.loads, journal.read_text().splitlines())
                if one["event"] == "warning"]  # fmt: skip
    assert {warning["code"] for warning in warnings} == {"worker-lost"}
    workers = {json.loads(line).get("worker") for line in journal.read_text().splitlines()} - {None}
    assert all(str(worker).endswith(" cpu") for worker in workers)


def test_no_cluster_is_said_with_the_line_that_starts_one(
    tiny: TinyModel, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = write_cases(tmp_path / "data", 1, plane=(240, 240))
    assert main(command(data, tmp_path / "out", tiny, "--ray", "127.0.0.1:6398")) == 5
    assert "Run ray start --head on one machine" in capfd.readouterr().err
