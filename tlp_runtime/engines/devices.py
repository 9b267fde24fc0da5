"""The engines of a run on one machine: one per GPU, or as many as the cores of its CPU feed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tlp_runtime.engines.base import Engine, Opening
from tlp_runtime.engines.choice import AUTO
from tlp_runtime.engines.cuda import Cuda
from tlp_runtime.engines.processor import cores
from tlp_runtime.engines.registry import find_engine
from tlp_runtime.engines.select import SelectedEngine, choose
from tlp_runtime.errors import SetOption, UsageError
from tlp_runtime.models.bundle import Bundle

CPU_ENGINES = 4
"""Most engines on a CPU, unless threads are given: each holds the weights and buffers."""


def choose_all(
    engine: str = AUTO, device: str = AUTO, bundle: Bundle | None = None
) -> list[SelectedEngine]:
    """Settle what runs before anything is loaded.

    Parameters
    ----------
    device
        ``auto`` takes every GPU that the engine can use, else the CPU; several devices may be
        named, separated by commas.
    bundle
        The model, as :func:`~tlp_runtime.engines.select.choose` takes it.

    Raises
    ------
    UsageError, DeviceError
        As :func:`~tlp_runtime.engines.select.choose`, for any device that was named; a device
        named twice, the CPU and a GPU, or devices whose best engines differ.
    """
    named = [name.strip() for name in device.split(",")]
    if len(named) > 1:
        choices = [choose(engine, name, bundle) for name in named]
        if len({choice.cuda_index for choice in choices}) < len(choices):
            raise UsageError(f"devices {device}: one is named twice.")
        if any(choice.cuda_index is None for choice in choices):
            raise UsageError(f"devices {device}: a CPU and GPUs do not share a run.")
        if len({choice.name for choice in choices}) > 1:
            engines = ", ".join(f"{c.name} on cuda:{c.cuda_index}" for c in choices)
            raise UsageError(
                f"devices {device}: the fastest engines differ ({engines}), and so would their "
                "outputs",
                fix=SetOption("engine", "one of them"),
            )
        return choices
    first = choose(engine, device, bundle)
    if first.cuda_index is None or device != AUTO:
        return [first]
    others = [
        SelectedEngine(first.name, gpu.index, first.reason)
        for gpu in Cuda().gpus()
        if gpu.index != first.cuda_index and find_engine(first.name).unavailable(gpu.index) is None
    ]
    return [first, *others]


def open_all(
    choices: Sequence[SelectedEngine],
    bundle: Bundle,
    opening: Opening | None = None,
    *,
    cpus: int | None = None,
    cases: int | None = None,
) -> list[Engine]:
    """Load a model into one engine per GPU, or into several on the CPU that share its cores.

    On a CPU several engines of few threads run more slices than one of many.

    Parameters
    ----------
    cpus
        Cores to share out; None takes all.
    cases
        No more engines than cases, where their number is known.
    """
    opening = opening or Opening()
    if choices[0].cuda_index is None:
        cpus = cpus or cores()
        count = min(CPU_ENGINES, cpus, cases or cpus)
        threads = opening.choice.threads
        if threads is not None:
            count = max(1, cpus // threads)
        choice = replace(opening.choice, threads=threads or max(1, cpus // count))
        opening = replace(opening, choice=choice)
        choices = [choices[0]] * count
    choices = choices[: cases or len(choices)]
    engines: list[Engine] = []
    try:
        engines.extend(choice.open(bundle, opening) for choice in choices)
    except BaseException:
        for engine in engines:
            engine.close()
        raise
    return engines
