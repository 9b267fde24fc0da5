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
from tlp_cli.main import main

from tests.cli.images import image_of, save
from tests.support import TinyModel
from tlp_runtime.files.hashes import sha256
from tlp_runtime.models.bundle import Bundle


def test_infer_writes_beside_the_t1_on_its_grid(
    tiny: TinyModel, case: dict[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    tiny.register()
    arguments = ["infer", "--t1", str(case["t1"]), "--prompt", str(case["seg"])]
    preview = case["t1"].with_name("p.png")
    assert main([*arguments, "--preview", str(preview), "--json", "-"]) == 0
    out = case["t1"].with_name("t1_synth-t1ce.nii.gz")
    data, image = image_of(out)
    _, t1 = image_of(case["t1"])
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
    assert all(seconds > 0 for seconds in record["seconds"].values())
    for line in (f"output: {out}", f"model: {tiny.bundle.name}", "engine: ort-cpu", f"made {out}"):
        assert line in printed.err
    assert printed.err.strip().splitlines()[-1] == "next: tlp bench"


def test_quiet_prints_nothing_but_results(
    tiny: TinyModel, case: dict[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["infer", "--t1", str(case["t1"]), "--model", str(tiny.bundle.path), "-q"]) == 0
    assert capfd.readouterr() == ("", "")


def test_evidence_says_what_the_prompt_alone_made(
    tiny: TinyModel, case: dict[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["infer", "--t1", str(case["t1"]), "--model", str(tiny.bundle.path), "--evidence"]
    assert main(arguments) == 2
    assert "cannot be mapped without one" in capfd.readouterr().err
    assert not case["t1"].with_name("t1_synth-t1ce.nii.gz").exists()
    assert main([*arguments, "--prompt", str(case["seg"])]) == 0
    record = json.loads(case["t1"].with_name("t1_synth-t1ce.json").read_text())
    change, image = image_of(case["t1"].with_name("t1_synth-t1ce_evidence.nii.gz"))
    drawn = (change > record["evidence"]["threshold"]).sum()
    volume = abs(np.linalg.det(image.affine[:3, :3])) / 1000
    assert record["evidence"]["drawn_ml"] == pytest.approx(drawn * volume, abs=1e-3)
    assert f"{record['evidence']['drawn_ml']:g} ml are drawn, not seen" in capfd.readouterr().err


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
    data, image = image_of(case["t1"])
    save(case["t1"], data[..., 12], image.affine)
    return []


def _four_d(case: dict[str, Path]) -> list[str]:
    data, image = image_of(case["t1"])
    save(case["t1"], np.stack([data, data], axis=-1), image.affine)
    return []


def _zero(case: dict[str, Path]) -> list[str]:
    data, image = image_of(case["t1"])
    save(case["t1"], data * 0, image.affine)
    return []


def _nan(case: dict[str, Path]) -> list[str]:
    data, image = image_of(case["t1"])
    data = data.astype(np.float32)
    data[120, 120, 12] = np.nan
    save(case["t1"], data, image.affine)
    return []


def _edit_header(path: Path, **fields: object) -> None:
    data, image = image_of(path)
    for name, value in fields.items():
        image.header[name] = value
    nib.save(nib.Nifti1Image(data, None, image.header), path)


def _no_place(case: dict[str, Path]) -> list[str]:
    _edit_header(case["t1"], sform_code=0, qform_code=0)
    return []


def _mirrored_forms(case: dict[str, Path]) -> list[str]:
    data, image = image_of(case["t1"])
    image.header.set_qform(np.diag([-1, 1, 1, 1]) @ image.affine, 1)
    nib.save(nib.Nifti1Image(data, None, image.header), case["t1"])
    return []


def _micrometres(case: dict[str, Path]) -> list[str]:
    _edit_header(case["t1"], xyzt_units=3)
    return []


def _prompt_box_nowhere(case: dict[str, Path]) -> list[str]:
    data, image = image_of(case["seg"])
    save(case["seg"], data * 0, image.affine)
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
    data, image = image_of(case["t1"])
    mask = case["t1"].with_name("mask.nii.gz")
    save(mask, (data[::2] > 0).astype(np.uint8), image.affine @ np.diag([2, 1, 1, 1]))
    return ["--brain-mask", str(mask)]


def _prompt_shape(case: dict[str, Path]) -> list[str]:
    data, image = image_of(case["seg"])
    save(case["seg"], data[..., :-1], image.affine)
    return []


def _prompt_place(case: dict[str, Path]) -> list[str]:
    data, image = image_of(case["seg"])
    affine = image.affine.copy()
    affine[1, 3] += 2
    save(case["seg"], data, affine)
    return []


def _prompt_label(case: dict[str, Path]) -> list[str]:
    data, image = image_of(case["seg"])
    data[data == 4] = 7
    data[120, 120, 12] = 7
    save(case["seg"], data, image.affine)
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
    (_micrometres, 3, "lengths in micrometres, expected mm"),
    (_prompt_box_nowhere, 3, "wholly outside"),
    (_sphere_form, 2, "sphere '1,2,3': expected X,Y,Z,RADIUS_MM"),
    (_dicom_of_nifti, 2, "is not DICOM, so there is no patient"),
    (_bids_alone, 2, "go together; give both"),
    (_stray_word, 2, "unexpected 'roi.nii.gz'"),
    (_mask_grid, 3, "Use --resample"),
    (_prompt_shape, 3, "240 x 240 x 23"),
    (_prompt_place, 3, "corners up to 2 mm apart. Use --resample"),
    (_prompt_label, 3, "labels 7 have no meaning"),
    (_no_gpu, 5, "but no engine can use it"),
    (_no_folder, 9, "does not exist"),
    (_unwritable, 9, "cannot be written"),
    (_exists, 9, "exists already.   Use --overwrite"),
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
    assert image_of(case["t1"].with_name("t1_synth-t1ce.nii.gz"))[0].shape == (240, 240, 24)


@pytest.mark.parametrize("moved", ["shape", "place"])
def test_two_images_on_different_grids(
    case: dict[str, Path], tiny_dual: Bundle, capfd: pytest.CaptureFixture[str], moved: str
) -> None:
    data, image = image_of(case["t2"])
    affine = image.affine.copy()
    if moved == "shape":
        data = data[..., :-2]
    else:
        affine[2, 3] += 0.011
    save(case["t2"], data, affine)
    arguments = ["infer", "--t1", str(case["t1"]), "--t2", str(case["t2"])]
    assert main([*arguments, "--model", str(tiny_dual.path)]) == 3
    assert (
        "Use --resample to bring it over by the world frame of both."
        in capfd.readouterr().err.replace("\n", " ")
    )
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
    np.testing.assert_array_equal(image_of(first)[0], image_of(second)[0])


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
    assert image_of(case["t1"])[0].any()
