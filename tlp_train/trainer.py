"""A run from its folder to its end, with Lightning."""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy
from torch import nn

from tlp_runtime.errors import (
    DeviceUnavailable,
    MemoryExhausted,
    ModelMismatch,
    SetOption,
    TLPError,
    UsageError,
    first_line,
)
from tlp_train.callbacks import MetricsCsv, SampleImages, read_metrics
from tlp_train.checkpoint import Lineage, checkpoint_of, load_checkpoint, require_fit, shortened
from tlp_train.config import TrainConfig, TrainingPrecision
from tlp_train.launchers import is_first_process, require_launched
from tlp_train.loaders import SliceData
from tlp_train.module import SynthesisModule
from tlp_train.processes import RUN_VARIABLE, environment_of
from tlp_train.restoring import require_resumable
from tlp_train.resume import begun_session
from tlp_train.runs import SAMPLES, Run, Status
from tlp_train.safe_files import load_safely
from tlp_train.saving import KeepCheckpoints, StopWhenAsked, WholeFiles
from tlp_train.stopping import TIME_LIMIT, StopRequests, TrainingStopped

_KILLED = re.compile(r"DataLoader worker .*(exited unexpectedly|killed by signal)")
_SHARED_MEMORY = re.compile(r"/torch_\d+|/dev/shm|shared memory|Bus error")
"""PyTorch's messages about a data-loading process that ended, and about its shared memory."""

for _name in ("lightning.pytorch", "lightning.fabric"):
    logging.getLogger(_name).setLevel(logging.WARNING)


def fit(
    run: Run,
    cache: Path,
    *,
    resume: bool = False,
    requests: StopRequests | None = None,
    progress: bool = True,
    on_case: Callable[[str], None] | None = None,
    on_brought: Callable[[list[str]], None] | None = None,
    on_epoch: Callable[[Mapping[str, str]], None] | None = None,
) -> Run:
    """Train ``run`` to its last epoch and mark it finished.

    With several devices, Lightning starts this program once more for each of them; torchrun and
    SLURM have started them already. Each calls ``fit`` on the same run folder.

    Parameters
    ----------
    resume
        Go on from ``last.ckpt``.
    requests
        Signals and a time limit that end it early; None listens for signals.
    progress
        Show Lightning's progress bar.
    on_case, on_brought, on_epoch
        Called with the name of each case that was opened, the names of those that were brought to
        the model's grid, if any, and each epoch's row of metrics.csv.

    Raises
    ------
    InputError
        Cases that cannot be used; found before training begins.
    ModelError
        The checkpoint to go on from, or to begin with, cannot be used.
    TrainingDiverged
        A loss is not finite.
    UsageError
        What launchers tell this process of its place is not a number, or fits nothing else.
    DeviceUnavailable
        Fewer GPUs than asked for.
    TrainingStopped
        It was asked to end; the error says where the state is saved.
    MemoryExhausted
        The device ran out of memory, or a process that loads data did.
    OutputError
        Another process trains this run, or its folder cannot be written.
    """
    first = is_first_process()
    if not first:
        require_launched()
    with (
        run.held() if first else nullcontext(),
        StopRequests() if requests is None else nullcontext(requests) as asked,
    ):
        module = _module(run)
        data = SliceData(run, cache, on_case, on_brought)
        callbacks: list[L.Callback] = [
            MetricsCsv(run.metrics, on_epoch),
            SampleImages(run.folder / SAMPLES),
            _Record(run, module),
            StopWhenAsked(run, asked),
            KeepCheckpoints(run, _best_before(run) if resume else float("-inf")),
        ]
        trainer = _trainer(run, callbacks, progress=progress)
        if resume:
            require_resumable(run.last, module, trainer)
        elif run.weights:
            _load_weights(module, Path(run.weights), run)
        try:
            with _told(run), _quietly(), _worded(run.config):
                if first:
                    run.mark("running")
                trainer.fit(
                    module,
                    datamodule=data,
                    ckpt_path=run.last if resume else None,
                    weights_only=True,
                )
        except TrainingStopped as stop:
            _mark(
                run.folder, "unfinished" if stop.reason is TIME_LIMIT else "interrupted", str(stop)
            )
            raise
        except BaseException as error:
            _mark(run.folder, "interrupted", type(error).__name__)
            raise
        return _mark(run.folder, "finished", "")


