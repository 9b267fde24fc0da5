"""Slices of several cases in shared batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import pytest

from tests.fakes.engine import FakeEngine
from tests.scans import SMALL
from tlp_runtime.engines.base import Slices
from tlp_runtime.errors import MemoryExhausted, UsageError
from tlp_runtime.spec.model import SizeSpec
from tlp_runtime.synthesis.batches import Batcher, SliceWork, Work
from tlp_runtime.warnings import BATCH_HALVED


class Small(FakeEngine):
    """Holds no more than so many slices."""

    def __init__(self, most: int) -> None:
        super().__init__(SMALL)
        self.most = most

    def _run(self, tensors: Mapping[str, Slices]) -> Slices:
        if len(tensors["t1"]) > self.most:
            raise MemoryExhausted(f"fake: no room for {len(tensors['t1'])} slices.")
        return super()._run(tensors)


def slices(count: int, seed: int, size: tuple[int, int] = (80, 64)) -> SliceWork:
    rng = np.random.default_rng(seed)
    tensors = {n: rng.uniform(-1, 1, (count, *size)).astype(np.float32) for n in ("t1", "prompt")}
    return SliceWork(tensors, unit=False)


def expected(one: SliceWork) -> np.ndarray:
    """What the engine makes of the inputs that a work gives."""
    tensors = {name: np.empty((one.count, *one.window), np.float32) for name in ("t1", "prompt")}
    one.fill(0, tensors)
    result: np.ndarray = np.clip(tensors["t1"] * 0.5 + tensors["prompt"] * 0.25, -1, 1)
    return result


def test_cases_share_batches_and_none_is_mixed_up() -> None:
    engine = FakeEngine(SMALL)
    works = [slices(count, seed) for seed, count in enumerate((5, 1, 9, 2, 3))]
    ran = list(Batcher(engine, 4).run(works))
    assert engine.batches == [4, 4, 4, 4, 4]
    assert sum(one.count for one in ran) == 20
    assert [len(one.works) for one in ran] == [1, 3, 1, 2, 2]
    assert all(one.ended >= one.began for one in ran)
    for work in works:
        np.testing.assert_array_equal(work.images, expected(work))


def test_a_pause_runs_what_is_left_before_more_is_asked_for() -> None:
    engine = FakeEngine(SMALL)
    first, second = slices(3, 0), slices(2, 1)

    def works() -> Iterator[Work | None]:
        yield first
        yield None
        np.testing.assert_array_equal(first.images, expected(first))
        yield second

    assert sum(one.count for one in Batcher(engine, 4).run(works())) == 5
    assert engine.batches == [3, 2]
    np.testing.assert_array_equal(second.images, expected(second))


def test_slices_of_another_size_never_share_a_batch() -> None:
    spec = replace(SMALL, sizes=SizeSpec(smallest=(80, 64), largest=(96, 96)))
    engine = FakeEngine(spec)
    works = [slices(3, 0), slices(2, 1, (96, 80)), slices(2, 2)]
    assert sum(one.count for one in Batcher(engine, 4).run(works)) == 7
    assert engine.batches == [3, 2, 2]
    for work in works:
        np.testing.assert_array_equal(work.images, expected(work))


def test_a_batch_too_large_is_halved_and_nothing_is_run_twice_or_lost() -> None:
    engine = Small(3)
    works = [slices(5, 0), slices(6, 1)]
    batcher = Batcher(engine, 8)
    ran = list(batcher.run(works))
    assert sum(one.count for one in ran) == 11
    assert batcher.batch == 2
    assert sum(engine.batches) == 11
    warnings = [warning for one in ran for warning in one.warnings]
    assert [warning.code for warning in warnings] == [BATCH_HALVED] * 2
    assert [warning.numbers["batch"] for warning in warnings] == [4, 2]
    assert warnings[1].text.endswith("Going on with batches of 2.")
    for work in works:
        np.testing.assert_array_equal(work.images, expected(work))


def test_a_case_that_was_cut_by_halving_is_named_once_a_batch() -> None:
    work = slices(8, 0)
    ran = list(Batcher(Small(3), 7).run([work]))
    assert [one.count for one in ran] == [3, 3, 2]
    assert [one.works for one in ran] == [(work,)] * 3
    np.testing.assert_array_equal(work.images, expected(work))


def test_not_even_one_slice_is_an_error() -> None:
    with pytest.raises(MemoryExhausted, match="no room for 1"):
        list(Batcher(Small(0), 4).run([slices(1, 0)]))
    with pytest.raises(UsageError, match="a batch of 0"):
        Batcher(Small(1), 0)
