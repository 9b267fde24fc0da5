"""Decoys: where they lie, how often, and that prompts without them are drawn as ever."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.fakes.engine import TINY_NETWORK
from tlp_runtime.errors import SpecError, UsageError
from tlp_runtime.io.datasets import find_cases
from tlp_runtime.spec.model import ModelSpec, PromptSpec
from tlp_train.cache import CachedCase, open_cases
from tlp_train.config import ROBUST, TrainConfig, preset
from tlp_train.data import SampleId, SliceDataset
from tlp_train.decoys import RADII, Decoys
from tlp_train.fpg import FuzzyPrompt

CODE = PromptSpec()
ALWAYS = Decoys(share=1.0, epoch=0)


@pytest.fixture
def exact() -> np.ndarray:
    """A core in oedema, on the left of the head."""
    y, x = np.ogrid[:100, :120]
    made = np.zeros((100, 120), np.float32)
    made[(y - 50) ** 2 + (x - 35) ** 2 < 15**2] = CODE.oedema_value
    made[(y - 50) ** 2 + (x - 35) ** 2 < 8**2] = CODE.tumour_value
    return made


@pytest.fixture
def image() -> np.ndarray:
    """A brain with a dark ventricle in its middle; background -1."""
    y, x = np.ogrid[:100, :120]
    made = np.full((100, 120), -1, np.float32)
    made[(y - 50) ** 2 / 45**2 + (x - 60) ** 2 / 55**2 < 1] = 0.3
    made[45:55, 55:65] = -0.8
    return made


def drawn(decoys: Decoys, exact: np.ndarray, image: np.ndarray, epoch: int = 0) -> list[np.ndarray]:
    return [decoys(exact, image, epoch, CODE, np.random.default_rng(seed)) for seed in range(40)]


def test_a_decoy_lies_on_normal_brain(exact: np.ndarray, image: np.ndarray) -> None:
    made = drawn(ALWAYS, exact, image)
    sizes = set()
    for one in made:
        assert one.any()
        assert not one[(exact != 0) | (image == -1)].any()
        sizes.add(int((one != 0).sum()))
    mirrored = np.where((exact == 0) & (image > -1), exact[:, ::-1], 0)
    same = sum(np.array_equal(one, mirrored) for one in made)
    assert 10 <= same <= 30, "half mirrored, half blobs"
    assert len(sizes) > 10
    assert max(sizes) <= np.pi * RADII[1] ** 2 * 1.05


def test_a_slice_without_tumour_gets_a_blob(image: np.ndarray) -> None:
    nothing = np.zeros_like(image)
    for one in drawn(ALWAYS, nothing, image):
        assert set(np.unique(one)) == {0, CODE.tumour_value}
        assert not one[image == -1].any()
    dark = np.full_like(image, -1)
    assert not any(one.any() for one in drawn(ALWAYS, nothing, dark)), "nowhere to draw"


def test_they_begin_at_their_epoch_and_keep_to_their_share(
    exact: np.ndarray, image: np.ndarray
) -> None:
    decoys = Decoys(share=0.25, epoch=3)
    assert all(one is exact for one in drawn(decoys, exact, image, epoch=2))
    rng = np.random.default_rng(0)
    changed = sum(decoys(exact, image, 3, CODE, rng) is not exact for _ in range(400))
    assert 70 <= changed <= 130


@pytest.fixture(scope="module")
def cached(phantom_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> CachedCase:
    (case, *_) = find_cases(phantom_dir, ("t1", "t1ce", "seg"))
    spec = ModelSpec(inputs=("t1",), network=TINY_NETWORK, intensity=ROBUST)
    (opened,) = open_cases([case], spec, tmp_path_factory.mktemp("cache"))
    return opened


def samples(case: CachedCase, **options: object) -> SliceDataset:
    spec = ModelSpec(inputs=("t1",), network=TINY_NETWORK, intensity=ROBUST)
    chosen = {"fuzzy": FuzzyPrompt(), "seed": 5, **options}
    return SliceDataset([case], spec, **chosen)  # type: ignore[arg-type]


def test_images_stay_as_they_are_and_other_samples_as_they_were(cached: CachedCase) -> None:
    plain, decoyed = samples(cached), samples(cached, decoys=Decoys(share=0.5, epoch=0))
    changed = 0
    for position in range(0, len(plain), 4):
        one, other = (data[SampleId(7, position)] for data in (plain, decoyed))
        for name in ("t1", "t1ce"):
            assert one[name].equal(other[name])
        changed += not one["prompt"].equal(other["prompt"])
        assert other["prompt"].equal(decoyed[SampleId(7, position)]["prompt"]), "drawn alike"
    assert 0 < changed < len(plain) / 4


def test_a_varied_pair_is_varied_alike(cached: CachedCase) -> None:
    plain, varied = samples(cached, fuzzy=None), samples(cached, fuzzy=None, varied=True)
    kinds = set()
    for position in range(30, 70):
        one, other = (data[SampleId(2, position)] for data in (plain, varied))
        flipped = not one["prompt"].equal(other["prompt"])
        back = {name: tensor.flip(-1) if flipped else tensor for name, tensor in other.items()}
        assert back["prompt"].equal(one["prompt"]), "moved with its image, and nothing else"
        assert all(float(t.min()) >= -1 and float(t.max()) <= 1 for t in other.values())
        for name in ("t1", "t1ce"):
            assert (back[name] == -1).equal(one[name] == -1), "background stays background"
        # Where both were equally bright they still are: one change for both.
        alike = (one["t1"] - one["t1ce"]).abs() < 1e-6
        assert (back["t1"] - back["t1ce"]).abs()[alike].max() < 1e-5
        kinds.add((flipped, bool((back["t1"] - one["t1"]).abs().max() > 1e-6)))
        again = varied[SampleId(2, position)]
        assert all(again[name].equal(other[name]) for name in other)
    assert len(kinds) == 4


def test_presets_say_who_uses_them() -> None:
    paper, demo, lab = (preset(name, ("t1",)) for name in ("paper", "demo", "lab"))
    assert (paper.decoys, demo.decoys, paper.vary, demo.vary) == (None, None, False, False)
    assert lab.decoys is not None
    assert lab.decoys.epoch == 27
    assert (lab.vary, lab.best, paper.best) == (True, "enhancement", "psnr")
    assert lab.spec.intensity == demo.spec.intensity == ROBUST
    assert paper.spec.intensity.rule == "minmax-crop"
    assert replace(lab, spec=paper.spec).spec.network == paper.spec.network
    assert lab.with_epochs(24).decoy_epoch == 8
    with pytest.raises(UsageError, match=r"decoy_share is 1\.5"):
        preset("lab", ("t1",), decoy_share=1.5)


def test_a_configuration_from_before_decoys_is_read() -> None:
    written = preset("paper", ("t1",)).to_dict()
    for name in ("decoy_share", "decoy_epoch", "vary", "best"):
        del written[name]
    with pytest.raises(SpecError):
        TrainConfig.from_dict(written)
    written["schema"] = {"major": 1, "minor": 0}
    assert TrainConfig.from_dict(written).decoys is None
