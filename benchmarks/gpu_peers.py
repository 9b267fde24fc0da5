"""The part of :mod:`gpu` with PyTorch in it: all contenders in turns, and the matrix rates."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity

from benchmarks.gpu_parts import WARM_UPS, Found, Place, Save, attempt, differences, not_run
from tlp_export.precision import DTYPES, half_module
from tlp_runtime.bench.contest import Process, compete
from tlp_runtime.bench.limit import Product, open_product
from tlp_runtime.bench.machine import peak_memory_mib
from tlp_runtime.engines.choice import EngineChoice
from tlp_runtime.models.manifest import Precision
from tlp_train.networks.tlp.generator import Generator

EAGER = "eager fp32"
SIDE, CPU_SIDE = 8192, 1024
"""Of the matrices whose product is the yardstick."""


@dataclass(frozen=True)
class Turn:
    """One run: the device's own time by its events (None on a CPU), the host's from end to end."""

    device_ms: float | None
    host_ms: float


@dataclass(frozen=True)
class Contender:
    """One way to run the network.

    Parameters
    ----------
    family
        ``eager``, ``compile`` (of the published network), ``compile ours``, ``plain``, ``ours``.
    open
        Opens it, in a process of its own.
    """

    name: str
    family: str
    precision: str
    open: Callable[[], OpenTorch | OpenEngine]

    @property
    def gflop(self) -> str:
        """Which of the two counts is its work."""
        return "folded" if self.family in ("ours", "compile ours") else "published"


@dataclass(frozen=True, kw_only=True)
class Contest:
    """How one batch is measured.

    Parameters
    ----------
    repeats
        Runs of a turn, whose median counts.
    compiled
        Whether ``torch.compile`` takes part, which needs a minute or so each.
    limit_s
        Seconds for all; after seven tenths of them nothing new is opened.
    """

    batch: int
    rounds: int
    repeats: int
    compiled: bool
    mode: str
    limit_s: float


class OpenTorch:
    """The network in PyTorch, open in this process.

    Parameters
    ----------
    build
        Makes the module from the published generator, on the place's device.
    dtype
        What its inputs are cast to.
    """

    def __init__(
        self,
        place: Place,
        batch: int,
        build: Callable[[Place, Generator], Any],
        dtype: torch.dtype,
    ) -> None:
        torch.set_float32_matmul_precision("high")  # TF32 in products; cuDNN has it by default
        torch.backends.cudnn.benchmark = True
        torch._dynamo.config.recompile_limit = 64  # one code, several types
        state = torch.load(place.folder / "weights.pt", weights_only=True, map_location="cpu")
        published = Generator(place.spec)
        published.load_state_dict(state)
        self._place, self._dtype = place, dtype
        self._given = place.batch(batch)
        self._module = build(place, published.eval())

    def turn(self, repeats: int) -> list[Turn]:
        """Timed runs."""
        return [self._turn() for _ in range(repeats)]

    def gap(self) -> Found:
        """How far its image is from the reference."""
        return differences(self._run()[1], self._given.reference)

    def memory_mib(self) -> float | None:
        """The process's peak so far."""
        return peak_memory_mib()

    def product(self) -> float:
        """TFLOP/s of matrix products in its type."""
        return matrix_rate(self._place, self._dtype)

    def _turn(self) -> Turn:
        began = time.perf_counter()
        ms, _ = self._run()
        host = (time.perf_counter() - began) * 1e3
        return Turn(ms if self._place.on_gpu else None, host)

    @torch.no_grad()
    def _run(self) -> tuple[float, NDArray[np.float32]]:
        place = self._place
        given = [
            torch.from_numpy(self._given.tensors[name]).to(place.device)
            for name in place.spec.tensor_names
        ]
        work = lambda: self._module(*(tensor.to(self._dtype) for tensor in given))  # noqa: E731
        ms, image = _timed(place, work)
        return ms, image.float().cpu().numpy()


