"""The part of :mod:`gpu` with PyTorch in it: all contenders in turns, and the matrix rates."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from gpu_parts import WARM_UPS, Found, Place, Save, Slices, Tensors, attempt, differences, not_run
from numpy.typing import NDArray
from torch import Tensor, nn
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity

from tlp_export.precision import DTYPES, half_module
from tlp_runtime.models.manifest import Precision
from tlp_train.network import Generator

EAGER = "eager fp32"
SIDE = 8192
"""Of the matrices whose product is the yardstick; on a CPU they are 256."""


@dataclass(frozen=True)
class Turn:
    """One run: the device's own time by its events (None on a CPU), the host's from end to end."""

    device_ms: float | None
    host_ms: float


@dataclass(frozen=True)
class Opened:
    """A contender ready to run: one run timed, and one for its image."""

    turn: Callable[[Tensors], Turn]
    image: Callable[[Tensors], NDArray[np.float32]]


@dataclass(frozen=True)
class Contender:
    """One way to run the network.

    Parameters
    ----------
    family
        ``eager``, ``compile`` (of the published network), ``compile ours``, ``plain``, ``ours``.
    make
        Opens it; what must be closed goes onto the stack.
    """

    name: str
    family: str
    precision: str
    make: Callable[[ExitStack], Opened]

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
    seconds
        After so many nothing new is opened, and after a tenth more no round begins.
    """

    batch: int
    rounds: int
    repeats: int
    compiled: bool
    mode: str
    seconds: float


def peers(place: Place, kinds: Sequence[str], contest: Contest, save: Save) -> None:
    """One batch size: open everything, then rounds in which all take turns."""
    began = time.perf_counter()
    torch.set_float32_matmul_precision("high")  # TF32 in products; cuDNN has it by default
    torch.backends.cudnn.benchmark = True
    torch._dynamo.config.recompile_limit = 64  # one code, several types and batches
    given = place.batch(contest.batch)
    found: Found = {"batch": contest.batch, "compile_mode": contest.mode, "contenders": {}}
    found["cudnn_tf32"] = bool(torch.backends.cudnn.allow_tf32)
    found["matrix_tflops"] = attempt(lambda: matrix_rates(place))
    save(found)
    entries: dict[str, Found] = found["contenders"]
    running: dict[str, Opened] = {}
    with ExitStack() as stack:
        everyone = [*_torch(place, contest), *_engines(place, kinds)]
        # What is compiled comes last: should time run out, the rest has been opened.
        for one in sorted(everyone, key=lambda one: one.family.startswith("compile")):
            entry = {"family": one.family, "precision": one.precision, "gflop": one.gflop}
            if one.family.startswith("compile") and not contest.compiled:
                entries[one.name] = entry | not_run("batch is not in --compile-batches")
            elif time.perf_counter() - began > contest.seconds:
                entries[one.name] = entry | not_run("out of time")
            else:
                warm = partial(_warm, one, stack, running, given, WARM_UPS if place.on_gpu else 1)
                entries[one.name] = entry | attempt(warm)
            save(found)
            print(f"{one.name}: {entries[one.name]['status']}", flush=True)
        for number in range(contest.rounds):
            if number and time.perf_counter() - began > 1.1 * contest.seconds:
                break
            _round(running, entries, given.tensors, contest.repeats, number)
            found["rounds"] = number + 1
            _ratios(entries)
            save(found)


