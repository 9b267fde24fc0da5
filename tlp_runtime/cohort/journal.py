"""The journal of a run over many cases: what is done, and the hash of what was made.

One JSON object per line, on the disk before the next case counts as finished. ::

    {"event": "run", "schema": 2, "time": …, "command": …, "model": …, "cases": 64}
    {"event": "planned", "case": "a", "output": "a_synth-t1ce.nii.gz"}
    {"event": "done", "case": "a", "key": …, "sha256": …, "slices": 139, "seconds": {…}, …}
    {"event": "failed", "case": "b", "error": "InputMissing", "message": …}
    {"event": "warning", "code": "engine-lost", "kind": "operational", "text": …}
    {"event": "end", "done": 63, "unchanged": 0, "failed": 1}

An output that was planned here belongs to this journal and may be replaced by a later run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from filelock import FileLock, Timeout

from tlp_runtime.errors import ChooseAnother, NoSpace, OutputError
from tlp_runtime.files.atomic import make_folder, output_error
from tlp_runtime.warnings import JOURNAL_CUT, TLPWarning

SCHEMA = 2
READABLE = (1, 2)
"""Schemas this version reads; in 1 the warnings of a case were sentences."""
NAME = "journal.jsonl"
_ELSEWHERE = ChooseAnother("out", "output folder")


@dataclass(frozen=True)
class Finished:
    """What the journal knows of a case that was done.

    Parameters
    ----------
    key
        What it was made from, as a hash: :func:`~tlp_runtime.cohort.job.key_of`.
    sha256
        The hash of the output as it was written.
    doubtful
        Whether there was a warning about its scan.
    drawn_ml
        What the prompt alone made, where an evidence map was asked for.
    """

    key: str
    sha256: str
    doubtful: bool = False
    drawn_ml: float | None = None


class Journal:
    """A journal that this process alone may write to. A context manager.

    Attributes
    ----------
    finished
        The cases done by earlier runs.
    planned
        The output that every case of earlier runs was given.
    warnings
        About the journal itself.

    Raises
    ------
    OutputError
        Another run holds it, it cannot be written, or it is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.finished: dict[str, Finished] = {}
        self.planned: dict[str, str] = {}
        self.warnings: list[TLPWarning] = []
        make_folder(path.parent)
        self._lock = FileLock(path.with_name(f".{path.name}.lock"))
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise OutputError(
                f"{path.parent}: another run is writing here",
                fix=("Wait for it.", _ELSEWHERE),
            ) from error
        except OSError as error:
            raise output_error(path, error) from error
        try:
            whole = self._replay()
            self._file = path.open("ab", buffering=0)
            self._file.truncate(whole)
        except OSError as error:
            self._lock.release()
            raise output_error(path, error) from error
        except OutputError:
            self._lock.release()
            raise

    def write(self, *entries: Mapping[str, Any]) -> None:
        """Append lines, and wait until they are on the disk. Raises :class:`NoSpace`."""
        if entries:
            self.append(*entries)
            self.sync()

    def append(self, *entries: Mapping[str, Any]) -> None:
        """Append lines, which count once :meth:`sync` has returned.

        Raises
        ------
        NoSpace
            They cannot be written; what the journal held before is whole.
        """
        text = "".join(f"{json.dumps(entry, ensure_ascii=False)}\n" for entry in entries).encode()
        with self._told():
            while text:
                text = text[self._file.write(text) :]

    def sync(self) -> None:
        """Wait until every line is on the disk. Raises :class:`NoSpace`."""
        with self._told():
            os.fsync(self._file.fileno())

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise NoSpace(
                f"{self.path}: cannot be written ({error.strerror}). Cases that were finished are "
                "kept",
                fix="Make room, then run the same command again.",
            ) from error

    def _replay(self) -> int:
        """Read every line; returns how many bytes are whole lines."""
        if not self.path.exists():
            return 0
        content = self.path.read_bytes()
        whole = 0
        for number, line in enumerate(content.splitlines(keepends=True), start=1):
            try:
                entry = json.loads(line)
                if not line.endswith(b"\n"):
                    raise ValueError("it has no end")
                self._learn(entry)
            except (ValueError, KeyError, TypeError) as error:
                if whole + len(line) == len(content):
                    # A run was killed while it wrote this one.
                    self.warnings.append(
                        JOURNAL_CUT.warning(
                            f"{self.path}: its last line is cut short and was dropped."
                        )
                    )
                    break
                raise OutputError(
                    f"{self.path}: line {number} is not a line of a journal ({error!r})",
                    fix=("Move the journal away.", _ELSEWHERE),
                ) from error
            whole += len(line)
        return whole

    def _learn(self, entry: Mapping[str, Any]) -> None:
        event = entry["event"]
        if event == "run" and entry["schema"] not in READABLE:
            raise ValueError(f"schema {entry['schema']}, this version reads {READABLE}")
        if event == "planned":
            self.planned[entry["case"]] = entry["output"]
        elif event == "done":
            self.finished[entry["case"]] = Finished(
                entry["key"],
                entry["sha256"],
                _is_doubtful(entry.get("warnings", ())),
                entry.get("drawn_ml"),
            )
        elif event == "failed":
            self.finished.pop(entry["case"], None)

    def close(self) -> None:
        """Close the journal, so that other runs may open it."""
        self._file.close()
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _is_doubtful(warnings: Sequence[Any]) -> bool:
    """Whether a case's warnings were about its scan; those of schema 1 were, nearly all."""
    return any(isinstance(one, str) or one["kind"] == "input" for one in warnings)
