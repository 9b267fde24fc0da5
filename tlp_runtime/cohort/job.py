"""One case of a run: its request, whether it was done before, and its outcome."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from tlp_runtime.cohort.cases import CohortCase
from tlp_runtime.cohort.journal import Finished
from tlp_runtime.engines.base import Engine
from tlp_runtime.errors import InputError
from tlp_runtime.files.atomic import make_folder
from tlp_runtime.files.hashes import sha256
from tlp_runtime.io.nifti import sidecar
from tlp_runtime.synthesis.evidence import evidence_path
from tlp_runtime.synthesis.request import Request
from tlp_runtime.synthesis.result import Synthesis
from tlp_runtime.values.prompt import label_texts
from tlp_runtime.warnings import TLPWarning

Status = Literal["done", "unchanged", "failed"]


@dataclass(frozen=True)
class Job:
    """A case, where its output goes, and what the journal knows of it.

    Parameters
    ----------
    folder
        The folder of the run's outputs, absolute.
    int16
        As of :func:`~tlp_runtime.io.nifti.write_volume`.
    finished
        What the journal says of it; None of a case that was not done.
    """

    case: CohortCase
    folder: Path
    int16: bool = False
    finished: Finished | None = None

    @property
    def output(self) -> Path:
        """The file to write."""
        return self.folder / self.case.output

    def request(self, inputs: Sequence[str]) -> Request:
        """The case's request, with the images that the model takes.

        Raises
        ------
        InputError
            Nothing can be asked of the case, or it lacks an image.
        """
        request = self.case.request
        if isinstance(request, InputError):
            raise request
        missing = [name for name in inputs if name not in request.images]
        if missing:
            raise InputError(
                f"{self.case.name}: it has no {' and no '.join(missing)}, which the model needs."
            )
        return replace(request, images={name: request.images[name] for name in inputs})

    def is_done(self, key: str, *, strict: bool) -> bool:
        """Whether the output is there as an earlier run wrote it, from the same things.

        A strict run does not accept an output with a warning about its scan.
        """
        return (
            self.finished is not None
            and self.finished.key == key
            and not (strict and self.finished.doubtful)
            and self.output.is_file()
            and sidecar(self.output).is_file()
            and (self.finished.drawn_ml is None or evidence_path(self.output).is_file())
            and sha256(self.output) == self.finished.sha256
        )

    def save(self, result: Synthesis) -> str:
        """Write the output and its provenance, over older ones; returns the output's SHA-256."""
        make_folder(self.output.parent)
        record = result.save(
            self.output,
            overwrite=True,
            int16=self.int16,
            dated=False,
            extra=self.case.extra,
        )
        return str(record["output_sha256"])


@dataclass(frozen=True)
class Outcome:
    """The outcome of a case.

    Parameters
    ----------
    key
        The key of what it was made from; None where that could not be read.
    sha256
        The hash of the output.
    worker
        The device that ran it.
    drawn_ml
        What the prompt alone made, where that was asked for.
    error, message
        The kind of error and its text, of a case that failed.
    warnings
        About the case and its run.
    """

    case: str
    status: Status
    key: str | None = None
    sha256: str | None = None
    slices: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)
    worker: str | None = None
    drawn_ml: float | None = None
    error: str | None = None
    message: str | None = None
    warnings: tuple[TLPWarning, ...] = ()


def options_of(request: Request, *, int16: bool) -> dict[str, Any]:
    """The options that show in an output, as plain values."""
    return {
        "prompt_labels": label_texts(request.prompt.labels),
        "resample": request.resample,
        "all_slices": request.all_slices,
        **({"evidence": True} if request.evidence else {}),
        "dtype": "int16" if int16 else "float32",
        **dict.fromkeys(_accepted(request), True),
    }


def _accepted(request: Request) -> Iterator[str]:
    """What a run accepts that another refuses, which does not take its outputs for its own."""
    if request.prompt.allow_empty:
        yield "allow_empty_prompt"
    if request.allow_incomplete:
        yield "allow_incomplete"
    if request.ignore_frame_of_reference:
        yield "ignore_frame_of_reference"


def key_of(request: Request, engine: Engine, *, int16: bool) -> str:
    """A hash of what an output is made from: inputs, model, engine, options.

    Versions of the software are left out, so that an update does not repeat everything.

    Parameters
    ----------
    request
        With its files in memory.
    """
    content = {
        "inputs": {
            name: volume.origin.sha256
            for name, volume in request.volumes.items()
            if volume.origin is not None
        },
        "model": engine.bundle.onnx_sha256,
        "engine": engine.name,
        "options": options_of(request, int16=int16),
    }
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
