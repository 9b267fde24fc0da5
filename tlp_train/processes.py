"""Which process of a distributed training this is, and who started it."""

from __future__ import annotations

import os
import time
from pathlib import Path

from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

from tlp_runtime.errors import SetOption, UsageError
from tlp_train.runs import Run

RUN_VARIABLE = "TLP_RUN"
"""Environment variable that tells processes started by Lightning which run folder is theirs."""

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
        An environment variable by which launchers tell a process its place is no number, or a
        number of more processes than there are.
    """
    numbers = {name: _number(name) for name in _NUMBERS}
    for name, of in _RANKS.items():
        rank, count = numbers[name], next((n for n in map(numbers.get, of) if n is not None), 1)
        if rank is not None and rank >= count:
            raise UsageError(
                f"the environment variable {name} is {rank}, but {of[0]}, the number of "
                f"processes, is {'not set' if numbers[of[0]] is None else numbers[of[0]]}",
                fix=f"Unset {name}, unless a launcher such as torchrun or srun sets it.",
            )
    known = (numbers[name] for name in _RANKS)
    return next((rank for rank in known if rank is not None), 0) == 0


def environment_of(devices: int, nodes: int) -> ClusterEnvironment | None:
    """Who starts the processes, where Lightning would misread the variables of SLURM.

    In a shell or script inside an allocation, SLURM's variables describe the allocation, not this
    process: then this program is on its own. Started by ``srun``, they must agree with the options.

    Parameters
    ----------
    devices, nodes
        Devices of each machine, and machines.

    Returns
    -------
    None leaves it to Lightning, which knows torchrun and its own processes.

    Raises
    ------
    UsageError
        ``srun`` started other processes than the options say.
    """
    if "SLURM_NTASKS" not in os.environ or "TORCHELASTIC_RUN_ID" in os.environ:
        return None
    started = _number("SLURM_STEP_NUM_TASKS")
    if started in (None, 1) or "SLURM_PROCID" not in os.environ:
        return LightningEnvironment()
    wanted = devices * nodes
    if started != wanted:
        raise UsageError(
            f"srun started {started} processes, but {devices} devices on {nodes} machines are "
            f"{wanted}",
            fix=(
                SetOption("devices", str(max(1, started // nodes))),
                f"Or start it with srun --ntasks-per-node={devices} --nodes={nodes}.",
            ),
        )
    os.environ.setdefault("SLURM_NTASKS_PER_NODE", str(devices))
    return SLURMEnvironment(auto_requeue=False)


def join_run(folder: Path | None, *, patience_s: float = 600) -> Run:
    """The run folder that the first process of this distributed run makes.

    Parameters
    ----------
    folder
        As given to every process; None takes what the first process tells those it starts.

    Raises
    ------
    UsageError
        Started by torchrun or SLURM, where processes cannot be told, without a folder.
    ModelMissing
        The folder did not appear.
    """
    told = os.environ.get(RUN_VARIABLE)
    if folder is None and told:
        return Run.open(Path(told))
    if folder is None:
        raise UsageError(
            "processes started by torchrun or SLURM must be given one run folder",
            fix=SetOption("out", "DIR"),
        )
    deadline = time.monotonic() + patience_s
    while not (folder / "run.json").is_file() and time.monotonic() < deadline:
        time.sleep(0.5)
    return Run.open(folder)


def _number(variable: str) -> int | None:
    """A number of the environment; None where there is none."""
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
