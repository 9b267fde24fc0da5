"""BIDS in and out: which scans are found, what is written, and what the validator says of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from tests.fakes.engine import FakeEngine
from tests.scans import SMALL, scan
from tlp_runtime import Synthesizer
from tlp_runtime.cohort.bids import bids_cases
from tlp_runtime.cohort.options import CohortOptions
from tlp_runtime.errors import InputError, InputMissing, OutputError, UsageError
from tlp_runtime.io.bids import (
    DESCRIPTION_FILE,
    MaskMatch,
    find_mask,
    find_scans,
    start_derivatives,
)
from tlp_runtime.synthesis.request import Request
from tlp_runtime.warnings import BRAIN_MASK_MISSING, PROMPT_MISSING, WarningLog


def image(path: Path, *, labels: bool = False) -> Path:
    made = scan(landmark=(5, 5, 5))
    data = (made.data > 900).astype(np.uint8) if labels else made.data
    path.parent.mkdir(parents=True, exist_ok=True)
    written = nib.Nifti1Image(data, made.affine)
    written.set_sform(made.affine, 1)
    written.set_qform(made.affine, 1)
    written.header.set_xyzt_units("mm", "sec")
    nib.save(written, path)
    return path


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Two subjects; the second with a session, two runs, and images that are no plain T1."""
    root = tmp_path / "study ä"
    image(root / "sub-01/anat/sub-01_T1w.nii.gz")
    image(root / "sub-01/anat/sub-01_T2w.nii.gz")
    for run in (1, 2):
        image(root / f"sub-02/ses-a/anat/sub-02_ses-a_run-{run}_T1w.nii.gz")
    image(root / "sub-02/ses-a/anat/sub-02_ses-a_ce-gadolinium_T1w.nii.gz")
    for path in root.rglob("*.nii.gz"):
        path.with_name(path.name.replace(".nii.gz", ".json")).write_text("{}")
    (root / DESCRIPTION_FILE).write_text(
        json.dumps({"Name": "x", "BIDSVersion": "1.10.0", "DatasetType": "raw"})
    )
    (root / "README").write_text("A dataset for a test. " * 20)
    return root


def validate(folder: Path) -> list[str]:
    """The codes of the errors that the BIDS validator finds."""
    tool = Path(sys.executable).with_name("bids-validator-deno")
    told = subprocess.run([tool, "--json", folder], capture_output=True, text=True, check=False)
    issues: list[dict[str, Any]] = json.loads(told.stdout)["issues"]["issues"]
    return [issue["code"] for issue in issues if issue["severity"] == "error"]


def write_all(root: Path, derivatives: Path) -> list[Path]:
    start_derivatives(derivatives, root, "0.0.0")
    outputs = []
    with Synthesizer(FakeEngine(SMALL)) as synthesizer:
        for found in find_scans(root):
            out = found.output(derivatives)
            out.parent.mkdir(parents=True, exist_ok=True)
            asked = Request(images={"t1": found.images["t1"]}, evidence=True)
            result = synthesizer.run(asked)
            result.save(out, extra=found.sidecar(root, ["t1"]))
            outputs.append(out)
    return outputs


@pytest.mark.documents(
    "BIDS",
    "`--bids`: sessions, runs",
    "every plain T1w; images with ce, desc or space are left out",
)
def test_plain_t1_images_are_found_with_their_t2(raw: Path) -> None:
    found = {one.entities: one for one in find_scans(raw)}
    assert sorted(found) == ["sub-01", "sub-02_ses-a_run-1", "sub-02_ses-a_run-2"]
    assert found["sub-01"].images["t2"].name == "sub-01_T2w.nii.gz"
    assert "t2" not in found["sub-02_ses-a_run-1"].images


@pytest.mark.documents("BIDS", "the derivatives", "valid by the BIDS validator")
def test_derivatives_are_valid_bids(raw: Path) -> None:
    derivatives = raw / "derivatives" / "tlp"
    outputs = write_all(raw, derivatives)
    assert outputs[1] == (
        derivatives / "sub-02/ses-a/anat/sub-02_ses-a_run-1_desc-synthT1ce_T1w.nii.gz"
    )
    assert validate(derivatives) == []
    assert outputs[0].with_name("sub-01_desc-synthT1ceEvidence_T1w.nii.gz").is_file()
    record = json.loads(outputs[0].with_name("sub-01_desc-synthT1ce_T1w.json").read_text())
    assert record["Sources"] == ["bids:raw:sub-01/anat/sub-01_T1w.nii.gz"]
    assert record["SkullStripped"] is True
    assert record["inputs"]["t1"]["sha256"]
    assert record["model"]["onnx_sha256"]
    described = json.loads((derivatives / DESCRIPTION_FILE).read_text())
    assert described["DatasetType"] == "derivative"
    assert (derivatives / described["DatasetLinks"]["raw"]).resolve() == raw.resolve()


