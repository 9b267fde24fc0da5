"""Every scan of a BIDS dataset as a case of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version

from tlp_runtime.cohort.cases import CohortCase, MakeRequest
from tlp_runtime.cohort.options import CohortOptions
from tlp_runtime.errors import InputError, InputMissing
from tlp_runtime.io.bids import BidsScan, find_mask, find_scans, start_derivatives
from tlp_runtime.synthesis.request import Prompt, Request
from tlp_runtime.warnings import PROMPT_MISSING, TLPWarning, Warn

JOURNAL = "code/tlp-journal.jsonl"
"""BIDS leaves what lies in ``code`` to the dataset's authors."""

_SHOWN = 8
"""How many scans a warning names."""


def bids_cases(
    options: CohortOptions,
    inputs: Sequence[str],
    *,
    make: MakeRequest = Request,
    warn: Warn | None = None,
) -> list[CohortCase]:
    """The scans of the dataset as cases, and its derivative dataset begun.

    A scan with a problem, or without a brain mask where masks are given, is a case that fails.

    Parameters
    ----------
    options
        With a dataset and its derivatives.
    inputs
        The modalities that the model takes.
    make
        Makes the request of a case.
    warn
        Called where prompts are given, but not for every scan.

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
    unprompted: dict[str, tuple[str, ...]] = {}
    cases = []
    for scan in scans:
        request: Request | InputError
        try:
            request = _request(options, scan, inputs, make, unprompted)
        except InputError as error:
            request = InputError(f"{scan.entities}: {error.problem}", fix=error.fixes)
        output = scan.output(options.derivatives).relative_to(options.derivatives)
        used = [name for name in inputs if name in scan.images]
        extra = scan.sidecar(options.bids, used)
        cases.append(
            CohortCase(name=scan.entities, output=output.as_posix(), request=request, extra=extra)
        )
    if unprompted and warn is not None:
        warn(_without_prompt(unprompted, len(scans), options))
    return cases


def _request(
    options: CohortOptions,
    scan: BidsScan,
    inputs: Sequence[str],
    make: MakeRequest,
    unprompted: dict[str, tuple[str, ...]],
) -> Request:
    """What is asked of a scan; notes in ``unprompted`` where its prompt was looked for in vain."""
    path = scan.images["t1"]
    if scan.problem:
        raise InputError(f"{path}: {scan.problem}.", fix="Rename it as BIDS asks.")
    if "t2" in inputs and "t2" not in scan.images and scan.t2_problem:
        raise InputError(
            f"{path}: has no T2w: {scan.t2_problem}.", fix="Give its T2w the entities of the T1w."
        )
    prompts, masks = options.bids_prompts, options.bids_masks
    mask = None if masks is None else find_mask(masks, scan, brain=True)
    if mask is not None and mask.path is None:
        raise InputMissing(
            f"{masks}: has no brain mask of it (…_desc-brain_mask){_listed(mask.passed_over)}."
        )
    region = None if prompts is None else find_mask(prompts, scan, brain=False)
    if region is not None and region.path is None:
        unprompted[scan.entities] = region.passed_over
    return make(
        images={name: path.absolute() for name, path in scan.images.items()},
        prompt=Prompt(None if region is None else region.path),
        brain_mask=None if mask is None else mask.path,
    )


def _without_prompt(
    unprompted: Mapping[str, tuple[str, ...]], scans: int, options: CohortOptions
) -> TLPWarning:
    named = [f"{name}{_listed(over)}" for name, over in list(unprompted.items())[:_SHOWN]]
    more = f" and {len(unprompted) - _SHOWN} more" if len(unprompted) > _SHOWN else ""
    return PROMPT_MISSING.warning(
        f"{options.bids_prompts}: has no prompt for {len(unprompted)} of {scans} scans: "
        f"{', '.join(named)}{more}.",
        scans=len(unprompted),
    )


def _listed(passed_over: Sequence[str]) -> str:
    return f" ({'; '.join(passed_over)})" if passed_over else ""
