"""What was asked for is what runs, or an error says why not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tests.fakes.engine import FakeEngine
from tests.fakes.machines import installed
from tests.support import TinyModel
from tlp_runtime import Synthesizer
from tlp_runtime.engines import onnx as onnx_engine
from tlp_runtime.engines.base import Engine, Slices
from tlp_runtime.engines.registry import engine_names, engines
from tlp_runtime.engines.select import choose
from tlp_runtime.errors import (
    DependencyConflict,
    DeviceUnavailable,
    EngineError,
    MemoryExhausted,
    UsageError,
)

NAMES = engine_names()


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make it look as if these engines could run; the others say what they lack."""

    def settle(*names: str) -> None:
        def unavailable(cls: type[Engine], index: int = 0) -> DeviceUnavailable | None:
            return None if cls.name in names else DeviceUnavailable(f"{cls.name} is not there.")

        for kind in engines():
            monkeypatch.setattr(kind, "unavailable", classmethod(unavailable))

    return settle


def test_both_flavours_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, "onnxruntime", "onnxruntime-gpu")
    for device in ("auto", "cpu", "cuda"):
        with pytest.raises(DependencyConflict, match="Uninstall onnxruntime and onnxruntime-gpu"):
            choose(device=device)


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (("trt", "trt-rtx", "ort-cuda", "ort-cpu"), "trt"),
        (("trt-rtx", "ort-cuda", "ort-cpu"), "trt-rtx"),
        (("ort-cuda", "ort-cpu"), "ort-cuda"),
        (("ort-trt", "ort-cpu"), "ort-cpu"),
        (("ort-cpu",), "ort-cpu"),
    ],
)
def test_auto_prefers_tensorrt_then_cuda_then_the_cpu_and_says_why(
    there: Callable[..., None], names: tuple[str, ...], chosen: str
) -> None:
    there(*names)
    choice = choose()
    assert choice.name == chosen
    assert (choice.cuda_index is None) == (chosen == "ort-cpu")
    if chosen == "ort-cuda":
        assert choice.reason == (
            "the fastest that can run here; not trt: trt is not there; "
            "not trt-rtx: trt-rtx is not there"
        )
    if chosen == "ort-cpu":
        assert choice.reason == "no GPU engine can run: ort-cuda is not there"


def test_a_gpu_that_was_asked_for_is_never_the_cpu(there: Callable[..., None]) -> None:
    there("ort-cpu")
    with pytest.raises(DeviceUnavailable, match=r"trt is not there.*ort-cuda is not there") as e:
        choose(device="cuda")
    assert e.value.exit_code == 5
    for name in ("trt", "trt-rtx", "ort-trt", "ort-cuda"):
        with pytest.raises(DeviceUnavailable, match=f"engine {name} .* but {name} is not there"):
            choose(name)


def test_what_is_there_and_asked_for_is_taken(there: Callable[..., None]) -> None:
    there(*NAMES)
    for name in (kind.name for kind in engines() if kind.on_gpu):
        choice = choose(name, "cuda:3")
        assert (choice.name, choice.cuda_index, choice.reason) == (name, 3, "as asked")
    assert choose("ort-cpu").cuda_index is None
    assert choose(device="cpu").name == "ort-cpu"


@pytest.mark.parametrize(
    ("engine", "device"),
    [
        ("tensorrt", "auto"),
        ("auto", "gpu"),
        ("auto", "cuda:x"),
        ("ort-cpu", "cuda"),
        ("ort-cuda", "cpu"),
        ("trt", "cpu"),
    ],
)
def test_names_and_pairs_that_cannot_be(engine: str, device: str) -> None:
    with pytest.raises(UsageError):
        choose(engine, device)


def test_running_out_of_memory_is_exit_6_and_other_failures_5(
    tiny: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    class Failing(onnxruntime.InferenceSession):  # type: ignore[misc]
        says = ""

        def run(self, *arguments: object) -> None:
            raise RuntimeError(self.says)

    monkeypatch.setattr(onnxruntime, "InferenceSession", Failing)
    zeros = np.zeros((2, 1, 192, 160), np.float32)
    with onnx_engine.OnnxEngine(tiny.bundle) as engine:
        Failing.says = "Failed to allocate memory for requested buffer of size 9"
        with pytest.raises(MemoryExhausted, match="with a batch of 2 slices") as e:
            engine.run({"t1": zeros, "prompt": zeros})
        assert e.value.exit_code == 6
        Failing.says = "Non-zero status code"
        with pytest.raises(EngineError, match="the run failed: Non-zero") as other:
            engine.run({"t1": zeros, "prompt": zeros})
        assert other.value.exit_code == 5


class Small(FakeEngine):
    """An engine with memory for two slices."""

    room = 2

    def _run(self, tensors: dict[str, Slices]) -> Slices:  # type: ignore[override]
        if len(tensors["t1"]) > self.room:
            raise MemoryExhausted(f"small: out of memory with {len(tensors['t1'])} slices.")
        return super()._run(tensors)


def test_out_of_memory_halves_the_batch_and_goes_on(tiny: TinyModel) -> None:
    rng = np.random.default_rng(0)
    tensors = {
        name: rng.uniform(-1, 1, (11, 192, 160)).astype(np.float32) for name in ("t1", "prompt")
    }
    want = np.clip(tensors["t1"] * 0.5 + tensors["prompt"] * 0.25, -1, 1)
    engine = Small(tiny.bundle.spec)
    with Synthesizer(engine, batch=8) as synthesizer:
        np.testing.assert_array_equal(synthesizer.run_slices(tensors), want)
        assert synthesizer.batch == 2
    assert engine.batches == [2, 2, 2, 2, 2, 1]


def test_out_of_memory_with_one_slice_is_the_end(tiny: TinyModel) -> None:
    engine = Small(tiny.bundle.spec)
    engine.room = 0
    tensors = {name: np.zeros((3, 192, 160), np.float32) for name in ("t1", "prompt")}
    with Synthesizer(engine, batch=2) as synthesizer, pytest.raises(MemoryExhausted) as e:
        synthesizer.run_slices(tensors)
    assert e.value.exit_code == 6
