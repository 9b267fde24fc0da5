"""Engines and models side by side, over batches and callers at once.

Each engine with each model is a contender of :mod:`tlp_runtime.bench.contest`.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from tlp_runtime.bench.contender import About, OpenContender, Rest, Turn
from tlp_runtime.bench.contest import ContenderFailed, Process, compete
from tlp_runtime.bench.latency import Latency
from tlp_runtime.bench.limit import Limit
from tlp_runtime.bench.load import Load
from tlp_runtime.bench.options import SweepOptions
from tlp_runtime.engines.choice import EngineChoice
from tlp_runtime.engines.registry import find_engine
from tlp_runtime.models.bundle import Bundle
from tlp_runtime.warnings import Warn


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
    memory_mib: float | None
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
