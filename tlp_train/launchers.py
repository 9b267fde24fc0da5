"""What launchers such as torchrun and srun tell a process of its place, by environment variables.

Read before Lightning is imported, which fails on variables that are not numbers.
"""

from __future__ import annotations

import os

from tlp_runtime.errors import UsageError

_RANKS = {
    "RANK": ("WORLD_SIZE",),
    "LOCAL_RANK": ("LOCAL_WORLD_SIZE", "WORLD_SIZE"),
    "SLURM_PROCID": ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"),
}
"""Variables that number this process, each with those that say of how many."""

_NUMBERS = (
    *_RANKS, "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "NODE_RANK", "MASTER_PORT",
    "SLURM_NTASKS", "SLURM_NTASKS_PER_NODE", "SLURM_NNODES", "SLURM_NODEID", "SLURM_LOCALID",
    "SLURM_STEP_NUM_TASKS",
)  # fmt: skip


def is_first_process() -> bool:
    """Whether this process is the only one or the first of a distributed run.

    Raises
    ------
    UsageError
        An environment variable by which launchers tell a process its place is not a number.
    """
    numbers = {name: number_of(name) for name in _NUMBERS}
    known = (numbers[name] for name in _RANKS)
    return next((rank for rank in known if rank is not None), 0) == 0


def require_launched() -> None:
    """For a process that is not the first: raise unless there can be others.

    Raises
    ------
    UsageError
        The number of this process was left in the environment by something else.
    """
    for name, of in _RANKS.items():
        rank = number_of(name)
        counts = [count for count in map(number_of, of) if count is not None]
        if rank and rank >= next(iter(counts), 1):
            raise UsageError(
                f"the environment variable {name} is {rank}, but {of[0]}, the number of "
                f"processes, is {counts[0] if counts else 'not set'}",
                fix=f"Unset {name}, unless a launcher such as torchrun or srun sets it.",
            )


def number_of(variable: str) -> int | None:
    """A number of the environment; None where there is none.

    Raises
    ------
    UsageError
        It is something else.
    """
    text = os.environ.get(variable, "")
    if not text:
        return None
    if not text.isdecimal():
        raise UsageError(
            f"the environment variable {variable} is {text!r}, but launchers such as torchrun and "
            "srun set it to a number.",
            fix=f"Unset {variable}, unless a launcher sets it.",
        )
    return int(text)
