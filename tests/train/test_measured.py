"""Evaluations kept in a model's bundle: its card, `tlp models show`, and the next export."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from tlp_cli.main import main

from tests.support import TinyModel
from tlp_runtime.errors import ModelDamaged, ModelMismatch, OutputError
from tlp_runtime.models.bundle import Bundle
from tlp_runtime.models.measured import MEASURED, read_measured
from tlp_train.evaluation import SYNTHESIS, CaseResult, CaseVoxels, Evaluation
from tlp_train.measured import keep_evaluation
from tlp_train.metrics import COLUMNS

ROWS = (SYNTHESIS, "t1 copied", "t1 x learnt factor", "t1 x best factor (oracle)")
PATIENT = "patient-7"


def evaluation(prompt: str, level: float, *, cases: int = 3, seen: bool = False) -> Evaluation:
    """One whose metrics all are ``level`` and a little more from case to case."""
    results = [
        CaseResult(
            f"{PATIENT}-{case}",
            {row: {c.key: [level + case / 100] for c in COLUMNS} for row in ROWS},
            CaseVoxels(f"truth {case}", {"t1": f"t1 {case}"}),
            0.9,
        )
        for case in range(cases)
    ]
    return Evaluation.of(
        results, {"truth 1"} if seen else {"other"},
        model="m", engine="ort-cpu", prompt=prompt, data="/home/somebody/BraTS2021",
    )  # fmt: skip


@pytest.fixture
def bundle(tiny: TinyModel, tmp_path: Path) -> Bundle:
    """A copy of the tiny model, with an engine in it."""
    folder = tiny.copy(tmp_path)
    engine = folder / "engines" / "abc"
    engine.mkdir(parents=True)
    (engine / "generator.engine").write_bytes(b"plan")
    return Bundle.open(folder)


def test_the_card_and_the_manifest_have_it(bundle: Bundle) -> None:
    kept = keep_evaluation(bundle, evaluation("seg", 0.25))
    card = (kept.path / "MODEL_CARD.md").read_text()
    before, _, after = card.partition("## Measured")
    assert "Research use only" in before
    assert "3 cases of BraTS2021, prompt: seg" in after
    assert all(f"| {row} |" in after for row in ROWS)
    assert "0.260 ± 0.008" in after, "the mean of .25, .26 and .27"
    assert "What this does not show" in after
    assert "too few cases with and without" in after
    assert kept.manifest.metrics["seg.enhancement.mae"] == pytest.approx(0.26)
    assert kept.manifest.truth_voxels == ("truth 0", "truth 1", "truth 2")
    assert (kept.path / "engines" / "abc" / "generator.engine").read_bytes() == b"plan"
    assert kept.onnx_sha256 == bundle.onnx_sha256


def test_each_prompt_has_its_own_and_the_latest_counts(bundle: Bundle) -> None:
    for prompt, level in (("seg", 0.5), ("none", 0.7), ("seg", 0.3)):
        bundle = keep_evaluation(bundle, evaluation(prompt, level))
    held = read_measured(bundle.path)
    assert [one.prompt for one in held] == ["none", "seg"]
    assert bundle.manifest.metrics["none.enhancement.dice"] == pytest.approx(0.71)
    assert bundle.manifest.metrics["seg.enhancement.dice"] == pytest.approx(0.31)
    card = (bundle.path / "MODEL_CARD.md").read_text()
    assert card.count("## Measured") == 1
    assert card.count("### 3 cases") == 2
    assert "0.510" not in card


def test_what_was_kept_during_an_evaluation_is_not_lost(bundle: Bundle) -> None:
    """Both were opened before either was kept."""
    keep_evaluation(bundle, evaluation("none", 0.7))
    kept = keep_evaluation(bundle, evaluation("seg", 0.3))
    assert [one.prompt for one in read_measured(kept.path)] == ["none", "seg"]
    assert {"none.enhancement.dice", "seg.enhancement.dice"} <= set(kept.manifest.metrics)


def test_figures_of_one_model_are_not_put_to_another(bundle: Bundle) -> None:
    files = {**bundle.manifest.files, "generator.onnx": "0" * 64}
    before = replace(bundle, manifest=replace(bundle.manifest, files=files))
    with pytest.raises(ModelMismatch, match="another model took its place"):
        keep_evaluation(before, evaluation("seg", 0.3))
    assert not read_measured(bundle.path)


def test_no_case_is_named(bundle: Bundle) -> None:
    kept = keep_evaluation(bundle, evaluation("seg", 0.25, seen=True))
    written = "".join(path.read_text() for path in kept.path.glob("*.[jm][sd]*"))
    assert PATIENT not in written
    assert "somebody" not in written
    (one,) = read_measured(kept.path)
    assert any("trained or chosen on 1 of these 3 cases" in limit for limit in one.limits)


def test_files_of_others_are_not_lost(bundle: Bundle) -> None:
    (bundle.path / "notes.txt").write_text("mine")
    before = (bundle.path / "manifest.json").read_bytes()
    with pytest.raises(OutputError, match=r"notes\.txt"):
        keep_evaluation(bundle, evaluation("seg", 0.25))
    assert (bundle.path / "manifest.json").read_bytes() == before
    assert not (bundle.path / MEASURED).exists()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": {"major": 2, "minor": 0}}'])
def test_a_record_that_cannot_be_read_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / MEASURED).write_text(text)
    with pytest.raises(ModelDamaged):
        read_measured(tmp_path)


def test_commands_measure_show_and_keep_it(
    tiny: TinyModel, phantom_case: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tiny.copy(tmp_path)
    model, card = os.fspath(folder), folder / "MODEL_CARD.md"
    assert "Not yet" in card.read_text()
    assert main(["models", "show", model]) == 0
    assert "tlp evaluate --card" in capfd.readouterr().err
    data = tmp_path / "data"
    data.mkdir()
    (data / phantom_case.name).symlink_to(phantom_case)
    words = ["evaluate", "--data", os.fspath(data), "--model", model, "--prompt", "seg", "--card"]
    assert main(words) == 0
    # The same graph again keeps what it was measured to be worth.
    assert main(["export", os.fspath(tiny.run.last), "--out", model, "--overwrite"]) == 0
    assert "### 1 case of data" in card.read_text()
    capfd.readouterr()
    assert main(["models", "show", model]) == 0
    shown = " ".join(capfd.readouterr().out.split())
    assert "t1 x learnt factor" in shown
    assert "what this does not show" in shown
    assert main(["models", "show", model, "--json", "-"]) == 0
    (one,) = json.loads(capfd.readouterr().out)["measured"]
    assert (one["prompt"], one["cases"]) == ("seg", 1)
    (folder / "mine.txt").write_text("mine")
    assert main([*words, "--json", os.fspath(tmp_path / "late.json")]) == 9
    assert not (tmp_path / "late.json").exists(), "refused before any work"
