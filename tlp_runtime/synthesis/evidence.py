"""What a prompt made of an image: the synthesis with it against the one without it.

A network that was taught by prompts may enhance whatever is marked. Where the prompted synthesis
is brighter than the unprompted one, nothing but the prompt says so: it is drawn, not seen.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from tlp_runtime.errors import EngineError
from tlp_runtime.geometry.volume import Volume
from tlp_runtime.io.nifti import require_nifti_name, stem

DRAWN = 0.15
"""Change, as a share of normal brain, above which a voxel is drawn (docs/adr/0032-evidence.md)."""

_BIDS = re.compile(r"(_desc-[A-Za-z0-9]+)_T1w$")

DESCRIPTION = "change by the prompt, share of normal brain, TLP; not for diagnosis"
"""Description in the header of the map; at most 79 characters."""


@dataclass(frozen=True, kw_only=True)
class EvidenceRecord:
    """The figures of an evidence map.

    Parameters
    ----------
    threshold
        Change above which a voxel counts as drawn, as a share of normal brain.
    drawn_ml
        Volume of the brain that is drawn, not seen.
    brain_level
        Median of the unprompted synthesis over the brain, in [0, 1].
    """

    threshold: float
    drawn_ml: float
    brain_level: float


@dataclass(frozen=True)
class Evidence:
    """What the prompt changed in one synthesis.

    Parameters
    ----------
    change
        float32 on the reference's grid: prompted minus unprompted synthesis as a share of normal
        brain; 0 outside the brain.
    record
        Its figures.
    """

    change: Volume
    record: EvidenceRecord

    @classmethod
    def of(cls, prompted: Volume, plain: Volume, brain: NDArray[np.bool_]) -> Self:
        """Compare two syntheses of one case, on one grid.

        Parameters
        ----------
        brain
            Where the reference shows brain, of the volumes' shape.

        Raises
        ------
        EngineError
            The unprompted synthesis is 0 throughout the brain.
        """
        level = float(np.median(plain.data[brain])) if brain.any() else 0.0
        if level <= 0:
            raise EngineError(
                f"{plain.name}: the synthesis without a prompt is black, so that there is nothing "
                "to hold the prompted one against."
            )
        change = np.where(brain, (prompted.data - plain.data) / np.float32(level), np.float32(0))
        data = np.asfortranarray(change.astype(np.float32))
        drawn = int((data > DRAWN).sum())
        record = EvidenceRecord(
            threshold=DRAWN,
            drawn_ml=round(drawn * plain.grid.voxel_ml, 4),
            brain_level=round(level, 6),
        )
        return cls(Volume(data, plain.affine, name="evidence").restored_to(plain), record)

    def __str__(self) -> str:
        return (
            f"{self.record.drawn_ml:g} ml are drawn, not seen: the prompt alone brightens them by "
            f"more than {100 * self.record.threshold:g} % of normal brain"
        )

    @property
    def drawn(self) -> NDArray[np.bool_]:
        """Where the image is drawn, not seen."""
        return np.asarray(self.change.data > self.record.threshold)


def evidence_path(output: Path) -> Path:
    """Where the map of an output goes: next to it, ``<stem>_evidence.nii.gz``.

    Next to the folder of a DICOM series, ``<folder>_evidence.dcm``. A name that ends as BIDS names
    derivatives do, ``_desc-LABEL_T1w``, becomes ``_desc-LABELEvidence_T1w``, which BIDS allows too.
    """
    if output.suffix:
        name, found = _BIDS.subn(r"\1Evidence_T1w", stem(require_nifti_name(output)))
        return output.with_name(f"{name}.nii.gz" if found else f"{name}_evidence.nii.gz")
    return output.with_name(f"{output.name}_evidence.dcm")
