"""`tlp infer`: a scan in, its synthetic T1ce out on the same grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tlp_runtime.errors import UsageError

from .console import JsonPath, Overwrite, Quiet, Verbose, begin
from .model import (
    BatchOption,
    DeviceOption,
    EngineOption,
    ModelOption,
    NoBuildOption,
    ThreadsOption,
    choose_model,
    open_engine,
)

if TYPE_CHECKING:
    from tlp_runtime.synthesis.synthesizer import Synthesizer
    from tlp_runtime.values.shapes import Shape


class VoxelType(StrEnum):
    """What a NIfTI output's voxels are stored as."""

    float32 = "float32"
    int16 = "int16"


class OutFormat(StrEnum):
    """What an output is written as."""

    nifti = "nifti"
    dicom = "dicom"


IMAGE = "NIfTI, DICOM folder or multi-frame file"


def command(
    context: typer.Context,
    t1: Annotated[Path | None, typer.Option("--t1", help=f"T1 image: {IMAGE}.")] = None,
    t2: Annotated[Path | None, typer.Option("--t2", help=f"T2 image: {IMAGE}.")] = None,
    t1_series: Annotated[
        str | None, typer.Option("--t1-series", metavar="UID", help="Series of a DICOM folder.")
    ] = None,
    t2_series: Annotated[
        str | None, typer.Option("--t2-series", metavar="UID", help="Series of a DICOM folder.")
    ] = None,
    prompt: Annotated[
        Path | None,
        typer.Option("--prompt", help="Region drawn by a radiologist: labels, NIfTI or DICOM SEG."),
    ] = None,
    prompt_labels: Annotated[
        list[str] | None,
        typer.Option("--prompt-labels", help="What labels mean: tumour=N[,N…] oedema=N[,N…]."),
    ] = None,
    prompt_sphere: Annotated[
        list[str] | None,
        typer.Option(
            "--prompt-sphere",
            metavar="X,Y,Z,R",
            help="Ball, radius in mm; before it oedema: and ras:, lps: or voxel:; repeatable.",
        ),
    ] = None,
    prompt_box: Annotated[
        list[str] | None,
        typer.Option(
            "--prompt-box",
            metavar="X,Y,Z,X,Y,Z",
            help="Box between two corners; prefixes as for a sphere; repeatable.",
        ),
    ] = None,
    brain_mask: Annotated[
        Path | None,
        typer.Option("--brain-mask", help="Not 0 in the brain, NIfTI: for a scan with skull."),
    ] = None,
    resample: Annotated[
        bool,
        typer.Option("--resample", help="Bring T2, prompt and mask over from their own grids."),
    ] = False,
    all_slices: Annotated[
        bool, typer.Option("--all-slices", help="Run slices without brain too; else they are 0.")
    ] = False,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Make a warning about a scan an error (exit 3)."),
    ] = False,
    model: ModelOption = None,
    engine: EngineOption = "auto",
    device: DeviceOption = "auto",
    batch: BatchOption = 4,
    threads: ThreadsOption = None,
    no_build: NoBuildOption = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Output; default: <stem>_synth-t1ce.nii.gz (or -dicom) next to the T1. With "
            "--cases: a folder.",
        ),
    ] = None,
    dtype: Annotated[
        VoxelType,
        typer.Option("--dtype", help="Voxels of a NIfTI output; int16: scaled, half the size."),
    ] = VoxelType.float32,
    out_format: Annotated[
        OutFormat | None,
        typer.Option("--out-format", help="dicom: a derived MR series, of a DICOM T1 alone."),
    ] = None,
    preview: Annotated[
        Path | None, typer.Option("--preview", help="PNG of T1, prompt and synthesis.")
    ] = None,
    cases: Annotated[
        Path | None,
        typer.Option(
            "--cases",
            metavar="CSV|DIR",
            help="Many cases: a table (case, t1, t2, prompt, brain_mask) or BraTS case folders.",
        ),
    ] = None,
    no_prompts: Annotated[
        bool, typer.Option("--no-prompts", help="With --cases DIR: leave out the seg of a case.")
    ] = False,
    bids: Annotated[
        Path | None, typer.Option("--bids", help="BIDS dataset: every T1w of it is synthesized.")
    ] = None,
    derivatives: Annotated[
        Path | None, typer.Option("--derivatives", help="With --bids: dataset to write.")
    ] = None,
    bids_prompts: Annotated[
        Path | None,
        typer.Option("--bids-prompts", help="Derivatives with a …_dseg, _mask or _roi per scan."),
    ] = None,
    bids_masks: Annotated[
        Path | None,
        typer.Option("--bids-masks", help="Derivatives with a …_desc-brain_mask per scan."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers", min=1, help="Many cases: threads that read and write; default: cores."
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option("--ray", metavar="auto|ADDRESS", help="Many cases: on a Ray cluster."),
    ] = None,
    json_path: JsonPath = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Synthesize the contrast-enhanced T1 of a scan, with or without a prompt.

    The output has the T1's own grid; its provenance lies next to it as JSON.

    Many cases go through one model at once; what a run finished, the next one skips.

    Examples: tlp infer --t1 a.nii.gz --prompt roi.nii.gz --preview a.png
    · tlp infer --t1 series --prompt-sphere 12,-30,45,15 --out-format dicom
    · tlp infer --cases cases.csv --out syntheses
    · tlp infer --bids study --derivatives study/derivatives/tlp
    """
    output = begin(quiet, verbose)
    from tlp_runtime.synthesis.request import Request
    from tlp_runtime.synthesis.synthesizer import Synthesizer
    from tlp_runtime.warnings import WarningLog

    from .infer_bids import BidsJob, dataset
    from .infer_cases import Cohort, Machines, cases_of, infer_cohort, modalities
    from .infer_scan import ScanOutput, infer_scan

    labels, shapes = _labels(prompt_labels, context.args), _shapes(prompt_sphere, prompt_box)
    of_one = {
        "--t1": t1, "--t2": t2, "--prompt": prompt, "--preview": preview,
        "--prompt-sphere": prompt_sphere, "--prompt-box": prompt_box,
        "--out-format": out_format, "--brain-mask": brain_mask,
        "--t1-series": t1_series, "--t2-series": t2_series,
    }  # fmt: skip
    of_bids = {
        "--bids": bids, "--derivatives": derivatives,
        "--bids-prompts": bids_prompts, "--bids-masks": bids_masks,
    }  # fmt: skip
    int16 = dtype is VoxelType.int16
    make = partial(
        Request,
        prompt_labels=tuple(labels),
        resample=resample,
        all_slices=all_slices,
        strict=strict,
    )
    machines = Machines(
        model=model, engine=engine, device=device, batch=batch, threads=threads,
        no_build=no_build, workers=workers, ray=ray,
    )  # fmt: skip

    if cases is not None:
        _require_unset("--cases", {**of_one, **of_bids})
        if out is None:
            raise UsageError("--cases needs --out DIR, the folder for the syntheses.")
        heard = WarningLog(output.warn)
        found = cases_of(cases, out, make, prompts=not no_prompts, output=output, warn=heard.add)
        cohort = Cohort(
            cases=found, folder=out, int16=int16, overwrite=overwrite, warnings=tuple(heard)
        )
        inputs = None if cases.is_dir() else modalities(found)
        infer_cohort(lambda _: cohort, inputs, machines, output, json_path, context.obj)
        return
    if bids is not None or derivatives is not None:
        _require_unset("--bids", {**of_one, "--out": out, "--no-prompts": no_prompts})
        if bids is None or derivatives is None:
            raise UsageError("--bids DIR and --derivatives DIR go together; give both.")
        job = BidsJob(bids, derivatives, bids_prompts, bids_masks, make, int16, overwrite)
        infer_cohort(partial(dataset, job), None, machines, output, json_path, context.obj)
        return
    of_many = {"--no-prompts": no_prompts, "--workers": workers, "--ray": ray}
    _require_unset("a single scan", {**of_bids, **of_many})
    images = {name: path for name, path in (("t1", t1), ("t2", t2)) if path is not None}
    if not images:
        raise UsageError("nothing to synthesize from: give --t1, --t2 or both.")
    named = {"t1": t1_series, "t2": t2_series}
    request = make(
        images=images,
        series={name: uid for name, uid in named.items() if uid is not None},
        prompt=prompt,
        shapes=shapes,
        brain_mask=brain_mask,
    )
    target = ScanOutput.of(
        next(iter(images.values())),
        out,
        as_dicom=out_format is OutFormat.dicom,
        int16=int16,
        preview=preview,
        overwrite=overwrite,
    )
    if out is None:
        output.default("output", target.path, "default")

    def opened(given: Sequence[str]) -> Synthesizer:
        choice, bundle = choose_model(output, model, given, engine, device)
        return Synthesizer(open_engine(output, choice, bundle, threads, no_build), batch=batch)

    infer_scan(request, target, opened, output, json_path, context.obj)


def _labels(options: list[str] | None, more: list[str]) -> list[str]:
    """Label meanings: of the options, and the words after one (tumour=1,4 oedema=2)."""
    if more and not options:
        raise UsageError(
            f"unexpected {' '.join(more)!r}: a scan is given by --t1 or --t2, a region by --prompt."
        )
    return [*(options or []), *more]


def _shapes(spheres: list[str] | None, boxes: list[str] | None) -> list[Shape]:
    from tlp_runtime.values.shapes import Box, Sphere

    return [
        *(Sphere.parse(text) for text in spheres or []),
        *(Box.parse(text) for text in boxes or []),
    ]


def _require_unset(mode: str, options: Mapping[str, object]) -> None:
    """Refuse options that have no meaning in this mode."""
    given = [name for name, value in options.items() if value]
    if given:
        raise UsageError(f"{', '.join(given)} cannot go with {mode}; leave them out.")
