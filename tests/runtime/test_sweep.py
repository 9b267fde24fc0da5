"""Engines side by side: the arithmetic, the rule of settling, the limit; no time is asserted."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from tlp_runtime.engines.base import Opening
from tlp_runtime.engines.choice import EngineChoice

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import matmul_models

from tests.fakes.engine import FakeEngine
from tests.support import TinyModel
from tlp_runtime.bench import SweepOptions, limit, measure
from tlp_runtime.bench import sweep as module
from tlp_runtime.bench.limit import Limit, matrix_rate
from tlp_runtime.bench.machine import Nvml
from tlp_runtime.engines.base import RunTime, Slices
from tlp_runtime.engines.cuda import Gpu
from tlp_runtime.engines.select import SelectedEngine
from tlp_runtime.errors import EngineError, UsageError
from tlp_runtime.models.bundle import Bundle


class Paced(FakeEngine):
    """Sleeps for each slice; tells device times; has memory of its own."""

    seconds = 0.002
    concurrent = False
    opened = 0

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle.spec)
        self.bundle = bundle
        self.opening = {"open": 1.5}
        type(self).opened += 1

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


def asking(engine: str, device: str = "auto") -> Opening:
    return Opening(EngineChoice(engine=engine, device=device))


@pytest.fixture
def paced(monkeypatch: pytest.MonkeyPatch) -> type[Paced]:
    monkeypatch.setattr(SelectedEngine, "open", lambda self, bundle, opening: Paced(bundle))
    monkeypatch.setattr(
        module, "choose", lambda engine, device: SelectedEngine(engine, None, "test")
    )
    monkeypatch.setattr(
        module, "matrix_rate", lambda device, precision, threads: Limit(0.5, "as the test says")
    )
    Paced.opened = 0
    return Paced


def test_the_figures_follow_from_the_runs(
    tiny: TinyModel, paced: type[Paced], monkeypatch: pytest.MonkeyPatch
) -> None:
    together = module._together
    walls: list[tuple[int, float]] = []

    def recorded(work: Callable[[int], None], callers: int) -> float:
        walls.append((callers, together(work, callers)))
        return walls[-1][1]

    monkeypatch.setattr(module, "_together", recorded)
    options = SweepOptions(batches=(1, 4), concurrency=(1, 2), runs=6)
    steps: list[int] = []
    found = measure(
        tiny.bundle, options, asking("ort-cuda", "cuda"), on_step=lambda: steps.append(1)
    )
    assert found.error == ""
    assert [(p.concurrency, p.batch) for p in found.points] == [(1, 1), (1, 4), (2, 1), (2, 4)]
    assert len(steps) == 4
    assert paced.opened == 2  # one for each caller, since its runs take turns
    assert found.first_call == {"open": 1.5, "first run": 9.0}
    assert tiny.bundle.manifest.graph is not None
    assert found.gflop == tiny.bundle.manifest.graph.after.gflop
    rows = walls[1::2]  # each point: calls one by one, then batches in a row
    for point, (callers, wall) in zip(found.points, rows, strict=True):
        assert callers == point.concurrency
        assert point.slices_per_second == pytest.approx(6 * callers * point.batch / wall)
        assert point.latency.count == 6 * point.concurrency
        assert point.latency.p50_ms >= 2 * point.batch
        assert point.compute_ms == pytest.approx(2 * point.batch)
        assert point.upload_ms == pytest.approx(1)
        assert point.download_ms == pytest.approx(3)
        # A sleep is never shorter than asked, so a rate is never higher than this.
        assert 0 < point.slices_per_second <= 500 * point.concurrency
        assert found.gflop is not None
        assert point.tflops is not None
        assert point.tflops == pytest.approx(found.gflop * point.slices_per_second / 1e3)
        assert point.share_of_limit == pytest.approx(point.tflops / 0.5)
        assert point.energy_mj is None


def test_callers_run_at_once() -> None:
    meeting = threading.Barrier(3)

    def meet(number: int) -> None:
        meeting.wait(timeout=20)  # broken, and told as an error, where they take turns

    assert module._together(meet, 3) > 0


def test_a_point_that_fails_is_said_and_the_others_stay(
    tiny: TinyModel, paced: type[Paced]
) -> None:
    found = measure(tiny.bundle, SweepOptions(batches=(16, 2), runs=2), asking("trt", "cuda"))
    assert [point.batch for point in found.points] == [2]
    assert found.error == "batch 16, 1 at once: too many"


def test_memory_and_energy_are_the_gpus(
    tiny: TinyModel, paced: type[Paced], monkeypatch: pytest.MonkeyPatch
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
    gpu = Gpu(0, "x", (9, 0), 1000, "GPU-0")
    monkeypatch.setattr(module, "visible_gpu", lambda index: gpu)
    monkeypatch.setattr(module, "Cuda", Cuda)
    monkeypatch.setattr(Nvml, "open", lambda gpu: counter)
    (point,) = measure(
        tiny.bundle, SweepOptions(batches=(2,), runs=3), asking("trt", "cuda")
    ).points
    assert point.memory_mib == 250
    assert point.energy_mj == pytest.approx(600 / 6)


def test_an_engine_that_cannot_run_says_why_and_is_not_replaced(tiny: TinyModel) -> None:
    for name in ("ort-cuda", "trt", "trt-rtx"):
        found = measure(tiny.bundle, SweepOptions(runs=1), asking(name))
        assert found.engine == name
        assert found.points == ()
        assert "was asked for" in found.error


def test_a_real_engine_is_measured(tiny: TinyModel) -> None:
    options = SweepOptions(batches=(1,), concurrency=(2,), runs=2, most_warmup=10)
    found = measure(tiny.bundle, options, asking("ort-cpu"))
    (point,) = found.points
    assert found.error == ""
    assert found.library.startswith("onnxruntime")
    assert point.latency.count == 4
    assert point.compute_ms is None
    assert point.memory_mib > 50
    assert found.limit is not None
    assert 0 < point.share_of_limit < 1.5  # type: ignore[operator]


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
    found = matrix_rate("cpu", "int8", rounds=1)
    assert isinstance(found, Limit)
    assert found.tflops == pytest.approx(limit.PRODUCTS * 2 * 1024**3 / 1e12)
    assert found.what.startswith("fp32 1024 x 1024, onnxruntime")
    assert "no CUDA support" in str(matrix_rate("cuda:0", "fp16"))


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
