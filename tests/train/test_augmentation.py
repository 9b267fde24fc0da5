"""Prompts made for augmentation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.fakes.engine import TINY_NETWORK
from tlp_runtime.errors import ContentError
from tlp_runtime.geometry.volume import Volume
from tlp_runtime.io.nifti import read_volume
from tlp_runtime.spec.model import ModelSpec
from tlp_train.augmentation import OEDEMA_RATIO, RADIUS_MM, fuzzy_variant, random_lesion

SPEC = ModelSpec(inputs=("t1",), network=TINY_NETWORK)


@pytest.fixture(scope="module")
def scan(phantom_case: Path) -> Volume:
    return read_volume(phantom_case / f"{phantom_case.name}_t1.nii.gz")


def test_random_lesions_lie_in_the_brain_the_model_sees(scan: Volume) -> None:
    volumes = []
    for seed in range(8):
        lesion = random_lesion(scan, SPEC, np.random.default_rng(seed))
        assert np.array_equal(lesion.affine, scan.affine)
        held = lesion.data > 0
        assert set(np.unique(lesion.data)) <= {0, 1, 2}
        assert (scan.data[held] != 0).all()
        x, y, _ = np.nonzero(held)
        assert x.min() >= 40
        assert x.max() < 200
        assert y.min() >= 34
        assert y.max() < 226
        volumes.append(int((lesion.data == 1).sum()))
        extent = np.ptp(np.argwhere(lesion.data == 1), axis=0).max()
        assert extent <= 2 * RADIUS_MM[1] * 1.8
        assert held.sum() <= OEDEMA_RATIO[1] ** 3 * 4.2 * RADIUS_MM[1] ** 3
    assert len(set(volumes)) == 8, "no two are the same"
    assert max(volumes) < 4 / 3 * np.pi * RADIUS_MM[1] ** 3 * 1.1


def test_a_lesion_is_the_same_in_any_axis_order(scan: Volume) -> None:
    turned = scan.reoriented("PIR")
    first = random_lesion(scan, SPEC, np.random.default_rng(3))
    second = random_lesion(turned, SPEC, np.random.default_rng(3))
    assert np.array_equal(second.reoriented(scan.grid.orientation).data, first.data)


def test_no_room_is_an_error(scan: Volume) -> None:
    empty = replace(scan, data=np.zeros_like(scan.data))
    with pytest.raises(ContentError, match="no room"):
        random_lesion(empty, SPEC, np.random.default_rng(0))


def test_variants_differ_a_little_from_the_drawing_and_from_each_other(
    phantom_case: Path,
) -> None:
    drawn = read_volume(phantom_case / f"{phantom_case.name}_seg.nii.gz")
    variants = [
        fuzzy_variant(drawn, SPEC.prompt, SPEC, np.random.default_rng(seed)) for seed in range(3)
    ]
    mask = np.isin(drawn.data, (1, 3, 4))
    for variant in variants:
        made = variant.data == 1
        overlap = 2 * (made & mask).sum() / (made.sum() + mask.sum())
        assert 0.5 < overlap < 1
        # Algorithm 1 works within a slice: none is added, none lost.
        assert np.array_equal(made.any(axis=(0, 1)), mask.any(axis=(0, 1)))
    assert not np.array_equal(variants[0].data, variants[1].data)
