"""What a prompt marks: measured on every run, and refused where it is nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.fakes.engine import FakeEngine
from tests.scans import DUAL, SMALL, scan
from tlp_runtime import Synthesizer, Volume
from tlp_runtime.errors import ContentError, GeometryError, UnknownLabels
from tlp_runtime.synthesis.prepare import PreparedCase, prepare, prepare_published
from tlp_runtime.synthesis.provenance import read_record
from tlp_runtime.synthesis.request import Prompt, Request
from tlp_runtime.values.shapes import Sphere
from tlp_server.cases import read_case


def marked(where: tuple[slice, slice, slice], value: float = 1, t1: Volume | None = None) -> Volume:
    t1 = t1 or scan()
    data = np.zeros(t1.shape, np.float32)
    data[where] = value
    return Volume(data, t1.affine, name="roi")


BLOCK = (slice(30, 40), slice(40, 50), slice(38, 46))
AIR = (slice(0, 4), slice(0, 4), slice(0, 4))


def prepared(prompt: Prompt, t1: Volume | None = None, **options: object) -> PreparedCase:
    return prepare(Request(images={"t1": t1 or scan()}, prompt=prompt, **options), SMALL)  # type: ignore[arg-type]


def test_a_region_is_measured_on_the_scan_s_own_voxels() -> None:
    t1 = scan(spacing=(1, 1, 2))
    labels = marked((slice(30, 40), slice(40, 50), slice(18, 22)), 1, t1)
    labels.data[30:40, 50:55, 18:20] = 2
    region = prepared(Prompt(labels), t1).region
    assert region is not None
    assert region.ml == pytest.approx({"tumour": 0.8, "oedema": 0.2})
    assert region.slices == (18, 21)
    assert region.inside_brain == 1
    assert str(region) == "tumour 0.8 ml, oedema 0.2 ml, 100 % in the brain, slices 18 to 21"


def test_the_share_in_the_brain_counts_holes_of_the_brain_as_brain() -> None:
    t1 = scan()
    t1.data[33:36, 43:46, 40:43] = 0  # a ventricle that skull stripping left at 0
    assert prepared(Prompt(marked(BLOCK)), t1).region.inside_brain == 1  # type: ignore[union-attr]
    half = marked((slice(0, t1.shape[0] // 2), slice(44, 46), slice(40, 42)))
    region = prepared(Prompt(half), t1).region
    assert region is not None
    line = scan().data[: t1.shape[0] // 2, 44:46, 40:42] != 0
    assert region.inside_brain == pytest.approx(line.mean(), abs=1e-4)


def test_shapes_are_measured_too() -> None:
    region = prepared(Prompt(shapes=(Sphere.parse("0,0,0,8"),))).region
    assert region is not None
    assert region.ml["tumour"] == pytest.approx(4 / 3 * np.pi * 0.8**3, rel=0.02)


def test_without_a_prompt_nothing_is_measured() -> None:
    assert prepared(Prompt()).region is None


NOTHING = [
    (Prompt(marked(BLOCK, 0)), "roi: the prompt marks nothing"),
    (Prompt(marked(AIR)), r"nothing in the brain: its 0\.064 ml lie wholly outside it"),
    (Prompt(shapes=(Sphere.parse("voxel:2,2,2,2"),)), "the prompt's shapes: .* in the brain"),
    (Prompt(marked(BLOCK, 1e-7)), "marks nothing"),
    (Prompt(marked(BLOCK, 0), labels={"tumour": (7,)}), "marks nothing"),
]  # fmt: skip


@pytest.mark.documents(
    "Prompt",
    "a prompt that marks nothing, or nothing in the brain",
    "exit 3; `--allow-empty-prompt` goes on with a warning",
)
@pytest.mark.parametrize(("prompt", "message"), NOTHING)
def test_a_prompt_that_marks_nothing_is_refused_unless_it_is_accepted(
    prompt: Prompt, message: str
) -> None:
    with pytest.raises(ContentError, match=f"{message}.*Set allow_empty_prompt"):
        prepared(prompt)
    case = prepared(replace(prompt, allow_empty=True))
    assert "empty-prompt" in [warning.code.name for warning in case.warnings]
    assert not case.tensors["prompt"].any()


def test_a_prompt_that_the_model_s_spacing_loses_is_refused() -> None:
    t1 = scan(spacing=(0.4, 0.4, 0.4))
    i, j, k = (n // 2 for n in t1.shape)
    dots = [
        Prompt(marked((slice(n, n + 1), slice(j, j + 1), slice(k, k + 1)), 1, t1), allow_empty=True)
        for n in range(i, i + 3)
    ]
    # Of three neighbours along an axis one at least is nearest to no voxel of 1 mm.
    lost = [dot for dot in dots if not prepared(dot, t1).tensors["prompt"].any()]
    assert lost
    with pytest.raises(ContentError, match=r"is too small: nothing of its .* is left at"):
        prepared(replace(lost[0], allow_empty=False), t1)
    assert "empty-prompt" in [warning.code.name for warning in prepared(lost[0], t1).warnings]


def test_a_map_beside_the_scan_is_refused_though_it_is_resampled() -> None:
    affine = scan().affine.copy()
    affine[0, 3] += 500
    away = Volume(marked(BLOCK).data, affine, name="roi")
    with pytest.raises(ContentError, match="roi: the prompt lies wholly outside t1"):
        prepared(Prompt(away), resample=True)


@pytest.mark.documents(
    "Prompt", "a map that loses more than a fifth of its volume on the scan's voxels", "a warning"
)
def test_a_map_that_changes_its_volume_is_a_warning() -> None:
    t1 = scan()
    cut = np.zeros((t1.shape[0], t1.shape[1], 2 * t1.shape[2]), np.float32)
    cut[30:40, 40:50, t1.shape[2] - 10 : t1.shape[2] + 10] = 1
    case = prepared(Prompt(Volume(cut, t1.affine, name="roi"), allow_empty=True), resample=True)
    found = {warning.code.name: warning for warning in case.warnings}
    assert found["prompt-changed"].numbers == {"own_ml": 2.0, "scan_ml": 1.0}


@pytest.mark.documents(
    "Prompt", "labels such as 0.9999999, or of a scale such as 1/255", "rounded within 0.001"
)
@pytest.mark.parametrize("value", [0.9999999, 1 / 255 * 255.00001, 1.0009, np.float32(0.9995)])
def test_labels_that_are_nearly_whole_are_whole(value: float) -> None:
    exact = prepared(Prompt(marked(BLOCK)))
    nearly = prepared(Prompt(marked(BLOCK, value)))
    np.testing.assert_array_equal(nearly.tensors["prompt"], exact.tensors["prompt"])
    assert nearly.region == exact.region


def test_labels_that_are_not_whole_are_refused() -> None:
    with pytest.raises(UnknownLabels, match=r"labels 0\.998"):
        prepared(Prompt(marked(BLOCK, 0.998)))


def test_a_mask_of_a_scale_of_1_255_is_the_same_from_a_file(tmp_path: Path) -> None:
    header = scan().header
    assert header is not None
    image = nib.Nifti1Image(marked(BLOCK).data.astype(np.uint8) * 255, None, header)
    image.header.set_data_dtype(np.uint8)
    image.header.set_slope_inter(1 / 255, 0)
    nib.save(image, tmp_path / "roi.nii.gz")
    case = prepared(Prompt(tmp_path / "roi.nii.gz"))
    assert case.region == prepared(Prompt(marked(BLOCK))).region


def test_faint_values_of_a_brain_mask_are_not_brain() -> None:
    t1 = scan()
    mask = Volume(np.where(t1.data > 0, 0.9999999, 1e-7), t1.affine, name="mask")
    plain, masked = prepared(Prompt()), prepared(Prompt(), brain_mask=mask)
    np.testing.assert_array_equal(masked.tensors["t1"], plain.tensors["t1"])


@pytest.mark.parametrize("padding", [-2000, -3, 40])
def test_a_brain_mask_alone_decides_what_is_background(padding: int) -> None:
    t1 = scan()
    mask = Volume((t1.data > 0).astype(np.uint8), t1.affine, name="mask")
    padded = replace(t1, data=np.where(t1.data > 0, t1.data, padding).astype(np.float32))
    expected = prepared(Prompt(), t1, brain_mask=mask)
    case = prepared(Prompt(), padded, brain_mask=mask)
    np.testing.assert_array_equal(case.tensors["t1"], expected.tensors["t1"])
    assert "background-shifted" not in [warning.code.name for warning in case.warnings]


def test_a_brain_of_negative_values_keeps_its_contrast() -> None:
    t1 = scan()
    mask = Volume((t1.data > 0).astype(np.uint8), t1.affine, name="mask")
    lowered = replace(t1, data=t1.data.astype(np.float64) - 1024)
    expected = prepared(Prompt(), t1, brain_mask=mask).tensors["t1"]
    case = prepared(Prompt(), lowered, brain_mask=mask)
    np.testing.assert_allclose(case.tensors["t1"], expected, atol=1e-6)
    assert "background-shifted" in [warning.code.name for warning in case.warnings]


def test_the_record_says_what_was_marked_and_older_records_are_read(tmp_path: Path) -> None:
    request = Request(images={"t1": scan()}, prompt=Prompt(marked(BLOCK)))
    with Synthesizer(FakeEngine(SMALL)) as synthesizer:
        synthesis = synthesizer.run(request)
    synthesis.save(tmp_path / "out.nii.gz")
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["prompt"]["region"] == {
        "ml": {"tumour": 0.8, "oedema": 0.0},
        "inside_brain": 1.0,
        "slices": [38, 45],
    }
    record = read_record(tmp_path / "out.json")
    assert record.prompt is not None
    assert record.prompt.region == synthesis.prepared.region
    del written["prompt"]["region"]
    (tmp_path / "old.json").write_text(json.dumps(written))
    older = read_record(tmp_path / "old.json").prompt
    assert older is not None
    assert older.region is None


def test_sessions_and_evaluation_take_a_prompt_that_marks_nothing() -> None:
    empty = Request(images={"t1": scan()}, prompt=Prompt(marked(BLOCK, 0)))
    case = read_case("a", lambda: empty, SMALL)
    assert case.mask is not None
    assert not case.mask.any()
    assert not prepare_published(empty, SMALL).tensors["prompt"].any()


def test_a_session_s_prompt_lies_in_the_scan_s_frame_of_reference() -> None:
    drawn = framed(marked(BLOCK), "1.2.4")
    request = Request(images={"t1": framed(scan(), "1.2.3")}, prompt=Prompt(drawn))
    with pytest.raises(GeometryError, match="roi: lies in another frame of reference than t1"):
        read_case("a", lambda: request, SMALL)
    accepted = replace(request, ignore_frame_of_reference=True)
    assert read_case("a", lambda: accepted, SMALL).mask is not None


def framed(volume: Volume, uid: str | None) -> Volume:
    return replace(volume, frame_of_reference=uid)


@pytest.mark.documents(
    "DICOM",
    "T1, T2, mask or prompt of another frame of reference",
    "exit 3; `--ignore-frame-of-reference` goes on with a warning",
)
@pytest.mark.parametrize("which", ["t2", "prompt", "brain_mask"])
def test_another_frame_of_reference_is_refused_unless_it_is_accepted(which: str) -> None:
    t1 = framed(scan(), "1.2.3")
    volumes = {
        "t2": framed(scan(name="t2"), "1.2.3"),
        "prompt": framed(marked(BLOCK), "1.2.3"),
        "brain_mask": framed(
            Volume((t1.data > 0).astype(np.uint8), t1.affine, name="mask"), "1.2.3"
        ),
    }

    def request(uid: str | None, *, accepted: bool = False) -> Request:
        given = {**volumes, which: framed(volumes[which], uid)}
        return Request(
            images={"t1": t1, "t2": given["t2"]},
            prompt=Prompt(given["prompt"]),
            brain_mask=given["brain_mask"],
            ignore_frame_of_reference=accepted,
        )

    same = prepare(request("1.2.3"), DUAL)
    with pytest.raises(GeometryError, match=r"another frame of reference than t1 \(1\.2\.4 ag"):
        prepare(request("1.2.4"), DUAL)
    case = prepare(request("1.2.4", accepted=True), DUAL)
    assert "frames-differ" in [warning.code.name for warning in case.warnings]
    for name, tensor in same.tensors.items():
        np.testing.assert_array_equal(case.tensors[name], tensor)
    # A file that names none, such as NIfTI, is not in doubt.
    assert prepare(request(None), DUAL).warnings == same.warnings
