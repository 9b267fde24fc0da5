"""The paper's experiments as one run: it does what is missing, once, and reports what is there."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.paper_claims import CLAIMS, Claim, judge
from benchmarks.paper_report import size_table, table
from benchmarks.paper_results import MODELS, PAPER, Results
from tlp_train.evaluation import SYNTHESIS, CaseResult, CaseVoxels, Evaluation
from tlp_train.networks import registry

ROOT = Path(__file__).resolve().parents[2]


def _evaluation(model: str, value: float, **more: list[float]) -> Evaluation:
    values = {"slice.psnr_db": [value, value + 2], "enhancement.mae": [value / 100], **more}
    images = {SYNTHESIS: values, "t1 copied": values}
    return Evaluation.of(
        [CaseResult(f"case {n}", images, CaseVoxels(str(n), {})) for n in range(2)],
        model=model,
        engine="none",
        prompt="none",
        data="none",
    )


@pytest.fixture
def results() -> Results:
    """Two arms of three seeds: 3 dB apart, with a standard deviation of 1 dB over seeds."""
    arms = {"t1": (30.0, 31.0, 32.0), "t1-no-fpg": (27.0, 28.0, 29.0)}
    return Results(
        {
            (name, "none"): {seed: _evaluation(name, v) for seed, v in enumerate(values)}
            for name, values in arms.items()
        }
    )


def test_of_two_values_where_0_is_best_the_nearer_one_is_better() -> None:
    key = "mirror.false_enhancement"

    def seeds(*values: float) -> dict[int, Evaluation]:
        return {n: _evaluation("m", 1, **{key: [v]}) for n, v in enumerate(values)}

    results = Results(
        {("t1", "none"): seeds(-0.015, -0.015), ("t1-no-fpg", "none"): seeds(-0.012, -0.012)}
    )
    (verdict,) = judge(results, Claim("x", ("t1", "none"), ("t1-no-fpg", "none"), (key,)))
    assert verdict["effect"] == pytest.approx(-0.003)
    assert verdict["interval"] == pytest.approx((-0.003, -0.003)), "no seed differs"


def test_every_model_of_the_paper_is_planned_with_its_published_numbers() -> None:
    others = {f"{task}-{name}" for task in ("t1", "t2", "t1-t2") for name in ("unet", "pix2pix")}
    assert set(PAPER) == set(MODELS) - others
    assert len(MODELS) == 29
    for claim in CLAIMS:
        for name, use in (claim.better, claim.worse):
            assert use in MODELS[name].prompts


def test_a_claim_holds_when_its_primary_measure_is_better_for_other_seeds_too(
    results: Results,
) -> None:
    keys = ("slice.psnr_db", "enhancement.mae")
    claim = Claim("x", ("t1", "none"), ("t1-no-fpg", "none"), keys, primary="slice.psnr_db")
    psnr, mae = judge(results, claim)
    assert psnr["effect"] == pytest.approx(3)
    half = 2.776 * (1 / 3 + 1 / 3) ** 0.5  # Student's t of four degrees of freedom
    assert psnr["interval"] == pytest.approx((3 - half, 3 + half), abs=0.1)
    assert psnr["holds"] is True
    assert mae["effect"] == pytest.approx(-0.03), "a larger error is no gain"
    assert mae["holds"] is None, "it was not named beforehand"
    assert judge(results, replace(claim, primary=keys[1]))[1]["holds"] is False
    one = Results({key: {0: seeds[0]} for key, seeds in results.evaluations.items()})
    assert judge(one, claim)[0]["interval"] is None
    assert judge(one, claim)[0]["holds"] is False, "one seed shows no spread"


def test_a_claim_may_be_of_enhancing_tumours_alone(results: Results) -> None:
    claim = Claim("x", ("t1", "none"), ("t1-no-fpg", "none"), ("slice.psnr_db",), enhancing=True)
    results.enhancing.add("case 1")
    assert judge(results, claim)[0]["effect"] == pytest.approx(3)
    assert results.cases == {"case 0", "case 1"}


def test_tables_put_the_paper_s_numbers_beside_ours_and_reference_rows_below(
    results: Results,
) -> None:
    lines = table(results, [("w/o FPG", "t1-no-fpg"), ("with FPG", "t1")]).splitlines()
    assert "32.00 ± 1.00 (31.00 to 33.00)" in lines[3]
    assert "28.81 ± 3.25" in lines[3]
    assert "27.94 ± 3.73" in lines[2]
    assert sum("*t1 copied*" in line for line in lines) == 1
    assert "none" in table(results, [("", "t2")]), "what was not run is said so"


def test_every_rival_has_its_row_and_what_was_not_measured_is_said_so(tmp_path: Path) -> None:
    for name, model in MODELS.items():
        if "--network" in model.options:
            assert model.options[1] in registry.NAMES
            assert name.endswith(model.options[1])
    assert size_table(tmp_path) == "none was measured"


@pytest.mark.proof
def test_the_run_is_resumable_and_writes_tables_and_figures(
    phantom_dir: Path, tmp_path: Path
) -> None:
    split = tmp_path / "list.txt"
    names = sorted(path.name for path in phantom_dir.iterdir())
    # The first has a tumour: it is the one to test on.
    split.write_text("\n".join([*names[1:], names[0]]))
    out = tmp_path / "out"
    words: list[str | Path] = [
        sys.executable, "-m", "benchmarks.paper_tables", "--data", phantom_dir, "--preset", "demo",
        "--split", split, "--split-sizes", "2,1,1", "--out", out, "--only", "t1-levels-1",
        "--train", "--epochs 1 --slices-per-epoch 2",
    ]  # fmt: skip

    def run() -> str:
        done = subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True)
        return str(done.stdout)

    first = run()
    assert [line.split()[2] for line in first.splitlines() if line.startswith("$ tlp")] == [
        "train", "export", "evaluate",
    ]  # fmt: skip
    (out / "evaluations" / "t1-levels-1_seed0_none.json").unlink()
    again = run()
    assert [line.split()[2] for line in again.splitlines() if line.startswith("$ tlp")] == [
        "evaluate"
    ]
    text = (out / "tables.md").read_text()
    assert "T1 → T1ce 1 level" in text
    assert text.count("*t1 x best factor (oracle)*") == 1, "Table III alone has a model"
    assert "1 test cases, of which 1 have an enhancing label" in text
    record = json.loads((out / "results.json").read_text())
    mean, _, cases = record["models"]["t1-levels-1 none"]["0"]["synthesis"]["slice.psnr_db"]
    assert mean > 5
    assert cases == 1
