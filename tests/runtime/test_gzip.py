"""gzip by ISA-L and by Python's own: the same content, whichever is there."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from tests.scans import scan
from tlp_runtime.errors import InputUnreadable
from tlp_runtime.files import gzip as packing
from tlp_runtime.io.nifti import INT16_STEPS, read_volume, write_volume

CONTENT = np.random.default_rng(0).integers(0, 9, 100_000).astype(np.uint8).tobytes()


@pytest.fixture(params=[True, False], ids=["isal", "zlib"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    assert packing.ISAL, "the extra cpu installs isal"
    monkeypatch.setattr(packing, "ISAL", request.param)
    return "isal" if request.param else "zlib"


def test_what_is_deflated_inflates_to_the_same_by_any_library(library: str) -> None:
    packed = packing.deflate(CONTENT[:1000], memoryview(CONTENT)[1000:])
    assert len(packed) < len(CONTENT) / 2
    assert gzip.decompress(packed) == CONTENT
    assert packing.inflate(packed) == CONTENT
    assert packing.inflate(gzip.compress(CONTENT[:7]) + gzip.compress(CONTENT[7:])) == CONTENT
    assert packed == packing.deflate(CONTENT), "the same bytes, whenever and however it is cut"
    assert packing.library().startswith(library)


@pytest.mark.parametrize("damage", ["cut", "checksum", "inside", "no gzip"])
def test_damage_is_an_error_of_the_file(library: str, damage: str, tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(CONTENT))
    if damage == "cut":
        packed = packed[:-20]
    elif damage == "checksum":
        packed[-6] ^= 1
    elif damage == "inside":
        packed[40:60] = bytes(20)
    else:
        packed = bytearray(CONTENT)
    with pytest.raises((OSError, EOFError)):
        packing.inflate(bytes(packed))
    (tmp_path / "a.nii.gz").write_bytes(packed)
    with pytest.raises(InputUnreadable):
        read_volume(tmp_path / "a.nii.gz")


def test_volumes_are_bit_identical_by_either(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    volume = scan(orientation="RAS", degrees=12)
    files = {}
    for isal in (True, False):
        monkeypatch.setattr(packing, "ISAL", isal)
        files[isal] = tmp_path / f"{isal}.nii.gz"
        write_volume(volume, files[isal], description="x")
    for written in files.values():
        for isal in (True, False):
            monkeypatch.setattr(packing, "ISAL", isal)
            back = read_volume(written)
            np.testing.assert_array_equal(back.data, volume.data)
            np.testing.assert_array_equal(back.affine, volume.affine)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_int16_keeps_zero_and_one_and_moves_others_by_half_a_step(
    tmp_path: Path, name: str
) -> None:
    volume = scan()
    values = np.random.default_rng(1).uniform(0, 1, volume.shape).astype(np.float32)
    values[:5], values[-5:] = 0, 1
    made = type(volume)(values, volume.affine, volume.header)
    for int16 in (True, False):
        write_volume(made, tmp_path / name, description="x", int16=int16, overwrite=True)
        back = read_volume(tmp_path / name)
        assert back.header is not None
        assert back.header.get_data_dtype() == (np.int16 if int16 else np.float32)
        away = np.abs(back.data - values)
        assert away.max() <= (0.5001 / INT16_STEPS + 6e-8 if int16 else 0)
        assert not away[values == 0].any()
        np.testing.assert_allclose(back.data[values == 1], 1, atol=1e-7)
