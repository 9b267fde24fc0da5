"""`tlp infer --bids`: every T1w of a dataset, into a derivative dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from tlp_runtime.cohort.cases import CohortCase, MakeRequest
from tlp_runtime.errors import InputError
from tlp_runtime.io.bids import BidsScan, find_mask, find_scans, start_derivatives
from tlp_runtime.models.bundle import Bundle
from tlp_runtime.synthesis.request import Request

from .infer_cases import Cohort

JOURNAL = "code/tlp-journal.jsonl"
"""BIDS leaves what lies in ``code`` to the dataset's authors."""


@dataclass(frozen=True)
class BidsJob:
    """What to synthesize and where.

    Parameters
    ----------
    prompts, masks
        Derivative datasets with regions and brain masks; None uses none.
    make
        Makes the request of a scan.
    """

    root: Path
    derivatives: Path
    prompts: Path | None
    masks: Path | None
    make: MakeRequest
    int16: bool
    overwrite: bool


def dataset(job: BidsJob, bundle: Bundle) -> Cohort:
    """Every scan of the dataset as a case, and the derivative dataset begun."""
    scans = find_scans(job.root)
    start_derivatives(job.derivatives, job.root, version("tlp-mri"))
    return Cohort(
        cases=[_case(job, scan, bundle.spec.inputs) for scan in scans],
        folder=job.derivatives,
        int16=job.int16,
        overwrite=job.overwrite,
        journal=JOURNAL,
    )


def _case(job: BidsJob, scan: BidsScan, inputs: Sequence[str]) -> CohortCase:
    request: Request | InputError
    try:
        region = None if job.prompts is None else find_mask(job.prompts, scan, brain=False)
        mask = None if job.masks is None else find_mask(job.masks, scan, brain=True)
    except InputError as error:
        request = InputError(f"{scan.entities}: {error.problem}", fix=error.fixes)
    else:
        images = {name: path.absolute() for name, path in scan.images.items()}
        request = job.make(images=images, prompt=region, brain_mask=mask)
    used = [name for name in inputs if name in scan.images]
    return CohortCase(
        name=scan.entities,
        output=scan.output(job.derivatives).relative_to(job.derivatives).as_posix(),
        request=request,
        extra=scan.sidecar(job.root, used),
    )
