"""`tlp verify`, and graphs of several sizes."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from tlp_cli.main import main

from tests.support import TinyModel
from tlp_export import export, libraries
from tlp_export.libraries import TESTED, parity_error
from tlp_export.options import ExportOptions
from tlp_export.structure import require_structure
from tlp_export.verify import check_alone
from tlp_runtime.engines.select import choose
from tlp_runtime.errors import EngineError, Install, ParityError, SpecError
from tlp_runtime.files.hashes import sha256
from tlp_runtime.models.bundle import Bundle
from tlp_runtime.spec.model import ModelSpec, SizeSpec
from tlp_train.checkpoint import load_checkpoint

ROOT = Path(__file__).resolve().parents[2]


def test_verify_compares_with_the_checkpoint_on_given_cases(
    tiny: TinyModel, phantom_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--reference", str(tiny.run.last), "--data", str(phantom_dir), "--json", "-"]
    code = main(["verify", str(tiny.bundle.path), *options])
    record = json.loads(capsys.readouterr().out)
    assert code == 0
    assert record["parity"]["passed"]
    names = [check["inputs"] for check in record["parity"]["checks"]]
    cases = sorted(path.name for path in phantom_dir.iterdir())
    assert {f"{case}, no prompt" for case in cases} < set(names)
    assert f"{cases[0]}, prompted" in names
    for check in record["parity"]["checks"]:
        assert check["worst_psnr_db"] <= check["psnr_db"] + 1e-9
        assert check["max_abs"] >= check["rms"] > 0


def test_verify_without_a_checkpoint_says_what_it_cannot_know(
    tiny: TinyModel, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(tiny.bundle.path), "--json", "-"]) == 0
    said = capsys.readouterr()
    assert "no checkpoint to compare with was found" in said.err
    assert "compared with the bundle's proof slice" in " ".join(said.err.split())
    record = json.loads(said.out)
    assert record["reference"] is None
    proof, *others = record["parity"]["checks"]
    assert proof["inputs"] == "proof slice"
    assert 0 < proof["max_abs"] <= 2e-4
    assert proof["torch_fp32_max_abs"] > 0
    assert others
    for check in others:
        assert check["inputs"].endswith("batch against single slices")
    assert main(["verify", str(tiny.bundle.path), "--data", "anywhere"]) == 3


def test_verify_refuses_another_checkpoint(
    tiny: TinyModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.ckpt"
    data = torch.load(tiny.run.last, weights_only=True)
    data["epoch"] += 1
    torch.save(data, other)
    assert main(["verify", str(tiny.bundle.path), "--reference", str(other)]) == 4
    assert "Give the checkpoint it was exported from" in " ".join(capsys.readouterr().err.split())


def test_verify_exits_7_for_a_graph_of_other_weights(
    tiny: TinyModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bundle whose every hash is right, but whose network is not the checkpoint's."""
    folder = spoil(tiny.copy(tmp_path), 1.1)
    for reference in (["--reference", str(tiny.run.last)], []):
        assert main(["verify", str(folder), *reference]) == 7
        said = " ".join(capsys.readouterr().err.split())
        assert "differs from its reference" in said
        here = ", ".join(f"{name} {version(name).split('+')[0]}" for name in TESTED)
        assert f"Computed with {here}; tested with torch " in said
    assert "proof slice" in said, "the slice in the bundle shows it without the checkpoint"


