"""Run folders: what a training was told, how far it came, and the newest finished one."""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from typing import Any, Literal

from filelock import FileLock, Timeout

from tlp_runtime.errors import (
    ChooseAnother,
    InputError,
    ModelDamaged,
    ModelMissing,
    OutputError,
    RunTask,
    SpecError,
)
from tlp_runtime.files.atomic import (
    clear_temporaries,
    entries,
    make_folder,
    output_error,
    write_text,
)
from tlp_runtime.models.store import Register, home
from tlp_runtime.spec.reader import Contract, build, read_schema
from tlp_train.checkpoint import Ancestor
from tlp_train.config import SCHEMA_MAJOR as CONFIG_MAJOR
from tlp_train.config import TrainConfig
from tlp_train.split import Split

logger = logging.getLogger(__name__)

Status = Literal["running", "interrupted", "unfinished", "finished"]
"""``interrupted``: by a signal or an error; ``unfinished``: the time limit came."""

LAST, BEST = "last.ckpt", "best.ckpt"
RECORD, SPLIT, METRICS, SAMPLES = "run.json", "split.json", "metrics.csv", "samples"
_LOCK = ".lock"
_OURS = re.compile(
    rf"{re.escape(RECORD)}|{re.escape(SPLIT)}|{re.escape(METRICS)}|{SAMPLES}|events\.out\.tfevents\..*"
    rf"|hparams\.yaml|{re.escape(_LOCK)}"
)
"""What a run without a checkpoint may hold, and may lose when it is begun again."""

SCHEMA_MAJOR = 1
SCHEMA_MINOR = 1


@dataclass(frozen=True, kw_only=True)
class Session:
    """One part of a run: from its start, or a resume, until it ended.

    Parameters
    ----------
    began
        Local time with its offset, ISO 8601.
    epoch, step
        Epochs that were finished and batches that were used before it.
    changes
        Options that were changed on resume, by name, each as ``old -> new``.
    environment
        What decides the last bits of a result: versions, device and threads.
    differs
        Why this part may differ, in the last bits or more, from one of a run without a stop.
    """

    began: str
    epoch: int
    step: int
    changes: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    differs: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Record:
    """``run.json``."""

    status: Status
    updated: str
    data: str
    config: TrainConfig
    versions: Mapping[str, str]
    ended: str = ""
    begun_from: tuple[Ancestor, ...] = ()
    weights: str = ""
    sessions: tuple[Session, ...] = ()
    segmentations: str = ""


