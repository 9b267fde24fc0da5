"""What every engine does alike: those of this machine, on its GPU too."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from tests.support import TinyModel
from tlp_runtime.engines import onnx as onnx_engine
from tlp_runtime.engines.base import Engine, Slices
from tlp_runtime.engines.registry import engine_names, engines, find_engine
from tlp_runtime.engines.select import choose
from tlp_runtime.errors import (
    EngineError,
)

CONTRACT = [
    pytest.param(kind.name, marks=[pytest.mark.gpu] if kind.on_gpu else []) for kind in engines()
]


@pytest.fixture(params=CONTRACT)
def engine(request: pytest.FixtureRequest, tiny: TinyModel) -> Iterator[Engine]:
    """Every engine that is present: on a GPU those whose libraries are installed."""
    problem = find_engine(request.param).unavailable()
    if problem is not None:
        pytest.skip(f"{request.param}: {problem}")
    with choose(request.param).open(tiny.bundle) as opened:
        yield opened


def _inputs(engine: Engine, batch: int, seed: int = 0) -> dict[str, Slices]:
    rng = np.random.default_rng(seed)
    return {
        name: rng.uniform(-1, 1, (batch, 1, 192, 160)).astype(np.float32)
        for name in engine.spec.tensor_names
    }


def test_contract_values_are_the_cpus(engine: Engine, tiny: TinyModel) -> None:
    with onnx_engine.OnnxEngine(tiny.bundle) as reference:
        for batch in (1, 3, 4):
            tensors = _inputs(engine, batch, batch)
            image = engine.run(tensors)
            assert image.shape == (batch, 1, 192, 160)
            assert image.dtype == np.float32
            assert np.abs(image).max() <= 1
            atol = 1e-6 if engine.name == "ort-cpu" else 2e-4
            np.testing.assert_allclose(image, reference.run(tensors), atol=atol)


def test_contract_batches_keep_their_order(engine: Engine) -> None:
    batches = [_inputs(engine, size, seed) for seed, size in enumerate((2, 2, 1, 2, 2))]
    together = list(engine.run_batches(batches))
    assert len(together) == len(batches)
    for tensors, image in zip(batches, together, strict=True):
        np.testing.assert_allclose(image, engine.run(tensors), atol=1e-5)


def test_contract_says_what_it_is(engine: Engine) -> None:
    assert engine.name in engine_names()
    assert (engine.device == "cpu") == (not engine.on_gpu)
    assert any(part.isdigit() for part in engine.library.replace(".", " ").split())
    assert engine.opening["open"] > 0
    times = engine.timed(_inputs(engine, 1))
    assert times.total_s > 0
    assert (times.compute_s is None) == (engine.device == "cpu")
    assert (engine.memory_mib() is None) == (engine.device == "cpu")


def test_contract_refuses_what_is_not_its_input(engine: Engine) -> None:
    good = _inputs(engine, 2)
    bad = {
        "names": {"t1": good["t1"]},
        "type": good | {"t1": good["t1"].astype(np.float64)},
        "shape": good | {"t1": good["t1"][..., :100]},
        "batch": good | {"t1": good["t1"][:1]},
        "empty": {name: array[:0] for name, array in good.items()},
        "list": good | {"t1": good["t1"].tolist()},
    }
    for tensors in bad.values():
        with pytest.raises(EngineError) as e:
            engine.run(tensors)
        assert e.value.exit_code == 5
    engine.run(good)
