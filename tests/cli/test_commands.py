"""The command line: what each verb makes, and how each bad input ends."""

from __future__ import annotations

import errno
import gzip
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from tlp_cli.main import main

from tests.support import TinyModel
from tests.train.test_training import Bomb
from tlp_runtime.bundle import Bundle


@pytest.fixture
def case(phantom_case: Path, tmp_path: Path) -> dict[str, Path]:
    """A T1, T2 and seg in a folder with a space and an accent in its name."""
    folder = tmp_path / "scän 1"
    folder.mkdir()
    paths = {}
    for kind in ("t1", "t2", "seg"):
        paths[kind] = folder / f"{kind}.nii.gz"
        shutil.copy(phantom_case / f"{phantom_case.name}_{kind}.nii.gz", paths[kind])
    return paths


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
    (_no_gpu, 5, "a CUDA GPU was asked for"),
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


def test_a_phantom_that_exists_is_kept(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "p" / "BraTS2021_90001").mkdir(parents=True)
    arguments = ["phantom", "--out", str(tmp_path / "p"), "--cases", "2"]
    assert main(arguments) == 9
    assert "BraTS2021_90001 already exists" in capfd.readouterr().err.replace("\n", "")
    assert os.listdir(tmp_path / "p") == ["BraTS2021_90001"]
    (tmp_path / "file").write_text("")
    assert main(["phantom", "--out", str(tmp_path / "file")]) == 9


