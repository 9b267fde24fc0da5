"""Engines and models side by side, over batches and callers at once.

Each engine with each model is a contender of :mod:`tlp_runtime.bench.contest`.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np

from tlp_runtime.bench.contest import ContenderFailed, Process, compete
from tlp_runtime.bench.latency import Latency
from tlp_runtime.bench.limit import Limit, Product, open_product
from tlp_runtime.bench.load import Load
from tlp_runtime.bench.machine import Nvml, peak_memory_mib, visible_gpu
from tlp_runtime.engines.base import Engine, Opening, Slices
from tlp_runtime.engines.choice import EngineChoice
from tlp_runtime.engines.cuda import Cuda
from tlp_runtime.engines.registry import engine_names, find_engine, register
from tlp_runtime.engines.select import choose
from tlp_runtime.errors import UsageError
from tlp_runtime.models.bundle import Bundle
from tlp_runtime.options import Form, OptionGroup, option
from tlp_runtime.warnings import TLPWarning, Warn

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
    rounds
        Rounds in which all take turns, for each point.
    runs
        Measured runs of each caller in a turn.
    spread
        Warm-up ends when medians of successive windows differ by less than this fraction.
    most_warmup
        Warm-up ends after this many runs at the latest.
    """

    TITLE: ClassVar[str] = "Engines side by side"

    batches: tuple[int, ...] = option((1, 4), forms=[_list("batches", "1,4,…")])
    concurrency: tuple[int, ...] = option((1,), forms=[_list("concurrency", "1,2,…")])
    rounds: int = option(5, minimum=1)
    runs: int = option(4, minimum=1)
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
        Rate of all callers together, median over rounds; engines on a GPU copy while they compute.
    faster
        How many times as fast as the first contender: the median of the ratios within a round.
    load
        What else the machine did meanwhile; None where the system does not tell.
    upload_ms, compute_ms, download_ms
        Medians by the device's events, of a caller alone; None on a CPU.
    tflops
        TFLOP/s, from the operations of the exported graph.
    share_of_limit
        ``tflops`` as a share of the matrix products' rate, the median over rounds.
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
    faster: float | None
    load: Load | None
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
        The rate of matrix products in the same rounds, or why there is none.
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


@dataclass(frozen=True)
class About:
    """An engine that was opened in a process of its own."""

    device: str
    library: str
    first_call: Mapping[str, float]
    warnings: tuple[TLPWarning, ...]
    limit_what: str
    limit_error: str


@dataclass(frozen=True)
class Turn:
    """What one turn took.

    Parameters
    ----------
    calls
        Seconds of each call of each caller.
    wall_s
        Seconds of all of them together.
    product_tflops
        The rate of matrix products just before; None where there is none.
    energy_mj
        Energy per slice, of the whole GPU.
    """

    calls: tuple[float, ...]
    wall_s: float
    product_tflops: float | None
    energy_mj: float | None


@dataclass(frozen=True)
class Rest:
    """What is known of a point besides its turns."""

    upload_ms: float | None
    compute_ms: float | None
    download_ms: float | None
    memory_mib: float


