"""The processes of a distributed training: who starts them, and which run is theirs."""

from __future__ import annotations

import os
import time
from pathlib import Path

from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

from tlp_runtime.errors import SetOption, UsageError
from tlp_train.launchers import number_of, require_launched
from tlp_train.runs import Run

RUN_VARIABLE = "TLP_RUN"
"""Environment variable that tells processes started by Lightning which run folder is theirs."""


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
    started = number_of("SLURM_STEP_NUM_TASKS")
    if started in (None, 1) or "SLURM_PROCID" not in os.environ:
        return LightningEnvironment()
    wanted = devices * nodes
    if started != wanted:
        raise UsageError(
            f"srun started {started} processes, but {devices} devices on {nodes} machines are "
            f"{wanted}",
            fix=(
                SetOption("devices", str(max(1, started // nodes))),
                f"Or start {devices} tasks on each of {nodes} nodes with srun.",
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
        Started by torchrun or SLURM, where processes cannot be told, without a folder; or not
        started by any launcher.
    ModelMissing
        The folder did not appear.
    """
    require_launched()
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
