"""`tlp infer` of one scan: what was asked, refused early, run and written."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tlp_runtime.errors import UsageError
from tlp_runtime.files.atomic import require_writable
from tlp_runtime.io.dicom.derived import require_series_folder, write_derived
from tlp_runtime.io.nifti import require_nifti_name, sidecar, stem
from tlp_runtime.io.scan import read_labels, read_scan
from tlp_runtime.synthesis.preview import write_preview

from .console import Output, write_json

if TYPE_CHECKING:
    from tlp_runtime.synthesis.synthesizer import Synthesizer
    from tlp_runtime.values.shapes import Shape


@dataclass(frozen=True, kw_only=True)
class ScanJob:
    """One scan and what to make of it.

    Parameters
    ----------
    images
        The modalities that were given, the output's reference first.
    series
        The DICOM series wanted of each modality; None where there is only one.
    labels
        What the prompt's labels mean.
    out
        None takes a name beside the reference.
    """

    images: Mapping[str, Path]
    series: Mapping[str, str | None]
    prompt: Path | None
    labels: Sequence[str]
    shapes: Sequence[Shape]
    brain_mask: Path | None
    resample: bool
    all_slices: bool
    int16: bool
    out: Path | None
    as_dicom: bool
    preview: Path | None
    overwrite: bool

    @property
    def reference(self) -> Path:
        """The image whose grid the output takes."""
        return next(iter(self.images.values()))

    @property
    def output(self) -> Path:
        """Where the synthesis goes."""
        if self.out is not None:
            return self.out
        place = self.reference.resolve() if self.reference.is_dir() else self.reference
        name = place.name if place.is_dir() else stem(place)
        return place.parent / f"{name}_synth-t1ce{'-dicom' if self.as_dicom else '.nii.gz'}"


def infer_scan(
    job: ScanJob,
    opened: Callable[[Sequence[str]], Synthesizer],
    output: Output,
    json_path: str | None,
    command: str,
) -> None:
    """Synthesize one scan.

    Parameters
    ----------
    opened
        Loads the model for the modalities it is given.
    """
    if job.out is None:
        output.default("output", job.output, "default")
    files = [path for path in (sidecar(job.output), job.preview) if path is not None]
    files += [Path(json_path)] if json_path not in (None, "-") else []
    extras = [path for path in (job.prompt, job.brain_mask) if path is not None]
    _require_apart([*job.images.values(), *extras], [job.output, *files])

    # Everything that can be refused is refused before the model is loaded.
    began = time.perf_counter()
    scans = {name: read_scan(path, job.series[name]) for name, path in job.images.items()}
    first, *others = scans.values()
    grid, by_number = first.volume.grid, bool(job.labels)
    region = None if job.prompt is None else read_labels(job.prompt, grid, by_number=by_number)
    mask = None if job.brain_mask is None else read_labels(job.brain_mask, grid, by_number=True)
    read_seconds = time.perf_counter() - began
    if job.as_dicom:
        if first.series is None:
            raise UsageError(
                f"--out-format dicom: {job.reference} is no DICOM, so there is no patient and "
                "study that a derived series could belong to. Give the DICOM series, or leave the "
                "option out."
            )
        if job.int16:
            raise UsageError(
                "--dtype int16 cannot go with --out-format dicom, which has a scale of its own."
            )
        require_series_folder(job.output, overwrite=job.overwrite)
    else:
        require_writable(require_nifti_name(job.output), overwrite=job.overwrite)
    for file in files:
        require_writable(file, overwrite=job.overwrite)

    with opened(tuple(job.images)) as synthesizer:
        with output.progress("slices") as bar:
            task = bar.add_task("", total=None)
            result = synthesizer.run(
                {name: scan.volume for name, scan in scans.items()},
                prompt=region,
                prompt_labels=job.labels,
                shapes=job.shapes,
                brain_mask=mask,
                resample=job.resample,
                all_slices=job.all_slices,
                on_slices=lambda done, total: bar.update(task, completed=done, total=total),
            )
        result.seconds["read"] = read_seconds
        if job.as_dicom and first.series is not None:
            with result.timed("write"):
                write_derived(
                    result.volume,
                    first.series,
                    job.output,
                    result.record,
                    others=[scan.series for scan in others if scan.series is not None],
                    overwrite=job.overwrite,
                )
            made = {"output": str(job.output)}
            record = result.save_record(job.output, made, overwrite=job.overwrite, command=command)
        else:
            record = result.save(
                job.output, overwrite=job.overwrite, int16=job.int16, command=command
            )
        if job.preview is not None:
            write_preview(result, synthesizer.spec, job.preview, overwrite=job.overwrite)
    write_json(json_path, record, overwrite=job.overwrite)
    output.note(
        f"{result.slices_run} slices in {sum(result.seconds.values()):.1f} s "
        f"(engine {result.seconds['engine']:.1f} s); synthetic image, not for diagnosis"
    )
    prompted = job.prompt is not None or job.shapes
    output.done(
        f"{job.output}{f' and {job.preview}' if job.preview else ''}",
        "tlp bench" if prompted else f"tlp infer --t1 {job.reference} --prompt ROI.nii.gz",
    )


def _require_apart(inputs: list[Path], targets: list[Path]) -> None:
    """Refuse outputs over, within or around an input, and two outputs in one place."""
    given = [path.resolve() for path in inputs]
    places = list(given)
    for target in targets:
        place = target.resolve()
        if place in places:
            raise UsageError(f"{target}: is both an input and an output; choose another name.")
        for path in given:
            if (path.is_dir() and path in place.parents) or place in path.parents:
                raise UsageError(
                    f"{target}: lies in the input folder {path}, or holds it; choose another name."
                )
        places.append(place)
