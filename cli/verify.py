"""`tlp verify`: is a bundle's graph still what it says it is?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import RenderableType

from tlp_runtime.io.datasets import DataOptions

from .console import (
    JsonPath,
    Overwrite,
    Quiet,
    Verbose,
    begin,
    command_line,
    require,
    table,
    write_json,
)
from .datasets import choose_segmentations
from .options import verb

if TYPE_CHECKING:
    from tlp_export.verify import Parity
    from tlp_runtime.models.bundle import Bundle
    from tlp_train.checkpoint import Checkpoint


@verb
def command(
    *,
    bundle: Annotated[str, typer.Argument(help="Bundle folder or registered name.")],
    reference: Annotated[
        Path | None,
        typer.Option(
            "--reference", help="Its checkpoint; default: the recorded one, if it is here."
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            metavar="DIR|CSV",
            help="Cases to compare on too, as tlp train takes them.",
            rich_help_panel=DataOptions.TITLE,
        ),
    ] = None,
    layout: DataOptions,
    json_path: JsonPath = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Check a bundle: hashes, names, shapes, types, then values against its checkpoint.

    Random, phantom and given slices are run, with and without a prompt. Exit 7: a bound is missed.

    Example: tlp verify my-bundle --reference last.ckpt --data BraTS2021
    """
    output = begin(quiet, verbose)
    require("export", "torch", "onnx", "onnxscript")
    from tlp_export.verify import agreement, bounds_of, check_alone, check_parity
    from tlp_runtime.errors import ModelMismatch, UsageError
    from tlp_runtime.io.datasets import find_cases
    from tlp_runtime.models.choice import find_bundle
    from tlp_train.checkpoint import load_checkpoint

    opened, _ = find_bundle(bundle, None)
    made_of = opened.manifest.provenance.checkpoint
    checkpoint = load_checkpoint(reference) if reference is not None else _recorded(opened)
    if checkpoint is not None and (made_of is None or checkpoint.sha256 != made_of.sha256):
        recorded = "a checkpoint that it does not name"
        if made_of is not None:
            recorded = f"{made_of.file}, {made_of.sha256[:16]}…"
        raise ModelMismatch(
            f"{checkpoint.path}: SHA-256 {checkpoint.sha256[:16]}…, but {opened.name} was made of "
            f"{recorded}. Give the checkpoint it was exported from."
        )
    segmentations = choose_segmentations(output, data, layout)
    cases = []
    if data is not None:
        cases = find_cases(
            data, opened.spec.inputs, ("seg",), segmentations=segmentations, warn=output.warn
        )
    if checkpoint is None:
        if cases:
            raise UsageError("--data needs the checkpoint to compare with: give --reference.")
        output.note(
            "no checkpoint to compare with was found; the graph is compared with "
            + ("itself only" if opened.manifest.proof is None else "the bundle's proof slice")
            + ". Give --reference."
        )
        with output.progress("verifying") as bar:
            bar.add_task("", total=None)
            parity = check_alone(opened)
    else:
        output.default("reference", checkpoint.path)
        generator = checkpoint.generator(opened.spec)
        with output.progress("verifying") as bar:
            bar.add_task("", total=None)
            parity = check_parity(
                generator,
                opened.onnx,
                opened.precision,
                bounds=bounds_of(opened),
                cases=cases,
            )
    record = {
        "model": opened.name,
        "precision": opened.precision,
        "reference": None if checkpoint is None else str(checkpoint.path),
        "parity": parity.to_dict(),
    }
    write_json(json_path, record, overwrite=overwrite)
    if json_path != "-":
        output.table(_table(opened, parity))
    parity.require()
    output.done(
        f"a verification: {agreement(parity)}",
        command_line("tlp", "infer", "--model", bundle, "--t1", "a.nii.gz"),
    )


def _recorded(bundle: Bundle) -> Checkpoint | None:
    """The checkpoint that the bundle names, if its run folder is registered and unchanged."""
    from tlp_runtime.errors import TLPError
    from tlp_runtime.models.store import Register
    from tlp_train.checkpoint import load_checkpoint

    provenance = bundle.manifest.provenance
    made_of = provenance.checkpoint
    if made_of is None:
        return None
    for entry in Register("runs"):
        if entry.name == provenance.run:
            try:
                found = load_checkpoint(entry.path / made_of.file)
            except TLPError:
                return None
            return found if found.sha256 == made_of.sha256 else None
    return None


def _table(bundle: Bundle, parity: Parity) -> RenderableType:
    rows = [
        (
            f"{check.inputs} · {check.executor}",
            str(check.slices),
            f"{check.max_abs:.1e}",
            f"{check.rms:.1e}",
            f"{check.psnr_db:.1f}",
            f"{check.worst_slice} ({check.worst_psnr_db:.1f} dB)",
            "ok" if check.keeps(parity.bounds) else "missed",
        )
        for check in parity.checks
    ]
    return table(
        ("slices", "n", "max", "RMS", "PSNR dB", "worst slice", ""),
        rows,
        title=f"{bundle.name} · {bundle.precision}",
        caption="allowed: " + ", ".join(f"{k} {v:g}" for k, v in parity.bounds.items()),
        left=("slices", ""),
    )
