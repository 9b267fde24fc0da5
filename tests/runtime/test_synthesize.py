"""One case through the pipeline, with an engine whose answer is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.fakes.engine import TINY_NETWORK, FakeEngine
from tlp_runtime import Synthesizer, Volume
from tlp_runtime.errors import ContentError, GeometryError, ModelMismatch, OutputError, UsageError
from tlp_runtime.io.nifti import read_volume
from tlp_runtime.spec.model import ModelSpec
from tlp_runtime.synthesis.preview import OEDEMA_COLOUR, TUMOUR_COLOUR, write_preview
from tlp_runtime.synthesis.request import Prompt, Request

AFFINE = np.array([[-1, 0, 0, 0], [0, -1, 0, 239], [0, 0, 1, 0], [0, 0, 0, 1.0]])
SPEC = ModelSpec(inputs=("t1",), network=TINY_NETWORK)


def _brain(seed: int = 0) -> Volume:
    """Twelve slices, of which 3 to 8 hold brain."""
    data = np.zeros((240, 240, 12), np.int16)
    data[90:150, 80:170, 3:9] = np.random.default_rng(seed).integers(100, 900, (60, 90, 6))
    return Volume(data, AFFINE, name="t1")


def _roi() -> Volume:
    data = np.zeros((240, 240, 12), np.uint8)
    data[100:110, 100:120, 4:7] = 1
    data[110:115, 100:120, 4:7] = 2
    return Volume(data, AFFINE, name="roi")


def _run(images: Volume, prompt: Volume | None = None, batch: int = 4) -> Volume:
    with Synthesizer(FakeEngine(SPEC), batch=batch) as synthesizer:
        return synthesizer.run(Request(images={"t1": images}, prompt=Prompt(prompt))).volume


def test_output_is_the_network_s_value_where_it_ran_and_exactly_zero_elsewhere() -> None:
    t1 = _brain()
    out = _run(t1, _roi())
    scaled = t1.data / t1.data.max() * 2 - 1
    prompt = np.zeros(t1.shape)
    prompt[100:110, 100:120, 4:7], prompt[110:115, 100:120, 4:7] = 1, 0.5
    expected = (scaled * 0.5 + prompt * 0.25 + 1) / 2
    inside = np.zeros(t1.shape, bool)
    inside[40:200, 34:226, 3:9] = True
    np.testing.assert_allclose(out.data[inside], expected[inside], atol=1e-6)
    assert not out.data[~inside].any()
    assert out.data.dtype == np.float32


def test_only_slices_with_brain_are_run_in_batches() -> None:
    engine = FakeEngine(SPEC)
    result = Synthesizer(engine, batch=4).run(Request(images={"t1": _brain()}))
    assert result.slices_run == 6
    assert engine.batches == [4, 2]
    assert set(result.seconds) == {"read", "prepare", "engine", "restore"}


def test_the_batch_size_does_not_change_the_result() -> None:
    np.testing.assert_array_equal(_run(_brain(), batch=1).data, _run(_brain(), batch=5).data)


@pytest.mark.parametrize("orientation", ["RAS", "LIA", "PSR", "SAL"])
def test_any_axis_order_gives_the_same_image_on_its_own_grid(orientation: str) -> None:
    straight = _run(_brain(), _roi())
    turned_in = _brain().reoriented(orientation)
    out = _run(turned_in, _roi().reoriented("RIP"))
    assert out.shape == turned_in.shape
    np.testing.assert_array_equal(out.affine, turned_in.affine)
    np.testing.assert_array_equal(out.reoriented("LPS").data, straight.data)


def test_a_prompt_changes_only_prompted_voxels_of_this_engine() -> None:
    with_prompt, without = _run(_brain(), _roi()), _run(_brain())
    assert ((with_prompt.data != without.data) == (_roi().data > 0)).all()


def test_other_modalities_are_refused() -> None:
    with pytest.raises(ModelMismatch, match="takes t1; got t2"):
        Synthesizer(FakeEngine(SPEC)).run(Request(images={"t2": _brain()}))


def test_prompts_that_cannot_belong_are_refused() -> None:
    moved = Volume(_roi().data, AFFINE + np.eye(4)[[0]].T * [0, 0, 0, 1], name="roi")
    with pytest.raises(GeometryError, match="lies on another grid"):
        _run(_brain(), moved)
    with pytest.raises(GeometryError, match="shape 240 x 240 x 11"):
        _run(_brain(), Volume(_roi().data[..., :11], AFFINE, name="roi"))
    outside = np.zeros((240, 240, 12), np.uint8)
    outside[:5] = 1
    with pytest.raises(ContentError, match="wholly outside"):
        _run(_brain(), Volume(outside, AFFINE, name="roi"))


def test_an_unknown_label_outside_the_crop_is_refused_too() -> None:
    labels = _roi().data.copy()
    labels[0, 0, 0] = 9
    with pytest.raises(ContentError, match="labels 9"):
        _run(_brain(), Volume(labels, AFFINE, name="roi"))


def test_a_batch_must_hold_a_slice() -> None:
    with pytest.raises(UsageError, match="at least 1"):
        Synthesizer(FakeEngine(SPEC), batch=0)


def test_saving_says_synthetic_and_counts_its_time(tmp_path: Path) -> None:
    result = Synthesizer(FakeEngine(SPEC)).run(Request(images={"t1": _brain()}))
    record = result.save(tmp_path / "o.nii.gz")
    back = read_volume(tmp_path / "o.nii.gz")
    assert b"SYNTHETIC" in bytes(back.header["descrip"])  # type: ignore[index]
    np.testing.assert_array_equal(back.data, result.volume.data)
    assert record["seconds"]["write"] > 0
    with pytest.raises(OutputError, match="exists already"):
        result.save(tmp_path / "o.nii.gz")


def test_the_preview_outlines_both_classes(tmp_path: Path) -> None:
    result = Synthesizer(FakeEngine(SPEC)).run(
        Request(images={"t1": _brain()}, prompt=Prompt(_roi()))
    )
    write_preview(result, SPEC, tmp_path / "p.png")
    pixels = np.asarray(Image.open(tmp_path / "p.png")).reshape(-1, 3)
    colours = {tuple(map(int, colour)) for colour in np.unique(pixels, axis=0)}
    assert {TUMOUR_COLOUR, OEDEMA_COLOUR} <= colours
