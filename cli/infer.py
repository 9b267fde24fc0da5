"""`tlp infer`: a scan in, its synthetic T1ce out on the same grid."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

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


def command(
    t1: Annotated[Path | None, typer.Option("--t1", help="T1 image, NIfTI.")] = None,
    t2: Annotated[Path | None, typer.Option("--t2", help="T2 image, NIfTI.")] = None,
    prompt: Annotated[
        Path | None, typer.Option("--prompt", help="Region drawn by a radiologist: labels, NIfTI.")
    ] = None,
    prompt_labels: Annotated[
        list[str] | None,
        typer.Option("--prompt-labels", help="tumour=N[,N…] or oedema=N[,N…]; repeatable."),
    ] = None,
    model: ModelOption = None,
    engine: EngineOption = "auto",
    device: DeviceOption = "auto",
    batch: BatchOption = 4,
    threads: ThreadsOption = None,
    no_build: NoBuildOption = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Output; default: <stem>_synth-t1ce.nii.gz beside the T1."),
    ] = None,
    preview: Annotated[
        Path | None, typer.Option("--preview", help="PNG of T1, prompt and synthesis.")
    ] = None,
    json_path: JsonPath = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Synthesize the contrast-enhanced T1 of a scan, with or without a prompt.

    Example: tlp infer --t1 a.nii.gz --prompt roi.nii.gz --preview a.png
    """
    output = Output(quiet, verbose)
    from tlp_runtime.engines.onnx import require_onnxruntime
    from tlp_runtime.io.atomic import require_writable
    from tlp_runtime.io.nifti import read_volume, require_nifti_name, stem
    from tlp_runtime.preview import write_preview
    from tlp_runtime.synthesize import Synthesizer

    require_onnxruntime()
    images = {name: path for name, path in (("t1", t1), ("t2", t2)) if path is not None}
    if not images:
        raise UsageError("nothing to synthesize from: give --t1, --t2 or both.")
    reference = next(iter(images.values()))
    if out is None:
        out = reference.with_name(f"{stem(reference)}_synth-t1ce.nii.gz")
        output.default("output", out, "default")
    targets = [path for path in (out, preview) if path is not None]
    targets += [Path(json_path)] if json_path not in (None, "-") else []
    _require_apart([*images.values(), *([prompt] if prompt else [])], targets)

    # Everything that can be refused is refused before the model is loaded.
    began = time.perf_counter()
    volumes = {name: read_volume(path) for name, path in images.items()}
    labels = None if prompt is None else read_volume(prompt)
    read_seconds = time.perf_counter() - began
    require_nifti_name(out)
    for target in targets:
        require_writable(target, overwrite=overwrite)
    choice, bundle = choose_model(output, model, tuple(images), engine, device)

    with Synthesizer(
        open_engine(output, choice, bundle, threads, no_build), batch=batch
    ) as synthesizer:
        with output.progress("slices") as bar:
            task = bar.add_task("", total=None)
            result = synthesizer.run(
                volumes,
                prompt=labels,
                prompt_labels=prompt_labels or (),
                on_slices=lambda done, total: bar.update(task, completed=done, total=total),
            )
        result.seconds["read"] = read_seconds
        result.save(out, overwrite=overwrite)
        if preview is not None:
            write_preview(result, synthesizer.spec, preview, overwrite=overwrite)
    record = {
        "output": str(out),
        "inputs": {name: str(path) for name, path in images.items()},
        "prompt": None if prompt is None else str(prompt),
        "model": bundle.name,
        "onnx_sha256": bundle.onnx_sha256,
        "engine": choice.name,
        "slices": result.slices_run,
        "seconds": result.seconds,
    }
    write_json(json_path, record, overwrite=overwrite)
    output.note(
        f"{result.slices_run} slices in {sum(result.seconds.values()):.1f} s "
        f"(engine {result.seconds['engine']:.1f} s); synthetic image, not for diagnosis"
    )
    made = f"{out}{f' and {preview}' if preview else ''}"
    output.done(made, "tlp bench" if prompt else f"tlp infer --t1 {reference} --prompt ROI.nii.gz")


def _require_apart(inputs: list[Path], targets: list[Path]) -> None:
    """Refuse to write over an input, or two outputs into one file."""
    places = [path.resolve() for path in inputs]
    for target in targets:
        if target.resolve() in places:
            raise UsageError(f"{target}: is both an input and an output; choose another name.")
        places.append(target.resolve())