def test_the_validator_would_have_said_so(raw: Path) -> None:
    derivatives = raw / "derivatives" / "tlp"
    (out, *_) = write_all(raw, derivatives)
    out.rename(out.with_name("sub-01_synth.nii.gz"))
    assert validate(derivatives) != []


def test_masks_and_regions_are_found_in_derivatives(raw: Path, tmp_path: Path) -> None:
    first, run1, run2 = find_scans(raw)
    folder = tmp_path / "drawn"
    assert find_mask(folder, first, brain=False) == MaskMatch(None)
    roi = image(folder / "sub-01/anat/sub-01_label-lesion_mask.nii.gz", labels=True)
    brain = image(folder / "sub-01/anat/sub-01_desc-brain_mask.nii.gz", labels=True)
    assert find_mask(folder, first, brain=False).path == roi
    assert find_mask(folder, first, brain=True).path == brain
    dsegs = [
        image(folder / f"sub-02/ses-a/anat/sub-02_ses-a_run-{run}_dseg.nii.gz", labels=True)
        for run in (1, 2)
    ]
    assert [find_mask(folder, one, brain=False).path for one in (run1, run2)] == dsegs
    image(folder / "sub-01/anat/sub-01_dseg.nii.gz", labels=True)
    with pytest.raises(InputError, match="2 files could be the prompt or segmentation of sub-01"):
        find_mask(folder, first, brain=False)


