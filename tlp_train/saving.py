"""The state of a training on disk: written whole, when it is due and when the run must stop."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import lightning as L
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch.callbacks import Checkpoint as CheckpointCallback

from tlp_runtime.errors import TLPError
from tlp_train.module import SynthesisModule
from tlp_train.runs import Run
from tlp_train.safe_files import load_safely, save_whole
from tlp_train.stopping import TIME_LIMIT, Reason, StopRequests, TrainingStopped

logger = logging.getLogger(__name__)


class WholeFiles(CheckpointIO):
    """How Lightning writes and reads checkpoints here."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Write to a temporary file, then rename. Raises :class:`OutputError`."""
        save_whole(Path(path), checkpoint)

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read tensors and plain values, on the CPU."""
        return dict(load_safely(Path(path)))

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint, if it is there."""
        Path(path).unlink(missing_ok=True)


class KeepCheckpoints(CheckpointCallback):
    """``best.ckpt`` after an epoch that is better than all before it, then ``last.ckpt``.

    The best score travels in the checkpoints, wherever the run's folder lies.
    """

    def __init__(self, run: Run, best: float) -> None:
        self.run = run
        self.best = best

    def state_dict(self) -> dict[str, Any]:
        """The best score so far."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the best score of a checkpoint."""
        self.best = float(state_dict["best"])

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save; the order lets a run that is killed between the two write both again."""
        assert isinstance(pl_module, SynthesisModule)
        score = pl_module.score(trainer.callback_metrics)
        if score > self.best:
            self.best = score
            trainer.save_checkpoint(self.run.best)
        trainer.save_checkpoint(self.run.last)


class StopWhenAsked(L.Callback):
    """Ends the run when it was asked to, after the step or the validation batch in hand.

    Raises :class:`TrainingStopped` out of ``Trainer.fit``, with the state saved in ``last.ckpt``.
    Where something else ends the run between two steps, a process that loads data was killed say,
    the state is saved too.
    """

    def __init__(self, run: Run, requests: StopRequests) -> None:
        self.run = run
        self.requests = requests
        self._between_steps = self._stepped = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """From here on there is a state to save, and Lightning has taken the signals for itself."""
        self.requests.listen()
        self.requests.training = True

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """What was trained so far is saved; before the first step there is nothing yet."""
        if self.run.last.is_file():
            self._stop(trainer, save=False)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any
    ) -> None:
        """Within an epoch; after its last batch validation follows."""
        self._between_steps = self._stepped = True
        if not trainer.is_last_batch:
            self._stop(trainer)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any
    ) -> None:
        """The networks are not of one step any more."""
        self._between_steps = False

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Its checkpoint follows."""
        self._between_steps = False

    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any
    ) -> None:
        """Validation is begun again by the run that resumes.

        Several processes validate until the end: they may have different numbers of batches.
        """
        if trainer.world_size == 1:
            self._stop(trainer)

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Save what would be lost, unless what ended the run says that it was, or cannot be."""
        self.requests.training = False
        told = isinstance(exception, TrainingStopped | TLPError)
        if self._between_steps and not told and trainer.world_size == 1:
            try:
                self._save(trainer)
            except TLPError as error:
                logger.warning("the state could not be saved: %s", error)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The last epoch's end was saved."""
        self.requests.training = False

    def _stop(self, trainer: L.Trainer, *, save: bool = True) -> None:
        reason = self.requests.asked
        if reason is TIME_LIMIT and not self._stepped:
            return  # each part of a run comes further, however short its time
        stopping = reason is not None
        if trainer.world_size > 1:
            # Processes are told one by one; all must save after the same step.
            stopping = trainer.strategy.reduce_boolean_decision(stopping, all=False)
        if not stopping:
            return
        if save:
            self._save(trainer)
        raise TrainingStopped(reason or Reason("another process", 0), self.run.last)

    def _save(self, trainer: L.Trainer) -> None:
        if trainer.validating:
            # Let the loops say that it had begun and nothing more; Lightning then repeats it.
            progress = trainer.fit_loop.epoch_loop.val_loop.batch_progress
            progress.reset()
            progress.increment_ready()
            progress.increment_started()
        trainer.save_checkpoint(self.run.last)