def test_another_version_than_the_tested_ones_is_what_the_error_advises_against(
    tiny: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(libraries.TESTED, "onnxscript", ("0.5.0", "0.6.9"))
        error = parity_error("x.")
    assert "tested with torch 2.13.0, onnx 1.23.2, onnxscript 0.5.0 to 0.6.9" in error.problem
    assert Install(("onnxscript==0.6.9",), purpose="as tested") in error.fixes


def test_the_newest_tested_versions_are_the_pinned_ones() -> None:
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    assert {f"{name}=={newest}" for name, (_, newest) in TESTED.items()} <= set(pins)


def test_what_cannot_be_traced_is_exit_7_with_the_versions(
    tiny: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*args: object, **options: object) -> None:
        raise torch.onnx.OnnxExporterError("no decomposition of aten::x\nmore")

    monkeypatch.setattr(torch.onnx, "export", failing)
    with pytest.raises(ParityError, match=r"cannot be traced: no decomposition.*tested with torch"):
        export(tiny.run.last, out=tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def spoil(folder: Path, factor: float) -> Path:
    """Multiply weights of a bundle's graph and record its new hash."""
    model = onnx.load(folder / "generator.onnx")
    weight = next(t for t in model.graph.initializer if t.name.endswith("decoder.output.weight"))
    values = onnx.numpy_helper.to_array(weight) * np.float32(factor)
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    onnx.save(model, folder / "generator.onnx")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["generator.onnx"] = sha256(folder / "generator.onnx")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_names_shapes_and_types_are_checked(tiny: TinyModel) -> None:
    spec = tiny.bundle.spec
    for spoil in ("name", "type", "shape", "spec"):
        model = onnx.load(tiny.bundle.onnx)
        if spoil == "name":
            model.graph.input[0].name = "image"
        elif spoil == "type":
            model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
        elif spoil == "shape":
            model.graph.input[0].type.tensor_type.shape.dim[3].dim_value = 161
        else:
            other = replace(spec, inputs=("t2",), brightness=())
            model.metadata_props[0].value = other.to_json()
        with pytest.raises(ParityError, match="specification" if spoil == "spec" else "expected"):
            require_structure(model, spec)
    require_structure(onnx.load(tiny.bundle.onnx), spec)


def test_values_that_are_not_finite_are_found_without_a_checkpoint(
    tiny: TinyModel, tmp_path: Path
) -> None:
    spoil(tiny.copy(tmp_path), np.nan)
    with pytest.raises(ParityError, match="not finite"):
        check_alone(Bundle.open(tmp_path / "bundle copy"))


def test_one_graph_takes_slices_of_several_sizes(tiny: TinyModel) -> None:
    checkpoint = load_checkpoint(tiny.run.last)
    exported = export(checkpoint, options=ExportOptions(largest=(240, 240)))
    assert exported.name.endswith("-240x240")
    assert exported.bundle.spec.sizes == SizeSpec(smallest=(64, 64), largest=(240, 240))
    generator = checkpoint.generator()
    rng = np.random.default_rng(0)
    with choose("ort-cpu").open(exported.bundle) as engine:
        for batch, height, width in ((2, 64, 64), (1, 240, 200), (1, 192, 160)):
            shape = (batch, 1, height, width)
            tensors = {
                name: rng.uniform(-1, 1, shape).astype(np.float32)
                for name in exported.bundle.spec.tensor_names
            }
            with torch.no_grad():
                want = generator(*(torch.from_numpy(a) for a in tensors.values())).numpy()
            assert np.abs(engine.run(tensors) - want).max() < 1e-4
        for shape in ((1, 1, 244, 160), (1, 1, 66, 64), (1, 1, 60, 64)):
            with pytest.raises(EngineError, match=r"or from \(64, 64\) to \(240, 240\)"):
                engine.run(dict.fromkeys(tensors, np.zeros(shape, np.float32)))


def test_sizes_are_checked_and_old_specifications_still_read() -> None:
    for sizes in (((64, 64), (190, 160)), ((66, 64), (240, 240)), ((64, 64), (128, 128))):
        with pytest.raises(SpecError):
            ModelSpec(inputs=("t1",), sizes=SizeSpec(smallest=sizes[0], largest=sizes[1]))
    with pytest.raises(SpecError, match="smallest <= largest"):
        SizeSpec(smallest=(256, 64), largest=(240, 240))
    spec = ModelSpec(inputs=("t1",), sizes=SizeSpec(smallest=(64, 64), largest=(240, 240)))
    assert ModelSpec.from_json(spec.to_json()) == spec
    old = ModelSpec(inputs=("t1",)).to_dict()
    del old["sizes"]
    with pytest.raises(SpecError, match="missing keys sizes"):
        ModelSpec.from_dict(old)


def test_the_plain_graph_is_kept_for_comparison(
    tiny: TinyModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "plain"
    code = main(["export", str(tiny.run.last), "--no-fold", "--out", str(out), "--json", "-"])
    assert code == 0
    record = json.loads(capsys.readouterr().out)
    assert record["graph"]["folds"] == []
    assert record["graph"]["before"] == record["graph"]["after"]
    assert tiny.bundle.manifest.graph is not None
    assert tiny.bundle.manifest.graph.after.gflop < record["graph"]["after"]["gflop"]
    plain = onnx.load(out / "generator.onnx").graph.node
    folded = onnx.load(tiny.bundle.onnx).graph.node
    assert sum(n.op_type == "Split" for n in plain) > 0
    assert sum(n.op_type == "Split" for n in folded) == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--precision", "fp16", "--no-fold"], "precision fp16 needs the folded graph"),
        (["--exclude", "decoder"], "only for int8"),
        (["--min-psnr", "50"], "only for int8"),
        (["--calibration", "nowhere"], "only for int8"),
        (["--max-size", "240"], "expected HxW"),
    ],
)
def test_options_that_exclude_each_other_are_refused(
    tiny: TinyModel, options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(tiny.run.last), *options]) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_a_size_that_does_not_fit_the_network_is_one_message(
    tiny: TinyModel, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(tiny.run.last), "--max-size", "242x240"]) == 4
    assert "multiples of 4" in " ".join(capsys.readouterr().err.split())
