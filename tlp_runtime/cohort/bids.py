"""Every scan of a BIDS dataset as a case of a run."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version

from tlp_runtime.cohort.cases import CohortCase, MakeRequest
from tlp_runtime.cohort.options import CohortOptions
from tlp_runtime.errors import InputError, InputMissing
from tlp_runtime.io.bids import BidsScan, find_mask, find_scans, start_derivatives
from tlp_runtime.io.case_files import some
from tlp_runtime.synthesis.request import Prompt, Request
from tlp_runtime.warnings import BRAIN_MASK_MISSING, PROMPT_MISSING, Warn

JOURNAL = "code/tlp-journal.jsonl"
"""BIDS leaves what lies in ``code`` to the dataset's authors."""


def bids_cases(
    options: CohortOptions,
    inputs: Sequence[str],
    *,
    make: MakeRequest = Request,
    warn: Warn | None = None,
) -> list[CohortCase]:
    """The scans of the dataset as cases, and its derivative dataset begun.

    A case fails by itself if its name is not as BIDS asks, or if there are brain masks where its
    own belongs, but none is its own.

    Parameters
    ----------
    options
        With a dataset and its derivatives.
    inputs
        The modalities that the model takes.
    make
        Makes the request of a case.
    warn
        Called where prompts or masks are given, but not for every scan.

    Raises
    ------
    InputError
        The dataset has no scan that can be used.
    OutputError
        The derivative dataset cannot be written.
    """
    assert options.bids is not None
    assert options.derivatives is not None
    scans = find_scans(options.bids, options.participant_label)
    start_derivatives(options.derivatives, options.bids, version("tlp-mri"))
    unmasked: list[str] = []
    unprompted: list[str] = []
    cases = []
    for scan in scans:
        request: Request | InputError
        try:
            request = _request(options, scan, inputs, make, unmasked, unprompted)
        except InputError as error:
            request = error
        output = scan.output(options.derivatives).relative_to(options.derivatives)
        used = [name for name in inputs if name in scan.images]
        extra = scan.sidecar(options.bids, used)
        cases.append(
            CohortCase(name=scan.entities, output=output.as_posix(), request=request, extra=extra)
        )
    if warn is not None:
        for code, without, problem in (
            (BRAIN_MASK_MISSING, unmasked, f"{options.bids_masks}: has no brain mask"),
            (PROMPT_MISSING, unprompted, f"{options.bids_prompts}: has no prompt"),
        ):
            if without:
                text = f"{problem} for {len(without)} of {len(scans)} scans: {some(without)}."
                warn(code.warning(text, scans=len(without)))
    return cases


def _request(
    options: CohortOptions,
    scan: BidsScan,
    inputs: Sequence[str],
    make: MakeRequest,
    unmasked: list[str],
    unprompted: list[str],
) -> Request:
    """What is asked of a scan.

    Parameters
    ----------
    unmasked, unprompted
        Receive the scan's name where its mask or prompt was looked for in vain.
    """
    path = scan.images["t1"]
    if scan.problem:
        raise InputError(f"{path}: {scan.problem}.", fix="Rename it as BIDS asks.")
    if "t2" in inputs and "t2" not in scan.images and scan.t2_problem:
        raise InputError(
            f"{path}: has no T2w: {scan.t2_problem}.", fix="Give its T2w the entities of the T1w."
        )
    mask = region = None
    if options.bids_prompts is not None:
        found = find_mask(options.bids_prompts, scan, brain=False)
        region = found.path
        if region is None:
            unprompted.append(f"{scan.entities}{_reasons(found.passed_over)}")
    if options.bids_masks is not None:
        found = find_mask(options.bids_masks, scan, brain=True)
        mask = found.path
        if mask is None and found.passed_over:
            raise InputMissing(
                f"{options.bids_masks}: has no brain mask for {scan.entities}"
                f"{_reasons(found.passed_over)}.",
                fix="Add one with the T1w's entities and desc-brain_mask.",
            )
        if mask is None:
            unmasked.append(scan.entities)
    return make(
        images={name: path.absolute() for name, path in scan.images.items()},
        prompt=Prompt(region),
        brain_mask=mask,
    )


def _reasons(passed_over: Sequence[str]) -> str:
    return f" ({'; '.join(passed_over)})" if passed_over else ""
