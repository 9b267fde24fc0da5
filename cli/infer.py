"""`tlp infer`: a scan in, its synthetic T1ce out on the same grid."""

from __future__ import annotations

import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tlp_runtime.errors import UsageError

from .console import JsonPath, Output, Overwrite, Quiet, Verbose, write_json
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
    from tlp_runtime.shapes import Shape


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
    model: ModelOption = None,
    engine: EngineOption = "auto",
    device: DeviceOption = "auto",
    batch: BatchOption = 4,
    threads: ThreadsOption = None,
    no_build: NoBuildOption = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="Output; default: <stem>_synth-t1ce.nii.gz (or -dicom) beside the T1."
        ),
    ] = None,
    out_format: Annotated[
        OutFormat | None,
        typer.Option("--out-format", help="dicom: a derived MR series, of a DICOM T1 alone."),
    ] = None,
    preview: Annotated[
        Path | None, typer.Option("--preview", help="PNG of T1, prompt and synthesis.")
    ] = None,
    bids: Annotated[
        Path | None, typer.Option("--bids", help="BIDS dataset: every T1w of it is synthesized.")
    ] = None,
    derivatives: Annotated[
        Path | None, typer.Option("--derivatives", help="With --bids: dataset to write.")
    ] = None,
    bids_prompts: Annotated[
        Path | None,
        typer.Option("--bids-prompts", help="Derivatives with a …_dseg, _mask or _roi a scan."),
    ] = None,
    bids_masks: Annotated[
        Path | None,
        typer.Option("--bids-masks", help="Derivatives with a …_desc-brain_mask a scan."),
    ] = None,
    json_path: JsonPath = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Synthesize the contrast-enhanced T1 of a scan, with or without a prompt.

    The output has the T1's own grid; its provenance lies beside it as JSON.

    Examples: tlp infer --t1 a.nii.gz --prompt roi.nii.gz --preview a.png
    · tlp infer --t1 series --prompt-sphere 12,-30,45,15 --out-format dicom
    · tlp infer --bids study --derivatives study/derivatives/tlp
    """
    output = Output(quiet, verbose)
    from tlp_runtime.engines.onnx import require_onnxruntime
    from tlp_runtime.io.atomic import require_writable
    from tlp_runtime.io.dicom.derived import write_derived
    from tlp_runtime.io.nifti import require_nifti_name, sidecar
    from tlp_runtime.io.scan import read_labels, read_scan
    from tlp_runtime.preview import write_preview
    from tlp_runtime.synthesize import Synthesizer

    require_onnxruntime()
    labels = _labels(prompt_labels, context.args)
    shapes = _shapes(prompt_sphere, prompt_box)
    if bids is not None or derivatives is not None:
        _require_unset(
            "--bids",
            {
                "--t1": t1, "--t2": t2, "--prompt": prompt, "--out": out, "--preview": preview,
                "--prompt-sphere": prompt_sphere, "--prompt-box": prompt_box,
                "--out-format": out_format, "--brain-mask": brain_mask,
                "--t1-series": t1_series, "--t2-series": t2_series,
            },
        )  # fmt: skip
        if bids is None or derivatives is None:
            raise UsageError("--bids DIR and --derivatives DIR go together; give both.")
        from .infer_bids import BidsJob, run

        choice, bundle = choose_model(output, model, None, engine, device)
        job = BidsJob(bids, derivatives, bids_prompts, bids_masks, labels, resample, overwrite)
        with Synthesizer(
            open_engine(output, choice, bundle, threads, no_build), batch=batch
        ) as synthesizer:
            run(job, synthesizer, output, json_path, context.obj)
        return
    _require_unset("a single scan", {"--bids-prompts": bids_prompts, "--bids-masks": bids_masks})

    images = {name: path for name, path in (("t1", t1), ("t2", t2)) if path is not None}
    if not images:
        raise UsageError("nothing to synthesize from: give --t1, --t2 or both.")
    reference = next(iter(images.values()))
    as_dicom = out_format is OutFormat.dicom
    if out is None:
        name = f"{_stem(reference)}_synth-t1ce{'-dicom' if as_dicom else '.nii.gz'}"
        out = (reference.resolve() if reference.is_dir() else reference).parent / name
        output.default("output", out, "default")
    targets = [path for path in (out, sidecar(out), preview) if path is not None]
    targets += [Path(json_path)] if json_path not in (None, "-") else []
    given = [*images.values(), *(path for path in (prompt, brain_mask) if path is not None)]
    _require_apart(given, targets)

    # Everything that can be refused is refused before the model is loaded.
    began = time.perf_counter()
    uids = {"t1": t1_series, "t2": t2_series}
    scans = {name: read_scan(path, uids[name]) for name, path in images.items()}
    grid = next(iter(scans.values())).volume.grid
    region = None if prompt is None else read_labels(prompt, grid, by_number=bool(labels))
    mask = None if brain_mask is None else read_labels(brain_mask, grid, by_number=True)
    read_seconds = time.perf_counter() - began
    source = next(iter(scans.values())).series
    if as_dicom and source is None:
        raise UsageError(
            f"--out-format dicom: {reference} is no DICOM, so there is no patient and study that a "
            "derived series could belong to. Give the DICOM series, or leave the option out."
        )
    if not as_dicom:
        require_nifti_name(out)
    for target in targets:
        if not (as_dicom and overwrite and target == out):
            require_writable(target, overwrite=overwrite)
    choice, bundle = choose_model(output, model, tuple(images), engine, device)

    with Synthesizer(
        open_engine(output, choice, bundle, threads, no_build), batch=batch
    ) as synthesizer:
        with output.progress("slices") as bar:
            task = bar.add_task("", total=None)
            result = synthesizer.run(
                {name: scan.volume for name, scan in scans.items()},
                prompt=region,
                prompt_labels=labels,
                shapes=shapes,
                brain_mask=mask,
                resample=resample,
                on_slices=lambda done, total: bar.update(task, completed=done, total=total),
            )
        result.seconds["read"] = read_seconds
        if as_dicom:
            assert source is not None
            with result.timed("write"):
                every = [scan.series for scan in scans.values() if scan.series is not None]
                others = [series for series in every if series is not source]
                write_derived(
                    result.volume, source, out, result.record, others=others, overwrite=overwrite
                )
            record = result.save_record(out, overwrite=overwrite, command=context.obj)
        else:
            record = result.save(out, overwrite=overwrite, command=context.obj)
        if preview is not None:
            write_preview(result, synthesizer.spec, preview, overwrite=overwrite)
    write_json(json_path, record, overwrite=overwrite)
    output.note(
        f"{result.slices_run} slices in {sum(result.seconds.values()):.1f} s "
        f"(engine {result.seconds['engine']:.1f} s); synthetic image, not for diagnosis"
    )
    made = f"{out}{f' and {preview}' if preview else ''}"
    output.done(
        made, "tlp bench" if prompt or shapes else f"tlp infer --t1 {reference} --prompt ROI.nii.gz"
    )


def _labels(options: list[str] | None, more: list[str]) -> list[str]:
    """Label meanings: of the options, and the words after one (tumour=1,4 oedema=2)."""
    if more and not options:
        raise UsageError(
            f"unexpected {' '.join(more)!r}: a scan is given by --t1 or --t2, a region by --prompt."
        )
    return [*(options or []), *more]


def _shapes(spheres: list[str] | None, boxes: list[str] | None) -> list[Shape]:
    from tlp_runtime.shapes import Box, Sphere

    return [
        *(Sphere.parse(text) for text in spheres or []),
        *(Box.parse(text) for text in boxes or []),
    ]


def _stem(path: Path) -> str:
    from tlp_runtime.io.nifti import stem

    return path.resolve().name if path.is_dir() else stem(path)


def _require_unset(mode: str, options: dict[str, object]) -> None:
    """Refuse options that have no meaning in this mode."""
    given = [name for name, value in options.items() if value]
    if given:
        raise UsageError(f"{', '.join(given)} cannot go with {mode}; leave them out.")


def _require_apart(inputs: list[Path], targets: list[Path]) -> None:
    """Refuse to write over an input, or two outputs into one file."""
    places = [path.resolve() for path in inputs]
    folders = [path for path in places if path.is_dir()]
    for target in targets:
        if target.resolve() in places:
            raise UsageError(f"{target}: is both an input and an output; choose another name.")
        for folder in folders:
            if folder in target.resolve().parents:
                raise UsageError(f"{target}: lies in the input folder {folder}; choose another.")
        places.append(target.resolve())