class OpenEngine:
    """One of the toolkit's engines on one of the bundles, open in this process."""

    def __init__(
        self, place: Place, batch: int, which: str, choice: EngineChoice | None = None
    ) -> None:
        choice = choice or EngineChoice(engine=place.provider, batch=batch)
        self._engine = place.open(which, choice)
        self._given = place.batch(batch)
        self._product: Product | str | None = None
        self._threads = choice.threads

    def turn(self, repeats: int) -> list[Turn]:
        """Timed runs."""
        return [self._turn() for _ in range(repeats)]

    def gap(self) -> Found:
        """How far its image is from the reference."""
        return differences(self._engine.run(self._given.tensors), self._given.reference)

    def product(self) -> float | None:
        """TFLOP/s of matrix products in its library; None where there are none."""
        engine = self._engine
        if self._product is None:
            self._product = open_product(
                engine.name, engine.device, engine.bundle.precision, self._threads
            )
        return self._product.tflops() if isinstance(self._product, Product) else None

    def memory_mib(self) -> float | None:
        """The process's peak so far."""
        return peak_memory_mib()

    def close(self) -> None:
        """Close the engine."""
        self._engine.close()

    def _turn(self) -> Turn:
        parts = self._engine.timed(self._given.tensors)
        compute = None if parts.compute_s is None else parts.compute_s * 1e3
        return Turn(compute, parts.total_s * 1e3)


def peers(place: Place, kinds: Sequence[str], contest: Contest, save: Save) -> None:
    """One batch size: open everything, then rounds in which all take turns."""
    began = time.perf_counter()
    found: Found = {"batch": contest.batch, "compile_mode": contest.mode, "contenders": {}}
    found["cudnn_tf32"] = bool(torch.backends.cudnn.allow_tf32)
    found["matrix_tflops"] = attempt(lambda: matrix_rates(place))
    save(found)
    entries: dict[str, Found] = found["contenders"]
    running: list[Process] = []
    with ExitStack() as stack:
        everyone = [*_torch(place, contest), *_engines(place, kinds, contest.batch)]
        # What is compiled comes last: should time run out, the rest has been opened.
        for one in sorted(everyone, key=lambda one: one.family.startswith("compile")):
            entry: Found = {
                "family": one.family,
                "precision": one.precision,
                "gflop": one.gflop,
            }
            if one.family.startswith("compile") and not contest.compiled:
                entries[one.name] = entry | not_run("batch is not in --compile-batches")
            elif time.perf_counter() - began > 0.7 * contest.limit_s:
                entries[one.name] = entry | not_run("out of time")
            else:
                entries[one.name] = entry | attempt(partial(_warm, one, stack, running, place))
            save(found)
            print(f"{one.name}: {entries[one.name]['status']}", flush=True)

        def turn(process: Process) -> tuple[float, float]:
            turns, cpu_s = process.timed_call("turn", contest.repeats)
            device = [one.device_ms for one in turns if one.device_ms is not None]
            host = statistics.median(one.host_ms for one in turns)
            own = statistics.median(device) if device else None
            entries[process.name]["host"].append(host)
            entries[process.name]["device"].append(own)
            return (host if own is None else own) / 1e3, cpu_s

        rounds = compete(running, contest.rounds, turn)
    for name, why in rounds.failed.items():
        entries[name] |= {"status": "failed", "message": why}
    found["rounds"] = contest.rounds
    found["load"] = None if rounds.load is None else asdict(rounds.load)
    for name in rounds.seconds:
        entry = entries[name]
        entry["ms"] = 1e3 * rounds.median(name)
        entry["host_ms"] = statistics.median(entry["host"])
        others = (EAGER, f"{EAGER}, channels-last", f"torch.compile {entry['precision']}")
        ratios = {other: rounds.faster(name, other) for other in others}
        entry["faster_than"] = {o: ratio for o, ratio in ratios.items() if ratio is not None}
    save(found)


