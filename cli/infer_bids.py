"""`tlp infer --bids`: every T1w of a dataset, into a derivative dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from tlp_runtime.cohort.cases import Case
from tlp_runtime.cohort.job import Options
from tlp_runtime.errors import InputError
from tlp_runtime.io.bids import BidsScan, find_mask, find_scans, start_derivatives
from tlp_runtime.models.bundle import Bundle

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
    """

    root: Path
    derivatives: Path
    prompts: Path | None
    masks: Path | None
    options: Options
    overwrite: bool


def dataset(job: BidsJob, bundle: Bundle) -> Cohort:
    """Every scan of the dataset as a case, and the derivative dataset begun."""
    scans = find_scans(job.root)
    start_derivatives(job.derivatives, job.root, version("tlp-mri"))
    return Cohort(
        cases=[_case(job, scan, bundle.spec.inputs) for scan in scans],
        folder=job.derivatives,
        options=job.options,
        overwrite=job.overwrite,
        journal=JOURNAL,
    )


def _case(job: BidsJob, scan: BidsScan, inputs: Sequence[str]) -> Case:
    region = mask = problem = None
    try:
        region = None if job.prompts is None else find_mask(job.prompts, scan, brain=False)
        mask = None if job.masks is None else find_mask(job.masks, scan, brain=True)
    except InputError as error:
        problem = str(error)
    used = [name for name in inputs if name in scan.images]
    return Case(
        name=scan.entities,
        output=scan.output(job.derivatives).relative_to(job.derivatives).as_posix(),
        images={name: path.absolute() for name, path in scan.images.items()},
        prompt=region,
        brain_mask=mask,
        extra=scan.sidecar(job.root, used),
        problem=problem,
    )