def _module(run: Run) -> SynthesisModule:
    """The networks as they start, seeded."""
    config = run.config
    L.seed_everything(config.seed, verbose=False)
    module = SynthesisModule(config, Lineage(ancestors=run.begun_from))
    channels_last = config.channels_last
    if channels_last is None:
        channels_last = config.precision == "bf16-mixed"
    if channels_last:
        module = module.to(memory_format=torch.channels_last)
    if config.compile:
        for network in module.sides:
            for part in _parts(network):
                part.compile()
    return module


def _parts(network: nn.Module) -> Iterator[nn.Module]:
    """The networks of a side; several lie in a container."""
    if isinstance(network, nn.ModuleList | nn.ModuleDict):
        for child in network.children():
            yield from _parts(child)
    else:
        yield network


def _load_weights(module: SynthesisModule, path: Path, run: Run) -> None:
    """Begin with the weights of a checkpoint: the generator's, and the others' where they fit.

    What that was trained on, this one was trained on too.

    Raises
    ------
    ModelMismatch
        It is not the file that the run was begun from.
    """
    checkpoint = load_checkpoint(path)
    if checkpoint.sha256 != run.begun_from[-1].sha256:
        raise ModelMismatch(
            f"{path}: is not the checkpoint that this run was begun from, SHA-256 "
            f"{run.begun_from[-1].sha256[:16]}…. Put that one back, or begin another run."
        )
    own = module.generator.state_dict()
    state = dict(checkpoint.generator_state)
    if checkpoint.spec.network != run.config.spec.network:  # what is new keeps its own start
        state = {**own, **state}
    require_fit(state, own, f"{path}: its generator")
    module.generator.load_state_dict(state)
    module.trained.load_state_dict(state)
    module.lineage = replace(module.lineage, training_voxels=checkpoint.lineage.training_voxels)
    whole = load_safely(path)["state_dict"]
    others = {"discriminator.": module.discriminator, "auxiliary.": module.auxiliary}
    for prefix, network in others.items():
        if network is None:
            continue
        held = {n.removeprefix(prefix): t for n, t in whole.items() if n.startswith(prefix)}
        wanted = network.state_dict()
        if held.keys() == wanted.keys() and all(held[n].shape == wanted[n].shape for n in wanted):
            network.load_state_dict(held)


def _trainer(run: Run, callbacks: list[L.Callback], *, progress: bool) -> L.Trainer:
    config = run.config
    on_gpu = torch.cuda.is_available()
    if on_gpu and torch.cuda.device_count() < config.devices:
        raise DeviceUnavailable(
            f"{config.devices} devices were asked for, but this machine has "
            f"{torch.cuda.device_count()} GPUs",
            fix=SetOption("devices", str(torch.cuda.device_count())),
        )
    several = config.devices * config.nodes > 1
    started_by = environment_of(config.devices, config.nodes)
    try:
        return L.Trainer(
            accelerator="gpu" if on_gpu else "cpu",
            devices=config.devices,
            num_nodes=config.nodes,
            # Each of the two steps leaves the other network's parameters without a gradient.
            strategy=DDPStrategy(find_unused_parameters=True) if several else "auto",
            sync_batchnorm=several and on_gpu,
            benchmark=on_gpu,
            precision=config.precision,
            max_epochs=config.epochs,
            logger=_Scalars(run.folder, name="", version=""),
            callbacks=[*callbacks, *([RichProgressBar(leave=False)] if progress else [])],
            plugins=[WholeFiles(), *([] if started_by is None else [started_by])],
            enable_progress_bar=progress,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            log_every_n_steps=1,
        )
    except (ValueError, RuntimeError) as error:  # what a launcher says does not fit the options
        raise UsageError(
            f"the processes cannot be arranged: {first_line(error)}",
            fix=(SetOption("devices"), SetOption("nodes")),
        ) from error


class _Scalars(TensorBoardLogger):
    """TensorBoard's scalars alone: run.json has the configuration."""

    def save(self) -> None:
        """Nothing more; events are flushed as they come."""


