"""`tlp infer` of one scan: refused early, run and written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlp_runtime.errors import SetOption, UsageError
from tlp_runtime.files.atomic import require_writable
from tlp_runtime.io.dicom.derived import require_derivable, require_series_folder
from tlp_runtime.io.nifti import require_nifti_name, sidecar, stem
from tlp_runtime.synthesis.evidence import evidence_path
from tlp_runtime.synthesis.preview import write_preview
from tlp_runtime.synthesis.request import read
from tlp_runtime.synthesis.result import not_dicom

from .console import Output, command_line, write_json

if TYPE_CHECKING:
    from tlp_runtime.synthesis.request import Request
    from tlp_runtime.synthesis.result import Synthesis
    from tlp_runtime.synthesis.synthesizer import Synthesizer


@dataclass(frozen=True, kw_only=True)
class ScanOutput:
    """Where the synthesis of one scan goes, and as what.

    Parameters
    ----------
    path
        A NIfTI file, or the folder of a derived DICOM series.
    """

    path: Path
    as_dicom: bool
    int16: bool
    preview: Path | None
    overwrite: bool

    @classmethod
    def of(cls, reference: Path, out: Path | None, *, as_dicom: bool, **rest: Any) -> ScanOutput:
        """At ``out``, or under the default name next to the image whose grid it takes."""
        if out is None:
            place = reference.resolve() if reference.is_dir() else reference
            name = place.name if place.is_dir() else stem(place)
            out = place.parent / f"{name}_synth-t1ce{'-dicom' if as_dicom else '.nii.gz'}"
        return cls(path=out, as_dicom=as_dicom, **rest)

    def save(self, synthesis: Synthesis, command: str) -> dict[str, Any]:
        """Write the image and its provenance, and return the latter."""
        if self.as_dicom:
            return synthesis.save_series(self.path, overwrite=self.overwrite, command=command)
        return synthesis.save(
            self.path, overwrite=self.overwrite, int16=self.int16, command=command
        )


def infer_scan(
    request: Request,
    target: ScanOutput,
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
    if request.evidence and not request.prompt:
        raise UsageError(
            "what a prompt made cannot be mapped without one",
            fix=SetOption("prompt", "FILE", "or draw spheres or boxes"),
        )
    mapped = evidence_path(target.path) if request.evidence else None
    files = [path for path in (sidecar(target.path), mapped, target.preview) if path is not None]
    files += [Path(json_path)] if json_path not in (None, "-") else []
    _require_apart(request.paths(), [target.path, *files])

    given = [word for name, image in request.images.items() for word in (f"--{name}", image)]
    # Everything that can be refused is refused before the model is loaded.
    request = read(request)
    reference = next(iter(request.scans.values()))
    if target.as_dicom:
        if reference.series is None:
            raise not_dicom(reference.volume.name)
        if target.int16:
            raise UsageError(
                "16-bit voxels cannot be asked of a DICOM series, which has a scale of its own",
                fix=SetOption("dtype", "float32"),
            )
        require_series_folder(target.path, overwrite=target.overwrite)
        _, *others = (scan.series for scan in request.scans.values())
        for warning in require_derivable(reference.series, [one for one in others if one]):
            output.warn(warning)
    else:
        require_writable(require_nifti_name(target.path), overwrite=target.overwrite)
    for file in files:
        require_writable(file, overwrite=target.overwrite)

    with opened(tuple(request.images)) as synthesizer:
        # A strict request has its warnings in the error.
        prepared = synthesizer.prepare(request, warn=None if request.strict else output.warn)
        if prepared.region is not None:
            output.note(f"prompt: {prepared.region}")
        with output.progress("slices") as bar:
            task = bar.add_task("", total=None)
            result = synthesizer.synthesize(
                prepared,
                on_slices=lambda done, total: bar.update(task, completed=done, total=total),
            )
        for warning in result.run_warnings:
            output.warn(warning)
        record = target.save(result, command)
        if target.preview is not None:
            write_preview(result, synthesizer.spec, target.preview, overwrite=target.overwrite)
    write_json(json_path, record, overwrite=target.overwrite)
    output.note(
        f"{result.slices_run} slices in {sum(record['seconds'].values()):.1f} s "
        f"(engine {record['seconds']['engine']:.1f} s); synthetic image, not for diagnosis"
    )
    if result.evidence is not None and mapped is not None:
        output.note(f"evidence: {result.evidence}; the map is {mapped}")
    output.done(
        f"{target.path}{f' and {target.preview}' if target.preview else ''}",
        "tlp bench"
        if request.prompt or not synthesizer.spec.network.prompt
        else command_line("tlp", "infer", *given, "--prompt", "ROI.nii.gz"),
    )


def _require_apart(inputs: Iterable[Path], targets: Iterable[Path]) -> None:
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
