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
from tlp_runtime.errors import InputError, InputMissing, OutputError
from tlp_runtime.io.bids import DESCRIPTION_FILE, find_mask, find_scans, start_derivatives
from tlp_runtime.synthesis.request import Request


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
            result = synthesizer.run(Request(images={"t1": found.images["t1"]}))
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
    assert find_mask(folder, first, brain=False) is None
    roi = image(folder / "sub-01/anat/sub-01_label-lesion_mask.nii.gz", labels=True)
    brain = image(folder / "sub-01/anat/sub-01_desc-brain_mask.nii.gz", labels=True)
    assert find_mask(folder, first, brain=False) == roi
    assert find_mask(folder, first, brain=True) == brain
    dsegs = [
        image(folder / f"sub-02/ses-a/anat/sub-02_ses-a_run-{run}_dseg.nii.gz", labels=True)
        for run in (1, 2)
    ]
    assert [find_mask(folder, one, brain=False) for one in (run1, run2)] == dsegs
    image(folder / "sub-01/anat/sub-01_dseg.nii.gz", labels=True)
    with pytest.raises(InputError, match="2 files could be the prompt of sub-01"):
        find_mask(folder, first, brain=False)


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
