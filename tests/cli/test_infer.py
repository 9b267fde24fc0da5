"""`tlp infer`: what it makes, and how each bad input ends."""

from __future__ import annotations

import gzip
import json
import shlex
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.processing import resample_to_output
from tlp_cli.main import main

from tests.fakes import dicom_series
from tests.support import TinyModel
from tlp_runtime import Volume
from tlp_runtime.bundle import Bundle, sha256
from tlp_runtime.io.dicom.series import read_series
from tlp_runtime.io.nifti import read_volume


def _image(path: Path) -> tuple[np.ndarray, nib.Nifti1Image]:
    image = nib.load(path)
    return np.asanyarray(image.dataobj).copy(), image


def _save(path: Path, data: np.ndarray, affine: np.ndarray) -> Path:
    nib.save(nib.Nifti1Image(data, affine), path)
    return path


def test_infer_writes_beside_the_t1_on_its_grid(
    tiny: TinyModel, case: dict[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    tiny.register()
    arguments = ["infer", "--t1", str(case["t1"]), "--prompt", str(case["seg"])]
    preview = case["t1"].with_name("p.png")
    assert main([*arguments, "--preview", str(preview), "--json", "-"]) == 0
    out = case["t1"].with_name("t1_synth-t1ce.nii.gz")
    data, image = _image(out)
    _, t1 = _image(case["t1"])
    assert data.shape == t1.shape
    np.testing.assert_array_equal(image.affine, t1.affine)
    for code in ("sform_code", "qform_code"):
        assert image.header[code] == t1.header[code]
    assert image.get_data_dtype() == np.float32
    assert b"SYNTHETIC" in bytes(image.header["descrip"])
    assert preview.is_file()
    printed = capfd.readouterr()
    record = json.loads(printed.out)
    assert record["output"] == str(out)
    assert record["model"]["name"] == tiny.bundle.name
    assert record == json.loads(out.with_name("t1_synth-t1ce.json").read_text())
    assert record["inputs"]["t1"]["sha256"] == sha256(case["t1"])
    assert record["inputs"]["prompt"]["sha256"] == sha256(case["seg"])
    assert record["model"]["onnx_sha256"] == tiny.bundle.onnx_sha256
    assert record["model"]["spec"]["inputs"] == ["t1"]
    assert record["command"] == shlex.join(
        ["tlp", *arguments, "--preview", str(preview), "--json", "-"]
    )
    (extension,) = image.header.extensions
    short = json.loads(extension.get_content())
    assert short["inputs"]["t1"] == sha256(case["t1"])
    assert str(case["t1"].parent) not in json.dumps(short), "no path in the header"
    assert set(record["seconds"]) == {"read", "prepare", "engine", "restore", "write"}
    assert all(seconds > 1e-3 for seconds in record["seconds"].values())
    for line in (f"output: {out}", f"model: {tiny.bundle.name}", "engine: ort-cpu", f"made {out}"):
        assert line in printed.err
    assert printed.err.strip().splitlines()[-1] == "next: tlp bench"


def test_quiet_prints_nothing_but_results(
    tiny: TinyModel, case: dict[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["infer", "--t1", str(case["t1"]), "--model", str(tiny.bundle.path), "-q"]) == 0
    assert capfd.readouterr() == ("", "")


Damage = Callable[[dict[str, Path]], list[str]]


def _missing(case: dict[str, Path]) -> list[str]:
    case["t1"].unlink()
    return []


def _not_nifti(case: dict[str, Path]) -> list[str]:
    case["t1"].write_bytes(gzip.compress(b"no image" * 100))
    return []


def _truncated(case: dict[str, Path]) -> list[str]:
    case["t1"].write_bytes(case["t1"].read_bytes()[:50_000])
    return []


def _two_d(case: dict[str, Path]) -> list[str]:
    data, image = _image(case["t1"])
    _save(case["t1"], data[..., 12], image.affine)
    return []


def _four_d(case: dict[str, Path]) -> list[str]:
    data, image = _image(case["t1"])
    _save(case["t1"], np.stack([data, data], axis=-1), image.affine)
    return []


def _zero(case: dict[str, Path]) -> list[str]:
    data, image = _image(case["t1"])
    _save(case["t1"], data * 0, image.affine)
    return []


def _nan(case: dict[str, Path]) -> list[str]:
    data, image = _image(case["t1"])
    data = data.astype(np.float32)
    data[120, 120, 12] = np.nan
    _save(case["t1"], data, image.affine)
    return []


def _edit_header(path: Path, **fields: object) -> None:
    data, image = _image(path)
    for name, value in fields.items():
        image.header[name] = value
    nib.save(nib.Nifti1Image(data, None, image.header), path)


def _no_place(case: dict[str, Path]) -> list[str]:
    _edit_header(case["t1"], sform_code=0, qform_code=0)
    return []


def _mirrored_forms(case: dict[str, Path]) -> list[str]:
    data, image = _image(case["t1"])
    image.header.set_qform(np.diag([-1, 1, 1, 1]) @ image.affine, 1)
    nib.save(nib.Nifti1Image(data, None, image.header), case["t1"])
    return []


def _micrometres(case: dict[str, Path]) -> list[str]:
    _edit_header(case["t1"], xyzt_units=3)
    return []


def _prompt_box_nowhere(case: dict[str, Path]) -> list[str]:
    data, image = _image(case["seg"])
    _save(case["seg"], data * 0, image.affine)
    return ["--prompt-box", "900,900,900,910,910,910"]


def _sphere_form(case: dict[str, Path]) -> list[str]:
    return ["--prompt-sphere", "1,2,3"]


def _dicom_of_nifti(case: dict[str, Path]) -> list[str]:
    return ["--out-format", "dicom"]


def _bids_alone(case: dict[str, Path]) -> list[str]:
    return ["--bids", str(case["t1"].parent)]


def _stray_word(case: dict[str, Path]) -> list[str]:
    return ["roi.nii.gz"]


def _mask_grid(case: dict[str, Path]) -> list[str]:
    data, image = _image(case["t1"])
    mask = case["t1"].with_name("mask.nii.gz")
    _save(mask, (data[::2] > 0).astype(np.uint8), image.affine @ np.diag([2, 1, 1, 1]))
    return ["--brain-mask", str(mask)]


def _prompt_shape(case: dict[str, Path]) -> list[str]:
    data, image = _image(case["seg"])
    _save(case["seg"], data[..., :-1], image.affine)
    return []


def _prompt_place(case: dict[str, Path]) -> list[str]:
    data, image = _image(case["seg"])
    affine = image.affine.copy()
    affine[1, 3] += 2
    _save(case["seg"], data, affine)
    return []


def _prompt_label(case: dict[str, Path]) -> list[str]:
    data, image = _image(case["seg"])
    data[data == 4] = 7
    data[120, 120, 12] = 7
    _save(case["seg"], data, image.affine)
    return []


def _no_gpu(case: dict[str, Path]) -> list[str]:
    return ["--device", "cuda"]


def _no_folder(case: dict[str, Path]) -> list[str]:
    return ["--out", str(case["t1"].parent / "no" / "o.nii.gz")]


def _unwritable(case: dict[str, Path]) -> list[str]:
    return ["--out", "/proc/o.nii.gz"]


def _exists(case: dict[str, Path]) -> list[str]:
    case["t1"].with_name("t1_synth-t1ce.nii.gz").write_text("kept")
    return []


def _preview_exists(case: dict[str, Path]) -> list[str]:
    preview = case["t1"].with_name("p.png")
    preview.write_text("kept")
    return ["--preview", str(preview)]


BAD = [
    (_missing, 3, "does not exist"),
    (_not_nifti, 3, "t1.nii.gz: is not a NIfTI image"),
    (_truncated, 3, "damaged or cut short"),
    (_two_d, 3, "240 x 240, expected one 3-D volume"),
    (_four_d, 3, "240 x 240 x 24 x 2, expected one 3-D volume"),
    (_zero, 3, "zero everywhere"),
    (_nan, 3, "1 of 1382400 voxels are NaN or infinite"),
    (_no_place, 3, "neither sform nor qform is set"),
    (_mirrored_forms, 3, "sform and qform disagree on which way the axes run (LPS against RPS)"),
    (_micrometres, 3, "lengths in micron, expected mm"),
    (_prompt_box_nowhere, 3, "wholly outside"),
    (_sphere_form, 2, "--prompt-sphere '1,2,3': expected X,Y,Z,RADIUS_MM"),
    (_dicom_of_nifti, 2, "is no DICOM, so there is no patient"),
    (_bids_alone, 2, "--t1, --prompt cannot go with --bids"),
    (_stray_word, 2, "unexpected 'roi.nii.gz'"),
    (_mask_grid, 3, "give --resample"),
    (_prompt_shape, 3, "240 x 240 x 23"),
    (_prompt_place, 3, "corners up to 2 mm apart. Both must lie on one grid: give --resample"),
    (_prompt_label, 3, "labels 7 have no meaning"),
    (_no_gpu, 5, "but no engine can use it"),
    (_no_folder, 9, "does not exist"),
    (_unwritable, 9, "cannot be written"),
    (_exists, 9, "exists already. Give --overwrite"),
    (_preview_exists, 9, "p.png: exists already"),
]


@pytest.mark.documents("File", "neither sform nor qform", "exit 3: left and right are unknown")
@pytest.mark.documents("File", "sform and qform run different ways", "exit 3")
@pytest.mark.documents("File", "lengths in other units than mm", "exit 3")
@pytest.mark.documents("File", "NaN or infinite voxels, zero everywhere", "exit 3")
@pytest.mark.parametrize(
    ("damage", "code", "message"), BAD, ids=[damage.__name__.strip("_") for damage, *_ in BAD]
)
def test_bad_input_ends_with_its_code_one_message_and_no_output(
    tiny: TinyModel,
    case: dict[str, Path],
    capfd: pytest.CaptureFixture[str],
    damage: Damage,
    code: int,
    message: str,
) -> None:
    tiny.register()
    extra = damage(case)
    folder = case["seg"].parent
    before = {path: path.read_bytes() for path in folder.iterdir()}
    arguments = ["infer", "--t1", str(case["t1"]), "--prompt", str(case["seg"]), *extra]
    assert main(arguments) == code
    printed = capfd.readouterr()
    assert "Traceback" not in printed.err
    assert printed.err.count("error:") == 1
    assert message in printed.err.replace("\n", " ")
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_overwrite_replaces_an_output(tiny: TinyModel, case: dict[str, Path]) -> None:
    _exists(case)
    arguments = ["infer", "--t1", str(case["t1"]), "--model", str(tiny.bundle.path)]
    assert main([*arguments, "--overwrite"]) == 0
    assert _image(case["t1"].with_name("t1_synth-t1ce.nii.gz"))[0].shape == (240, 240, 24)


@pytest.mark.parametrize("moved", ["shape", "place"])
def test_two_images_on_different_grids(
    case: dict[str, Path], tiny_dual: Bundle, capfd: pytest.CaptureFixture[str], moved: str
) -> None:
    data, image = _image(case["t2"])
    affine = image.affine.copy()
    if moved == "shape":
        data = data[..., :-2]
    else:
        affine[2, 3] += 0.01
    _save(case["t2"], data, affine)
    arguments = ["infer", "--t1", str(case["t1"]), "--t2", str(case["t2"])]
    assert main([*arguments, "--model", str(tiny_dual.path)]) == 3
    assert "Both must lie on one grid: give --resample" in capfd.readouterr().err.replace("\n", " ")
    assert len(list(case["t1"].parent.iterdir())) == 3


def test_two_inputs_are_synthesized_from_whatever_their_axis_orders(
    case: dict[str, Path], tiny_dual: Bundle
) -> None:
    arguments = ["infer", "--t1", str(case["t1"]), "--t2", str(case["t2"])]
    arguments += ["--model", str(tiny_dual.path), "-q", "--out"]
    first, second = (case["t1"].with_name(f"o{n}.nii.gz") for n in (1, 2))
    assert main([*arguments, str(first)]) == 0
    turned = nib.load(case["t2"]).as_reoriented(np.array([[1, -1], [2, 1], [0, -1]]))
    nib.save(turned, case["t2"])
    assert main([*arguments, str(second)]) == 0
    np.testing.assert_array_equal(_image(first)[0], _image(second)[0])


def test_a_model_for_other_inputs(
    tiny: TinyModel, case: dict[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    tiny.register()
    assert main(["infer", "--t1", str(case["t1"]), "--t2", str(case["t2"])]) == 4
    assert "no registered model takes T1 and T2" in capfd.readouterr().err.replace("\n", " ")
    assert main(["infer", "--t2", str(case["t2"]), "--model", str(tiny.bundle.path)]) == 4


def test_no_model_at_all(case: dict[str, Path], capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["infer", "--t1", str(case["t1"])]) == 4
    assert "no model is registered" in capfd.readouterr().err
    assert main(["bench"]) == 4


def test_an_altered_bundle(
    tiny: TinyModel, case: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    copy = tiny.copy(tmp_path)
    raw = bytearray((copy / "generator.onnx").read_bytes())
    raw[-100] ^= 0xFF
    (copy / "generator.onnx").write_bytes(raw)
    assert main(["infer", "--t1", str(case["t1"]), "--model", str(copy)]) == 4
    assert "generator.onnx was altered or damaged" in capfd.readouterr().err
    assert len(list(case["t1"].parent.iterdir())) == 3


def test_an_input_may_not_be_an_output(tiny: TinyModel, case: dict[str, Path]) -> None:
    tiny.register()
    t1 = str(case["t1"])
    assert main(["infer", "--t1", t1, "--out", t1, "--overwrite"]) == 2
    assert _image(case["t1"])[0].any()


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
    made, image = _image(out)
    data, given = _image(case["t1"])
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
    data, image = _image(case["seg"])
    _save(case["seg"], np.repeat(data, 2, axis=0), image.affine @ np.array(
        [[0.5, 0, 0, -0.25], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]))  # fmt: skip
    assert main([*arguments, "--out", str(brought), *prompt]) == 3
    assert main([*arguments, "--out", str(brought), *prompt, "--resample"]) == 0
    np.testing.assert_array_equal(_image(plain)[0], _image(brought)[0])


@pytest.mark.documents(
    "Prompt", "a label map with other numbers", "`--prompt-labels tumour=7 oedema=9`"
)
def test_label_meanings_and_shapes_are_options(tiny: TinyModel, case: dict[str, Path]) -> None:
    data, image = _image(case["seg"])
    _save(
        case["seg"], np.where(data == 2, 9, np.where(data > 0, 7, 0)).astype(np.uint8), image.affine
    )
    arguments = ["infer", "--t1", str(case["t1"]), "--model", str(tiny.bundle.path), "-q", "--out"]
    outs = [case["t1"].with_name(f"{n}.nii.gz") for n in range(3)]
    prompted = [*arguments, str(outs[0]), "--prompt", str(case["seg"])]
    assert main([*prompted, "--prompt-labels", "tumour=7", "oedema=9"]) == 0
    assert main([*arguments, str(outs[1]), "--prompt-labels", "tumour=7 oedema=9",
                 "--prompt", str(case["seg"])]) == 0  # fmt: skip
    np.testing.assert_array_equal(_image(outs[0])[0], _image(outs[1])[0])
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
    assert len(made.headers) == volume.shape[2]
    record = json.loads(out.with_name(f"{out.name}.json").read_text())
    assert record["inputs"]["t1"]["file"] == str(folder)
    assert main([*arguments, "--out-format", "dicom"]) == 9, "an existing series is kept"
    assert main([*arguments, "--out-format", "dicom", "--overwrite"]) == 0
    assert main(arguments) == 0
    data, image = _image(tmp_path / "seri\u00eb_synth-t1ce.nii.gz")
    same = Volume(data, image.affine).reoriented(made.volume.grid.orientation)
    np.testing.assert_allclose(same.data, made.volume.data / 4095, atol=0.51 / 4095)
    assert image.header["sform_code"] == image.header["qform_code"] == 1


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
    assert "1 of 2 scans failed" in printed.err
    assert "sub-02_T1w.nii.gz: is not a NIfTI image" in printed.err.replace("\n", " ")
    told = json.loads(printed.out)
    out = derivatives / "sub-01/anat/sub-01_desc-synthT1ce_T1w.nii.gz"
    assert told["done"] == [{"scan": "sub-01", "output": str(out)}]
    assert list(told["failed"]) == ["sub-02"]
    plain = case["t1"].with_name("plain.nii.gz")
    assert main(["infer", "--t1", str(case["t1"]), "--prompt", str(case["seg"]), "-q",
                 "--model", str(tiny.bundle.path), "--out", str(plain)]) == 0  # fmt: skip
    np.testing.assert_array_equal(_image(out)[0], _image(plain)[0])
    assert json.loads(out.with_suffix("").with_suffix(".json").read_text())["prompt"] is not None
