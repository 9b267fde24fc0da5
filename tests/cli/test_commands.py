"""The command line but for `tlp infer`: what each verb makes, and how each bad input ends."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from tlp_cli.main import main

from tests.support import TinyModel
from tests.train.test_training import Bomb


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


def test_a_checkpoint_with_code_is_refused_and_not_run(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    torch.save({"state_dict": {}, "tlp": Bomb(tmp_path / "executed")}, tmp_path / "evil.ckpt")
    assert main(["export", str(tmp_path / "evil.ckpt")]) == 4
    assert "was not loaded" in capfd.readouterr().err
    assert not (tmp_path / "executed").exists()


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
        ["train", "--resume", "x", "--max-time", "soon"],
        ["export", "--engine", "openvino"],
        ["export", "x", "--batch", "1,2,4"],
        ["export", "x", "--engine", "trt", "--batch", "4"],
        ["export", "x", "--engine", "trt", "--builder-level", "9"],
        ["export", "x", "--engine", "trt", "--hardware", "all"],
        ["export", "x", "--target", "8.6"],
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
        "verify",
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
    assert files["csv"].read_text().count("\n") == 1 + 4  # the synthesis and three reference rows
    written = files["markdown"].read_text()
    assert all(row in written for row in ("t1 x best factor (oracle)", "t1 x learnt factor"))
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
    arguments = ["export", str(tiny.run.folder), "--engine", "trt", "--triton", "models"]
    assert main(arguments) == 5
    said = capfd.readouterr().err.replace("\n", " ")
    assert "pip install 'tlp-mri[trt-rtx]'" in said
    assert "The ONNX bundle was made and registered" in said
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


def test_import_says_the_size_it_found(
    fixtures_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import torch

    from tlp_train.checkpoint import load_checkpoint

    with np.load(fixtures_dir / "authors_single_dim8.npz") as data:
        state = {k[6:]: torch.from_numpy(data[k]) for k in data if k.startswith("state.")}
    torch.save(state, tmp_path / "published.pth")
    out = tmp_path / "our own.ckpt"
    arguments = ["import", str(tmp_path / "published.pth"), "--out", str(out)]
    assert main([*arguments, "--inputs", "t2"]) == 0
    said = capfd.readouterr().err
    assert "inputs t2; tlp (blocks (1, 2, 2), dim 8, " in said
    assert load_checkpoint(out).spec.inputs == ("t2",)
    assert main([*arguments, "--inputs", "t2"]) == 9
    assert main([*arguments, "--inputs", "t1,t2", "--overwrite"]) == 4
    assert main([*arguments, "--inputs", "flair", "--overwrite"]) == 2
    unknown = [*arguments, "--inputs", "t1,t2", "--network", "hinet", "--overwrite"]
    assert main(unknown) == 4
    assert main([*arguments, "--inputs", "t1", "--network", "unet", "--overwrite"]) == 2


def test_augment_writes_pairs_that_infer_reproduces(
    tiny: TinyModel, case: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tiny.register()
    t1, seg = case["t1"], case["seg"]
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
