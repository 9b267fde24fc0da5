"""Masks that an interactive case takes, and files that are kept of it."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from tests.fakes.engine import GatedEngine
from tests.readers import offline, opened
from tests.scans import DUAL, SMALL, scan
from tlp_runtime import Volume
from tlp_runtime.errors import ContentError, GeometryError, Unfinished
from tlp_runtime.interactive.parts import MaskBox
from tlp_runtime.spec.model import ModelSpec

BRAIN = scan()
LARGE = replace(SMALL, crop=replace(SMALL.crop, rows=(8, 56), columns=(8, 48)))
T2 = replace(scan(), name="t2")


@pytest.mark.parametrize(
    ("images", "spec"),
    [
        ({"t1": BRAIN}, SMALL),
        ({"t1": scan(orientation="AIL")}, SMALL),
        ({"t1": scan(orientation="RAS"), "t2": T2}, DUAL),
        ({"t1": BRAIN}, LARGE),
        ({"t1": scan(degrees=14, spacing=(1.1, 0.9, 2.0))}, SMALL),
    ],
    ids=["LPS", "AIL", "dual", "several windows", "oblique"],
)
def test_what_is_shown_is_what_a_file_would_hold(
    images: Mapping[str, Volume], spec: ModelSpec
) -> None:
    rng = np.random.default_rng(0)
    with opened(images, spec=spec) as reader:
        case = reader.case
        reader.case.go_on()
        reader.settle()
        for _ in range(4):
            start = [int(n * rng.uniform(0.35, 0.55)) for n in case.grid.shape]
            labels = rng.integers(0, 3, (5, 6, 4), dtype=np.uint8)
            case.draw(MaskBox(tuple(start), labels.shape), labels)  # type: ignore[arg-type]
        reader.settle()
        mask = case.drawn()
        assert set(np.unique(mask.data)) == {0, 1, 2}
        made = case.finished("synthesis")[0]
        np.testing.assert_array_equal(made.data, offline(images, mask, spec))
        plain = case.finished("plain")[0].data
        np.testing.assert_array_equal(plain, offline(images, None, spec))
        reference = images["t1"]
        assert made.shape == reference.shape
        np.testing.assert_array_equal(made.affine, reference.affine)


@pytest.mark.parametrize("image", [scan(), scan(degrees=14, spacing=(1.1, 0.9, 2.0))])
def test_what_is_kept_is_up_to_date_or_refused(image: Volume) -> None:
    engine = GatedEngine(SMALL)
    with opened({"t1": image}, engine) as reader:
        case = reader.case
        case.go_on()
        reader.settle()
        i, j, k = (*(n // 2 for n in case.grid.shape[:2]), case.first)
        engine.gate.clear()
        case.draw(MaskBox((i, j, k), (4, 4, 1)), np.ones((4, 4, 1), np.uint8), first=k)
        with pytest.raises(Unfinished, match="still to be run"):
            case.finished("synthesis")
        engine.gate.set()
        for _ in range(1000):  # nobody takes updates: what is kept does not need them
            try:
                made, mask = case.finished("synthesis")
                break
            except Unfinished:
                threading.Event().wait(0.02)
        assert mask.data.sum() == 16
        np.testing.assert_array_equal(made.data, offline({"t1": image}, mask, SMALL))
        # Undone, it needs no run: the file follows at once.
        case.draw(MaskBox((i, j, k), (4, 4, 1)), np.zeros((4, 4, 1), np.uint8))
        made, mask = case.finished("synthesis")
        assert not mask.data.any()
        np.testing.assert_array_equal(made.data, offline({"t1": image}, None, SMALL))


def test_masks_of_other_grids_and_values_are_refused_and_change_nothing() -> None:
    with opened({"t1": BRAIN}) as reader:
        case = reader.case
        for box, labels, error in (
            (MaskBox((0, 0, 70), (2, 2, 90)), np.ones((2, 2, 90), np.uint8), "not on the grid"),
            (MaskBox((-1, 0, 0), (2, 2, 2)), np.ones((2, 2, 2), np.uint8), "not on the grid"),
            (MaskBox((0, 0, 0), (2, 2, 2)), np.ones((2, 2, 3), np.uint8), "their box"),
        ):
            with pytest.raises(GeometryError, match=error):
                case.draw(box, labels)
        with pytest.raises(ContentError, match="the mask holds 3"):
            case.draw(MaskBox((0, 0, 0), (1, 1, 1)), np.full((1, 1, 1), 3, np.uint8))
        moved = BRAIN.affine.copy()
        moved[0, 3] += 0.011
        with pytest.raises(GeometryError, match="another grid"):
            case.replace_mask(Volume(np.ones(BRAIN.shape, np.uint8), moved))
        with pytest.raises(ContentError, match="labels 9 have no meaning"):
            case.replace_mask(Volume(np.full(BRAIN.shape, 9, np.uint8), BRAIN.affine))
        assert case.revision == 0
        assert not case.mask.any()


def test_a_label_map_in_any_axis_order_and_code_becomes_the_mask() -> None:
    labels = np.zeros(BRAIN.shape, np.uint8)
    middle = tuple(slice(n // 2, n // 2 + 3) for n in BRAIN.shape)
    labels[middle] = 4
    labels[middle[0], middle[1], BRAIN.shape[2] // 2 + 5] = 2
    volume = Volume(labels, BRAIN.affine, name="seg")
    with opened({"t1": BRAIN}) as reader:
        reader.case.replace_mask(volume.reoriented("PSR"))
        np.testing.assert_array_equal(reader.case.drawn().data, np.where(labels == 4, 1, labels))
        reader.case.replace_mask(volume, {"tumour": (2,), "oedema": (4,)})
        np.testing.assert_array_equal(
            reader.case.drawn().data, np.select([labels == 4, labels == 2], [2, 1])
        )
