"""Doubts about a scan are warnings with numbers; the percentile rule resists outliers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.scans import SMALL, scan
from tlp_runtime import Volume
from tlp_runtime.errors import ContentError, SetOption, SpecError
from tlp_runtime.io.nifti import read_volume
from tlp_runtime.spec.model import BrightnessSpec, IntensitySpec, ModelSpec
from tlp_runtime.synthesis.prepare import prepare
from tlp_runtime.synthesis.request import Request
from tlp_runtime.values import checks
from tlp_runtime.values.intensity import limits, scale
from tlp_runtime.warnings import OTHER_CONTRAST, UNLIKE_TRAINING, WarningLog

PERCENTILES = IntensitySpec(rule="percentile-crop", percentiles=(0.0, 99.5))


def brain(extra: float = 0) -> np.ndarray:
    values = np.zeros((20, 30, 30))
    values[:, 5:25, 5:25] = np.random.default_rng(0).normal(500, 80, (20, 20, 20)).clip(100)
    values[10, 15, 15] += extra
    return values


@pytest.mark.documents(
    "File",
    "one very bright voxel",
    "moves the published scale, not that of a model trained with `--intensity-percentiles`",
)
def test_an_outlier_moves_the_published_scale_but_not_the_percentiles() -> None:
    for spec, moved in ((IntensitySpec(), True), (PERCENTILES, False)):
        plain, spiked = (scale(brain(extra), spec, "x") for extra in (0, 20_000))
        apart = np.abs(plain - spiked)[5]
        assert bool(apart.max() > 0.5) is moved
    assert spiked.max() == 1
    assert spiked[0, 0, 0] == -1


def test_percentiles_are_of_the_brain_not_of_the_background() -> None:
    low, high = limits(brain(), PERCENTILES, "x")
    held = brain()[brain() > 0]
    assert (low, high) == (held.min(), np.percentile(held, 99.5))


@pytest.mark.parametrize(
    "values",
    [
        {"rule": "percentile-crop"},
        {"rule": "percentile-crop", "percentiles": (50.0, 50.0)},
        {"rule": "percentile-crop", "percentiles": (-1.0, 99.0)},
        {"rule": "minmax-crop", "percentiles": (1.0, 99.0)},
    ],
)
def test_rules_that_make_no_scale_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(SpecError, match="percentiles"):
        IntensitySpec(**values)  # type: ignore[arg-type]


def test_the_rule_and_the_brightness_travel_in_the_specification() -> None:
    level = BrightnessSpec(modality="t1", percentiles=(5.0, 95.0), mean=(0.1, 0.5), spread=(0, 0.1))
    spec = ModelSpec(inputs=("t1",), intensity=PERCENTILES, brightness=(level,))
    assert ModelSpec.from_json(spec.to_json()) == spec
    with pytest.raises(SpecError, match="brightness is of"):
        ModelSpec(inputs=("t2",), brightness=(level,))


@pytest.mark.documents("File", "more than 2200 ml that are not background", "a warning: skull?")
def test_a_head_with_skull_is_suspected() -> None:
    heard = WarningLog()
    checks.check_extent(np.ones((150, 150, 150), bool), (1, 1, 1), "head", heard.add)
    (warning,) = heard
    assert warning.text.startswith("head: 3375 ml are not background")
    assert warning.numbers == {"volume_ml": 3375.0, "low_ml": 700.0, "high_ml": 2200.0}
    assert warning.fixes == (SetOption("brain_mask", purpose="if this is a scan with skull"),)
    checks.check_extent(np.ones((100, 100, 130), bool), (1, 1, 1), "brain", heard.add)
    assert len(heard) == 1


@pytest.mark.documents("File", "T1 and T2 exchanged", "a warning with the skewness")
@pytest.mark.parametrize("case", ["BraTS2021_00006", "BraTS2021_01478", "BraTS2021_01483"])
def test_real_images_pass_in_their_place_and_are_suspected_exchanged(
    real_cases: Path, case: str
) -> None:
    t1, t2 = (read_volume(real_cases / case / f"{case}_{name}.nii.gz") for name in ("t1", "t2"))
    spec = ModelSpec(inputs=("t1", "t2"))
    assert not prepare(Request(images={"t1": t1, "t2": t2}), spec).warnings
    warnings = prepare(Request(images={"t1": t2, "t2": t1}), spec).warnings
    assert {one.code for one in warnings} == {OTHER_CONTRAST}
    texts = " ".join(one.text for one in warnings)
    assert "does not look like a T2: its brain's values have a dark tail" in texts
    if case != "BraTS2021_01478":  # its T2 has hardly a bright tail
        assert "does not look like a T1: its brain's values have a bright tail" in texts


@pytest.mark.documents(
    "File",
    "brightness far from the training volumes'",
    "a warning with the percentile and its distance",
)
def test_a_scan_unlike_the_training_volumes_is_reported_with_numbers() -> None:
    t1 = scan()
    seen = prepare(Request(images={"t1": t1}), SMALL).tensors["t1"]
    found = checks.brightness(seen, seen > -1)
    level = BrightnessSpec(
        modality="t1", percentiles=checks.BRIGHTNESS_PERCENTILES, mean=found, spread=(0.02,) * 5
    )
    spec = replace(SMALL, brightness=(level,))
    warnings = prepare(Request(images={"t1": t1}), spec).warnings
    assert UNLIKE_TRAINING not in [one.code for one in warnings]
    data = t1.data.copy()
    data[tuple(n // 2 for n in t1.shape)] = 1500  # one hot voxel darkens all others
    hot = Request(images={"t1": Volume(data, t1.affine, name="hot")})
    (warning,) = [one for one in prepare(hot, spec).warnings if one.code is UNLIKE_TRAINING]
    assert "hot: unlike the T1 images the model was trained on: percentile" in warning.text
    assert "s.d. away" in warning.text
    assert float(warning.numbers["deviations"]) > checks.BRIGHTNESS_LIMIT


@pytest.mark.documents("File", "colour or complex voxels", "exit 3")
@pytest.mark.parametrize(
    ("dtype", "shown"),
    [(np.complex64, "complex64"), ([("R", "u1"), ("G", "u1"), ("B", "u1")], "'R'")],
)
def test_colour_and_complex_voxels_are_refused(dtype: object, shown: str) -> None:
    data = np.zeros(scan().shape, dtype)  # type: ignore[call-overload]
    with pytest.raises(ContentError, match=rf"{shown}.*one real number each"):
        prepare(Request(images={"t1": Volume(data, scan().affine)}), SMALL)
