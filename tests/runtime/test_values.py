"""Intensity and prompt rules, equal to the published preprocessing."""

from __future__ import annotations

import csv
import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tlp_runtime.errors import ContentError, SetOption, UnknownLabels, UsageError
from tlp_runtime.geometry.crop import crop_slices
from tlp_runtime.geometry.volume import Volume
from tlp_runtime.io.nifti import read_volume
from tlp_runtime.io.scan import Scan
from tlp_runtime.spec.model import IntensitySpec, ModelSpec, PromptSpec
from tlp_runtime.synthesis.prepare import prepare
from tlp_runtime.synthesis.region import encoded
from tlp_runtime.synthesis.request import Prompt, Request
from tlp_runtime.values.intensity import scale, to_unit
from tlp_runtime.values.prompt import (
    SCHEMES,
    encode,
    label_texts,
    labels_of,
    parse_labels,
    with_labels,
)


def test_every_published_array_of_the_real_cases_is_reproduced(
    real_cases: Path, fixtures_dir: Path
) -> None:
    spec = ModelSpec(inputs=("t1", "t2"))
    with (fixtures_dir / "published_arrays.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    cases = sorted({row["case"] for row in rows})
    assert len(rows) == 28
    for case in cases:
        volumes = {
            name: read_volume(real_cases / case / f"{case}_{name}.nii.gz")
            for name in ("t1", "t2", "t1ce", "seg")
        }
        images = {name: volumes[name] for name in spec.inputs}
        arrays = dict(prepare(Request(images=images, prompt=Prompt(volumes["seg"])), spec).tensors)
        target = crop_slices(volumes["t1ce"].reoriented("LPS"), spec.crop)
        arrays["t1ce"] = scale(target, spec.intensity, "t1ce")
        for row in (row for row in rows if row["case"] == case):
            published = np.ascontiguousarray(arrays[row["array"]][slice(*spec.crop.slices)])
            assert published.shape == (100, 192, 160)
            digest = hashlib.sha256(published.tobytes()).hexdigest()
            assert digest == row["sha256"], (case, row["array"])


def test_scaling_spans_the_whole_volume_not_a_slice() -> None:
    slices = np.array([[[0.0, 10.0]], [[5.0, 20.0]]])
    np.testing.assert_array_equal(
        scale(slices, IntensitySpec(), "x"), np.array([[[-1, 0]], [[-0.5, 1]]], np.float32)
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((2, 2, 2)), "zero everywhere"),
        (np.full((2, 2, 2), 7), "one value 7"),
        (np.array([[[0.0, np.nan]]]), "1 of 2 voxels are NaN"),
        (np.array([[[0.0, np.inf]]]), "NaN or infinite"),
    ],
)
def test_images_without_content_are_refused(values: np.ndarray, message: str) -> None:
    with pytest.raises(ContentError, match=message):
        scale(values, IntensitySpec(), "x")


def test_output_is_brought_to_the_unit_range() -> None:
    np.testing.assert_array_equal(
        to_unit(np.array([-1, 0, 1], np.float32)), np.array([0, 0.5, 1], np.float32)
    )


def test_labels_of_both_brats_years_and_plain_masks() -> None:
    for labels, values in (
        ([0, 1, 2, 4], [0, 1, 0.5, 1]),
        ([0, 1, 2, 3], [0, 1, 0.5, 1]),
        ([0, 1], [0, 1]),
    ):
        made = encode(np.array(labels), PromptSpec(), "seg")
        np.testing.assert_array_equal(made, np.array(values, np.float32))


def test_labels_stored_as_floats_are_labels() -> None:
    assert encode(np.array([0.0, 2.0]), PromptSpec(), "seg").tolist() == [0.0, 0.5]


@pytest.mark.parametrize("value", [5, -1, 0.5, 255])
def test_unknown_labels_are_refused_and_named(value: float) -> None:
    with pytest.raises(ContentError, match=rf"labels {value:g} have no meaning.*Set labels"):
        encode(np.array([0, 1, value]), PromptSpec(), "seg")


def test_prompt_labels_say_what_labels_mean() -> None:
    code = with_labels(PromptSpec(), {"tumour": (5, 6), "oedema": (7,)})
    assert encode(np.array([0, 5, 6, 7]), code, "seg").tolist() == [0, 1, 1, 0.5]
    with pytest.raises(ContentError):
        encode(np.array([1]), code, "seg")


@pytest.mark.parametrize(
    "texts", [["tumor=1"], ["tumour=x"], ["tumour=1", "tumour=2"], ["tumour="], ["1,4"]]
)
def test_label_texts_of_another_form_are_refused(texts: list[str]) -> None:
    with pytest.raises(UsageError, match="labels"):
        parse_labels(texts)