class OpenContender:
    """An engine with a model, open in this process.

    Parameters
    ----------
    kind
        The engine; registered here if it is not yet.
    choice
        Its device and threads.
    """

    def __init__(
        self, kind: type[Engine], bundle: Bundle, choice: EngineChoice, options: SweepOptions
    ) -> None:
        if kind.name not in engine_names():
            register(kind)
        device = choice.device if kind.on_gpu else "cpu"
        selected = choose(kind.name, device)
        self._gpu = visible_gpu(selected.cuda_index)
        self._free_before: int | None = None
        if self._gpu is not None:
            cuda = Cuda()
            cuda.use(self._gpu.index)
            self._free_before = cuda.memory_mib()[0]
        self._options, self._stack = options, ExitStack()
        opening = Opening(replace(choice, engine=kind.name, batch=max(options.batches)))
        first = self._stack.enter_context(selected.open(bundle, opening))
        self._engines = [first]
        while len(self._engines) < max(options.concurrency) and not first.concurrent:
            self._engines.append(self._stack.enter_context(selected.open(bundle, opening)))
        self._first_run = first.timed(_inputs(first, 1)).total_s
        self._product = open_product(first.name, first.device, bundle.precision, choice.threads)

    def about(self) -> About:
        """What was opened."""
        first = self._engines[0]
        return About(
            first.device,
            first.library,
            {**first.opening, "first run": self._first_run},
            tuple(first.warnings),
            self._product.what if isinstance(self._product, Product) else "",
            "" if isinstance(self._product, Product) else self._product,
        )

    def settle(self, batch: int, callers: int) -> tuple[int, bool]:
        """Warm up; returns the number of runs, and whether times had settled."""
        counts = [
            settle(engine, feed, self._options) for engine, feed in self._feeds(batch, callers)
        ]
        return max(count for count, _ in counts), all(steady for _, steady in counts)

    def turn(self, batch: int, callers: int) -> Turn:
        """Runs of every caller at once."""
        product = self._product.tflops() if isinstance(self._product, Product) else None
        fed, runs = self._feeds(batch, callers), self._options.runs
        calls: list[list[float]] = [[] for _ in fed]

        def call(number: int) -> None:
            engine, feed = fed[number]
            for _ in range(runs):
                began = time.perf_counter()
                engine.run(feed)
                calls[number].append(time.perf_counter() - began)

        def stream(number: int) -> None:
            engine, feed = fed[number]
            for _ in engine.run_batches([feed] * runs):
                pass

        nvml = None if self._gpu is None else Nvml.open(self._gpu)
        seconds = together(call, callers)
        before = None if nvml is None else nvml.energy_mj()
        if not fed[0][0].concurrent:  # copies overlap with compute only in a row of batches
            seconds = together(stream, callers)
        after = None if nvml is None else nvml.energy_mj()
        energy = None if before is None or after is None else after - before
        slices = runs * batch * callers
        return Turn(
            tuple(value for values in calls for value in values),
            seconds,
            product,
            None if energy is None else energy / slices,
        )

    def rest(self, batch: int) -> Rest:
        """Times by the device's own clock, of a caller alone, and memory."""
        ((engine, feed),) = self._feeds(batch, 1)
        times = [engine.timed(feed) for _ in range(min(self._options.runs, 10))]
        memory = engine.memory_mib()
        if memory is None or self._free_before is None:
            used = peak_memory_mib()
        else:
            used = max(self._free_before - memory[0], 0)
        return Rest(
            _median_ms([run.upload_s for run in times]),
            _median_ms([run.compute_s for run in times]),
            _median_ms([run.download_s for run in times]),
            used,
        )

    def close(self) -> None:
        """Close the engines."""
        self._stack.close()

    def _feeds(self, batch: int, callers: int) -> list[tuple[Engine, dict[str, Slices]]]:
        first = self._engines[0]
        used = [first] * callers if first.concurrent else self._engines[:callers]
        return [(engine, _inputs(engine, batch, seed)) for seed, engine in enumerate(used)]


def measure(
    targets: Sequence[tuple[str, Bundle]],
    options: SweepOptions,
    choice: EngineChoice,
    *,
    on_step: Callable[[str], None] = lambda what: None,
    warn: Warn = lambda warning: None,
) -> tuple[Contender, ...]:
    """Measure engines with models. What cannot run is reported in ``error``, never replaced.

    Parameters
    ----------
    targets
        Names of engines, each with a model; the first is what the others are compared with.
    choice
        Device and threads of all.
    on_step
        Called with what begins: each opening, and each point.
    warn
        Called with the operational warnings of those that were opened.
    """
    with ExitStack() as stack:
        running: dict[int, tuple[Process, About]] = {}
        errors: list[list[str]] = [[] for _ in targets]
        for number, (name, bundle) in enumerate(targets):
            on_step(f"opening {name} {bundle.name}")
            opening = partial(OpenContender, find_engine(name), bundle, choice, options)
            try:
                process = stack.enter_context(Process(str(number), opening))
                running[number] = (process, process.call("about"))
            except ContenderFailed as error:
                errors[number].append(str(error))
                continue
            for warning in running[number][1].warnings:
                warn(warning)
        sheets = {number: _Sheet(targets[number][1]) for number in running}
        for callers in options.concurrency:
            for batch in options.batches:
                on_step(f"batch {batch}" + (f", {callers} at once" if callers > 1 else ""))
                for number, why in _point(
                    {n: process for n, (process, _) in running.items()},
                    sheets, batch, callers, options.rounds,
                ).items():  # fmt: skip
                    errors[number].append(f"batch {batch}, {callers} at once: {why}")
    return tuple(
        _contender(name, bundle, running.get(number), sheets.get(number), " ".join(errors[number]))
        for number, (name, bundle) in enumerate(targets)
    )