def dataset(root: Path, *names: str) -> Path:
    """Empty files of these names in the ``anat`` folders of their subjects and sessions."""
    for name in names:
        levels = [part for part in name.split("_") if part.startswith(("sub-", "ses-"))]
        file = root.joinpath(*levels, "anat", name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")
    (root / DESCRIPTION_FILE).write_text(json.dumps({"Name": "x", "BIDSVersion": "1.10.0"}))
    return root


def matches(root: Path, drawn: Path, *, brain: bool) -> dict[str, str | None]:
    """The name of each scan's mask, or the first words of why it cannot be told."""
    found: dict[str, str | None] = {}
    for one in find_scans(root):
        try:
            path = find_mask(drawn, one, brain=brain).path
            found[one.entities] = None if path is None else path.name
        except InputError as error:
            found[one.entities] = f"error: {error.problem.partition(': ')[2]}"
    return found


@pytest.mark.documents(
    "BIDS",
    "a mask or prompt of another subject, session, run or acquisition, or in another space",
    "never taken, even if it is the only one; a scan with such masks alone fails, with the reason",
)
@pytest.mark.parametrize("ending", ["dseg", "label-lesion_mask", "desc-brain_mask"])
@pytest.mark.parametrize(
    ("scan_name", "mask"),
    [
        ("sub-01_run-1", "sub-01_run-2"),
        ("sub-01", "sub-01_run-2"),
        ("sub-01", "sub-01_acq-b"),
        ("sub-01_acq-a", "sub-01_acq-b"),
        ("sub-01_acq-a_run-1", "sub-01_acq-b_run-1"),
        ("sub-01_rec-x", "sub-01_rec-y"),
        ("sub-01_acq-a", "sub-01_acq-a_rec-y"),
        ("sub-01", "sub-01_space-MNI152NLin2009cAsym"),
        ("sub-01", "sub-01_space-MNI152NLin2009cAsym_res-2"),
        ("sub-01_run-1", "sub-01_run-1_space-T1w"),
        ("sub-01", "sub-01_ce-gadolinium"),
    ],
)
def test_a_mask_whose_entities_contradict_is_never_taken(
    tmp_path: Path, scan_name: str, mask: str, ending: str
) -> None:
    root = dataset(tmp_path / "raw", f"{scan_name}_T1w.nii.gz")
    name = f"{mask}_{ending}.nii.gz"
    drawn = dataset(tmp_path / "drawn", name)
    (one,) = find_scans(root)
    match = find_mask(drawn, one, brain="brain" in ending)
    assert match.path is None
    assert len(match.passed_over) == 1
    assert match.passed_over[0].startswith(f"{name}: it ")


def test_masks_of_other_subjects_and_sessions_in_the_wrong_place_are_not_taken(
    tmp_path: Path,
) -> None:
    root = dataset(tmp_path / "raw", "sub-01_ses-a_T1w.nii.gz", "sub-02_T1w.nii.gz")
    for place, name in (("sub-01/ses-a", "sub-01_ses-b"), ("sub-02", "sub-01")):
        folder = tmp_path / "drawn" / place / "anat"
        folder.mkdir(parents=True)
        (folder / f"{name}_desc-brain_mask.nii.gz").write_bytes(b"")
    for one in find_scans(root):
        match = find_mask(tmp_path / "drawn", one, brain=True)
        assert match.path is None
        assert "but its name says" in match.passed_over[0]


@pytest.mark.documents(
    "BIDS",
    "a mask or prompt whose name lacks entities of the scan",
    "taken if it fits no other T1w of the subject, else the scan fails",
)
def test_a_mask_that_lacks_entities_is_taken_where_it_fits_one_scan_alone(tmp_path: Path) -> None:
    several = "error: its name fits several T1w images of the subject."
    mask = "sub-01_desc-brain_mask.nii.gz"
    for scans, expected in (
        (["sub-01_run-1"], {"sub-01_run-1": mask}),
        (["sub-01_ses-a_run-01"], {"sub-01_ses-a_run-01": mask}),
        (["sub-01_run-1", "sub-01_run-2"], {"sub-01_run-1": several, "sub-01_run-2": several}),
        (["sub-01", "sub-01_run-2"], {"sub-01": mask, "sub-01_run-2": several}),
        (["sub-01_acq-a", "sub-01_ce-gadolinium"], {"sub-01_acq-a": several}),
        (["sub-01_ses-a", "sub-01_ses-b"], {"sub-01_ses-a": several, "sub-01_ses-b": several}),
        (["sub-01_run-1", "sub-01_run-1_space-MNI"], {"sub-01_run-1": mask}),
    ):
        folder = tmp_path / "_".join(scans)
        root = dataset(folder / "raw", *(f"{name}_T1w.nii.gz" for name in scans))
        assert matches(root, dataset(folder / "drawn", mask), brain=True) == expected


def test_a_mask_that_fits_one_scan_alone_wins_over_one_that_fits_several(tmp_path: Path) -> None:
    root = dataset(tmp_path / "raw", "sub-01_acq-a_run-1_T1w.nii", "sub-01_acq-b_run-1_T1w.nii")
    drawn = dataset(
        tmp_path / "drawn", "sub-01_desc-brain_mask.nii", "sub-01_acq-a_desc-brain_mask.nii"
    )
    assert matches(root, drawn, brain=True) == {
        "sub-01_acq-a_run-1": "sub-01_acq-a_desc-brain_mask.nii",
        "sub-01_acq-b_run-1": "error: its name fits several T1w images of the subject.",
    }


def test_the_mask_with_all_entities_wins_and_runs_are_numbers(tmp_path: Path) -> None:
    root = dataset(tmp_path / "raw", "sub-01_run-1_T1w.nii.gz", "sub-01_run-2_T1w.nii.gz")
    drawn = dataset(
        tmp_path / "drawn",
        "sub-01_dseg.nii.gz",
        "sub-01_run-01_dseg.nii.gz",
        "sub-01_run-02_space-MNI_dseg.nii.gz",
        "sub-01_run-02_label-tumour_roi.nii.gz",
        "sub-01_run-02_desc-brain_mask.nii.gz",
        "sub-01_run-02_res-2_desc-brain_mask.nii.gz",
    )
    assert matches(root, drawn, brain=False) == {
        "sub-01_run-1": "sub-01_run-01_dseg.nii.gz",
        "sub-01_run-2": "sub-01_run-02_label-tumour_roi.nii.gz",
    }
    assert matches(root, drawn, brain=True)["sub-01_run-2"] == (
        "sub-01_run-02_desc-brain_mask.nii.gz"
    )


def test_a_brain_mask_by_its_label_is_no_prompt(tmp_path: Path) -> None:
    root = dataset(tmp_path / "raw", "sub-01_T1w.nii.gz")
    drawn = dataset(tmp_path / "drawn", "sub-01_label-brain_mask.nii.gz", "._sub-01_dseg.nii.gz")
    assert matches(root, drawn, brain=False) == {"sub-01": None}
    assert matches(root, drawn, brain=True) == {"sub-01": "sub-01_label-brain_mask.nii.gz"}


def test_the_t2_of_a_session_is_not_another_acquisition_s(tmp_path: Path) -> None:
    for t1s, t2s, expected in (
        (["sub-01_run-1", "sub-01_run-2"], ["sub-01_run-2"], ["sub-01_run-2", "sub-01_run-2"]),
        (["sub-01_acq-mprage"], ["sub-01_acq-tse"], ["sub-01_acq-tse"]),
        (["sub-01_acq-a", "sub-01_acq-b"], ["sub-01_acq-b"], [None, "sub-01_acq-b"]),
        (["sub-01"], ["sub-01_run-1", "sub-01_run-2"], [None]),
        (["sub-01"], ["sub-01_ce-gadolinium"], [None]),
        (["sub-01_run-01"], ["sub-01_run-1", "sub-01_run-2"], ["sub-01_run-1"]),
        (["sub-01"], ["sub-01_acq-high_res"], [None]),
        (["sub-01"], ["sub-01_part-phase", "sub-01_part-mag"], ["sub-01_part-mag"]),
    ):
        folder = tmp_path / "-".join([*t1s, *t2s])
        dataset(folder, *(f"{name}_T1w.nii.gz" for name in t1s))
        dataset(folder, *(f"{name}_T2w.nii.gz" for name in t2s))
        found = [one.images.get("t2") for one in find_scans(folder)]
        names = [None if path is None else path.name for path in found]
        assert names == [name and f"{name}_T2w.nii.gz" for name in expected]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("sub-01_run-a", "the value of 'run-a' is not a number"),
        ("sub-01_acq-high_res", "'res' is not an entity"),
        ("sub-01_acq-T1-a", "the value of 'acq-T1-a' holds more than letters and digits"),
        ("sub-01_acq-é", "the value of 'acq-é' holds more"),
        ("sub-01_run-1_run-2", "it has 'run' twice"),
        ("sub-01_acq-", "'acq-' is not an entity"),
        ("ses-1_sub-01", "it does not begin with sub-"),
        ("t1", "'t1' is not an entity"),
        ("sub-03", "it lies in sub-01, but its name says sub-03"),
    ],
)
def test_a_name_that_bids_does_not_allow_is_a_scan_with_the_reason(
    tmp_path: Path, name: str, reason: str
) -> None:
    root = dataset(tmp_path, "sub-01_T1w.nii.gz", "sub-02_T1w.nii.gz")
    (root / "sub-01/anat" / f"{name}_T1w.nii.gz").write_bytes(b"")
    (root / "sub-01/anat" / "._sub-01_T1w.nii.gz").write_bytes(b"")
    found = {one.entities: one.problem for one in find_scans(root)}
    assert found["sub-01"] == found["sub-02"] == ""
    assert reason in found[name]
    assert len(found) == 3


