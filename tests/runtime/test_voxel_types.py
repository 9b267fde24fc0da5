"""Types, byte orders and shapes of files give the same synthesis."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.fakes.engine import FakeEngine
from tests.scans import SMALL, run, scan
from tlp_runtime import Synthesizer
from tlp_runtime.io.nifti import read_volume
from tlp_runtime.synthesis.request import Request


@pytest.mark.documents(
    "File", "uint8, int16, float32, float64; little and big endian", "the same image"
)
@pytest.mark.parametrize("dtype", ["uint8", "<i2", ">i2", ">f4", "float64"])
def test_every_voxel_type_and_byte_order_gives_the_same_image(tmp_path: Path, dtype: str) -> None:
    t1 = scan(landmark=(5, 5, 5))
    whole = np.rint(t1.data / t1.data.max() * 250)
    assert t1.header is not None
    header = t1.header.as_byteswapped(">" if dtype.startswith(">") else "<")
    header.set_data_dtype(dtype)
    image = nib.Nifti1Image(whole.astype(dtype), None, header)
    nib.save(image, tmp_path / "a.nii.gz")
    volume = read_volume(tmp_path / "a.nii.gz")
    assert volume.data.dtype.isnative
    with Synthesizer(FakeEngine(SMALL)) as synthesizer:
        result = synthesizer.run(Request(images={"t1": volume}))
    np.testing.assert_array_equal(result.volume.data, run(replace(t1, data=whole)).data)
    result.save(tmp_path / "o.nii.gz")
    np.testing.assert_array_equal(read_volume(tmp_path / "o.nii.gz").data, result.volume.data)


@pytest.mark.documents(
    "File", "trailing axes of length 1", "dropped, and there again in the output"
)
def test_trailing_axes_of_length_one_come_back(tmp_path: Path) -> None:
    t1 = scan(landmark=(5, 5, 5))
    image = nib.Nifti1Image(t1.data[..., None], t1.affine)
    nib.save(image, tmp_path / "a.nii.gz")
    with Synthesizer(FakeEngine(SMALL)) as synthesizer:
        result = synthesizer.run(Request(images={"t1": tmp_path / "a.nii.gz"}))
    result.save(tmp_path / "o.nii.gz")
    assert nib.load(tmp_path / "o.nii.gz").shape == (*t1.shape, 1)
    np.testing.assert_array_equal(result.volume.data, run(t1).data)
