"""`tlp infer --cases`: many cases by one command, and how it ends."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from tlp_cli.main import main

from tests.cohorts import outputs, write_cases
from tests.support import TinyModel

PLANE = (240, 240)
ENTRY = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    "from tlp_cli.main import run; run()"
)
"""The command line; a shell's background jobs, and what they start, would ignore Ctrl-C."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cases(tmp_path_factory.mktemp("many") / "däta 1", 8, slices=3, plane=PLANE)


def arguments(source: Path, out: Path, model: TinyModel, *more: str) -> list[str]:
    return ["infer", "--cases", str(source), "--out", str(out), "--model", str(model.bundle.path),
            *more]  # fmt: skip


def test_a_folder_of_cases_and_the_same_again(
    tiny: TinyModel, data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "öut 1"
    assert main(arguments(data, out, tiny, "--json", "-")) == 0
    printed = capfd.readouterr()
    result = json.loads(printed.out)
    assert (result["cases"], result["done"], result["failed"]) == (8, 8, {})
    assert result["journal"] == str(out / "journal.jsonl")
    assert "8 cases, 8 with a prompt" in printed.err
    assert "engine: ort-cpu on cpu" in printed.err
    assert "gzip by isal" in printed.err
    assert f"made 8 syntheses in {out}" in printed.err
    assert main(arguments(data, out, tiny)) == 0
    assert "0 done, 8 unchanged since an earlier run, 0 failed" in capfd.readouterr().err
    first = json.loads((out / "journal.jsonl").read_text().splitlines()[0])
    assert first["command"].startswith("tlp infer --cases")

    single = tmp_path / "single.nii.gz"
    case = data / "case-003"
    assert main(["infer", "--t1", str(case / "case-003_t1.nii.gz"), "--out", str(single),
                 "--prompt", str(case / "case-003_seg.nii.gz"),
                 "--model", str(tiny.bundle.path)]) == 0  # fmt: skip
    alone, of_many = (nib.load(p) for p in (single, out / "case-003_synth-t1ce.nii.gz"))
    np.testing.assert_array_equal(alone.get_fdata(), of_many.get_fdata())


def test_a_table_with_a_broken_case_ends_with_8_and_the_rest_done(
    tiny: TinyModel, data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "cases é.csv"
    t1 = data / "case-001" / "case-001_t1.nii.gz"
    table.write_text(f"case,t1,prompt\ngood one,{t1},\nbad,no such file.nii.gz,\n")
    out = tmp_path / "out"
    assert main(arguments(table, out, tiny, "--dtype", "int16")) == 8
    said = capfd.readouterr().err
    assert "1 of 2 cases failed" in said
    assert "no such file.nii.gz: does not exist" in said
    assert nib.load(out / "good one_synth-t1ce.nii.gz").get_data_dtype() == np.int16
    (tmp_path / "no such file.nii.gz").write_bytes(t1.read_bytes())
    assert main(arguments(table, out, tiny, "--dtype", "int16")) == 0
    assert "1 done, 1 unchanged" in capfd.readouterr().err


def test_a_case_whose_prompt_marks_nothing_fails_by_itself(
    tiny: TinyModel, data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    case = data / "case-001"
    t1, seg = case / "case-001_t1.nii.gz", case / "case-001_seg.nii.gz"
    image = nib.load(seg)
    nib.save(nib.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine), tmp_path / "no.nii")
    (tmp_path / "cases.csv").write_text(f"case,t1,prompt\na,{t1},{seg}\nb,{t1},no.nii\nc,{t1},\n")
    run = arguments(tmp_path / "cases.csv", tmp_path / "out", tiny)
    assert main(run) == 8
    said = capfd.readouterr().err
    assert "1 of 3 cases failed" in said
    assert "no.nii: the prompt marks nothing" in said.replace("\n", " ")
    record = json.loads((tmp_path / "out" / "a_synth-t1ce.json").read_text())
    assert record["prompt"]["region"]["inside_brain"] > 0.5
    assert record["prompt"]["region"]["ml"]["tumour"] > 0
    assert main([*run, "--allow-empty-prompt"]) == 0
    assert "3 done" in capfd.readouterr().err
    b, c = (nib.load(tmp_path / "out" / f"{name}_synth-t1ce.nii.gz") for name in "bc")
    np.testing.assert_array_equal(b.get_fdata(), c.get_fdata())
    # What was accepted then is not accepted by the command that does not say so.
    assert main(run) == 8


def _inside(data: Path, tmp_path: Path) -> list[str]:
    return ["--cases", str(data), "--out", str(data / "synthetic")]


def _same(data: Path, tmp_path: Path) -> list[str]:
    return ["--cases", str(data), "--out", str(data)]


def _over_an_input(data: Path, tmp_path: Path) -> list[str]:
    name = tmp_path / "in" / "a_synth-t1ce.nii.gz"
    name.parent.mkdir()
    name.write_bytes((data / "case-000" / "case-000_t1.nii.gz").read_bytes())
    (tmp_path / "cases.csv").write_text(f"case,t1\na,{name}\n")
    return ["--cases", str(tmp_path / "cases.csv"), "--out", str(name.parent)]


def _no_out(data: Path, tmp_path: Path) -> list[str]:
    return ["--cases", str(data)]


def _with_a_prompt(data: Path, tmp_path: Path) -> list[str]:
    return ["--cases", str(data), "--out", str(tmp_path), "--prompt", "x.nii.gz"]


def _with_bids(data: Path, tmp_path: Path) -> list[str]:
    return ["--cases", str(data), "--out", str(tmp_path), "--bids", str(data)]


def _duplicates(data: Path, tmp_path: Path) -> list[str]:
    (tmp_path / "cases.csv").write_text("case,t1\na,x.nii\na,y.nii\n")
    return ["--cases", str(tmp_path / "cases.csv"), "--out", str(tmp_path / "o")]


def _no_table(data: Path, tmp_path: Path) -> list[str]:
    return ["--cases", str(tmp_path / "no.csv"), "--out", str(tmp_path / "o")]


def _out_is_a_file(data: Path, tmp_path: Path) -> list[str]:
    (tmp_path / "o").write_text("x")
    return ["--cases", str(data), "--out", str(tmp_path / "o")]


def _no_ray(data: Path, tmp_path: Path) -> list[str]:
    return ["--t1", "a.nii.gz", "--ray", "auto"]


@pytest.mark.parametrize(
    ("make", "code", "said"),
    [
        (_inside, 2, "lies in the input folder"),
        (_same, 2, "lies in the input folder"),
        (_over_an_input, 2, "is an input of the run"),
        (_no_out, 2, "--cases needs --out DIR"),
        (_with_a_prompt, 2, "--prompt cannot go with --cases"),
        (_with_bids, 2, "choose one of them"),
        (_no_ray, 2, "--ray cannot go with a single scan"),
        (_duplicates, 3, "must differ"),
        (_no_table, 3, "does not exist, expected a CSV table"),
        (_out_is_a_file, 9, "cannot be written"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_done(
    tiny: TinyModel,
    data: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    make: Callable[[Path, Path], list[str]],
    code: int,
    said: str,
) -> None:
    given = make(data, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert main(["infer", "--model", str(tiny.bundle.path), *given]) == code
    assert said in " ".join(capfd.readouterr().err.split())
    assert sorted(tmp_path.rglob("*")) == before


def _started(command: list[str], out: Path) -> subprocess.Popen[str]:
    """A process that has begun on its cases."""
    with out.with_name(f"{out.name}.log").open("w") as said:
        process = subprocess.Popen([sys.executable, "-c", ENTRY, *command], stderr=said, text=True)
    journal = out / "journal.jsonl"
    known = journal.stat().st_size if journal.exists() else 0
    while process.poll() is None and not (journal.exists() and journal.stat().st_size > known):
        time.sleep(0.005)
    return process


def _written(out: Path) -> int:
    """The bytes of the outputs so far, finished or not."""
    total = 0
    for path in out.iterdir():
        with contextlib.suppress(FileNotFoundError):  # renamed while being looked at
            total += path.stat().st_size
    return total


def _killed_at_random(tmp_path: Path, model: TinyModel, seed: int, times: int) -> None:
    """Kill runs at random points of their progress; what is there is whole, a rerun completes it.

    Progress is counted in bytes written: a clock would depend on how busy the machine is.
    """
    data = write_cases(tmp_path / "killed", 24, slices=3, plane=PLANE)
    whole = tmp_path / "whole"
    assert main(arguments(data, whole, model, "--quiet")) == 0
    expected, enough = outputs(whole), _written(whole)
    assert len(expected) == 48
    rng, early = random.Random(seed), 0
    for number in range(times):
        out = tmp_path / f"out-{number}"
        process, point = _started(arguments(data, out, model), out), rng.uniform(0, 0.7) * enough
        while process.poll() is None and _written(out) < point:
            pass
        process.send_signal(signal.SIGKILL)
        early += process.wait() == -signal.SIGKILL
        for name, content in outputs(out).items():
            assert name.startswith(".tmp-") or content == expected[name], name
        assert main(arguments(data, out, model, "--quiet")) == 0
        assert outputs(out) == expected
    assert early > times // 4, f"{early} of {times} were killed before their end"


def test_killed_at_any_moment_nothing_is_damaged_and_a_rerun_completes(
    tiny: TinyModel, tmp_path: Path
) -> None:
    _killed_at_random(tmp_path, tiny, seed=1, times=3)


@pytest.mark.proof
@pytest.mark.timeout(1200)
def test_fifty_times_killed(tiny: TinyModel, tmp_path: Path) -> None:
    _killed_at_random(tmp_path, tiny, seed=2, times=50)


def test_control_c_ends_with_130_and_the_same_command_goes_on(
    tiny: TinyModel, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    many = write_cases(tmp_path / "many", 40, slices=3, plane=PLANE)
    out = tmp_path / "out"
    process = _started(arguments(many, out, tiny), out)
    while len(list(out.glob("*.json"))) < 4:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(timeout=60) == 130
    said = out.with_name("out.log").read_text()
    assert "the same command goes on from here" in said
    assert "Traceback" not in said
    assert not list(out.glob(".tmp-*"))
    events = [json.loads(line) for line in (out / "journal.jsonl").read_text().splitlines()]
    done = len({event["case"] for event in events if event["event"] == "done"})
    assert 4 <= done < 40
    assert len(list(out.glob("*.nii.gz"))) == done
    assert main(arguments(many, out, tiny)) == 0
    assert f"{40 - done} done, {done} unchanged" in capfd.readouterr().err
