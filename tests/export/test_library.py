"""Export as one call of the library: what it needs, how often it folds, what it keeps."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support import TinyModel
from tlp_export import ExportOptions, export
from tlp_export import bundle as bundling
from tlp_export import precision as precisions
from tlp_export.bundle import bundle_name
from tlp_export.fold import fold
from tlp_runtime.engines.options import EngineOptions
from tlp_runtime.errors import ParityError, SetOption, UsageError
from tlp_runtime.models.bundle import Bundle
from tlp_runtime.models.choice import models
from tlp_train.checkpoint import Checkpoint, load_checkpoint, write_checkpoint
from tlp_train.networks.base import SynthesisNetwork
from tlp_train.networks.tlp.generator import Generator

TRAINING_ONLY = ("monai", "lightning", "skimage", "tensorboard", "matplotlib", "torchmetrics")


def test_export_verify_and_import_need_no_training_library(
    tiny: TinyModel, fixtures_dir: Path, tmp_path: Path
) -> None:
    """In a process that cannot import them."""
    script = tmp_path / "without.py"
    script.write_text(
        textwrap.dedent(f"""
        import sys
        from pathlib import Path

        import numpy as np
        import torch

        class Absent:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] in {TRAINING_ONLY!r}:
                    raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

        sys.meta_path.insert(0, Absent())
        import tlp_export
        from tlp_cli.main import main

        checkpoint = Path({os.fspath(tiny.run.last)!r})
        exported = tlp_export.export(checkpoint, out="by the library")
        assert exported.parity.passed
        assert main(["export", str(checkpoint), "--out", "by the command", "-q"]) == 0
        assert main(["verify", "by the command", "--reference", str(checkpoint), "-q"]) == 0
        with np.load({os.fspath(fixtures_dir / "authors_single_dim8.npz")!r}) as data:
            state = {{k.removeprefix("state."): torch.from_numpy(data[k])
                      for k in data.files if k.startswith("state.")}}
        torch.save(state, "published.pth")
        assert main(["import", "published.pth", "--inputs", "t1", "--out", "p.ckpt", "-q"]) == 0
        from tlp_runtime.errors import DependencyMissing
        from tlp_train.config import preset
        from tlp_train.networks import registry
        for name in registry.NAMES:
            spec = preset("demo", ("t1", "t2"), name).spec
            try:
                registry.build(spec)
            except DependencyMissing:
                assert name == "unet"  # it is MONAI's
        print([name for name in {TRAINING_ONLY!r} if name in sys.modules])
        """),
        encoding="utf-8",
    )
    result = subprocess.run(
        [sys.executable, os.fspath(script)],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "[]"


def test_a_half_precision_export_folds_once(
    tiny: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folded = []

    def counted(generator: Generator) -> SynthesisNetwork:
        folded.append(generator)
        return fold(generator)

    monkeypatch.setattr(bundling, "fold", counted)
    monkeypatch.setattr(precisions, "fold", counted)
    exported = export(tiny.run.last, ExportOptions(precision="fp16"), out=tmp_path / "half")
    assert len(folded) == 1
    assert any("PyTorch" in check.executor for check in exported.parity.checks)


def test_engines_stay_with_an_unchanged_graph_and_go_with_a_changed_one(
    tiny: TinyModel, tmp_path: Path
) -> None:
    out = tmp_path / "bundle"
    shutil.copytree(tiny.bundle.path, out)
    engine = out / "engines" / "0123456789abcdef"
    engine.mkdir(parents=True)
    (engine / "generator.engine").write_bytes(b"built for an hour")
    (out / "engines" / ".tmp-1-half-built").mkdir()
    export(tiny.run.last, out=out, overwrite=True)
    assert (engine / "generator.engine").read_bytes() == b"built for an hour"
    assert [path.name for path in (out / "engines").iterdir()] == [engine.name]
    assert Bundle.open(out).onnx_sha256 == tiny.bundle.onnx_sha256

    checkpoint = load_checkpoint(tiny.run.last)
    changed = {name: tensor * 1.01 for name, tensor in checkpoint.generator_state.items()}
    write_checkpoint(tmp_path / "other.ckpt", checkpoint.spec, changed, checkpoint.lineage)
    export(tmp_path / "other.ckpt", out=out, overwrite=True)
    assert Bundle.open(out).onnx_sha256 != tiny.bundle.onnx_sha256
    assert not (out / "engines").exists()


def test_bundles_that_differ_have_names_that_differ(tiny: TinyModel) -> None:
    checkpoint = load_checkpoint(tiny.run.last)

    def name(options: ExportOptions, level: float = 0.0) -> str:
        slices = [{"t1": np.full((1, 1, 8, 8), level, np.float32)}]
        return bundle_name(checkpoint, options, slices)

    int8 = ExportOptions(precision="int8")
    given, elsewhere = (replace(int8, calibration=Path(folder)) for folder in ("a", "b"))
    plain = name(int8)
    assert plain == f"t1-demo-{checkpoint.sha256[:8]}-int8"
    assert name(replace(int8, min_psnr_db=45.0)) == plain, "the default, given"
    names = [
        plain,
        name(replace(int8, min_psnr_db=40.0)),
        name(replace(int8, exclude=("decoder",))),
        name(replace(int8, exclude=("decoder", "bottleneck"))),
        name(given),
        name(replace(given, min_psnr_db=40.0)),
        name(given, level=1.0),
    ]
    assert len(set(names)) == len(names)
    assert all(one.startswith(plain) for one in names)
    first, second = (replace(int8, exclude=names) for names in (("a", "b"), ("b", "a")))
    assert name(first) == name(second)
    assert name(given) == name(elsewhere), "the voxels count, not where they lie"


@pytest.mark.proof
def test_a_second_int8_export_with_other_options_replaces_nothing(tiny: TinyModel) -> None:
    first = export(tiny.run.last, ExportOptions(precision="int8"))
    second = export(tiny.run.last, ExportOptions(precision="int8", exclude=("decoder",)))
    assert first.name != second.name
    assert [entry.name for entry in models()] == [first.name, second.name]
    assert Bundle.open(first.bundle.path).onnx_sha256 != second.bundle.onnx_sha256


def test_options_of_an_engine_without_one_are_refused(tiny: TinyModel) -> None:
    with pytest.raises(UsageError, match="no engine was asked for") as e:
        export(tiny.run.last, engine_options=EngineOptions(level=1))
    assert e.value.fixes == (SetOption("engine", "trt"),)


def test_a_refused_int8_export_says_which_options_would_help(
    tiny: TinyModel, tmp_path: Path
) -> None:
    with pytest.raises(ParityError, match="costliest layers") as e:
        export(
            tiny.run.last,
            ExportOptions(precision="int8", min_psnr_db=200),
            out=tmp_path / "int8",
        )
    options = [fix.option for fix in e.value.fixes if isinstance(fix, SetOption)]
    assert options == ["exclude", "min_psnr_db"]


def test_a_loaded_checkpoint_and_its_file_give_the_same_graph(
    tiny: TinyModel, tmp_path: Path
) -> None:
    loaded = load_checkpoint(tiny.run.last)
    assert isinstance(loaded, Checkpoint)
    stages: list[str] = []
    exported = export(loaded, out=tmp_path / "loaded", on_stage=stages.append)
    assert exported.bundle.onnx_sha256 == tiny.bundle.onnx_sha256
    assert stages == ["folding", "tracing", "verifying"]
    assert (exported.engine, exported.triton, exported.warnings) == (None, (), ())


def test_a_real_engine_and_triton_in_the_same_call(tiny: TinyModel, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    stages: list[str] = []
    exported = export(
        tiny.run.last,
        out=tmp_path / "bundle",
        engine="trt-rtx",
        engine_options=EngineOptions(level=1),
        triton=tmp_path / "models",
        on_stage=stages.append,
    )
    assert exported.engine is not None
    assert exported.engine.folder.parent == exported.bundle.path / "engines"
    assert exported.triton == ("bundle_onnx",), "Triton runs no engine of TensorRT-RTX"
    assert stages[-1].startswith("building with TensorRT-RTX")
