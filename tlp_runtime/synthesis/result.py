"""A synthesized case: its volume, how it was made, and the files of both."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlp_runtime.files.atomic import require_writable, write_text
from tlp_runtime.geometry.volume import Volume
from tlp_runtime.io.nifti import require_nifti_name, sidecar, write_volume
from tlp_runtime.synthesis.prepare import Prepared
from tlp_runtime.synthesis.provenance import DESCRIPTION, in_short, now


@dataclass(frozen=True)
class Synthesis:
    """A synthesized case.

    Parameters
    ----------
    volume
        float32 in [0, 1] on the reference's grid; exactly 0 outside the placement and in slices
        without brain, and outside the brain too if it was interpolated.
    slices
        (Z, Y, X) float32: the same on the model's grid, as ``prepared.placement`` lays it.
    slices_run
        How many slices the network ran, each in all windows of the placement.
    seconds
        Wall time of each stage: ``read``, ``prepare``, ``engine``, ``restore``, and ``write``
        once saved.
    batches
        (slices, seconds) of each engine run.
    record
        How it was made, as plain values: inputs and their hashes, model, engine, versions.
    """

    volume: Volume
    prepared: Prepared
    slices: NDArray[np.float32] = field(repr=False)
    slices_run: int
    seconds: dict[str, float]
    batches: tuple[tuple[int, float], ...] = field(default=(), repr=False)
    record: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def save(
        self,
        path: Path | str,
        *,
        overwrite: bool = False,
        int16: bool = False,
        dated: bool = True,
        command: str | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Write the volume as NIfTI and its provenance as JSON of the same stem beside it.

        The header's ``descrip`` says that the image is synthetic, a comment extension holds the
        provenance in short.

        Parameters
        ----------
        int16
            As of :func:`~tlp_runtime.io.nifti.write_volume`.
        dated
            Record time, seconds, command and the output's folder; without them the same case gives
            the same bytes.
        command
            The command line, for the record.
        extra
            Further keys of the JSON, before the others.

        Returns
        -------
        What the JSON holds.

        Raises
        ------
        OutputError
            A file exists, or cannot be written.
        """
        path = require_nifti_name(path)
        require_writable(sidecar(path), overwrite=overwrite)
        with self.timed("write"):
            digest = write_volume(
                self.volume,
                path,
                description=DESCRIPTION,
                comment=in_short(self.record),
                int16=int16,
                overwrite=overwrite,
            )
        name = str(path) if dated else path.name
        made = {**(extra or {}), "output": name, "output_sha256": digest}
        return self.save_record(path, made, overwrite=overwrite, dated=dated, command=command)

    def timed(self, stage: str) -> AbstractContextManager[None]:
        """Count what follows as a stage in ``seconds``."""
        return timed(self.seconds, stage)

    def save_record(
        self,
        output: Path,
        made: Mapping[str, Any],
        *,
        overwrite: bool = False,
        dated: bool = True,
        command: str | None = None,
    ) -> dict[str, Any]:
        """Write the provenance beside ``output``, after ``made``, and return it.

        Raises :class:`OutputError`.
        """
        record = {**made, **self.record, "slices": self.slices_run}
        if dated:
            record |= {"seconds": self.seconds, "command": command, "time": now()}
        write_text(sidecar(output), json.dumps(record, indent=2) + "\n", overwrite=overwrite)
        return record


@contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Put the time of what follows into ``seconds``."""
    began = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - began
