"""Engines and models side by side, over batches and callers at once."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import numpy as np

from tlp_runtime.bench.latency import Latency
from tlp_runtime.bench.limit import Limit, matrix_rate
from tlp_runtime.bench.machine import Nvml, peak_memory_mib, visible_gpu
from tlp_runtime.engines.base import Engine, Opening, Slices
from tlp_runtime.engines.choice import AUTO
from tlp_runtime.engines.cuda import Cuda, Gpu
from tlp_runtime.engines.registry import find_engine
from tlp_runtime.engines.select import SelectedEngine, choose
from tlp_runtime.errors import TLPError, UsageError
from tlp_runtime.models.bundle import Bundle
from tlp_runtime.options import Form, OptionGroup, option

WINDOW = 5
"""Runs per window; warm-up compares the medians of successive windows."""


def _list(name: str, example: str) -> Form:
    """An option that is written as whole numbers from 1, separated by commas."""

    def parse(text: str) -> tuple[int, ...]:
        parts = [part.strip() for part in text.split(",")]
        if not all(part.isdecimal() and int(part) for part in parts):
            raise UsageError(f"{name} {text!r}: expected whole numbers from 1, such as 1,4,16.")
        return tuple(int(part) for part in parts)

    return Form(name=name, metavar=example, parse=parse)


@dataclass(frozen=True, kw_only=True)
class SweepOptions(OptionGroup):
    """What is measured of engines side by side. Valid once constructed.

    Parameters
    ----------
    batches
        Slices per run of the engine, one or several, such as 1,4,16.
    concurrency
        Callers at once, one or several, such as 1,2,4.
    runs
        Measured runs of each point and caller.
    spread
        Warm-up ends when medians of successive windows differ by less than this fraction.
    most_warmup
        Warm-up ends after this many runs at the latest.
    """

    TITLE: ClassVar[str] = "Engines side by side"

    batches: tuple[int, ...] = option((1, 4), forms=[_list("batches", "1,4,…")])
    concurrency: tuple[int, ...] = option((1,), forms=[_list("concurrency", "1,2,…")])
    runs: int = option(20, minimum=1)
    spread: float = 0.03
    most_warmup: int = 60

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, values in (("batches", self.batches), ("concurrency", self.concurrency)):
            if not values or min(values) < 1:
                raise UsageError(f"{name} {values}: expected whole numbers from 1.")
        if self.most_warmup < 1:
            raise UsageError(f"most_warmup is {self.most_warmup}, expected at least 1.")


@dataclass(frozen=True)
class Point:
    """One batch size with a number of callers.

    Parameters
    ----------
    latency
        Latency of a call, on the caller's clock.
    slices_per_second
        Rate of all callers together; engines on a GPU copy while they compute here.
    upload_ms, compute_ms, download_ms
        Medians by the device's events, of a caller alone; None on a CPU.
    tflops
        TFLOP/s, from the operations of the exported graph.
    share_of_limit
        ``tflops`` as a share of the matrix products' rate.
    memory_mib
        GPU: more in use than before the engine was opened. CPU: the process's peak so far.
    energy_mj
        Energy per slice, of the whole GPU.
    warmup, settled
        Runs before measuring, and whether their times had settled.
    """

    batch: int
    concurrency: int
    latency: Latency
    slices_per_second: float
    upload_ms: float | None
    compute_ms: float | None
    download_ms: float | None
    tflops: float | None
    share_of_limit: float | None
    memory_mib: float
    energy_mj: float | None
    warmup: int
    settled: bool


@dataclass(frozen=True)
class Contender:
    """An engine with a model, and its measurements.

    Parameters
    ----------
    error
        Why it, or some of its points, could not be measured; empty if all were.
    first_call
        Seconds: ``open`` (a build included) and ``first run`` (compiling, capturing).
    gflop
        GFLOP per slice of the exported graph; None for bundles that do not record it.
    limit, limit_error
        The rate of matrix products in the same run, or why there is none.
    """

    engine: str
    model: str
    precision: str
    device: str = ""
    library: str = ""
    error: str = ""
    first_call: Mapping[str, float] = field(default_factory=dict)
    gflop: float | None = None
    limit: Limit | None = None
    limit_error: str = ""
    points: tuple[Point, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def measure(
    bundle: Bundle,
    options: SweepOptions,
    opening: Opening | None = None,
    *,
    on_step: Callable[[], None] = lambda: None,
) -> Contender:
    """Measure one engine with one model. What cannot run is reported in ``error``, never replaced.

    Parameters
    ----------
    opening
        The engine to measure, and the device to run it on.
    on_step
        Called after each point.
    """
    opening = opening or Opening()
    engine, device = opening.choice.engine, opening.choice.device
    try:
        choice = choose(engine, device if engine == AUTO or find_engine(engine).on_gpu else "cpu")
        return _measured(choice, bundle, options, opening, on_step)
    except TLPError as error:
        return Contender(engine, bundle.name, bundle.precision, error=str(error))


def _measured(
    choice: SelectedEngine,
    bundle: Bundle,
    options: SweepOptions,
    opening: Opening,
    on_step: Callable[[], None],
) -> Contender:
    gpu = visible_gpu(choice.cuda_index)
    free_before = None
    if gpu is not None:
        cuda = Cuda()
        cuda.use(gpu.index)
        free_before = cuda.memory_mib()[0]
    problems = []
    with ExitStack() as stack:
        first = stack.enter_context(choice.open(bundle, opening))
        engines = [first]
        while len(engines) < max(options.concurrency) and not first.concurrent:
            engines.append(stack.enter_context(choice.open(bundle, opening)))
        first_run = first.timed(_inputs(first, 1)).total_s
        gflop = _gflop(bundle)
        limit = matrix_rate(first.device, bundle.precision, threads=opening.choice.threads)
        points = []
        for callers in options.concurrency:
            for batch in options.batches:
                used = [first] * callers if first.concurrent else engines[:callers]
                try:
                    points.append(_point(used, batch, options, gflop, limit, free_before, gpu))
                except TLPError as error:
                    problems.append(f"batch {batch}, {callers} at once: {error}")
                on_step()
    return Contender(
        engine=choice.name,
        model=bundle.name,
        precision=bundle.precision,
        device=first.device,
        library=first.library,
        error=" ".join(problems),
        first_call={**first.opening, "first run": first_run},
        gflop=gflop,
        limit=None if isinstance(limit, str) else limit,
        limit_error=limit if isinstance(limit, str) else "",
        points=tuple(points),
    )


def _point(
    engines: Sequence[Engine],
    batch: int,
    options: SweepOptions,
    gflop: float | None,
    limit: Limit | str,
    free_before: int | None,
    gpu: Gpu | None,
) -> Point:
    feeds = [_inputs(engine, batch, seed) for seed, engine in enumerate(engines)]
    counts = [settle(engine, feed, options) for engine, feed in zip(engines, feeds, strict=True)]
    calls: list[list[float]] = [[] for _ in engines]

    def call(number: int) -> None:
        for _ in range(options.runs):
            began = time.perf_counter()
            engines[number].run(feeds[number])
            calls[number].append(time.perf_counter() - began)

    def stream(number: int) -> None:
        for _ in engines[number].run_batches([feeds[number]] * options.runs):
            pass

    nvml = None if gpu is None else Nvml.open(gpu)
    seconds = _together(call, len(engines))
    before = None if nvml is None else nvml.energy_mj()
    if not engines[0].concurrent:  # copies overlap with compute only in a row of batches
        seconds = _together(stream, len(engines))
    after = None if nvml is None else nvml.energy_mj()
    slices = options.runs * batch * len(engines)
    rate = slices / seconds
    times = [engines[0].timed(feeds[0]) for _ in range(min(options.runs, 10))]
    tflops = None if gflop is None else gflop * rate / 1e3
    free = _free(engines[0])
    return Point(
        batch=batch,
        concurrency=len(engines),
        latency=Latency.of([value for values in calls for value in values]),
        slices_per_second=rate,
        upload_ms=_median_ms([run.upload_s for run in times]),
        compute_ms=_median_ms([run.compute_s for run in times]),
        download_ms=_median_ms([run.download_s for run in times]),
        tflops=tflops,
        share_of_limit=(
            None if tflops is None or isinstance(limit, str) else tflops / limit.tflops
        ),
        memory_mib=peak_memory_mib()
        if free is None or free_before is None
        else max(free_before - free, 0),
        energy_mj=None if before is None or after is None else (after - before) / slices,
        warmup=max(count for count, _ in counts),
        settled=all(steady for _, steady in counts),
    )


def settle(engine: Engine, feed: Mapping[str, Slices], options: SweepOptions) -> tuple[int, bool]:
    """Run until times have settled; returns the number of runs, and whether they had."""
    seconds: list[float] = []
    while len(seconds) < options.most_warmup:
        began = time.perf_counter()
        engine.run(feed)
        seconds.append(time.perf_counter() - began)
        if len(seconds) >= 2 * WINDOW:
            newer = statistics.median(seconds[-WINDOW:])
            older = statistics.median(seconds[-2 * WINDOW : -WINDOW])
            if abs(newer - older) <= options.spread * older:
                return len(seconds), True
    return len(seconds), False


def _together(work: Callable[[int], None], callers: int) -> float:
    """Wall time of several callers at once; the first error of any is raised."""
    errors: list[BaseException] = []
    gate = threading.Barrier(callers + 1)

    def caller(number: int) -> None:
        gate.wait()
        try:
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=caller, args=(number,)) for number in range(callers)]
    for thread in threads:
        thread.start()
    gate.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - began
    if errors:
        raise errors[0]
    return seconds


def _inputs(engine: Engine, batch: int, seed: int = 0) -> dict[str, Slices]:
    """Slices of noise: the network's speed does not depend on what it sees."""
    rng = np.random.default_rng(seed)
    shape = (batch, 1, engine.spec.crop.height, engine.spec.crop.width)
    return {name: rng.uniform(-1, 1, shape).astype(np.float32) for name in engine.spec.tensor_names}


def _free(engine: Engine) -> int | None:
    memory = engine.memory_mib()
    return None if memory is None else memory[0]


def _gflop(bundle: Bundle) -> float | None:
    graph = bundle.manifest.graph
    return None if graph is None else graph.after.gflop


def _median_ms(seconds: Sequence[float | None]) -> float | None:
    known = [value for value in seconds if value is not None]
    return 1e3 * statistics.median(known) if known else None
