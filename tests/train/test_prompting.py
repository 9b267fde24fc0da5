"""Fuzzy prompts: Algorithm 1, drawn the same everywhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tlp_runtime.spec.model import PromptSpec
from tlp_train.fpg import KERNELS, FuzzyPrompt, covered, sample_rng

SPEC = PromptSpec()


def _disc(radius: float, value: float = 1.0) -> np.ndarray:
    y, x = np.ogrid[:64, :64]
    return np.where((y - 32) ** 2 + (x - 32) ** 2 < radius**2, value, 0).astype(np.float32)


def test_the_nine_kernels_are_equation_1() -> None:
    assert len(KERNELS) == 9
    matrices = set()
    for kernel in KERNELS:
        matrix = np.zeros((3, 3), int)
        for dy, dx in kernel:
            matrix[1 + dy, 1 + dx] = 1
        matrices.add(matrix.tobytes())
        assert matrix[1, 1] == 1
        assert matrix.sum() in (2, 5)
    assert len(matrices) == 9
    cross = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]])
    assert cross.tobytes() in matrices


@pytest.mark.parametrize("kernel", KERNELS)
def test_coverage_is_torch_s_zero_padded_convolution(kernel: tuple[tuple[int, int], ...]) -> None:
    mask = np.random.default_rng(0).random((17, 13)) < 0.4
    weight = torch.zeros(1, 1, 3, 3)
    for dy, dx in kernel:
        weight[0, 0, 1 + dy, 1 + dx] = 1
    expected = F.conv2d(torch.from_numpy(mask).float()[None, None], weight, padding=1)
    np.testing.assert_array_equal(covered(mask, kernel), expected[0, 0].numpy().astype(np.uint8))


def test_always_dropping_leaves_nothing() -> None:
    fuzzy = FuzzyPrompt(drop=1)
    assert not fuzzy(_disc(10), SPEC, np.random.default_rng(0)).any()


def test_half_of_the_prompts_are_dropped() -> None:
    fuzzy = FuzzyPrompt()
    kept = [fuzzy(_disc(8), SPEC, sample_rng(0, 0, "case", z)).any() for z in range(600)]
    assert 0.44 < np.mean(kept) < 0.56


def test_dilation_only_grows_and_erosion_only_shrinks() -> None:
    disc = _disc(10)
    grown = FuzzyPrompt(drop=0, dilate=1)(disc, SPEC, np.random.default_rng(1))
    assert (grown >= disc).all()
    assert grown.sum() > disc.sum()
    shrunk = FuzzyPrompt(drop=0, dilate=0)(disc, SPEC, np.random.default_rng(1))
    assert 0 < shrunk.sum() < disc.sum()


def test_published_erosion_needs_two_covered_not_all() -> None:
    """A cross kernel over a lone pair keeps both pixels; a morphology library's would not."""
    mask = np.zeros((5, 5), bool)
    mask[2, 2:4] = True
    assert (covered(mask, KERNELS[-1]) > 1).sum() == 2


def test_tumour_overwrites_oedema_and_each_has_its_own_steps() -> None:
    prompt = np.maximum(_disc(20, 0.5), _disc(8))
    fuzzy = FuzzyPrompt(drop=0, dilate=1, tumour_steps=5, oedema_steps=0)
    result = fuzzy(prompt, SPEC, np.random.default_rng(2))
    assert set(np.unique(result)) == {0, 0.5, 1}
    assert (result[prompt == 1] == 1).all()
    assert ((result == 0.5) <= (prompt == 0.5)).all()


def test_the_input_is_left_alone() -> None:
    prompt = _disc(10)
    copy = prompt.copy()
    FuzzyPrompt(drop=0)(prompt, SPEC, np.random.default_rng(0))
    np.testing.assert_array_equal(prompt, copy)


def test_a_sample_s_draw_depends_on_seed_epoch_case_and_slice() -> None:
    def draw(*key: object) -> float:
        return float(sample_rng(*key).random())  # type: ignore[arg-type]

    assert draw(0, 1, "a", 5) == draw(0, 1, "a", 5)
    others = [draw(1, 1, "a", 5), draw(0, 2, "a", 5), draw(0, 1, "b", 5), draw(0, 1, "a", 6)]
    assert len({draw(0, 1, "a", 5), *others}) == 5