class _Sheet:
    """Points of one contender, as they are measured."""

    def __init__(self, bundle: Bundle) -> None:
        graph = bundle.manifest.graph
        self.gflop = None if graph is None else graph.after.gflop
        self.points: list[Point] = []
        self.products: list[float] = []


def _point(
    processes: Mapping[int, Process],
    sheets: Mapping[int, _Sheet],
    batch: int,
    callers: int,
    rounds: int,
) -> dict[int, str]:
    """Measure one point of all; returns why some could not be."""
    failed: dict[int, str] = {}
    warm: dict[int, tuple[int, bool]] = {}
    for number, process in processes.items():
        try:
            warm[number] = process.call("settle", batch, callers)
        except ContenderFailed as error:
            failed[number] = str(error)
    turns: dict[int, list[Turn]] = {number: [] for number in warm}

    def turn(process: Process) -> tuple[float, float]:
        taken, cpu_s = process.timed_call("turn", batch, callers)
        turns[int(process.name)].append(taken)
        return taken.wall_s, cpu_s

    found = compete([processes[number] for number in warm], rounds, turn)
    failed |= {int(name): why for name, why in found.failed.items()}
    for number in warm.keys() - {int(name) for name in found.failed}:
        process, sheet, taken = processes[number], sheets[number], turns[number]
        try:
            rest: Rest = process.call("rest", batch)
        except ContenderFailed as error:
            failed[number] = str(error)
            continue
        slices = len(taken[0].calls) * batch
        rates = [slices / one.wall_s for one in taken]
        shares = [
            sheet.gflop * rate / 1e3 / one.product_tflops
            for rate, one in zip(rates, taken, strict=True)
            if sheet.gflop is not None and one.product_tflops
        ]
        sheet.products += [one.product_tflops for one in taken if one.product_tflops]
        rate = statistics.median(rates)
        energies = [one.energy_mj for one in taken if one.energy_mj is not None]
        sheet.points.append(
            Point(
                batch=batch,
                concurrency=callers,
                latency=Latency.of([value for one in taken for value in one.calls]),
                slices_per_second=rate,
                faster=found.faster(process.name, "0"),
                load=found.load,
                **asdict(rest),
                tflops=None if sheet.gflop is None else sheet.gflop * rate / 1e3,
                share_of_limit=statistics.median(shares) if shares else None,
                energy_mj=statistics.median(energies) if energies else None,
                warmup=warm[number][0],
                settled=warm[number][1],
            )
        )
    return failed


def _contender(
    name: str,
    bundle: Bundle,
    opened: tuple[Process, About] | None,
    sheet: _Sheet | None,
    error: str,
) -> Contender:
    if opened is None or sheet is None:
        return Contender(name, bundle.name, bundle.precision, error=error)
    about = opened[1]
    limit = None
    if sheet.products:
        what = about.limit_what
        limit = Limit(statistics.median(sheet.products), what)
    return Contender(
        engine=name,
        model=bundle.name,
        precision=bundle.precision,
        device=about.device,
        library=about.library,
        error=error,
        first_call=about.first_call,
        gflop=sheet.gflop,
        limit=limit,
        limit_error=about.limit_error,
        points=tuple(sheet.points),
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


def together(work: Callable[[int], None], callers: int) -> float:
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


def _median_ms(seconds: Sequence[float | None]) -> float | None:
    known = [value for value in seconds if value is not None]
    return 1e3 * statistics.median(known) if known else None