def matrix_rates(place: Place) -> Found:
    """TFLOP/s of a square product of random numbers: the most that this device does."""
    side = SIDE if place.on_gpu else 256
    rates: Found = {"side": side}
    kinds = {"tf32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    for name, dtype in kinds.items():
        a, b = (torch.randn(side, side, device=place.device).to(dtype) for _ in range(2))
        for _ in range(WARM_UPS):
            a @ b
        ms, _ = _timed(place, partial(_products, a, b))
        rates[name] = 10 * 2 * side**3 / ms / 1e9
    return rates


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


def _warm(
    one: Contender,
    stack: ExitStack,
    running: dict[str, Opened],
    given: Slices,
    warm_ups: int,
) -> Found:
    opened = one.make(stack)
    for _ in range(warm_ups):
        opened.turn(given.tensors)
    gap = differences(opened.image(given.tensors), given.reference)
    running[one.name] = opened
    return {"device": [], "host": [], "finite": gap["finite"], "psnr_db": gap["psnr_db"]}


def _round(
    running: dict[str, Opened],
    entries: dict[str, Found],
    tensors: Tensors,
    repeats: int,
    number: int,
) -> None:
    """A turn of each; who begins changes. What fails is out, with its message."""
    names = list(running)
    first = number % len(names) if names else 0
    for name in names[first:] + names[:first]:
        try:
            turns = [running[name].turn(tensors) for _ in range(repeats)]
        except Exception as error:
            del running[name]
            entries[name] |= {"status": "failed", "message": f"{type(error).__name__}: {error}"}
            continue
        device = [turn.device_ms for turn in turns if turn.device_ms is not None]
        entries[name]["device"].append(statistics.median(device) if device else None)
        entries[name]["host"].append(statistics.median(turn.host_ms for turn in turns))


def _ratios(entries: dict[str, Found]) -> None:
    """Medians, and medians of ratios within a round, by the device's clock where it has one."""
    done = {name: entry for name, entry in entries.items() if entry["status"] == "done"}
    clocks = {
        name: entry["host"] if None in entry["device"] else entry["device"]
        for name, entry in done.items()
    }
    for name, entry in done.items():
        if not clocks[name]:
            continue
        entry["ms"] = statistics.median(clocks[name])
        entry["host_ms"] = statistics.median(entry["host"])
        for other in (EAGER, f"{EAGER}, channels-last", f"torch.compile {entry['precision']}"):
            if clocks.get(other):
                pairs = zip(clocks[other], clocks[name], strict=True)
                ratio = statistics.median(theirs / own for theirs, own in pairs)
                entry.setdefault("faster_than", {})[other] = ratio


def _torch(place: Place, contest: Contest) -> Iterator[Contender]:
    """PyTorch on the network as published, and compiled on ours."""
    state = torch.load(place.folder / "weights.pt", weights_only=True, map_location="cpu")
    published = Generator(place.spec)
    published.load_state_dict(state)
    published.eval()

    def eager(dtype: torch.dtype, last: bool, stack: ExitStack) -> Opened:
        return _runner(place, _moved(place, published, dtype, last), dtype)

    def compiled(dtype: torch.dtype, stack: ExitStack) -> Opened:
        module = _moved(place, published, dtype, True)
        return _runner(place, _compiled(module, contest.mode), dtype)

    def ours(precision: Precision, stack: ExitStack) -> Opened:
        module = half_module(published, precision).to(place.device)
        module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return _runner(place, _compiled(module, contest.mode), torch.float32)

    yield Contender(EAGER, "eager", "fp32", partial(eager, torch.float32, False))
    halves: tuple[Precision, ...] = ("fp16", "bf16")
    for name in ("fp32", *halves):
        yield Contender(
            f"eager {name}, channels-last", "eager", name, partial(eager, DTYPES[name], True)
        )
    for name in (*halves, "fp32"):
        yield Contender(f"torch.compile {name}", "compile", name, partial(compiled, DTYPES[name]))
    for name in halves:
        yield Contender(f"torch.compile of ours {name}", "compile ours", name, partial(ours, name))


def _engines(place: Place, kinds: Sequence[str]) -> Iterator[Contender]:
    """The toolkit's engines on what it exports, ours and plain."""

    def opened(which: str, stack: ExitStack) -> Opened:
        engine = stack.enter_context(place.open(which))

        def turn(tensors: Tensors) -> Turn:
            parts = engine.timed(tensors)
            compute = None if parts.compute_s is None else parts.compute_s * 1e3
            return Turn(compute, parts.total_s * 1e3)

        return Opened(turn, engine.run)

    for which in kinds:
        family = "plain" if which == "plain" else "ours"
        yield Contender(place.title(which), family, place.precision(which), partial(opened, which))


def _moved(place: Place, module: nn.Module, dtype: torch.dtype, last: bool) -> nn.Module:
    moved = copy.deepcopy(module).to(place.device, dtype)
    if last:
        moved = moved.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return moved


def _compiled(module: nn.Module, mode: str) -> Any:
    return torch.compile(module, mode=mode, dynamic=False)


def _runner(place: Place, module: Any, dtype: torch.dtype) -> Opened:
    names = place.spec.tensor_names

    @torch.no_grad()
    def run(tensors: Tensors) -> tuple[float, NDArray[np.float32]]:
        given = [torch.from_numpy(tensors[name]).to(place.device) for name in names]
        ms, image = _timed(place, lambda: module(*(tensor.to(dtype) for tensor in given)))
        return ms, image.float().cpu().numpy()

    def turn(tensors: Tensors) -> Turn:
        began = time.perf_counter()
        ms, _ = run(tensors)
        return Turn(ms if place.on_gpu else None, (time.perf_counter() - began) * 1e3)

    return Opened(turn, lambda tensors: run(tensors)[1])


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