@pytest.mark.parametrize("verb", ["train", "export"])
def test_a_home_that_cannot_be_written(
    verb: str,
    tiny: TinyModel,
    phantom_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TLP_HOME", "/proc/home")
    arguments = {
        "train": ["train", "--data", str(phantom_dir), "--preset", "demo"],
        "export": ["export", str(tiny.run.last)],
    }
    assert main(arguments[verb]) == 9
    assert "cannot be written" in capfd.readouterr().err.replace("\n", " ")


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


def test_a_checkpoint_with_code_is_refused_and_not_run(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    torch.save({"state_dict": {}, "tlp": Bomb(tmp_path / "executed")}, tmp_path / "evil.ckpt")
    assert main(["export", str(tmp_path / "evil.ckpt")]) == 4
    assert "was not loaded" in capfd.readouterr().err
    assert not (tmp_path / "executed").exists()


def test_an_input_may_not_be_an_output(tiny: TinyModel, case: dict[str, Path]) -> None:
    tiny.register()
    t1 = str(case["t1"])
    assert main(["infer", "--t1", t1, "--out", t1, "--overwrite"]) == 2
    assert _image(case["t1"])[0].any()


@pytest.mark.parametrize(
    "arguments",
    [
        ["infer"],
        ["infer", "--t1", "a.nii.gz", "--nonsense"],
        ["nonsense"],
        ["train", "--inputs", "flair"],
        ["train", "--split-sizes", "1,1,1"],
        ["train", "--precision", "fp8"],
        ["train", "--ffn", "mlp"],
        ["train", "--accumulate", "2"],  # of the demo preset's batch of one
        ["import", "w.pth", "--out", "a.ckpt"],
        ["augment", "--t1", "a.nii.gz"],
        ["compare", "a.json"],
        ["train", "--no-global-fusion"],
        ["train", "--resume", "x", "--seed", "1"],
        ["export", "--engine", "openvino"],
        ["evaluate"],
    ],
)
def test_usage_errors_are_exit_2(arguments: list[str], phantom_dir: Path) -> None:
    if arguments[0] == "train" and "--split-sizes" in arguments:
        arguments = [*arguments, "--data", str(phantom_dir)]
    assert main(arguments) == 2


@pytest.mark.parametrize(
    "verb",
    [
        "phantom",
        "train",
        "import",
        "export",
        "infer",
        "augment",
        "bench",
        "evaluate",
        "compare",
        "models list",
    ],
)
def test_every_verb_s_help_has_an_example(verb: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([*verb.split(), "--help"]) == 0
    assert "Example" in capfd.readouterr().out


def test_models_are_listed_chosen_and_removed(
    tiny: TinyModel, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["models"]) == 0
    assert "no model is registered yet" in capfd.readouterr().err
    tiny.register()
    name = tiny.bundle.name
    assert main(["models", "default", name]) == 0
    capfd.readouterr()
    assert main(["models", "list", "--json", "-"]) == 0
    (row,) = json.loads(capfd.readouterr().out)
    assert (row["name"], row["default"], row["inputs"], row["state"]) == (
        name, True, ["t1"], "sound"
    )  # fmt: skip
    assert main(["models", "default", "nobody"]) == 4
    assert main(["models", "remove", name]) == 0
    assert tiny.bundle.path.is_dir()  # it lies outside the store
    assert main(["models", "remove", name]) == 4


def test_evaluate_prints_tables_and_writes_every_format_and_compare_reads_them(
    tiny: TinyModel, phantom_case: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "one"
    shutil.copytree(phantom_case, data / phantom_case.name)
    files = {kind: tmp_path / f"e.{kind}" for kind in ("json", "csv", "markdown")}
    arguments = ["evaluate", "--data", str(data), "--model", str(tiny.bundle.path)]
    outputs = [word for kind, path in files.items() for word in (f"--{kind}", str(path))]
    assert main([*arguments, "--prompt", "seg", *outputs]) == 0
    record = json.loads(files["json"].read_text())
    assert record["prompt"] == "seg"
    synthesis = record["summary"]["synthesis"]
    assert synthesis["slice.ssim"]["count"] == 100
    assert 0 < synthesis["core.ssim"]["count"] < 100
    assert files["csv"].read_text().count("\n") == 1 + 3  # the synthesis and two reference rows
    assert "t1 x best factor" in files["markdown"].read_text()
    out = capfd.readouterr().out
    for column in ("PSNR dB", "SSIM", "NMSE", "enhancement", "t1 copied"):
        assert column in out
    for words in outputs:
        if words.startswith("--"):
            assert main([*arguments, words, str(files[words[2:]])]) == 9
    second = tmp_path / "f.json"
    assert main([*arguments, "--prompt", "mirrored", "--json", str(second)]) == 0
    capfd.readouterr()
    assert main(["compare", str(files["json"]), str(second), "--json", "-"]) == 0
    compared = json.loads(capfd.readouterr().out)
    assert (compared["first"]["prompt"], compared["second"]["prompt"]) == ("seg", "mirrored")
    assert compared["differences"]["core.psnr_db"]["cases"] == 1
    assert main(["compare", str(files["json"]), str(files["csv"])]) == 3


def test_export_of_a_run_folder_then_no_tensorrt_is_exit_5(
    tiny: TinyModel, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if "tensorrt" in n else real(n))
    assert main(["export", str(tiny.run.folder), "--engine", "trt"]) == 5
    assert "pip install 'tlp-mri[trt-rtx]'" in capfd.readouterr().err.replace("\n", " ")
    capfd.readouterr()
    assert main(["models", "list", "--json", "-"]) == 0  # the bundle is made all the same
    assert len(json.loads(capfd.readouterr().out)) == 1


@pytest.mark.parametrize(("verb", "module"), [("train", "lightning"), ("evaluate", "skimage")])
def test_a_missing_dependency_says_which_line_installs_it(
    verb: str, module: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == module else real(n))
    assert main([verb, *(["--data", "x"] if verb == "evaluate" else [])]) == 5
    assert f"needs {module}. Install it with: pip install 'tlp-mri[train]'" in (
        capfd.readouterr().err.replace("\n", " ")
    )


def test_the_installed_script_ends_as_the_function_does(tiny: TinyModel, tmp_path: Path) -> None:
    """The installed script itself, as a process of its own."""
    script = Path(sys.executable).with_name("tlp")
    environment = {**os.environ, "TLP_HOME": str(tmp_path / "home")}
    result = subprocess.run(
        [script, "infer", "--t1", "absent.nii.gz"],
        capture_output=True, text=True, env=environment, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert result.returncode == 3
    assert result.stdout == ""
    assert result.stderr.count("error:") == 1
    assert "Traceback" not in result.stderr


def test_data_that_cannot_be_trained_on_is_explained(
    phantom_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    names = sorted(path.name for path in phantom_dir.iterdir())
    lists = {
        "absent": [*names[:3], "BraTS2021_00077"],
        "two parts": [*names[:3], names[0]],
    }
    run = tmp_path / "run"
    arguments = ["train", "--preset", "demo", "--out", str(run)]
    for title, entries in lists.items():
        path = tmp_path / f"{title}.txt"
        path.write_text("\n".join(entries))
        words = ["--data", str(phantom_dir), "--split", str(path), "--split-sizes", "2,1,1"]
        assert main([*arguments, *words]) == 3
        assert (names[0] if title == "two parts" else "BraTS2021_00077") in capfd.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main([*arguments, "--data", str(tmp_path / "empty")]) == 3
    assert "no case found" in capfd.readouterr().err
    assert not run.exists(), "nothing is made of what cannot be trained on"


def test_a_disk_that_fills_while_caching_damages_nothing(
    phantom_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    names = sorted(path.name for path in phantom_dir.iterdir())
    run, cache = tmp_path / "run", tmp_path / "cache"
    write = Path.write_bytes

    def fill(path: Path, data: bytes) -> int:
        if path.suffix == ".npy" and names[2] in str(path):
            write(path, bytes(data)[:1000])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", fill)
    arguments = ["train", "--preset", "demo", "--data", str(phantom_dir), "--cache", str(cache)]
    assert main([*arguments, "--out", str(run)]) == 9
    message = capfd.readouterr().err.replace("\n", " ")
    assert "the disk is full" in message
    assert "--cache" in message
    assert json.loads((run / "run.json").read_text())["status"] == "interrupted"
    left = {path.name for path in cache.iterdir()}
    assert left <= set(names) - {names[2]}, "neither half a case nor a temporary folder"
    for name in left:
        assert np.load(cache / name / "t1.npy").shape == (100, 192, 160)


def test_import_says_the_size_it_found_and_export_takes_it(
    fixtures_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import torch

    with np.load(fixtures_dir / "authors_single_dim8.npz") as data:
        state = {k[6:]: torch.from_numpy(data[k]) for k in data if k.startswith("state.")}
    torch.save(state, tmp_path / "published.pth")
    out = tmp_path / "our own.ckpt"
    arguments = ["import", str(tmp_path / "published.pth"), "--out", str(out)]
    assert main([*arguments, "--inputs", "t2"]) == 0
    assert "inputs t2; dim 8, 2 downsamplings, blocks (1, 2, 2)" in capfd.readouterr().err
    assert main([*arguments, "--inputs", "t2"]) == 9
    assert main([*arguments, "--inputs", "t1,t2", "--overwrite"]) == 4
    assert main([*arguments, "--inputs", "flair", "--overwrite"]) == 2
    assert main(["export", str(out), "--out", str(tmp_path / "bundle"), "-q"]) == 0
    spec = json.loads((tmp_path / "bundle" / "spec.json").read_text())
    assert spec["inputs"] == ["t2"]


def test_augment_writes_pairs_that_infer_reproduces(
    tiny: TinyModel, phantom_case: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tiny.register()
    t1, seg = (phantom_case / f"{phantom_case.name}_{kind}.nii.gz" for kind in ("t1", "seg"))
    out = tmp_path / "augmented"
    arguments = ["augment", "--t1", str(t1), "--out", str(out)]
    assert main([*arguments, "--random", "2", "--seed", "5"]) == 0
    record = json.loads((out / "augment.json").read_text())
    assert len(record["pairs"]) == 2
    syntheses = []
    for pair in record["pairs"]:
        again = tmp_path / pair["synthesis"]
        words = ["--prompt", str(out / pair["prompt"]), "--out", str(again)]
        assert main(["infer", "--t1", str(t1), *words]) == 0
        images = [nib.load(folder / pair["synthesis"]) for folder in (out, tmp_path)]
        assert np.array_equal(*(np.asanyarray(image.dataobj) for image in images))
        assert np.array_equal(nib.load(out / pair["prompt"]).affine, nib.load(t1).affine)
        syntheses.append(np.asanyarray(images[0].dataobj))
    assert not np.array_equal(*syntheses)
    assert main([*arguments, "--random", "2"]) == 9
    assert main([*arguments, "--random", "1", "--prompt", str(seg), "--overwrite"]) == 0

    drawn = tmp_path / "drawn"
    drawn.mkdir()
    assert main([*arguments, "--prompts", str(drawn), "--overwrite"]) == 3
    shutil.copy(seg, drawn / "one.nii.gz")
    assert main([*arguments, "--prompts", str(drawn), "--overwrite"]) == 0
    assert json.loads((out / "augment.json").read_text())["pairs"][0]["origin"] == "one.nii.gz"
    for wrong in ([], ["--random", "1", "--prompts", str(drawn)], ["--prompt", str(seg)]):
        assert main([*arguments, *wrong, "--overwrite"]) == 2
    (drawn / "two.nii.gz").write_bytes(b"damaged")
    capfd.readouterr()
    assert main([*arguments, "--prompts", str(drawn), "--overwrite"]) == 3
    assert "two.nii.gz" in capfd.readouterr().err
