"""The same checkpoint gives the same graph, byte for byte, and nothing of the machine is in it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from tests.support import TinyModel
from tlp_export import ExportOptions, export
from tlp_runtime.engines.onnx import SPEC_KEY

PATHS = re.compile(rb'File "|\.py\b|[\x20-\x7e]*/(home|tmp|usr|root|site-packages)/|\\\\')


def test_another_process_in_another_folder_writes_the_same_bytes(
    tiny: TinyModel, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "another föld er"
    elsewhere.mkdir()
    shutil.copy(tiny.run.last, elsewhere / "copy.ckpt")
    code = "import tlp_export; tlp_export.export('copy.ckpt', out='bundle')"
    subprocess.run(
        [sys.executable, "-c", code],
        cwd=elsewhere,
        env=os.environ
        | {
            "PYTHONPATH": os.pathsep.join(sys.path),
            "PYTHONHASHSEED": "7",
            "TLP_HOME": os.fspath(elsewhere / "home"),
        },
        capture_output=True,
        check=True,
    )
    for name in ("generator.onnx", "spec.json"):
        here, there = tiny.bundle.path / name, elsewhere / "bundle" / name
        assert here.read_bytes() == there.read_bytes(), name


@pytest.mark.proof
def test_an_int8_export_is_the_same_the_second_time(tiny: TinyModel, tmp_path: Path) -> None:
    first, second = (
        export(tiny.run.last, ExportOptions(precision="int8"), out=tmp_path / name)
        for name in ("first", "second")
    )
    assert first.bundle.onnx.read_bytes() == second.bundle.onnx.read_bytes()


def test_the_graph_holds_no_trace_of_where_it_was_made(tiny: TinyModel, tmp_path: Path) -> None:
    half = export(tiny.run.last, ExportOptions(precision="fp16"), out=tmp_path / "half")
    for file in (tiny.bundle.onnx, half.bundle.onnx):
        model = onnx.load(file)
        values = (*model.graph.input, *model.graph.output, *model.graph.value_info)
        parts = (model.graph, *model.graph.node, *model.graph.initializer, *values)
        assert not [part for part in parts if part.doc_string or part.metadata_props]
        assert [entry.key for entry in model.metadata_props] == [SPEC_KEY]
        assert not model.functions
        del model.graph.initializer[:]  # weights may look like anything
        found = PATHS.search(model.SerializeToString())
        assert found is None, found
    assert PATHS.search(b'  File "/home/x.py", line 1')
