"""What an evaluation tells the model, from a case's segmentation."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from tlp_cli.evaluate import PromptUse as Choice

from tlp_runtime.spec.model import PromptSpec
from tlp_train.prompt_uses import PromptUse, Slices, prompted

SPEC = PromptSpec()


@pytest.fixture
def exact() -> Slices:
    """Two parts of a core, one in oedema, on the left of the head."""
    z, y, x = np.ogrid[:20, :40, :60]
    made = np.zeros((20, 40, 60), np.float32)
    made[(z - 9) ** 2 + (y - 20) ** 2 + (x - 14) ** 2 < 64] = SPEC.oedema_value
    made[3:15, 18:23, 12:15] = SPEC.tumour_value
    made[2:6, 4:8, 20:24] = SPEC.tumour_value
    return made


def test_the_command_offers_every_use() -> None:
    assert {choice.value for choice in Choice} == set(get_args(PromptUse))


def test_each_use_is_what_it_says(exact: Slices) -> None:
    made = {use: prompted(exact, use, SPEC, "case") for use in get_args(PromptUse)}
    assert not made["none"].any()
    np.testing.assert_array_equal(made["seg"], exact)
    np.testing.assert_array_equal(made["mirrored"], exact[:, :, ::-1])
    np.testing.assert_array_equal(made["whole-tumour"] == SPEC.tumour_value, exact != 0)
    assert set(np.unique(made["whole-tumour"])) == {0, np.float32(SPEC.tumour_value)}
    core = exact == SPEC.tumour_value
    ball = made["sphere"] == SPEC.tumour_value
    assert set(np.unique(made["sphere"])) == {0, np.float32(SPEC.tumour_value)}
    assert ball.sum() == pytest.approx(core.sum(), rel=0.1), "of its volume"
    for where in ((slice(None), slice(12, 28)), (slice(None), slice(0, 12))):
        middle = [np.argwhere(mask[where]).mean(axis=0) for mask in (core, ball)]
        np.testing.assert_allclose(middle[0], middle[1], atol=0.5)
    fuzzy = made["fuzzy"]
    assert not np.array_equal(fuzzy, exact)
    both = (fuzzy == SPEC.tumour_value) & core
    assert both.sum() > 0.7 * core.sum(), "unsteady, not lost: no slice is dropped"


def test_near_misses_are_half_on_the_core_or_on_its_oedema(exact: Slices) -> None:
    core = exact == SPEC.tumour_value
    half = prompted(exact, "moved", SPEC, "case") == SPEC.tumour_value
    assert half.sum() == core.sum()
    assert 0.3 < (half & core).sum() / core.sum() < 0.7
    beside = prompted(exact, "oedema", SPEC, "case")
    np.testing.assert_array_equal(beside == SPEC.tumour_value, exact == SPEC.oedema_value)
    assert set(np.unique(beside)) == {0, np.float32(SPEC.tumour_value)}


def test_a_case_is_always_drawn_alike_and_two_cases_are_not(exact: Slices) -> None:
    first, again, other = (prompted(exact, "fuzzy", SPEC, name) for name in ("a", "a", "b"))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_nothing_drawn_is_nothing_prompted(exact: Slices) -> None:
    for use in get_args(PromptUse):
        assert not prompted(np.zeros_like(exact), use, SPEC, "case").any()
