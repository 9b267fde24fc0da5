"""What `tlp_runtime` exports is what users import."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

import tlp_runtime as tlp
from tests.scans import scan
from tests.servers import saved
from tests.support import TinyModel
from tlp_runtime import errors


def test_the_records_the_errors_and_the_version_are_exported() -> None:
    named = {
        "Synthesizer", "Synthesis", "Request", "Prompt", "Sphere", "Box", "Volume", "Bundle",
        "EngineChoice", "PreparedCase", "__version__",
    }  # fmt: skip
    of_servers = set(errors.RequestError.__subclasses__()) | {errors.RequestError}
    tree = {
        name
        for name, kind in vars(errors).items()
        if isinstance(kind, type)
        and issubclass(kind, errors.TLPError)
        and not issubclass(kind, tuple(of_servers))
    }
    assert set(tlp.__all__) == named | tree
    assert all(getattr(tlp, name) is not None for name in tlp.__all__)
    assert tlp.__version__ == version("tlp-mri")


def test_a_case_is_synthesized_by_what_is_exported_alone(tiny: TinyModel, tmp_path: Path) -> None:
    tiny.register()
    t1, out = saved(scan(), tmp_path / "t1.nii.gz"), tmp_path / "out.nii.gz"
    prompt = tlp.Prompt(shapes=[tlp.Sphere((0, 0, 0, 9)), tlp.Box((0, 0, 0, 4, 4, 4))])
    request = tlp.Request(images={"t1": t1}, prompt=prompt, strict=False)
    choice = tlp.EngineChoice(engine="ort-cpu", batch=2, threads=1)
    with tlp.Synthesizer.open(inputs=("t1",), choice=choice) as synthesizer:
        assert synthesizer.batch == 2
        made = synthesizer.run(request)
    made.save(out)
    assert isinstance(made, tlp.Synthesis)
    assert isinstance(made.volume, tlp.Volume)
    assert np.isfinite(made.volume.data).all()
    assert tlp.Bundle.open(tiny.bundle.path).onnx_sha256 == tiny.bundle.onnx_sha256


@pytest.mark.parametrize(
    "wrong",
    [{"prompt": "roi.nii.gz"}, {"images": {}}, {"images": {"t1": "a"}, "series": {"t2": "1.2"}}],
)
def test_what_makes_no_request_is_refused_at_once(wrong: dict[str, object]) -> None:
    with pytest.raises(tlp.UsageError):
        tlp.Request(**{"images": {"t1": "a.nii.gz"}, **wrong})  # type: ignore[arg-type]


@pytest.mark.parametrize("numbers", [(1, 2, 3), (1, 2, 3, 0), (1, 2, float("nan"), 4)])
def test_a_shape_is_valid_once_constructed(numbers: tuple[float, ...]) -> None:
    with pytest.raises(tlp.UsageError, match="sphere"):
        tlp.Sphere(numbers)
