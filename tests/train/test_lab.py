"""The preset lab, tiny: trained, interrupted, resumed, and how its best checkpoint is found."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from tlp_cli.main import main

from tests.assets import split_of
from tests.train.runs import assert_equal_runs, killed_before, new_run
from tlp_runtime.errors import UsageError
from tlp_runtime.spec.model import IntensitySpec
from tlp_runtime.values.intensity import scale
from tlp_train.callbacks import read_metrics
from tlp_train.config import ROBUST
from tlp_train.judging import JUDGED, error_of, invented_by, score
from tlp_train.metrics import Truth, enhancement_metrics
from tlp_train.runs import Run
from tlp_train.trainer import fit

LAB: dict[str, Any] = {
    "decoy_share": 0.6,
    "decoy_epoch": 1,
    "vary": True,
    "best": "enhancement",
    "epochs": 3,
    "validation_slices": 1,
}


def test_a_resumed_run_equals_one_that_was_never_stopped(
    phantom_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = fit(new_run(tmp_path / "a", phantom_dir, **LAB), tmp_path / "c", progress=False)
    stopped = killed_before(2, new_run(tmp_path / "b", phantom_dir, **LAB), tmp_path / "c",
                            monkeypatch)  # fmt: skip
    resumed = fit(stopped, tmp_path / "c", resume=True, progress=False)
    assert_equal_runs(resumed, straight)
    rows = read_metrics(straight.metrics)
    assert len(rows) == 3
    scores = [score(row) for row in rows]
    best = torch.load(straight.best, weights_only=True)
    assert best["epoch"] == int(np.argmax(scores))
    assert [{name: row[name] for name in JUDGED} for row in rows] == [
        {name: row[name] for name in JUDGED} for row in read_metrics(resumed.metrics)
    ]


def test_without_a_tumour_to_judge_by_it_is_refused_before_training(
    phantom_dir: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(phantom_dir, data)
    for path in data.glob(f"{split_of(data).validation[0]}/*_seg.nii.gz"):
        seg = nib.load(path)
        nib.save(nib.Nifti1Image(np.zeros(seg.shape, np.uint8), seg.affine, seg.header), path)
    run = new_run(tmp_path / "run", data, **LAB)
    with pytest.raises(UsageError, match="cannot be judged by enhancement"):
        fit(run, tmp_path / "cache", progress=False)
    assert not Run.open(run.folder).last.is_file()


def test_it_judges_as_the_evaluation_does() -> None:
    rng = np.random.default_rng(0)
    t1ce = rng.uniform(0.3, 0.6, (1, 40, 60))
    t1ce[:, :5] = 0
    exact = np.zeros((1, 40, 60), np.float32)
    exact[:, 10:30, 8:22], exact[:, 14:26, 10:18] = 0.5, 1
    t1ce[exact == 1] += 0.4
    image = np.clip(0.7 * t1ce + rng.normal(0, 0.02, t1ce.shape), 0, 1)
    truth = Truth(t1ce, t1ce, t1ce > 0, exact == 1, exact == 0.5)
    expected = enhancement_metrics(truth, image)
    tensors = [torch.from_numpy(a)[None].float() for a in (image, t1ce, exact)]
    for measure, key in (
        (error_of, "enhancement.mae"),
        (invented_by, "mirror.false_enhancement"),
    ):
        found = measure(tensors[0], tensors[1], tensors[2], 1.0)
        assert float(found.total / found.voxels) == pytest.approx(expected[key][0], abs=5e-3)


def test_both_figures_count_and_the_sign_of_what_is_invented_does_not() -> None:
    better, worse = ({JUDGED[0]: 0.3, JUDGED[1]: one} for one in (0.1, -0.4))
    assert score(better) > score(worse)
    assert score(better) > score({**better, JUDGED[0]: 0.5})


def test_lab_and_demo_scale_by_what_no_single_voxel_moves() -> None:
    brain = np.random.default_rng(0).uniform(100, 900, (10, 40, 40)).astype(np.float32)
    hot = brain.copy()
    hot[5, 20, 20] = 30 * hot.max()
    published = IntensitySpec()
    for rule, moved in ((ROBUST, 0.01), (published, 0.9)):
        before, after = (np.median(scale(one, rule, "t1")) for one in (brain, hot))
        assert (abs(before - after) > moved) == (rule is published), "black by the published rule"


@pytest.mark.parametrize(("best", "wanted"), [("enhancement", "best.ckpt"), ("psnr", "last.ckpt")])
def test_an_export_takes_the_checkpoint_that_was_judged(
    phantom_dir: Path, tmp_path: Path, best: str, wanted: str, capfd: pytest.CaptureFixture[str]
) -> None:
    run = new_run(tmp_path / "run", phantom_dir, best=best)
    assert main(["export", str(run.folder)]) == 4
    assert f"has no {wanted}" in capfd.readouterr().err