def test_what_bids_allows_is_found_and_parts_that_are_no_magnitude_are_not(tmp_path: Path) -> None:
    names = ["sub-01_acq-a+b", "sub-01_part-mag", "sub-01_rec-norm_echo-2", "sub-01_run-007"]
    parts = [f"sub-01_{part}" for part in ("part-phase", "part-real_run-1", "run-1_part-imag")]
    root = dataset(tmp_path, *(f"{name}_T1w.nii.gz" for name in [*names, *parts]))
    assert {one.entities: one.problem for one in find_scans(root)} == dict.fromkeys(names, "")


def test_two_images_of_one_name_are_both_refused(tmp_path: Path) -> None:
    root = dataset(tmp_path, "sub-01_T1w.nii", "sub-01_T1w.nii.gz", "sub-02_T1w.nii")
    problems = [one.problem for one in find_scans(root)]
    assert problems == ["another T1w image of the subject has the same name"] * 2 + [""]


def test_participants_are_chosen_by_their_labels(tmp_path: Path) -> None:
    names = ["sub-01_T1w.nii.gz", "sub-02_T1w.nii.gz", "sub-03_T2w.nii.gz", "sub-1_T1w.nii.gz"]
    root = dataset(tmp_path, *names)
    for chosen, expected in (
        (["01"], ["sub-01"]),
        (["sub-02", "1", "02"], ["sub-02", "sub-1"]),
        ([], ["sub-01", "sub-02", "sub-1"]),
    ):
        assert [one.entities for one in find_scans(root, chosen)] == expected
    with pytest.raises(InputMissing, match=r"has no sub-4, sub-x; .* are 01, 02, 03, 1"):
        find_scans(root, ["x", "01", "4"])
    with pytest.raises(InputMissing, match="no T1w image of sub-03"):
        find_scans(root, ["01", "03"])


