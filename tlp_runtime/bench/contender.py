"""An engine with a model, open in a process of its own, and its turns there."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np

from tlp_runtime.bench.limit import Product, open_product
from tlp_runtime.bench.machine import Nvml, peak_memory_mib, visible_gpu
from tlp_runtime.bench.options import SweepOptions
from tlp_runtime.engines.base import Engine, Opening, Slices
from tlp_runtime.engines.choice import EngineChoice
from tlp_runtime.engines.cuda import Cuda
from tlp_runtime.engines.registry import engine_names, register
from tlp_runtime.engines.select import choose
from tlp_runtime.models.bundle import Bundle
from tlp_runtime.warnings import TLPWarning

WINDOW = 5
"""Runs per window; warm-up compares the medians of successive windows."""


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
    memory_mib: float | None


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
            used: float | None = peak_memory_mib()
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
