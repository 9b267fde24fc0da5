"""Derived DICOM series, made and checked."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pydicom

from tests.fakes.dicom_series import head
from tests.fakes.engine import FakeEngine
from tests.scans import SMALL
from tests.support import need_tool
from tlp_runtime import Synthesizer, Volume
from tlp_runtime.io.dicom.derived import require_derivable, write_derived
from tlp_runtime.io.dicom.series import DicomSeries
from tlp_runtime.spec.model import ModelSpec
from tlp_runtime.synthesis.request import Request


def synthesize(source: DicomSeries, spec: ModelSpec = SMALL) -> tuple[Volume, dict[str, Any]]:
    with Synthesizer(FakeEngine(spec)) as synthesizer:
        result = synthesizer.run(Request(images={"t1": source.volume}))
    return result.volume, result.record.to_dict()


def thin() -> Volume:
    """A few slices of the head: enough for what is in a header."""
    return Volume(head().data[:, :, 20:23].copy(), head().affine)


def derived(
    source: DicomSeries, folder: Path, record: dict[str, Any], **options: Any
) -> list[pydicom.Dataset]:
    """A derived series of an image that does not matter, which every check accepts."""
    made = Volume(np.full(source.volume.shape, 0.5, np.float32), source.volume.affine)
    told = write_derived(made, source, folder, record, **options)
    assert told == require_derivable(source, options.get("others", ()))
    files = sorted(folder.iterdir())
    require_valid(files[1])
    return [pydicom.dcmread(file) for file in files]


def require_valid(file: Path) -> None:
    """Fail unless pydicom takes every value at its strictest, and dciodvfy finds no error."""
    with pydicom.config.strict_reading():
        image = pydicom.dcmread(file)
        for element in image.iterall():
            assert element.value == element.value
            if element.VR == "PN":
                str(element.value).encode("utf-8")
    told = subprocess.run(
        [need_tool("dciodvfy", "dicom3tools"), file],
        capture_output=True, text=True, check=False, errors="replace",
    )  # fmt: skip
    assert "Error" not in told.stderr, told.stderr
