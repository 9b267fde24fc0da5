"""One case of a run: what is asked, whether it was done before, and what became of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tlp_runtime.cohort.cases import Case
from tlp_runtime.cohort.journal import Finished
from tlp_runtime.engines.base import Engine
from tlp_runtime.errors import InputError
from tlp_runtime.files.atomic import make_folder
from tlp_runtime.files.hashes import sha256
from tlp_runtime.io.nifti import sidecar
from tlp_runtime.spec.model import ModelSpec
from tlp_runtime.synthesis.result import Synthesis
from tlp_runtime.synthesis.synthesizer import Inputs, Request

Status = Literal["done", "unchanged", "failed"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What holds for every case and shows in its output.

    Parameters
    ----------
    prompt_labels
        What labels mean, if not as in BraTS.
    resample, all_slices
        As of :class:`~tlp_runtime.synthesis.synthesizer.Request`.
    int16
        As of :func:`~tlp_runtime.io.nifti.write_volume`.
    """

    prompt_labels: Sequence[str] = ()
    resample: bool = False
    all_slices: bool = False
    int16: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "prompt_labels": list(self.prompt_labels),
            "resample": self.resample,
            "all_slices": self.all_slices,
            "dtype": "int16" if self.int16 else "float32",
        }


@dataclass(frozen=True)
class Job:
    """A case, where its output goes, and what is known of it.

    Parameters
    ----------
    folder
        Of the run's outputs, absolute.
    finished
        As the journal has it; None of a case that was not done.
    """

    case: Case
    folder: Path
    options: Options
    finished: Finished | None = None

    @property
    def output(self) -> Path:
        """The file to write."""
        return self.folder / self.case.output

    def request(self, spec: ModelSpec) -> Request:
        """What is to be synthesized, of the images that the model takes.

        Raises
        ------
        InputError
            The case is known not to be whole, or lacks an image.
        """
        case, options = self.case, self.options
        missing = [name for name in spec.inputs if name not in case.images]
        if case.problem is not None or missing:
            lacks = f"it has no {' and no '.join(missing)}, which the model needs."
            raise InputError(f"{case.name}: {case.problem or lacks}")
        return Request(
            images={name: case.images[name] for name in spec.inputs},
            prompt=case.prompt,
            prompt_labels=options.prompt_labels,
            brain_mask=case.brain_mask,
            resample=options.resample,
            all_slices=options.all_slices,
        )

    def is_done(self, key: str) -> bool:
        """Whether the output is there as an earlier run wrote it, from the same things."""
        return (
            self.finished is not None
            and self.finished.key == key
            and self.output.is_file()
            and sidecar(self.output).is_file()
            and sha256(self.output) == self.finished.sha256
        )

    def save(self, result: Synthesis) -> str:
        """Write the output and its provenance, over older ones; returns the output's SHA-256."""
        make_folder(self.output.parent)
        record = result.save(
            self.output,
            overwrite=True,
            int16=self.options.int16,
            dated=False,
            extra=self.case.extra,
        )
        return str(record["output_sha256"])


@dataclass(frozen=True)
class Outcome:
    """What became of a case.

    Parameters
    ----------
    key
        Of what it was made from; None where that could not be read.
    sha256
        Of the output.
    worker
        The device that ran it.
    error, message
        The kind of error and its reason, of a case that failed.
    warnings
        What was said about the case.
    """

    case: str
    status: Status
    key: str | None = None
    sha256: str | None = None
    slices: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)
    worker: str | None = None
    error: str | None = None
    message: str | None = None
    warnings: tuple[str, ...] = ()


def key_of(inputs: Inputs, engine: Engine, options: Options) -> str:
    """A hash of what an output is made from: inputs, model, engine, options.

    Versions of the software are left out, so that an update does not do everything again.
    """
    sources = {**inputs.images, "prompt": inputs.labels, "brain_mask": inputs.brain_mask}
    content = {
        "inputs": {
            name: volume.origin.sha256
            for name, volume in sources.items()
            if volume is not None and volume.origin is not None
        },
        "model": engine.bundle.onnx_sha256,
        "engine": engine.name,
        "options": options.to_dict(),
    }
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