class _Record(L.Callback):
    """Adds this part of the run to its record, once it is known what it goes on from."""

    def __init__(self, run: Run, module: SynthesisModule) -> None:
        self.run = run
        self.module = module
        self.before: Lineage | None = None
        self.voxels: Mapping[str, Any] = {}

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep what the part before was trained on."""
        self.before = checkpoint_of(checkpoint, self.run.last).lineage
        self.module.lineage = replace(
            self.module.lineage, training_voxels=self.before.training_voxels
        )
        self.voxels = self.module.state_of(checkpoint).get("voxels", {})

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Record it."""
        session = begun_session(
            self.run,
            None if self.before is None else self.before.config,
            epoch=trainer.current_epoch,
            step=trainer.global_step // len(self.module.sides),
        )
        found = trainer.datamodule.voxels  # type: ignore[attr-defined]
        other = [name for name, held in self.voxels.items() if found.get(name) != held]
        if other:
            why = f"data: other voxels of {shortened(other)}"
            session = replace(session, differs=(*session.differs, why))
        self.run = replace(self.run, sessions=(*self.run.sessions, session))
        self.module.lineage = replace(self.module.lineage, differs=self.run.differs)
        if trainer.is_global_zero:
            self.run.mark("running")


def _best_before(run: Run) -> float:
    """The best score of a run whose checkpoints do not have it, as those of the first version."""
    if not run.best.is_file():
        return float("-inf")
    return max((float(row["val_psnr"]) for row in read_metrics(run.metrics)), default=float("-inf"))


@contextmanager
def _told(run: Run) -> Iterator[None]:
    """Tell processes that Lightning starts which run is theirs."""
    os.environ[RUN_VARIABLE] = str(run.folder.resolve())
    try:
        yield
    finally:
        os.environ.pop(RUN_VARIABLE, None)  # a later program of this one's is another run's


@contextmanager
def _quietly() -> Iterator[None]:
    with warnings.catch_warnings():
        # Loading is cheap next to a step on a CPU, and our sampler does resume mid-epoch.
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # Lightning's own
        warnings.filterwarnings("ignore", message=".*dataloader is not resumable.*")
        # Of a 1 x 1 kernel's strides, which mean nothing.
        warnings.filterwarnings("ignore", message="Grad strides do not match")
        # Only the discriminator's step leaves parameters unused; both share one strategy.
        warnings.filterwarnings("ignore", message=".*find_unused_parameters=True.*")
        # The step was made in the part before, where that ended within the first validation.
        warnings.filterwarnings("ignore", message="Detected call of .lr_scheduler.step")
        # processes.py knows who started this one.
        warnings.filterwarnings("ignore", message=".*`srun` command is available.*")
        yield


@contextmanager
def _worded(config: TrainConfig) -> Iterator[None]:
    """What can happen to a machine in a training, as errors that say what to do."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise MemoryExhausted(
            f"the device ran out of memory with batches of {config.batch_size} in "
            f"{config.accumulate} parts",
            fix=(
                SetOption("accumulate", "a larger number", "for the same result in less memory"),
                SetOption("batch_size", "a smaller number"),
            ),
        ) from error
    except TLPError:
        raise
    except (RuntimeError, OSError) as error:
        text = str(error)
        shared = _SHARED_MEMORY.search(text) is not None
        if not shared and _KILLED.search(text) is None:
            raise
        why = (
            "the shared memory (/dev/shm) is too small for the processes that load data"
            if shared
            else "a process that loads data was killed, as happens when memory runs out"
        )
        raise MemoryExhausted(
            f"{why} ({text.strip().splitlines()[-1][:160]})",
            fix=(
                SetOption("workers", "0", "to load data in this process"),
                "Or give the container more shared memory (Docker's options shm-size and ipc)."
                if shared
                else "Or give it more memory.",
            ),
        ) from error


def _mark(folder: Path, status: Status, ended: str) -> Run:
    """The run as it is on disk, marked by its first process."""
    run = Run.open(folder)
    return run.mark(status, ended=ended) if is_first_process() else replace(run, status=status)


def fast_precision() -> TrainingPrecision:
    """``bf16-mixed`` where the GPU or CPU multiplies bf16 in hardware, else ``32-true``."""
    if torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "32-true"
    flags = Path("/proc/cpuinfo")
    known = flags.read_text(encoding="utf-8", errors="replace") if flags.is_file() else ""
    return "bf16-mixed" if "avx512_bf16" in known or "amx_bf16" in known else "32-true"
