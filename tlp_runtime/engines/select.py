"""Which engine runs, where, and why. What was asked for is what runs, or an error says why not."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tlp_runtime.engines.base import Engine, Opening
from tlp_runtime.engines.choice import AUTO
from tlp_runtime.engines.proof import prove
from tlp_runtime.engines.registry import engines, find_engine
from tlp_runtime.errors import (
    DependencyConflict,
    DeviceError,
    DeviceUnavailable,
    EngineError,
    Fix,
    MemoryExhausted,
    SetOption,
    UsageError,
)
from tlp_runtime.models.bundle import Bundle


@dataclass(frozen=True)
class SelectedEngine:
    """An engine that was selected.

    Parameters
    ----------
    cuda_index
        None for the CPU.
    reason
        Why, as one phrase.
    """

    name: str
    cuda_index: int | None
    reason: str

    def open(self, bundle: Bundle, opening: Opening | None = None) -> Engine:
        """Load ``bundle`` into it.

        Raises
        ------
        DeviceError
            It cannot be used; another is never taken in its place.
        ParityError
            It computes something else than the model promises.
        """
        opening = opening or Opening()
        engine = find_engine(self.name).open(bundle, index=self.cuda_index or 0, opening=opening)
        try:
            prove(engine, batch=opening.choice.batch)
        except BaseException:
            engine.close()
            raise
        return engine


def choose(engine: str = AUTO, device: str = AUTO, bundle: Bundle | None = None) -> SelectedEngine:
    """Settle engine and device before anything is loaded.

    Without a name the first registered engine that may be chosen and can run here is taken, GPUs
    before the CPU.

    Parameters
    ----------
    bundle
        The model: engines that do not run it in its precision are not chosen. None asks for what
        runs most models.

    Raises
    ------
    UsageError
        Unknown names, or an engine and a device that exclude each other.
    DependencyMissing, DependencyConflict
        A library is not installed, or two are that exclude each other.
    DeviceUnavailable
        A GPU was asked for and there is none.
    EngineError
        No engine that can run here runs the model.
    """
    index = _cuda_index(device)
    if engine != AUTO:
        return _named(find_engine(engine), device, index)
    problems: dict[str, DeviceError | MemoryExhausted] = {}
    for kind in _candidates(on_gpu=True) if device != "cpu" else ():
        problem = kind.unavailable(index or 0) or _unsuited(kind, bundle)
        if problem is None:
            before = "".join(f"; not {name}: {_phrase(why)}" for name, why in problems.items())
            return SelectedEngine(kind.name, index or 0, f"the fastest that can run here{before}")
        if isinstance(problem, DependencyConflict):
            raise problem
        problems[kind.name] = problem
    if index is not None:
        raise _no_gpu_engine(device, problems)
    return _on_cpu(problems, bundle, asked=device == "cpu")


def _named(kind: type[Engine], device: str, index: int | None) -> SelectedEngine:
    """The engine that was asked for, and nothing else."""
    if (device == "cpu") if kind.on_gpu else (index is not None):
        raise UsageError(f"the engine {kind.name} does not run on the device {device}.")
    problem = kind.unavailable(index or 0)
    if problem is None:
        return SelectedEngine(kind.name, (index or 0) if kind.on_gpu else None, "as asked")
    if isinstance(problem, DependencyConflict):
        raise problem
    where = f" on cuda:{index or 0}" if kind.on_gpu else ""
    raise type(problem)(
        f"the engine {kind.name}{where} was asked for, but {_phrase(problem)}", fix=problem.fixes
    )


def _on_cpu(
    on_gpu: dict[str, DeviceError | MemoryExhausted], bundle: Bundle | None, *, asked: bool
) -> SelectedEngine:
    """The first engine for the CPU that can run; ``on_gpu`` holds why none on a GPU can."""
    problems: dict[str, DeviceError | MemoryExhausted] = {}
    candidates: Sequence[type[Engine]] = _candidates(on_gpu=False)
    if bundle is not None:
        there = [kind for kind in candidates if kind.unavailable() is None]
        candidates = sorted(candidates, key=lambda k: not (k in there and k.prefers(bundle)))
    for kind in candidates:
        problem = kind.unavailable() or _unsuited(kind, bundle)
        if problem is None:
            why = "; ".join(_phrase(one) for one in [*on_gpu.values()][-1:])
            reason = "as asked" if asked else f"no GPU engine can run: {why}"
            before = "".join(f"; not {name}: {_phrase(why)}" for name, why in problems.items())
            return SelectedEngine(kind.name, None, reason + before)
        if isinstance(problem, DependencyConflict):
            raise problem
        problems[kind.name] = problem
    if not problems:
        raise DeviceUnavailable("no engine for the CPU is registered.")
    found = list(problems.values())
    fixes = tuple(dict.fromkeys(fix for problem in found for fix in problem.fixes))
    raise type(found[0])("; ".join(map(_phrase, found)), fix=fixes)


def _unsuited(kind: type[Engine], bundle: Bundle | None) -> EngineError | None:
    return None if bundle is None else kind.unsuited(bundle)


def _no_gpu_engine(
    device: str, problems: dict[str, DeviceError | MemoryExhausted]
) -> DeviceUnavailable:
    listed = "; ".join(f"{name}: {_phrase(problem)}" for name, problem in problems.items())
    fixes: list[Fix] = [fix for problem in problems.values() for fix in problem.fixes]
    fixes.append(SetOption("device", "cpu", "to run without a GPU"))
    return DeviceUnavailable(
        f"the device {device} was asked for, but no engine can use it. {listed}",
        fix=tuple(dict.fromkeys(fixes)),
    )


def _candidates(*, on_gpu: bool) -> tuple[type[Engine], ...]:
    return tuple(kind for kind in engines() if kind.automatic and kind.on_gpu == on_gpu)


def _phrase(problem: DeviceError | MemoryExhausted) -> str:
    """A problem without its full stop, to be part of a sentence."""
    return problem.problem.rstrip(".")


def _cuda_index(device: str) -> int | None:
    match = re.fullmatch(r"auto|cpu|cuda(?::(\d+))?", device)
    if match is None:
        raise UsageError(f"device {device!r}: expected auto, cpu, cuda or cuda:INDEX.")
    return int(match[1] or 0) if device.startswith("cuda") else None
