"""`tlp infer --bids`: every T1w of a dataset, into a derivative dataset."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlp_runtime.errors import CasesFailed, InputError, OutputError
from tlp_runtime.io.atomic import make_folder
from tlp_runtime.io.bids import BidsScan, find_mask, find_scans, start_derivatives
from tlp_runtime.io.nifti import read_volume

from .console import Output, write_json

if TYPE_CHECKING:
    from tlp_runtime.synthesize import Synthesizer


@dataclass(frozen=True)
class BidsJob:
    """What to synthesize and where.

    Parameters
    ----------
    prompts, masks
        Derivative datasets with regions and brain masks; None uses none.
    labels
        What the regions' labels mean.
    """

    root: Path
    derivatives: Path
    prompts: Path | None
    masks: Path | None
    labels: list[str]
    resample: bool
    overwrite: bool


def infer_dataset(
    job: BidsJob,
    opened: Callable[[Sequence[str] | None], Synthesizer],
    output: Output,
    json_path: str | None,
    command: str,
) -> None:
    """Synthesize every scan; one that fails is reported, the others go on.

    Parameters
    ----------
    opened
        Loads the model; with None, whatever it takes.

    Raises
    ------
    CasesFailed
        Some scans failed, each with its reason.
    """
    scans = find_scans(job.root)
    start_derivatives(job.derivatives, job.root, version("tlp-mri"))
    done: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    with opened(None) as synthesizer, output.progress("scans") as bar:
        task = bar.add_task("", total=len(scans))
        for scan in scans:
            try:
                made = _one(job, scan, synthesizer, command)
                done.append({"scan": scan.entities, "output": str(made)})
            except (InputError, OutputError) as error:
                failed[scan.entities] = str(error)
            bar.advance(task)
    write_json(json_path, {"done": done, "failed": failed}, overwrite=job.overwrite)
    if failed:
        raise CasesFailed(
            f"{len(failed)} of {len(scans)} scans failed; the others are in {job.derivatives}:\n"
            + "\n".join(f"  {name}: {reason}" for name, reason in failed.items())
        )
    output.done(
        f"{len(done)} syntheses in {job.derivatives}", f"bids-validator-deno {job.derivatives}"
    )


def _one(job: BidsJob, scan: BidsScan, synthesizer: Synthesizer, command: str) -> Path:
    missing = [name for name in synthesizer.spec.inputs if name not in scan.images]
    if missing:
        raise InputError(
            f"{scan.entities}: no {', '.join(missing).upper()}w image, which the model needs."
        )
    out = scan.output(job.derivatives)
    if out.exists() and not job.overwrite:
        raise OutputError(f"{out}: exists already. Give --overwrite to replace it.")
    region = None if job.prompts is None else find_mask(job.prompts, scan, brain=False)
    mask = None if job.masks is None else find_mask(job.masks, scan, brain=True)
    result = synthesizer.run(
        {name: scan.images[name] for name in synthesizer.spec.inputs},
        prompt=None if region is None else read_volume(region),
        prompt_labels=job.labels,
        brain_mask=mask,
        resample=job.resample,
    )
    make_folder(out.parent)
    result.save(
        out,
        overwrite=job.overwrite,
        command=command,
        extra=scan.sidecar(job.root, synthesizer.spec.inputs),
    )
    return out
