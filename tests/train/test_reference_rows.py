"""Images that no network made: the factors they are scaled by."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.support import TinyModel
from tests.train.runs import new_run
from tlp_runtime.errors import ModelMismatch
from tlp_runtime.io.datasets import find_cases
from tlp_runtime.models.manifest import read_manifest
from tlp_train.cache import open_cases
from tlp_train.checkpoint import load_checkpoint
from tlp_train.evaluating import evaluation_slices, read_case
from tlp_train.reference_rows import (
    LEVELS,
    Example,
    best_factor,
    learn,
    learnt_factor,
    levels,
)
from tlp_train.safe_files import load_safely, save_whole


def _examples(rng: np.random.Generator, count: int, slope: float) -> list[Example]:
    made = []
    for _ in range(count):
        found = np.sort(rng.uniform(0.2, 0.9, len(LEVELS)))
        made.append(Example(tuple(found), float(0.9 - slope * found[2])))
    return made


def test_what_the_histogram_tells_is_learnt() -> None:
    rng = np.random.default_rng(0)
    learnt = learn(_examples(rng, 40, 0.5))
    others = _examples(rng, 40, 0.5)
    off = [learnt_factor(learnt, one.levels) - one.factor for one in others]
    mean = np.mean([one.factor for one in others])
    assert np.std(off) < 0.1 * np.std([one.factor - mean for one in others])


def test_what_it_does_not_tell_stays_near_the_mean() -> None:
    """Ridge alone would follow chance: leaving cases out in turn stops it."""
    rng = np.random.default_rng(1)
    examples = [
        Example(one.levels, float(rng.normal(0.6, 0.05))) for one in _examples(rng, 12, 0.0)
    ]
    learnt = learn(examples)
    spread = np.std([learnt_factor(learnt, one.levels) for one in _examples(rng, 50, 0.0)])
    assert spread < 0.03


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_cases_give_their_mean(count: int) -> None:
    examples = _examples(np.random.default_rng(2), count, 0.5)
    mean = np.mean([one.factor for one in examples])
    other = _examples(np.random.default_rng(3), 1, 0.5)[0]
    assert learnt_factor(learn(examples), other.levels) == pytest.approx(mean)


def test_no_factor_is_predicted_beyond_those_that_were_seen() -> None:
    examples = _examples(np.random.default_rng(4), 20, 0.5)
    factors = [one.factor for one in examples]
    learnt = learn(examples)
    assert learnt_factor(learnt, [-50.0] * len(LEVELS)) == pytest.approx(max(factors))
    assert learnt_factor(learnt, [50.0] * len(LEVELS)) == pytest.approx(min(factors))


def test_equal_cases_and_empty_brains() -> None:
    same = Example((0.5,) * len(LEVELS), 0.7)
    assert learnt_factor(learn([same] * 6), (0.9,) * len(LEVELS)) == pytest.approx(0.7)
    unit = np.linspace(0, 1, 101)[None, None]
    nowhere = np.zeros(unit.shape, bool)
    assert levels(unit, nowhere) == pytest.approx([p / 100 for p in LEVELS])
    assert best_factor(np.zeros(3), np.ones(3)) == 0.0


def test_training_and_evaluation_see_the_same_histogram(tiny: TinyModel, phantom_dir: Path) -> None:
    spec = tiny.bundle.spec
    case = find_cases(phantom_dir, ("t1", "t1ce", "seg"))[0]
    (cached,) = open_cases([case], spec, phantom_dir.parent / "histograms")
    slices = evaluation_slices(read_case(case, spec), spec, "none", case.name)
    assert cached.examples["t1"].levels == pytest.approx(slices.levels, abs=1e-6)
    expected = best_factor(slices.given[::2, ::2, ::2], slices.truth.t1ce[::2, ::2, ::2])
    assert cached.examples["t1"].factor == pytest.approx(expected, abs=1e-6)


def test_a_training_keeps_it_and_its_bundle_has_it(tiny: TinyModel) -> None:
    kept = load_checkpoint(tiny.run.last).lineage.learnt_factor
    assert kept is not None
    assert len(kept) == 3 + len(LEVELS)
    assert read_manifest(tiny.bundle.path / "manifest.json").learnt_factor == kept


def test_checkpoints_without_it_are_read(tiny: TinyModel, tmp_path: Path) -> None:
    data = load_safely(tiny.run.last)
    record = data["tlp"]
    del record["learnt_factor"]
    path = tmp_path / "old.ckpt"
    record["schema"] = {"major": 1, "minor": 0}
    save_whole(path, data)
    assert load_checkpoint(path).lineage.learnt_factor is None
    record["schema"] = {"major": 1, "minor": 2}
    save_whole(path, data)
    with pytest.raises(ModelMismatch, match=r"1\.2"):
        load_checkpoint(path)


def test_a_run_learns_from_its_training_cases_alone(tmp_path: Path, phantom_dir: Path) -> None:
    from tlp_train.trainer import fit

    run = fit(
        new_run(tmp_path / "run", phantom_dir, epochs=1, constant_epochs=1),
        tmp_path / "cache",
        progress=False,
    )
    names = set(json.loads((run.folder / "split.json").read_text())["train"])
    cases = [c for c in find_cases(phantom_dir, ("t1", "t1ce", "seg")) if c.name in names]
    cached = open_cases(cases, run.config.spec, tmp_path / "cache")
    expected = learn([case.examples["t1"] for case in cached])
    assert load_checkpoint(run.last).lineage.learnt_factor == expected