@pytest.mark.parametrize(
    "labels",
    [{"tumor": (1,)}, {"tumour": (1,), "oedema": (1,)}, {"tumour": (0, 1)}, {"tumour": ()}],
)
def test_labels_that_mean_nothing_are_refused(labels: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(UsageError, match="labels"):
        with_labels(PromptSpec(), labels)
    with pytest.raises(UsageError, match="labels"):
        Prompt("roi.nii.gz", labels=labels)


def test_label_texts_are_read_as_what_they_were_written_from() -> None:
    labels = {"tumour": (1, 4), "oedema": (2,)}
    assert parse_labels(label_texts(labels)) == labels
    assert parse_labels(["tumour=1,4 oedema=2"]) == labels


@pytest.mark.parametrize(
    ("scheme", "labels", "values"),
    [
        ("brats2021", [0, 1, 2, 4], [0, 1, 0.5, 1]),
        ("brats2023", [0, 1, 2, 3], [0, 1, 0.5, 1]),
        ("brats2024-gli", [0, 1, 2, 3, 4], [0, 1, 0.5, 1, 0]),
        ("brats-ped", [0, 1, 2, 3, 4], [0, 1, 1, 1, 0.5]),
        ("BraTS-PED", [0, 4], [0, 0.5]),
        ("binary", [0, 1], [0, 1]),
        ("tumour=1,3 oedema=2 background=4", [0, 1, 2, 3, 4], [0, 1, 0.5, 1, 0]),
    ],
)
def test_a_scheme_says_what_labels_mean(
    scheme: str, labels: list[int], values: list[float]
) -> None:
    code = with_labels(PromptSpec(), parse_labels([scheme]))
    assert encode(np.array(labels), code, "BraTS-PED/BraTS-GLI seg").tolist() == values
    assert code.scheme == (scheme.lower() if "=" not in scheme else "brats2024-gli")
    assert with_labels(PromptSpec(), labels_of(code)) == code


def test_a_label_that_a_scheme_does_not_have_is_refused() -> None:
    for scheme, label in (("brats2021", 3), ("brats2023", 4), ("binary", 2), ("brats-ped", 5)):
        with pytest.raises(UnknownLabels, match=f"labels {label} have no meaning"):
            encode(np.array([label]), with_labels(PromptSpec(), parse_labels([scheme])), "seg")


@pytest.mark.parametrize("labels", [[1], [1, 2], [1, 2, 3], [1, 2, 4], [4], [2]])
def test_labels_of_2021_and_2023_need_no_name(labels: list[int]) -> None:
    want = [{1: 1, 2: 0.5, 3: 1, 4: 1}[n] for n in labels]
    for name in ("BraTS2021_00000_seg.nii.gz", "a/BraTS-GLI.nii" if 4 not in labels else "b"):
        assert encode(np.array(labels), PromptSpec(), name).tolist() == want


@pytest.mark.parametrize(
    ("name", "labels", "candidates"),
    [
        ("x/seg.nii.gz", [1, 2, 3, 4], ["brats2024-gli", "brats-ped"]),
        ("x/seg.nii.gz", [0.9999999, 2, 3, 4.0000001], ["brats2024-gli", "brats-ped"]),
        ("BraTS-PED-2023/case/seg.nii.gz", [1, 2], ["brats-ped"]),
        ("d/BraTS-PED-00002-000-seg.nii.gz", [1], ["brats-ped"]),
        ("D/BRATS_PEDs/c-seg.nii.gz", [4], ["brats-ped"]),
        ("d/BraTS-GLI-00005-100-seg.nii.gz", [1, 4], ["brats2024-gli", "brats2021"]),
    ],
)
def test_labels_that_schemes_read_differently_need_its_name(
    name: str, labels: list[float], candidates: list[str]
) -> None:
    with pytest.raises(UnknownLabels, match="mean different things") as caught:
        encode(np.array([0, *labels]), PromptSpec(), name)
    assert [fix.value for fix in caught.value.fixes if isinstance(fix, SetOption)] == candidates
    assert caught.value.exit_code == 3
    with_name = with_labels(PromptSpec(), parse_labels([candidates[0]]))
    encode(np.array([0, *labels]), with_name, name)


def test_an_empty_map_needs_no_name() -> None:
    assert encode(np.zeros(3), PromptSpec(), "BraTS-PED/seg.nii.gz").tolist() == [0, 0, 0]


def test_maps_are_written_with_labels_that_the_model_reads_back() -> None:
    for scheme in ("brats2021", "brats2024-gli", "brats-ped"):
        code = with_labels(PromptSpec(), parse_labels([scheme]))
        assert encode(np.array(code.drawn_labels), code, "seg").tolist() == [1, 0.5]
    binary = with_labels(PromptSpec(), parse_labels(["binary"]))
    assert binary.drawn_labels == (1, 2)
    with pytest.raises(UnknownLabels):
        encode(np.array([2]), binary, "seg")


def test_codes_of_a_file_go_before_the_labels_of_a_model() -> None:
    """A DICOM SEG says what its segments are, whatever numbers the model was trained on."""
    data = np.zeros((4, 4, 4), np.uint16)
    data[0, 0, 0], data[1, 1, 1] = 1, 2
    scan = Volume(np.ones((4, 4, 4), np.float32), np.eye(4))
    drawn = Volume(data, np.eye(4), name="BraTS-PED/seg.dcm", coded=True)
    ped = with_labels(PromptSpec(), SCHEMES["brats-ped"])

    def values(prompt: Prompt) -> list[float]:
        found = encoded(Request(images={"t1": Scan(scan)}, prompt=prompt), ped)
        assert found is not None
        return [float(found.data[0, 0, 0]), float(found.data[1, 1, 1])]

    assert values(Prompt(drawn)) == [1, 0.5]
    assert values(Prompt(drawn, labels={"tumour": (2,), "oedema": (1,)})) == [0.5, 1]
    assert values(Prompt(replace(drawn, coded=False))) == [1, 1], "the model's own"
