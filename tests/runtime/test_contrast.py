"""NIfTI images whose name or sidecar names a contrast agent."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.fakes.engine import FakeEngine
from tests.scans import SMALL, scan
from tlp_runtime import Synthesizer
from tlp_runtime.errors import InputDoubtful
from tlp_runtime.io.contrast import contrast_doubts
from tlp_runtime.io.nifti import read_volume, write_volume
from tlp_runtime.io.scan import Scan, read_labels, read_scan
from tlp_runtime.synthesis.request import Request
from tlp_runtime.warnings import TLPWarning

IMAGE = "sub-01/ses-a/anat/sub-01_ses-a_acq-x_run-1_T1w.nii.gz"


def image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.ones((3, 4, 5), np.int16), np.diag([-1, -1, 1, 1])), path)
    return path


def agents(path: Path) -> list[str]:
    """The contrast agents that reading a scan warns of."""
    warnings = read_scan(path).volume.warnings
    return [str(one.numbers["agent"]) for one in warnings if one.code.name == "contrast-agent"]


@pytest.mark.documents(
    "File",
    "`ce-` in a BIDS name, `ContrastBolusIngredient` in a sidecar, also an inherited one",
    "a warning with the agent, before the run",
)
@pytest.mark.parametrize(
    "place",
    [
        "sub-01/ses-a/anat/sub-01_ses-a_acq-x_run-1_T1w.json",
        "sub-01/ses-a/anat/sub-01_ses-a_T1w.json",
        "sub-01/ses-a/sub-01_ses-a_acq-x_T1w.json",
        "sub-01/sub-01_T1w.json",
        "sub-01/sub-01_run-1_T1w.json",
        "acq-x_T1w.json",
        "T1w.json",
    ],
)
def test_a_sidecar_that_an_image_inherits_names_its_agent(tmp_path: Path, place: str) -> None:
    path = image(tmp_path / IMAGE)
    assert agents(path) == []
    sidecar = tmp_path / place
    sidecar.write_text(json.dumps({"EchoTime": 1, "ContrastBolusIngredient": "GADOLINIUM"}))
    assert agents(path) == ["GADOLINIUM"]
    (warning,) = read_scan(path).volume.warnings
    assert sidecar.name in warning.text
    sidecar.write_text(json.dumps({"ContrastBolusIngredient": "none"}))
    assert agents(path) == []


@pytest.mark.parametrize(
    "place",
    [
        "sub-01/ses-a/anat/sub-01_ses-a_acq-y_T1w.json",
        "sub-01/ses-a/anat/sub-01_ses-a_acq-x_run-1_T2w.json",
        "sub-01/sub-01_run-2_T1w.json",
        "task-x_T1w.json",
        "../T1w.json",
    ],
)
def test_sidecars_of_other_images_say_nothing(tmp_path: Path, place: str) -> None:
    path = image(tmp_path / "study" / IMAGE)
    (tmp_path / "study" / place).write_text('{"ContrastBolusIngredient": "GADOLINIUM"}')
    assert agents(path) == []


def test_the_nearest_sidecar_that_says_decides(tmp_path: Path) -> None:
    path = image(tmp_path / IMAGE)
    (tmp_path / "T1w.json").write_text('{"ContrastBolusIngredient": "IODINE"}')
    (tmp_path / "sub-01" / "sub-01_T1w.json").write_text('{"ContrastBolusIngredient": ""}')
    assert agents(path) == []
    path.with_name("sub-01_ses-a_T1w.json").write_text("{broken")
    path.with_name("sub-01_ses-a_run-1_T1w.json").write_text('{"EchoTime": 2}')
    assert agents(path) == []
    (tmp_path / "sub-01" / "sub-01_T1w.json").unlink()
    assert agents(path) == ["IODINE"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sub-01_ce-gadolinium_T1w.nii.gz", ["gadolinium"]),
        ("sub-01_ce-gad_run-1_T1w.nii", ["gad"]),
        ("sub-01_ce-none_T1w.nii.gz", []),
        ("patient_ce-gad.nii.gz", []),
        ("sub-01_acq-ce_T1w.nii.gz", []),
    ],
)
def test_the_entity_ce_names_an_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, expected: list[str]
) -> None:
    image(tmp_path / name)
    assert agents(tmp_path / name) == expected
    monkeypatch.chdir(tmp_path)
    assert agents(Path(name)) == expected


def test_any_image_s_own_sidecar_is_read_and_a_mask_s_is_not(tmp_path: Path) -> None:
    path = image(tmp_path / "scan.nii.gz")
    (tmp_path / "scan.json").write_text('{"ContrastBolusAgent": "Gadovist"}')
    assert agents(path) == ["Gadovist"]
    mask = image(tmp_path / "sub-01_ce-gad_mask.nii.gz")
    assert read_labels(mask, Scan(read_volume(path)), by_number=True).warnings == ()


def test_a_sidecar_that_cannot_be_read_leaves_it_open(tmp_path: Path) -> None:
    path = image(tmp_path / "scan.nii.gz")
    (tmp_path / "scan.json").write_text('{"ContrastBolusAgent": "Gado')
    (doubt,) = contrast_doubts(path)
    assert doubt.code.name == "sidecar-unreadable"
    assert "scan.json" in str(doubt)
    (tmp_path / "scan.json").write_text("[1, 2]")
    assert contrast_doubts(path) == ()


def test_the_warning_comes_before_the_run_and_is_an_error_where_warnings_are(
    tmp_path: Path,
) -> None:
    path = tmp_path / "sub-01_ce-gadolinium_T1w.nii.gz"
    write_volume(scan(), path, description="")
    heard: list[TLPWarning] = []
    with Synthesizer(FakeEngine(SMALL)) as synthesizer:
        synthesizer.prepare(Request(images={"t1": path}), warn=heard.append)
        with pytest.raises(InputDoubtful, match=r"contrast agent \(gadolinium\)"):
            synthesizer.prepare(Request(images={"t1": path}, strict=True))
    assert "contrast-agent" in [one.code.name for one in heard]