def matrix_rates(place: Place) -> Found:
    """TFLOP/s of a square product of random numbers: the most that this device does."""
    kinds = {"tf32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    rates = {name: matrix_rate(place, dtype) for name, dtype in kinds.items()}
    return {"side": SIDE if place.on_gpu else CPU_SIDE, **rates}


def matrix_rate(place: Place, dtype: torch.dtype) -> float:
    """TFLOP/s of a square product of random numbers of one type."""
    side = SIDE if place.on_gpu else CPU_SIDE
    a, b = (torch.randn(side, side, device=place.device).to(dtype) for _ in range(2))
    for _ in range(WARM_UPS):
        a @ b
    ms, _ = _timed(place, partial(_products, a, b))
    return 10 * 2 * side**3 / ms / 1e9


def _products(a: Tensor, b: Tensor) -> None:
    for _ in range(10):
        a @ b


def profile(place: Place, which: str, batch: int, save: Save) -> None:
    """Which kernels the time of one run of ours goes into: why it is not faster."""
    tensors = place.batch(batch).tensors
    with place.open(which) as engine:
        for _ in range(WARM_UPS):
            engine.run(tensors)
        with torch.profiler.profile(activities=[ProfilerActivity.CUDA]) as watched:
            engine.run(tensors)
    times: dict[str, list[float]] = {}
    for event in watched.events() or ():
        if event.device_type == DeviceType.CUDA:
            times.setdefault(event.name, []).append(event.time_range.elapsed_us() / 1e3)
    top = sorted(times.items(), key=lambda item: -sum(item[1]))[:25]
    kernels = [{"name": n[:160], "calls": len(t), "ms": round(sum(t), 4)} for n, t in top]
    in_all = sum(sum(t) for t in times.values())
    save({"engine": place.title(which), "batch": batch, "all_ms": in_all, "kernels": kernels})


def _warm(one: Contender, stack: ExitStack, running: list[Process], place: Place) -> Found:
    process = stack.enter_context(Process(one.name, one.open))
    process.call("turn", WARM_UPS if place.on_gpu else 1)
    gap = process.call("gap")
    running.append(process)
    return {"device": [], "host": [], "finite": gap["finite"], "psnr_db": gap["psnr_db"]}


def _torch(place: Place, contest: Contest) -> Iterator[Contender]:
    """PyTorch on the network as published, and compiled on ours."""

    def opening(build: Callable[[Place, Generator], Any], dtype: torch.dtype) -> Any:
        return partial(OpenTorch, place, contest.batch, build, dtype)

    single = torch.float32
    yield Contender(
        EAGER, "eager", "fp32", opening(partial(_moved, dtype=single, last=False), single)
    )
    halves: tuple[Precision, ...] = ("fp16", "bf16")
    for name in ("fp32", *halves):
        build = partial(_moved, dtype=DTYPES[name], last=True)
        label = f"eager {name}, channels-last"
        yield Contender(label, "eager", name, opening(build, DTYPES[name]))
    for name in (*halves, "fp32"):
        compiled = partial(_compiled, dtype=DTYPES[name], mode=contest.mode)
        yield Contender(f"torch.compile {name}", "compile", name, opening(compiled, DTYPES[name]))
    for name in halves:
        ours = partial(_compiled_ours, precision=name, mode=contest.mode)
        label = f"torch.compile of ours {name}"
        yield Contender(label, "compile ours", name, opening(ours, single))


def _engines(place: Place, kinds: Sequence[str], batch: int) -> Iterator[Contender]:
    """The toolkit's engines on what it exports, ours and plain."""
    for which in kinds:
        family = "plain" if which == "plain" else "ours"
        opening = partial(OpenEngine, place, batch, which)
        yield Contender(place.title(which), family, place.precision(which), opening)


def _moved(place: Place, module: nn.Module, *, dtype: torch.dtype, last: bool) -> nn.Module:
    moved = module.to(place.device, dtype)
    if last:
        moved = moved.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return moved


def _compiled(place: Place, module: nn.Module, *, dtype: torch.dtype, mode: str) -> Any:
    moved = _moved(place, module, dtype=dtype, last=True)
    return torch.compile(moved, mode=mode, dynamic=False)


def _compiled_ours(place: Place, module: Generator, *, precision: Precision, mode: str) -> Any:
    ours = half_module(module, precision).to(place.device)
    ours = ours.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return torch.compile(ours, mode=mode, dynamic=False)


def _timed(place: Place, work: Callable[[], Any]) -> tuple[float, Any]:
    """Milliseconds of ``work``, by events of the device where it has them; its result."""
    if not place.on_gpu:
        began = time.perf_counter()
        made = work()
        return (time.perf_counter() - began) * 1e3, made
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    first.record()
    made = work()
    last.record()
    last.synchronize()
    return first.elapsed_time(last), made