@dataclass(frozen=True)
class Run:
    """A run folder: ``run.json``, ``split.json``, ``metrics.csv``, samples and checkpoints.

    Parameters
    ----------
    ended
        Why it ended before its last epoch; empty where it did not, or nobody could say.
    begun_from
        The checkpoints it was fine-tuned from, the first first.
    weights
        The file its first weights come from; empty for new ones.
    segmentations
        Their folder, where they do not lie with the images of ``data``.
    """

    folder: Path
    config: TrainConfig
    data: Path
    split: Split
    status: Status
    ended: str = ""
    begun_from: tuple[Ancestor, ...] = ()
    weights: str = ""
    sessions: tuple[Session, ...] = ()
    segmentations: Path | None = None

    @property
    def last(self) -> Path:
        """The newest state; after the last epoch, the result that the presets export."""
        return self.folder / LAST

    @property
    def best(self) -> Path:
        """The state of highest validation PSNR without prompt."""
        return self.folder / BEST

    @property
    def metrics(self) -> Path:
        """A row an epoch."""
        return self.folder / METRICS

    @property
    def differs(self) -> tuple[str, ...]:
        """Why its weights may differ from those of a run without a stop; once each."""
        return tuple(dict.fromkeys(why for session in self.sessions for why in session.differs))

    @classmethod
    def create(
        cls,
        folder: Path | None,
        config: TrainConfig,
        data: Path,
        split: Split,
        *,
        begun_from: tuple[Ancestor, ...] = (),
        weights: Path | None = None,
        segmentations: Path | None = None,
    ) -> Run:
        """Make and register a run; ``folder`` None takes a new one under ``TLP_HOME``.

        A run that never came to save a checkpoint is replaced by the new one.

        Raises
        ------
        OutputError
            ``folder`` exists and is not empty, or cannot be made.
        """
        if folder is None:
            folder = _fresh(home() / "runs", config)
        if folder.exists() and (not folder.is_dir() or any(entries(folder))):
            _require_untrained(folder)
        make_folder(folder)
        run = cls(
            folder, config, data.resolve(), split, "running",
            begun_from=begun_from, weights="" if weights is None else str(weights.resolve()),
            segmentations=None if segmentations is None else segmentations.resolve(),
        )  # fmt: skip
        with run.held():
            for path in list(folder.iterdir()):
                if path.name != _LOCK:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            write_text(folder / SPLIT, split.to_json())
            run.mark("running")  # last: other processes of the run wait for its record
        Register("runs").add(folder.name, folder)
        return run

    @classmethod
    def open(cls, folder: Path) -> Run:
        """Read a run folder.

        Raises
        ------
        ModelMissing, ModelDamaged, SpecError
            It is not a run folder, or its record cannot be read.
        """
        file = folder / RECORD
        if not file.is_file():
            raise ModelMissing(f"{folder}: is not a run folder: {RECORD} is missing.")
        try:
            record = _read(file)
            split = Split.from_json(folder / SPLIT)
        except SpecError as error:
            raise SpecError(f"{file}: {error.problem}", fix=error.fixes) from error
        except InputError as error:
            raise ModelDamaged(f"{error.problem}") from error
        return cls(
            folder, record.config, Path(record.data), split, record.status, record.ended,
            record.begun_from, record.weights, record.sessions,
            Path(record.segmentations) if record.segmentations else None,
        )  # fmt: skip

    def mark(self, status: Status, *, ended: str = "") -> Run:
        """Record how far the run has come; gives the run as it is now.

        Raises
        ------
        OutputError
            The record cannot be written.
        """
        run = replace(self, status=status, ended=ended)
        names = ("tlp-mri", "torch", "lightning", "monai")
        record = _Record(
            status=status,
            updated=now(),
            data=str(run.data),
            config=run.config,
            versions={**{name: version(name) for name in names}, "python": python_version()},
            ended=ended,
            begun_from=run.begun_from,
            weights=run.weights,
            sessions=run.sessions,
            segmentations="" if run.segmentations is None else str(run.segmentations),
        )
        schema = {"major": SCHEMA_MAJOR, "minor": SCHEMA_MINOR}
        values = {"schema": schema, **asdict(record), "config": run.config.to_dict()}
        write_text(self.folder / RECORD, json.dumps(values, indent=2) + "\n")
        return run

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let no other process train this run meanwhile; clears what a killed one had begun.

        Raises
        ------
        OutputError
            Another process holds it.
        """
        lock = FileLock(self.folder / _LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise OutputError(
                f"{self.folder}: another process is training this run",
                fix=("Wait for it.", ChooseAnother("out", "folder")),
            ) from error
        except NotImplementedError:
            logger.warning("%s: the file system has no locks; train it once at a time", self.folder)
        except OSError as error:
            raise output_error(self.folder / _LOCK, error) from error
        try:
            clear_temporaries(self.folder)
            yield
        finally:
            lock.release()


def now() -> str:
    """Local time with its offset, ISO 8601."""
    return datetime.now().astimezone().isoformat(timespec="seconds")


def newest_finished() -> Run:
    """The finished run that was started last.

    Raises
    ------
    ModelMissing
        There is none.
    """
    for entry in reversed(list(Register("runs"))):
        try:
            run = Run.open(entry.path)
        except (ModelMissing, ModelDamaged, SpecError):
            continue
        if run.status == "finished":
            return run
    raise ModelMissing(
        "no finished training run was found",
        fix=(RunTask("train", purpose="to train a model"), "Or name a checkpoint."),
    )


def _read(file: Path) -> _Record:
    """A run's record, of this version or an older one."""
    contract = Contract(what=str(file), error=ModelDamaged)
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelDamaged(f"{file}: cannot be read ({error!r}).") from error
    if not isinstance(data, Mapping):
        contract.refuse(f"holds {type(data).__name__}, expected an object")
    body: dict[str, Any] = dict(data)
    if "schema" in body:
        major, minor = read_schema(body, contract)
        if (major, minor) == (SCHEMA_MAJOR, 0):  # segmentations lay with the images
            contract = replace(contract, defaults=True)
        elif (major, minor) != (SCHEMA_MAJOR, SCHEMA_MINOR):
            contract.refuse(
                f"schema {major}.{minor}, this version reads {SCHEMA_MAJOR}.{SCHEMA_MINOR}; "
                "install a matching tlp-mri"
            )
        del body["schema"]
    elif isinstance(body.get("config"), Mapping):  # the first version's
        body["config"] = {"schema": {"major": CONFIG_MAJOR, "minor": 0}, **body["config"]}
        contract = replace(contract, defaults=True)
    extra: list[str] = []
    record = build(_Record, body, contract, extra)
    if extra:
        contract.refuse(f"unknown keys {', '.join(sorted(extra))}")
    return record


def _require_untrained(folder: Path) -> None:
    """Raise unless a folder holds a run that saved no checkpoint, and nothing else."""
    held = [path.name for path in entries(folder)] if folder.is_dir() else []
    if RECORD in held and all(_OURS.fullmatch(name) for name in held):
        return
    raise OutputError(
        f"{folder}: exists and is not an empty folder",
        fix=(
            ChooseAnother("out", "folder"),
            RunTask("train", (("resume", str(folder)),), "to continue that run"),
        ),
    )


def _fresh(parent: Path, config: TrainConfig) -> Path:
    name = f"{datetime.now():%Y%m%d-%H%M%S}-{'-'.join(config.spec.inputs)}-{config.preset}"
    folder, number = parent / name, 2
    while folder.exists():
        folder, number = parent / f"{name}-{number}", number + 1
    return folder
