"""`tlp infer` on other grids and formats: resampling, prompts by numbers, DICOM, BIDS."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from nibabel.processing import resample_to_output
from tlp_cli.main import main

from tests.cli.images import image_of, save
from tests.fakes import dicom_series
from tests.support import TinyModel
from tlp_runtime import Volume
from tlp_runtime.io.dicom.series import read_series
from tlp_runtime.io.nifti import read_volume


def test_a_scan_off_the_grid_comes_back_on_its_own(
    tiny: TinyModel, case: dict[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    t1 = resample_to_output(nib.load(case["t1"]), (1.3, 1.1, 2.5), order=1)
    roi = resample_to_output(nib.load(case["seg"]), (1.3, 1.1, 2.5), order=0)
    turned = [image.as_reoriented(np.array([[2, 1], [0, -1], [1, -1]])) for image in (t1, roi)]
    for name, image in zip(("t1", "seg"), turned, strict=True):
        nib.save(image, case[name])
    arguments = ["infer", "--t1", str(case["t1"]), "--model", str(tiny.bundle.path), "--out"]
    out = case["t1"].with_name("o.nii.gz")
    assert main([*arguments, str(out), "--prompt", str(case["seg"])]) == 0
    made, image = image_of(out)
    data, given = image_of(case["t1"])
    assert made.shape == data.shape
    np.testing.assert_array_equal(image.affine, given.affine)
    assert made[data > 0].any()
    assert not made[data == 0].all()
    assert json.loads(out.with_name("o.json").read_text())["geometry"]["interpolated"] is True


def test_resample_brings_the_prompt_over(tiny: TinyModel, case: dict[str, Path]) -> None:
    arguments = ["infer", "--t1", str(case["t1"]), "--model", str(tiny.bundle.path), "-q"]
    plain, brought = (case["t1"].with_name(f"{n}.nii.gz") for n in ("a", "b"))
    prompt = ["--prompt", str(case["seg"])]
    assert main([*arguments, "--out", str(plain), *prompt]) == 0
    data, image = image_of(case["seg"])
    save(case["seg"], np.repeat(data, 2, axis=0), image.affine @ np.array(
        [[0.5, 0, 0, -0.25], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]))  # fmt: skip
    assert main([*arguments, "--out", str(brought), *prompt]) == 3
    assert main([*arguments, "--out", str(brought), *prompt, "--resample"]) == 0
    np.testing.assert_array_equal(image_of(plain)[0], image_of(brought)[0])


@pytest.mark.documents("Prompt", "a label map with other numbers", "`--labels tumour=7 oedema=9`")
def test_label_meanings_and_shapes_are_options(tiny: TinyModel, case: dict[str, Path]) -> None:
    data, image = image_of(case["seg"])
    save(
        case["seg"], np.where(data == 2, 9, np.where(data > 0, 7, 0)).astype(np.uint8), image.affine
    )
    arguments = ["infer", "--t1", str(case["t1"]), "--model", str(tiny.bundle.path), "-q", "--out"]
    outs = [case["t1"].with_name(f"{n}.nii.gz") for n in range(3)]
    prompted = [*arguments, str(outs[0]), "--prompt", str(case["seg"])]
    assert main([*prompted, "--labels", "tumour=7", "oedema=9"]) == 0
    assert main([*arguments, str(outs[1]), "--labels", "tumour=7 oedema=9",
                 "--prompt", str(case["seg"])]) == 0  # fmt: skip
    np.testing.assert_array_equal(image_of(outs[0])[0], image_of(outs[1])[0])
    shapes = [
        "--prompt-sphere",
        "voxel:120,120,12,15",
        "--prompt-box",
        "oedema:voxel:90,90,6,99,99,15",
    ]
    assert main([*arguments, str(outs[2]), *shapes]) == 0
    record = json.loads(outs[2].with_suffix("").with_suffix(".json").read_text())
    assert record["prompt"]["shapes"] == [
        "sphere tumour:voxel:120,120,12,15", "box oedema:voxel:90,90,6,99,99,15",
    ]  # fmt: skip


def test_dicom_in_and_out(
    tiny: TinyModel, case: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    volume = read_volume(case["t1"])
    images = dicom_series.datasets(volume)
    folder = dicom_series.write(images, tmp_path / "seri\u00eb")
    arguments = ["infer", "--t1", str(folder), "--model", str(tiny.bundle.path), "-q"]
    assert main([*arguments, "--out", str(folder / "o.nii.gz")]) == 2, "within the input"
    assert main([*arguments, "--out-format", "dicom"]) == 0
    out = tmp_path / "seri\u00eb_synth-t1ce-dicom"
    made = read_series(out)
    assert len(made.planes) == volume.shape[2]
    record = json.loads(out.with_name(f"{out.name}.json").read_text())
    assert record["inputs"]["t1"]["file"] == str(folder)
    assert main([*arguments, "--out-format", "dicom"]) == 9, "an existing series is kept"
    assert main([*arguments, "--out-format", "dicom", "--overwrite"]) == 0
    over = ["--out-format", "dicom", "--overwrite", "--out"]
    assert main([*arguments, *over, str(tmp_path)]) == 2, "holds the input"
    other = case["t1"].parent
    kept = {path: path.read_bytes() for path in other.iterdir()}
    assert main([*arguments, *over, str(other)]) == 9, "a folder of other things is never replaced"
    assert {path: path.read_bytes() for path in other.iterdir()} == kept
    assert main(arguments) == 0
    data, image = image_of(tmp_path / "seri\u00eb_synth-t1ce.nii.gz")
    same = Volume(data, image.affine).reoriented(made.volume.grid.orientation)
    np.testing.assert_allclose(same.data, made.volume.data / 4095, atol=0.51 / 4095)
    assert image.header["sform_code"] == image.header["qform_code"] == 1


def test_an_incomplete_series_is_refused_or_recorded(
    tiny: TinyModel, case: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = dicom_series.write(dicom_series.datasets(read_volume(case["t1"])), tmp_path / "s")
    (folder / "0000").write_bytes(b"")
    out = tmp_path / "o.nii.gz"
    run = ["infer", "--t1", str(folder), "--out", str(out), "--model", str(tiny.bundle.path)]
    assert main(run) == 3
    said = capfd.readouterr().err.replace("\n", " ")
    assert "0000 (is empty)" in said
    assert "Use --allow-incomplete to go on without them." in said
    assert not out.exists()
    assert main([*run, "--allow-incomplete"]) == 0
    assert "warning:" in capfd.readouterr().err
    record = json.loads(out.with_name("o.json").read_text())
    assert "series-incomplete" in [warning["code"] for warning in record["warnings"]]
    assert main([*run, "--allow-incomplete", "--overwrite", "--strict"]) == 3


def test_every_run_prints_what_its_prompt_marks(
    tiny: TinyModel, case: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = ["infer", "--t1", str(case["t1"]), "--model", str(tiny.bundle.path), "--overwrite"]
    run += ["--out", str(tmp_path / "o.nii.gz")]
    assert main([*run, "--prompt", str(case["seg"])]) == 0
    assert re.search(
        r"prompt: tumour [\d.]+ ml, .*% in the brain, slices \d+ to \d+", capfd.readouterr().err
    )
    empty = tmp_path / "no.nii.gz"
    image = nib.load(case["seg"])
    nib.save(nib.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine), empty)
    assert main([*run, "--prompt", str(empty)]) == 3
    said = capfd.readouterr().err.replace("\n", " ")
    assert "Use --allow-empty-prompt to synthesize the image without a prompt." in said
    assert main([*run, "--prompt", str(empty), "--allow-empty-prompt"]) == 0
    assert "the synthesis of" in capfd.readouterr().err


@pytest.mark.documents(
    "DICOM",
    "an output folder that exists and is empty",
    "used; any other needs `--overwrite`, and holds nothing but such a series",
)
@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_what_a_derived_series_leaves_out_is_said_before_the_model_runs(
    tiny: TinyModel, case: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    images = dicom_series.spoil(
        dicom_series.datasets(read_volume(case["t1"])),
        EchoTime=b"min",
        SeriesNumber=b"three",
        InstitutionName=100 * b"x",
    )
    folder, out = dicom_series.write(images, tmp_path / "series"), tmp_path / "out"
    out.mkdir()
    arguments = ["infer", "--t1", str(folder), "--out-format", "dicom", "--out", str(out)]
    assert main([*arguments, "--model", "no-such-model"]) == 4
    said = (
        "Not copied to the derived series: EchoTime. Shortened: InstitutionName. Replaced: "
        "SeriesNumber.",
        "warning: ",
    )
    printed = " ".join(capfd.readouterr().err.split())
    assert all(words in printed for words in said), printed
    assert list(out.iterdir()) == []
    assert main([*arguments, "--model", str(tiny.bundle.path)]) == 0
    assert len(list(out.iterdir())) == len(images)
    warnings = json.loads((tmp_path / "out.json").read_text())["warnings"]
    assert [w["numbers"] for w in warnings if w["code"] == "attributes-dropped"] == [
        {"left_out": "EchoTime", "shortened": "InstitutionName", "replaced": "SeriesNumber"}
    ]
    for path in folder.iterdir():
        if path.suffix != ".txt":
            image = pydicom.dcmread(path)
            del image.StudyInstanceUID
            image.save_as(path)
    capfd.readouterr()
    arguments = [*arguments[:-1], str(tmp_path / "new"), "--model", "no-such-model"]
    assert main(arguments) == 3, "refused before the model is loaded"
    printed = " ".join(capfd.readouterr().err.split())
    assert "its Study Instance UID is missing or not valid" in printed
    assert "--out-format nifti" in printed


@pytest.mark.documents("BIDS", "a scan that fails", "the others are done; exit 8 with its reason")
def test_a_bids_dataset_in_derivatives_out(
    tiny: TinyModel, case: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root, derivatives = tmp_path / "study", tmp_path / "study" / "derivatives" / "tlp"
    for name in ("01", "02"):
        anat = root / f"sub-{name}" / "anat"
        anat.mkdir(parents=True)
        (anat / f"sub-{name}_T1w.nii.gz").write_bytes(case["t1"].read_bytes())
    (root / "sub-02/anat/sub-02_T1w.nii.gz").write_bytes(b"no image")
    (root / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.10.0"}')
    drawn = tmp_path / "drawn" / "sub-01" / "anat"
    drawn.mkdir(parents=True)
    (drawn / "sub-01_dseg.nii.gz").write_bytes(case["seg"].read_bytes())
    arguments = ["infer", "--bids", str(root), "--derivatives", str(derivatives), "--json", "-",
                 "--bids-prompts", str(tmp_path / "drawn")]  # fmt: skip
    arguments += ["--model", str(tiny.bundle.path)]
    assert main(arguments) == 8
    printed = capfd.readouterr()
    assert "1 of 2 cases failed" in printed.err
    assert "sub-02_T1w.nii.gz: is not a NIfTI image" in printed.err.replace("\n", " ")
    told = json.loads(printed.out)
    out = derivatives / "sub-01/anat/sub-01_desc-synthT1ce_T1w.nii.gz"
    assert (told["done"], list(told["failed"])) == (1, ["sub-02"])
    assert told["journal"] == str(derivatives / "code" / "tlp-journal.jsonl")
    plain = case["t1"].with_name("plain.nii.gz")
    assert main(["infer", "--t1", str(case["t1"]), "--prompt", str(case["seg"]), "-q",
                 "--model", str(tiny.bundle.path), "--out", str(plain)]) == 0  # fmt: skip
    np.testing.assert_array_equal(image_of(out)[0], image_of(plain)[0])
    record = json.loads(out.with_suffix("").with_suffix(".json").read_text())
    assert record["prompt"] is not None
    assert record["Sources"] == ["bids:raw:sub-01/anat/sub-01_T1w.nii.gz"]
    (root / "sub-02/anat/sub-02_T1w.nii.gz").write_bytes(case["t1"].read_bytes())
    assert main([*arguments[:5], *arguments[7:]]) == 0
    assert "1 done, 1 unchanged since an earlier run" in capfd.readouterr().err
    validator = Path(sys.executable).with_name("bids-validator-deno")
    assert subprocess.run([validator, derivatives], check=False).returncode == 0


@pytest.mark.documents(
    "BIDS",
    "a T1w name that BIDS does not allow (`run-a`, `acq-high_res`)",
    "fails by itself, naming the entity; exit 8",
)
@pytest.mark.documents(
    "BIDS", "`--participant-label 01 02`", "these subjects alone; exit 3 where one is unknown"
)
def test_participants_contrast_and_a_forbidden_name_of_a_dataset(
    tiny: TinyModel, case: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root, derivatives = tmp_path / "study", tmp_path / "out"
    for name in ("sub-01", "sub-02_acq-postgad", "sub-03_acq-my-protocol", "sub-04"):
        anat = root / name.partition("_")[0] / "anat"
        anat.mkdir(parents=True)
        (anat / f"{name}_T1w.nii.gz").write_bytes(case["t1"].read_bytes())
    (root / "sub-02/sub-02_T1w.json").write_text('{"ContrastBolusIngredient": "GADOLINIUM"}')
    (root / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.10.0"}')
    arguments = ["infer", "--bids", str(root), "--derivatives", str(derivatives), "--json", "-"]
    arguments += ["--model", str(tiny.bundle.path), "--participant-label"]
    assert main([*arguments, "sub-01", "02", "--participant-label", "03"]) == 8
    printed = capfd.readouterr()
    told = json.loads(printed.out)
    assert told["done"] == 2
    assert "'acq-my-protocol'" in told["failed"]["sub-03_acq-my-protocol"]
    assert not (derivatives / "sub-04").exists()
    record = json.loads(
        (derivatives / "sub-02/anat/sub-02_acq-postgad_desc-synthT1ce_T1w.json").read_text()
    )
    warned = [one for one in record["warnings"] if one["code"] == "contrast-agent"]
    assert [one["numbers"]["agent"] for one in warned] == ["GADOLINIUM"]
    assert main([*arguments, "01", "05"]) == 3
    assert "has no sub-05; the labels of its participants are 01, 02, 03, 04" in (
        capfd.readouterr().err
    )
    assert main([*arguments[:-1], "05"]) == 2
