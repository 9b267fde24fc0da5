"""Which TensorRT is installed, and what its engines compute in."""

from __future__ import annotations

import importlib
import json
from typing import Any

import pytest

from tlp_runtime.engines import builds
from tlp_runtime.engines.builds import pick_flavour
from tlp_runtime.engines.cuda import Gpu
from tlp_runtime.engines.tensorrt import binding as bindings
from tlp_runtime.engines.tensorrt.binding import TensorRT
from tlp_runtime.engines.tensorrt.layers import (
    layers_of_json,
    layers_of_log,
    require_precision,
)
from tlp_runtime.errors import DependencyMissing, EngineError
from tlp_runtime.warnings import LAYERS_UNKNOWN, WarningLog


@pytest.mark.parametrize(
    ("precision", "layers", "right"),
    [
        ("fp16", {"correlation": {"Half": 9}, "gemm": {"Float": 9}}, True),
        ("fp16", {"correlation": {"Half": 9, "Float": 1}}, True),
        ("fp16", {"correlation": {"Half": 1, "Float": 1}}, False),
        ("fp16", {"Convolution": {"Float": 3}}, False),
        ("bf16", {"correlation": {"BFloat16": 9}}, True),
        ("int8", {"correlation": {"Int8": 9, "Float": 20}}, True),
        ("int8", {"correlation": {"Float": 20}}, False),
        ("fp32", {"CaskConvolution": {"Float": 3}, "correlation": {"Half": 1}}, True),
    ],
)
def test_the_convolutions_types_are_the_bundles(precision: Any, layers: Any, right: bool) -> None:
    if right:
        require_precision(layers, precision, warn=WarningLog().add)
    else:
        with pytest.raises(EngineError, match=f"is not {precision}"):
            require_precision(layers, precision, warn=WarningLog().add)


def test_flavours_that_are_installed_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu(0, "x", (9, 0), 1, "GPU-0")
    for found, without, with_gpu in (
        ({"trt": "11.4"}, "trt", "trt"),
        ({"trt-rtx": "1.7"}, "trt-rtx", "trt-rtx"),
        ({"trt": "11.4", "trt-rtx": "1.7"}, "trt-rtx", "trt"),
    ):
        monkeypatch.setattr(builds, "installed", lambda found=found: found)
        assert pick_flavour(None) == without
        assert pick_flavour(gpu) == with_gpu
    monkeypatch.setattr(builds, "installed", dict)
    with pytest.raises(DependencyMissing, match=r"tlp-mri\[trt-rtx\].*tlp-mri\[trt\]"):
        pick_flavour(None)


def test_versions_the_adapter_does_not_know_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Module:
        __version__ = "10.3.0"

    for flavour, version, known in (
        ("trt", "10.3.0", r"10\.16 to before 12\.0"),
        ("trt", "12.0.1", r"10\.16 to before 12\.0"),
        ("trt-rtx", "1.2.0.54", r"1\.7 to before 2\.0"),
    ):
        Module.__version__ = version
        with pytest.raises(EngineError, match=f"{version} is installed; .*{known}"):
            TensorRT(flavour, Module())  # type: ignore[arg-type]


def test_a_flavour_that_cannot_be_imported_says_the_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert bindings.installed() == {}
    with pytest.raises(DependencyMissing, match=r"TensorRT is not .*Install tlp-mri\[trt\]"):
        bindings.load("trt")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())

    def stub(name: str) -> Any:
        raise ImportError("libnvinfer.so.11: cannot open shared object file")

    monkeypatch.setattr(importlib, "import_module", stub)
    with pytest.raises(DependencyMissing, match=r"cannot be imported \(libnvinfer"):
        bindings.load("trt")
    assert set(bindings.installed()) == {"trt", "trt-rtx"}  # looked up, not imported
    for broken in (OSError("bad ELF header"), None):

        def other(name: str, broken: Any = broken) -> Any:
            if broken is None:
                return object()  # without a version
            raise broken

        monkeypatch.setattr(importlib, "import_module", other)
        with pytest.raises(DependencyMissing, match=r"cannot be imported \("):
            bindings.load("trt")


def test_an_engine_that_reports_nothing_is_kept_with_a_warning() -> None:
    heard = WarningLog()
    for layers in ({}, {"gemm": {"Half": 20}}):
        require_precision(layers, "fp32", warn=heard.add)
    assert [warning.code for warning in heard] == [LAYERS_UNKNOWN] * 2


def test_the_log_and_both_words_of_the_inspector_are_read_alike() -> None:
    log = [
        "INFO other",
        "VERBOSE Layers:\nName: a, LayerType: correlation, Inputs: [ { Name: x, Dimensions: [1], "
        "Datatype: Half, Format: x }, { Name: y, Datatype: Float }], Outputs: []\n"
        "Name: b, LayerType: wait, Inputs: [], Constants: []",
    ]
    for key, said in (
        ("Datatype", "Half"),
        ("Format/Datatype", "Half"),
        ("Format/Datatype", "Row major linear FP16 format"),
        ("Format/Datatype", "Channel major FP16 format where channel % 8 == 0"),
    ):
        layer = {"LayerType": "correlation", "Inputs": [{key: said}, {key: "Float"}]}
        text = json.dumps({"Layers": [layer, "a name alone"]})
        assert layers_of_log(log) == layers_of_json(text) == {"correlation": {"Half": 1}}
    vectors = "Thirty-two wide channel vectorized row major Int8 format."
    layer = {"LayerType": "CaskConvolution", "Inputs": [{"Format/Datatype": vectors}]}
    assert layers_of_json(json.dumps({"Layers": [layer]})) == {"CaskConvolution": {"Int8": 1}}
    assert layers_of_log(["INFO nothing"]) == {}
