"""Engines side by side: the arithmetic, the rule of settling, the limit; no time is asserted."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from benchmarks import matmul_models
from tests.fakes.engine import FakeEngine
from tests.support import TinyModel
from tlp_runtime.bench import SweepOptions, limit, measure
from tlp_runtime.bench import contender as module
from tlp_runtime.bench.contender import OpenContender, together
from tlp_runtime.bench.limit import Product, open_product
from tlp_runtime.bench.machine import Nvml
from tlp_runtime.engines.base import RunTime, Slices
from tlp_runtime.engines.choice import EngineChoice
from tlp_runtime.engines.cuda import Gpu
from tlp_runtime.engines.registry import register, unregister
from tlp_runtime.errors import EngineError, UsageError
from tlp_runtime.models.bundle import Bundle
from tlp_runtime.warnings import WarningLog


class Paced(FakeEngine):
    """Sleeps for each slice; tells device times; has memory of its own."""

    name = "paced"
    seconds = 0.002
    concurrent = False

    def __init__(self, bundle: Bundle, warnings: WarningLog | None = None) -> None:
        super().__init__(bundle.spec)
        self.bundle = bundle
        self.opening = {"open": 1.5}

    def _run(self, tensors: Mapping[str, Slices]) -> Slices:
        batch = len(tensors["t1"])
        if batch > 8:
            raise EngineError("too many")
        time.sleep(self.seconds * batch)
        return super()._run(tensors)

    def timed(self, tensors: Mapping[str, Any]) -> RunTime:
        batch = len(tensors["t1"])
        return RunTime(9.0, 0.001, 0.002 * batch, 0.003)

    def memory_mib(self) -> tuple[int, int]:
        return (700, 1000)


@pytest.fixture
def unproven(tiny: TinyModel) -> Bundle:
    """A bundle that stand-ins of another function may open."""
    return replace(tiny.bundle, manifest=replace(tiny.bundle.manifest, proof=None))


@pytest.fixture
def paced() -> Iterator[str]:
    register(Paced)
    yield Paced.name
    unregister(Paced.name)


def opened(bundle: Bundle, **options: Any) -> OpenContender:
    return OpenContender(Paced, bundle, EngineChoice(threads=1), SweepOptions(**options))


def test_a_turn_is_what_the_callers_did(
    unproven: Bundle, paced: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    walls: list[tuple[int, float]] = []

    def recorded(work: Callable[[int], None], callers: int) -> float:
        walls.append((callers, together(work, callers)))
        return walls[-1][1]

    monkeypatch.setattr(module, "together", recorded)
    contender = opened(unproven, batches=(1, 4), concurrency=(1, 2), runs=6)
    about = contender.about()
    assert about.first_call == {"open": 1.5, "first run": 9.0}
    assert [warning.code.name for warning in about.warnings] == ["engine-unproven"]
    assert about.limit_what.startswith("fp32 1024 x 1024, onnxruntime")
    for batch, callers in ((1, 1), (4, 2)):
        turn = contender.turn(batch, callers)
        assert len(turn.calls) == 6 * callers
        assert min(turn.calls) >= 0.002 * batch  # a sleep is never shorter than asked
        assert turn.product_tflops is not None
        assert turn.product_tflops > 0
        assert turn.energy_mj is None
        # Calls one by one, then batches in a row, since its runs take turns: the latter count.
        assert walls[-1] == (callers, turn.wall_s)
        assert walls[-2][0] == callers
    rest = contender.rest(4)
    assert (rest.upload_ms, rest.compute_ms, rest.download_ms) == pytest.approx((1, 8, 3))
    contender.close()


def test_the_figures_follow_from_the_turns(unproven: Bundle, paced: str) -> None:
    steps: list[str] = []
    heard: list[str] = []
    slow, fast = measure(
        [(paced, unproven), ("ort-cpu", unproven)],
        SweepOptions(batches=(1, 16), rounds=3, runs=2, most_warmup=10),
        EngineChoice(threads=1),
        on_step=steps.append,
        warn=lambda warning: heard.append(warning.code.name),
    )
    assert steps == [
        f"opening paced {unproven.name}", f"opening ort-cpu {unproven.name}", "batch 1", "batch 16",
    ]  # fmt: skip
    assert heard == ["engine-unproven"] * 2
    assert slow.error == "batch 16, 1 at once: too many"
    assert [point.batch for point in slow.points] == [1]
    assert [point.batch for point in fast.points] == [1, 16]
    assert slow.points[0].faster == 1
    assert fast.points[0].faster is not None
    assert fast.points[1].faster is None, "there is nothing to compare it with"
    assert fast.library.startswith("onnxruntime")
    assert unproven.manifest.graph is not None
    for one in (slow, fast):
        point = one.points[0]
        assert point.latency.count == 6
        assert one.gflop == unproven.manifest.graph.after.gflop
        assert point.tflops == pytest.approx(one.gflop * point.slices_per_second / 1e3)
        assert one.limit is not None
        assert point.share_of_limit is not None
        assert (point.memory_mib or 0) > 50
        assert point.load is not None
    assert 0 < slow.points[0].slices_per_second <= 500


def test_callers_run_at_once() -> None:
    meeting = threading.Barrier(3)

    def meet(number: int) -> None:
        meeting.wait(timeout=20)  # broken, and told as an error, where they take turns

    assert together(meet, 3) > 0


def test_memory_and_energy_are_the_gpus(
    unproven: Bundle, paced: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Cuda:
        def use(self, index: int) -> None:
            assert index == 0

        def memory_mib(self) -> tuple[int, int]:
            return (950, 1000)

    class Counter:
        energy = 0.0

        def energy_mj(self) -> float:
            self.energy += 600.0
            return self.energy

    counter = Counter()
    monkeypatch.setattr(module, "visible_gpu", lambda index: Gpu(0, "x", (9, 0), 1000, "GPU-0"))
    monkeypatch.setattr(module, "Cuda", Cuda)
    monkeypatch.setattr(Nvml, "open", lambda gpu: counter)
    contender = opened(unproven, batches=(2,), runs=3)
    assert contender.rest(2).memory_mib == 250
    assert contender.turn(2, 1).energy_mj == pytest.approx(600 / 6)
    contender.close()


def test_an_engine_that_cannot_run_says_why_and_is_not_replaced(tiny: TinyModel) -> None:
    names = ("ort-cuda", "trt", "trt-rtx")
    found = measure([(name, tiny.bundle) for name in names], SweepOptions(runs=1), EngineChoice())
    for name, one in zip(names, found, strict=True):
        assert one.engine == name
        assert one.points == ()
        assert "was asked for" in one.error


def test_warm_up_ends_when_times_have_settled(
    tiny: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("time.perf_counter", lambda: now)

    class Slowing(FakeEngine):
        def __init__(self, steps: Iterable[float]) -> None:
            super().__init__(tiny.bundle.spec)
            self.steps = iter(steps)

        def _run(self, tensors: Mapping[str, Slices]) -> Slices:
            nonlocal now
            now += next(self.steps)
            return super()._run(tensors)

    def settled(steps: Iterable[float], options: SweepOptions) -> tuple[int, bool]:
        engine = Slowing(steps)
        zeros = np.zeros((1, 1, 192, 160), np.float32)
        return module.settle(engine, dict.fromkeys(engine.spec.tensor_names, zeros), options)

    # The medians of runs 9 to 13 and 14 to 18 are the first two that agree.
    falling = [0.05] * 5 + [0.02] * 5 + [0.01] * 30
    assert settled(falling, SweepOptions(spread=0.3, most_warmup=40)) == (18, True)
    rising = [0.001 * 1.5**n for n in range(12)]
    assert settled(rising, SweepOptions(spread=0.03, most_warmup=12)) == (12, False)


@pytest.mark.parametrize(
    "options", [{"batches": ()}, {"batches": (0,)}, {"concurrency": (0,)}, {"runs": 0}]
)
def test_nothing_to_measure_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="expected"):
        SweepOptions(**options)


def test_the_matrix_products_are_what_their_script_writes() -> None:
    folder = Path(limit.__file__).parent
    written = {f"matmul_{kind}_{size}.onnx" for kind, size in matmul_models.FILES}
    assert {path.name for path in folder.glob("*.onnx")} == written
    for kind, size in matmul_models.FILES:
        want = matmul_models.model(kind, size).SerializeToString(deterministic=True)
        assert (folder / f"matmul_{kind}_{size}.onnx").read_bytes() == want
        assert len(want) < 3000


def test_the_matrix_product_multiplies() -> None:
    session = ort.InferenceSession(
        matmul_models.model("fp32", 64).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (got,) = session.run(None, {"seed": np.full(1, 0.5, np.float32)})
    angles = 0.5 * np.arange(64)
    matrix = np.outer(np.sin(angles), np.cos(angles))
    want = matrix
    for _ in range(limit.PRODUCTS):
        want = want @ matrix * 2 / 64
    assert got[0] == pytest.approx(want.max(), rel=1e-4)


def test_the_limit_counts_two_operations_a_product_and_says_what_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ticks = iter(float(n) for n in range(100))
    monkeypatch.setattr("time.perf_counter", lambda: next(ticks))
    found = open_product("ort-cpu", "cpu", "int8")
    assert isinstance(found, Product)
    assert found.tflops() == pytest.approx(limit.PRODUCTS * 2 * 1024**3 / 1e12)
    assert found.what.startswith("fp32 1024 x 1024, onnxruntime")
    assert "no CUDA support" in str(open_product("ort-cuda", "cuda:0", "fp16"))


def test_energy_is_told_only_by_a_counter(monkeypatch: pytest.MonkeyPatch) -> None:
    class Library:
        class NVMLError(Exception): ...

        def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:  # noqa: N802
            if handle != "has one":
                raise self.NVMLError
            return 1234

        def nvmlSystemGetDriverVersion(self) -> bytes:  # noqa: N802
            return b"580.1"

    assert Nvml(Library(), "has one").energy_mj() == 1234
    assert Nvml(Library(), "has none").energy_mj() is None
    assert Nvml(Library(), "").driver() == "580.1"
    assert Nvml.open(Gpu(0, "x", (9, 0), 1, "GPU-0")) is None  # no driver here