def test_cases_that_cannot_be_right_fail_by_themselves(tmp_path: Path) -> None:
    names = ["sub-01_T1w.nii.gz", "sub-02_run-1_T1w.nii.gz", "sub-03_acq-my-protocol_T1w.nii.gz"]
    names += ["sub-04_T1w.nii.gz"]
    root = dataset(tmp_path / "raw", *names)
    masks = dataset(
        tmp_path / "masks", "sub-01_desc-brain_mask.nii.gz", "sub-02_run-2_desc-brain_mask.nii.gz"
    )
    drawn = dataset(tmp_path / "drawn", "sub-02_run-1_roi.nii.gz", "sub-01_space-MNI_roi.nii.gz")
    options = CohortOptions(
        bids=root, derivatives=tmp_path / "out", bids_masks=masks, bids_prompts=drawn
    )
    heard = WarningLog()
    first, second, third, fourth = bids_cases(options, ["t1"], warn=heard.add)
    assert first.asked is not None
    assert first.asked.brain_mask == masks / "sub-01/anat/sub-01_desc-brain_mask.nii.gz"
    assert not first.asked.prompt
    assert "has no brain mask for sub-02_run-1 (" in str(second.request)
    assert "sub-02_run-2_desc-brain_mask.nii.gz: it belongs to run-2" in str(second.request)
    assert "the value of 'acq-my-protocol' holds more" in str(third.request)
    assert fourth.asked is not None
    assert fourth.asked.brain_mask is None
    unmasked, unprompted = heard
    assert (unmasked.code, unprompted.code) == (BRAIN_MASK_MISSING, PROMPT_MISSING)
    assert unmasked.text == f"{masks}: has no brain mask for 1 of 4 scans: sub-04."
    assert unprompted.numbers == {"scans": 2}
    assert "for 2 of 4 scans: sub-01 (sub-01_space-MNI_roi.nii.gz: it lies" in unprompted.text


def test_a_missing_t2_is_explained_where_the_model_needs_it(tmp_path: Path) -> None:
    root = dataset(tmp_path / "raw", "sub-01_T1w.nii", "sub-01_acq-a_b_T2w.nii", "sub-02_T1w.nii")
    options = CohortOptions(bids=root, derivatives=tmp_path / "out")
    first, second = bids_cases(options, ["t1", "t2"])
    assert "has no T2w: sub-01_acq-a_b_T2w.nii: BIDS does not allow its name" in str(first.request)
    assert second.asked is not None  # that it has none is said where the model is known
    assert all(case.asked is not None for case in bids_cases(options, ["t1"]))


def test_participants_are_those_of_a_dataset() -> None:
    with pytest.raises(UsageError, match="need a dataset"):
        CohortOptions(participant_label=("01",))


def test_what_is_no_dataset_is_refused(tmp_path: Path, raw: Path) -> None:
    with pytest.raises(InputMissing, match="not a folder"):
        find_scans(tmp_path / "no")
    with pytest.raises(InputError, match="not a BIDS dataset"):
        find_scans(tmp_path)
    (tmp_path / DESCRIPTION_FILE).write_text("{}")
    with pytest.raises(InputMissing, match="no T1w image"):
        find_scans(tmp_path)
    with pytest.raises(OutputError, match="the raw dataset"):
        start_derivatives(raw, raw, "0")
    other = tmp_path / "other"
    other.mkdir()
    (other / DESCRIPTION_FILE).write_text(json.dumps({"GeneratedBy": [{"Name": "fMRIPrep"}]}))
    with pytest.raises(OutputError, match="made by fMRIPrep"):
        start_derivatives(other, raw, "0")
