"""`tlp infer`: what it makes, and how each bad input ends."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from tlp_cli.main import main

from tests.support import TinyModel
from tlp_runtime.bundle import Bundle


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
    assert record["model"] == tiny.bundle.name
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
    _save(case["t1"], data[..., 70], image.affine)
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
    data[120, 120, 70] = np.nan
    _save(case["t1"], data, image.affine)
    return []


def _other_grid(case: dict[str, Path]) -> list[str]:
    data, image = _image(case["t1"])
    _save(case["t1"], data, image.affine @ np.diag([0.8, 0.8, 3, 1]))
    _save(case["seg"], _image(case["seg"])[0], image.affine @ np.diag([0.8, 0.8, 3, 1]))
    return []


def _small(case: dict[str, Path]) -> list[str]:
    data, image = _image(case["t1"])
    _save(case["t1"], data[:180, :180], image.affine)
    _save(case["seg"], _image(case["seg"])[0][:180, :180], image.affine)
    return []


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
    data[120, 120, 70] = 7
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
    (_four_d, 3, "240 x 240 x 155 x 2, expected one 3-D volume"),
    (_zero, 3, "zero everywhere"),
    (_nan, 3, "1 of 8928000 voxels are NaN or infinite"),
    (_other_grid, 3, "0.8 x 0.8 x 3 mm, the model needs 1 x 1 x 1 mm"),
    (_small, 3, "do not hold the model's crop"),
    (_prompt_shape, 3, "240 x 240 x 154"),
    (_prompt_place, 3, "corners up to 2 mm apart"),
    (_prompt_label, 3, "labels 7 have no meaning"),
    (_no_gpu, 5, "but no engine can use it"),
    (_no_folder, 9, "does not exist"),
    (_unwritable, 9, "cannot be written"),
    (_exists, 9, "exists already. Give --overwrite"),
    (_preview_exists, 9, "p.png: exists already"),
]


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
    assert _image(case["t1"].with_name("t1_synth-t1ce.nii.gz"))[0].shape == (240, 240, 155)


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
    assert "Both must lie on one grid" in capfd.readouterr().err.replace("\n", " ")
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
