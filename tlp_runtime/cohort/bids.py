"""Every scan of a BIDS dataset as a case of a run."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from tlp_runtime.cohort.cases import CohortCase, MakeRequest
from tlp_runtime.cohort.options import CohortOptions
from tlp_runtime.errors import InputError
from tlp_runtime.io.bids import BidsScan, find_mask, find_scans, start_derivatives
from tlp_runtime.synthesis.request import Prompt, Request

JOURNAL = "code/tlp-journal.jsonl"
"""BIDS leaves what lies in ``code`` to the dataset's authors."""


def bids_cases(
    options: CohortOptions, inputs: Sequence[str], *, make: MakeRequest = Request
) -> list[CohortCase]:
    """The scans of the dataset as cases, and its derivative dataset begun.

    Parameters
    ----------
    options
        With a dataset and its derivatives.
    inputs
        The modalities that the model takes.
    make
        Makes the request of a case.

    Raises
    ------
    InputError
        The dataset has no scan that can be used.
    OutputError
        The derivative dataset cannot be written.
    """
    assert options.bids is not None
    assert options.derivatives is not None
    scans = find_scans(options.bids)
    start_derivatives(options.derivatives, options.bids, version("tlp-mri"))
    return [_case(options.bids, options, scan, inputs, make) for scan in scans]


def _case(
    root: Path, options: CohortOptions, scan: BidsScan, inputs: Sequence[str], make: MakeRequest
) -> CohortCase:
    prompts, masks = options.bids_prompts, options.bids_masks
    request: Request | InputError
    try:
        region = None if prompts is None else find_mask(prompts, scan, brain=False)
        mask = None if masks is None else find_mask(masks, scan, brain=True)
    except InputError as error:
        request = InputError(f"{scan.entities}: {error.problem}", fix=error.fixes)
    else:
        images = {name: path.absolute() for name, path in scan.images.items()}
        request = make(images=images, prompt=Prompt(region), brain_mask=mask)
    assert options.derivatives is not None
    return CohortCase(
        name=scan.entities,
        output=scan.output(options.derivatives).relative_to(options.derivatives).as_posix(),
        request=request,
        extra=scan.sidecar(root, [name for name in inputs if name in scan.images]),
    )
