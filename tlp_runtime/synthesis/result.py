"""A synthesized case: its volume, how it was made, and the files of both."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from tlp_runtime.engines.base import Engine
from tlp_runtime.errors import ChooseAnother, SetOption, UsageError
from tlp_runtime.files.atomic import require_writable, write_text
from tlp_runtime.geometry.volume import Volume
from tlp_runtime.io.nifti import require_nifti_name, sidecar, write_volume
from tlp_runtime.options import OptionGroup, option
from tlp_runtime.synthesis.batches import SliceWork
from tlp_runtime.synthesis.evidence import DESCRIPTION as EVIDENCE
from tlp_runtime.synthesis.evidence import Evidence, evidence_path
from tlp_runtime.synthesis.prepare import PreparedCase, brain_of, restore
from tlp_runtime.synthesis.provenance import DESCRIPTION, SynthesisRecord, describe, now
from tlp_runtime.warnings import TLPWarning


@dataclass(frozen=True, kw_only=True)
class SaveOptions(OptionGroup):
    """What a synthesis is written as. Valid once constructed.

    Parameters
    ----------
    dtype
        Voxels of a NIfTI output; int16 is scaled, and half the size.
    out_format
        Format of the output; dicom: a derived MR series, of a DICOM T1 alone.
    """

    TITLE: ClassVar[str] = "Output"

    dtype: Literal["float32", "int16"] = option("float32")
    out_format: Literal["nifti", "dicom"] = option("nifti")

    @property
    def int16(self) -> bool:
        """As of :meth:`Synthesis.save`."""
        return self.dtype == "int16"


@dataclass(frozen=True)
class Synthesis:
    """A synthesized case.

    Parameters
    ----------
    volume
        float32 in [0, 1] on the reference's grid; exactly 0 outside the placement and in slices
        without brain, and outside the brain too if it was interpolated.
    slices
        (Z, Y, X) float32: the same on the model's grid, in the placement of ``prepared``.
    slices_run
        How many slices the network ran, each in all windows of the placement.
    seconds
        Wall time of each stage: ``read``, ``prepare``, ``engine``, ``restore``.
    batches
        (slices, seconds) of each engine run.
    run_warnings
        Operational warnings of the case's own runs.
    warnings
        Those of the prepared case, of the engine, and of its runs.
    record
        How it was made: inputs and their hashes, model, engine, versions, warnings.
    evidence
        What the prompt made; None where it was not asked for.
    """

    volume: Volume
    prepared: PreparedCase
    slices: NDArray[np.float32] = field(repr=False)
    slices_run: int
    seconds: Mapping[str, float]
    batches: tuple[tuple[int, float], ...] = field(default=(), repr=False)
    run_warnings: tuple[TLPWarning, ...] = ()
    warnings: tuple[TLPWarning, ...] = ()
    record: SynthesisRecord = field(repr=False, kw_only=True)
    evidence: Evidence | None = field(default=None, repr=False, kw_only=True)

    @classmethod
    def of(
        cls,
        prepared: PreparedCase,
        works: Sequence[SliceWork],
        engine: Engine,
        *,
        engine_s: float,
        batches: Iterable[tuple[int, float]] = (),
        warnings: Iterable[TLPWarning] = (),
    ) -> Self:
        """Put the slices that were run back on the grid of the case.

        Parameters
        ----------
        works
            What :func:`~tlp_runtime.synthesis.batches.works_of` gives, all of it answered.
        engine_s
            Wall time of the engine.
        warnings
            Those of its runs.
        """
        began = time.perf_counter()
        work, *without = works
        volume = restore(work.images, prepared)
        evidence = None
        if prepared.request.evidence:
            plain = work.images.copy()
            for other in without:
                plain[other.numbers] = other.images[other.numbers]
            evidence = Evidence.of(volume, restore(plain, prepared), brain_of(prepared))
        seconds = {**prepared.seconds, "engine": engine_s, "restore": time.perf_counter() - began}
        own = tuple(warnings)
        every = (*prepared.warnings, *engine.warnings, *own)
        return cls(
            volume=volume,
            prepared=prepared,
            slices=work.images,
            slices_run=int(prepared.brain.sum()),
            seconds=seconds,
            batches=tuple(batches),
            run_warnings=own,
            warnings=every,
            evidence=evidence,
            record=describe(
                prepared.request,
                prepared.placement,
                engine,
                every,
                prepared.region,
                None if evidence is None else evidence.record,
            ),
        )

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
        """Write the volume as NIfTI, and next to it its provenance as JSON with the same stem.

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
        maps = [] if self.evidence is None else [evidence_path(path)]
        told = [sidecar(one) for one in maps if extra]
        for target in (path, sidecar(path), *maps, *told):
            require_writable(target, overwrite=overwrite)
        began = time.perf_counter()
        if self.evidence is not None:
            write_volume(
                self.evidence.change,
                evidence_path(path),
                description=EVIDENCE,
                comment=self.record.in_short(),
                overwrite=overwrite,
            )
        for target in told:
            text = json.dumps({**(extra or {}), "Description": EVIDENCE}, indent=2)
            write_text(target, text + "\n", overwrite=overwrite)
        digest = write_volume(
            self.volume,
            path,
            description=DESCRIPTION,
            comment=self.record.in_short(),
            int16=int16,
            overwrite=overwrite,
        )
        record = {
            **(extra or {}),
            "output": str(path) if dated else path.name,
            "output_sha256": digest,
            **self.record.to_dict(),
            "slices": self.slices_run,
        }
        if dated:
            record |= self._date(began, command)
        write_text(sidecar(path), json.dumps(record, indent=2) + "\n", overwrite=overwrite)
        return record

    def save_series(
        self, folder: Path | str, *, overwrite: bool = False, command: str | None = None
    ) -> dict[str, Any]:
        """Write a derived DICOM series, and next to its folder the provenance as JSON.

        Parameters
        ----------
        folder
            One MR image per slice of the source series goes there.
        command
            The command line, for the record.

        Returns
        -------
        What the JSON holds; a warning names the attributes of the source that could not be copied.

        Raises
        ------
        UsageError
            The case was not read from DICOM.
        ContentError
            Its series names no study that a derived series could belong to.
        OutputError
            The folder exists and may not be replaced, or cannot be written.
        """
        from tlp_runtime.io.dicom.derived import write_derived
        from tlp_runtime.io.dicom.evidence import write_evidence

        folder = Path(folder)
        if self.evidence is not None:
            require_writable(evidence_path(folder), overwrite=overwrite)
        scans = self.prepared.request.scans
        names = self.record.model.spec.inputs
        source = scans[names[0]].series
        if source is None:
            raise not_dicom(self.prepared.reference.name)
        began = time.perf_counter()
        record = self.record.to_dict()
        warnings = write_derived(
            self.volume,
            source,
            folder,
            record,
            others=[series for name in names[1:] if (series := scans[name].series) is not None],
            request=self._seen(),
            overwrite=overwrite,
        )
        if self.evidence is not None:
            write_evidence(
                self.evidence.drawn,
                folder,
                evidence_path(folder),
                self.record.software.get("tlp-mri", "unknown"),
                overwrite=overwrite,
            )
        record = {"output": str(folder), **record, "slices": self.slices_run}
        record["warnings"] += [warning.to_dict() for warning in warnings]
        record |= self._date(began, command)
        write_text(sidecar(folder), json.dumps(record, indent=2) + "\n", overwrite=overwrite)
        return record

    def _seen(self) -> str:
        """Hash of what the network saw: every input on its grid, and which slices were run."""
        digest = hashlib.sha256(self.prepared.brain.tobytes())
        for name, tensor in sorted(self.prepared.tensors.items()):
            digest.update(f"{name} {tensor.shape}".encode())
            digest.update(tensor.tobytes())
        return digest.hexdigest()

    def _date(self, began: float, command: str | None) -> dict[str, Any]:
        """What differs from run to run."""
        seconds = {**self.seconds, "write": time.perf_counter() - began}
        return {"seconds": seconds, "command": command, "time": now()}


def not_dicom(name: str) -> UsageError:
    """The error of a derived series asked of a case that is not DICOM."""
    return UsageError(
        f"a derived series was asked for, but {name} is not DICOM, so there is no patient and "
        "study that it could belong to",
        fix=(
            ChooseAnother("t1", "T1", "that is a DICOM series"),
            SetOption("out_format", "nifti"),
        ),
    )
