"""Segmentations of other schemes: read by name, and never by guess."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from tlp_cli.main import main

from tests.fakes.engine import TINY_NETWORK, FakeEngine
from tlp_runtime import Synthesizer
from tlp_runtime.errors import InputError, UnknownLabels
from tlp_runtime.io.datasets import find_cases
from tlp_runtime.spec.model import ModelSpec
from tlp_runtime.values.prompt import SCHEMES, with_labels
from tlp_train.cache import open_cases
from tlp_train.evaluating import evaluate, needed_arrays
from tlp_train.evaluation import Evaluation

SPEC = ModelSpec(inputs=("t1",), network=TINY_NETWORK)
AS_PED = {4: 1, 1: 2, 2: 4}
AS_2023 = {4: 3, 1: 1, 2: 2}
AS_2021 = {4: 4, 1: 1, 2: 2}
AFTER_TREATMENT = {4: 3, 1: 4, 2: 2}


def relabelled(case: Path, to: Path, numbers: Mapping[int, int]) -> Path:
    """A copy of a case whose labels are other numbers."""
    shutil.copytree(case, to)
    for path in to.iterdir():
        path.rename(to / path.name.replace(case.name, to.name))
    path = to / f"{to.name}_seg.nii.gz"
    image = nib.load(path)
    before = np.asarray(image.dataobj)
    after = np.zeros_like(before)
    for old, new in numbers.items():
        after[before == old] = new
    nib.save(nib.Nifti1Image(after, image.affine, image.header), path)
    return to


def evaluated(data: Path, scheme: str = "", spec: ModelSpec = SPEC) -> Evaluation:
    with Synthesizer(FakeEngine(spec)) as synthesizer:
        return evaluate(
            synthesizer,
            find_cases(data, needed_arrays(spec)),
            "seg",
            model="m",
            data=str(data),
            labels=SCHEMES[scheme] if scheme else {},
        )


def test_an_evaluation_reads_the_scheme_that_was_named(phantom_case: Path, tmp_path: Path) -> None:
    ped = relabelled(phantom_case, tmp_path / "ped" / "case-1", AS_PED)
    want = evaluated(relabelled(phantom_case, tmp_path / "a" / "case-1", AS_2021).parent)
    found = evaluated(ped.parent, "brats-ped")
    assert found.cases["case-1"].images == want.cases["case-1"].images
    learnt = replace(SPEC, prompt=with_labels(SPEC.prompt, SCHEMES["brats-ped"]))
    assert evaluated(ped.parent, spec=learnt).cases["case-1"].images == want.cases["case-1"].images


def test_a_resection_cavity_is_no_tumour(phantom_case: Path, tmp_path: Path) -> None:
    case = relabelled(phantom_case, tmp_path / "d" / "BraTS-GLI-00005-100", AFTER_TREATMENT)
    with pytest.raises(UnknownLabels, match=r"BraTS-GLI-00005-100.*mean different things"):
        evaluated(case.parent)
    without = relabelled(phantom_case, tmp_path / "e" / case.name, {4: 3, 2: 2})
    assert (
        evaluated(case.parent, "brats2024-gli").cases[case.name].images
        == evaluated(without.parent).cases[case.name].images
    )


def test_two_schemes_in_one_data_set_are_refused(phantom_case: Path, tmp_path: Path) -> None:
    """Each map alone is clear; together they have 1, 2, 3 and 4."""
    relabelled(phantom_case, tmp_path / "case-1", AS_2021)
    relabelled(phantom_case, tmp_path / "case-2", AS_2023)
    with pytest.raises(UnknownLabels, match="labels 1, 2, 3, 4 mean different things"):
        evaluated(tmp_path)


def test_training_refuses_what_it_would_have_to_guess(
    phantom_case: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (1, 2):
        relabelled(phantom_case, tmp_path / "data" / f"case-{number}", AS_2021)
    relabelled(phantom_case, tmp_path / "data" / "case-3", AS_2023)
    words = ["train", "--data", tmp_path / "data", "--preset", "demo", "--out", tmp_path / "run"]
    assert main([str(word) for word in words]) == 3
    said = capsys.readouterr().err
    assert "1, 2, 3, 4 mean different things" in said
    assert "--labels brats2024-gli" in said


def test_a_cache_of_other_labels_is_not_taken_without_a_look(
    phantom_case: Path, tmp_path: Path
) -> None:
    case = relabelled(phantom_case, tmp_path / "BraTS-PED-00001-000", AS_PED)
    ped = replace(SPEC, prompt=with_labels(SPEC.prompt, SCHEMES["brats-ped"]))
    files = find_cases(case.parent, ("t1", "t1ce", "seg"))
    (cached,) = open_cases(files, ped, tmp_path / "cache")
    assert cached.labels == (0, 1, 2, 4)
    values = set(np.unique(cached.prompt(slice(None), ped.prompt)).tolist())
    assert values == {0, 0.5, 1}
    with pytest.raises(InputError, match="mean different things"):
        open_cases(files, SPEC, tmp_path / "cache")
