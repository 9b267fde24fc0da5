"""What is asked of one case, and its files brought into memory."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tlp_runtime.errors import UsageError
from tlp_runtime.geometry.volume import Volume
from tlp_runtime.io.scan import Scan, read_labels, read_scan
from tlp_runtime.values.shapes import Shape

Source = str | Path | Volume | Scan
"""Where an image comes from: a file or DICOM folder, or what was read of one."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """One case to synthesize.

    Parameters
    ----------
    images
        The image of each modality that was given: a volume, a NIfTI file, a folder with one DICOM
        series or a multi-frame file; any orientation, spacing and field of view. The grid of the
        model's first input becomes the output's.
    series
        Series Instance UID of a modality whose DICOM folder holds several series.
    prompt
        A label map, NIfTI or DICOM SEG; None prompts nothing.
    prompt_labels
        What labels mean, if not as in BraTS: ``tumour=1,4``, ``oedema=2``.
    shapes
        Spheres and boxes to prompt with, in addition to the map or alone.
    brain_mask
        Not 0 where the brain is, for scans with skull.
    resample
        Bring images, mask and prompt that lie on other grids to the first image's; False
        refuses them.
    all_slices
        Run slices without brain too, which are 0 in the output otherwise.
    strict
        Make a warning about the scan an error.
    read_s
        Seconds that reading took, of a request whose files are in memory.

    Raises
    ------
    UsageError
        There is no image, or a series is named of one that is not given.
    """

    images: Mapping[str, Source]
    series: Mapping[str, str] = field(default_factory=dict)
    prompt: Source | None = None
    prompt_labels: Sequence[str] = ()
    shapes: Sequence[Shape] = ()
    brain_mask: Source | None = None
    resample: bool = False
    all_slices: bool = False
    strict: bool = False
    read_s: float = 0.0

    def __post_init__(self) -> None:
        if not self.images:
            raise UsageError("a case needs at least one image, such as a T1.")
        stray = [name for name in self.series if name not in self.images]
        if stray:
            raise UsageError(
                f"a series of the {' and '.join(stray).upper()} is named, but that is not given."
            )

    @property
    def scans(self) -> dict[str, Scan]:
        """The images of a request whose files are in memory, by modality."""
        found = {}
        for name, source in self.images.items():
            assert isinstance(source, Scan), "read() comes first"
            found[name] = source
        return found

    @property
    def volumes(self) -> dict[str, Volume]:
        """All volumes of such a request: by modality, then ``prompt`` and ``brain_mask``."""
        found = {name: scan.volume for name, scan in self.scans.items()}
        for name, source in (("prompt", self.prompt), ("brain_mask", self.brain_mask)):
            if source is not None:
                assert isinstance(source, Volume), "read() comes first"
                found[name] = source
        return found

    def paths(self) -> Iterator[Path]:
        """Every file and folder that it names."""
        for source in (*self.images.values(), self.prompt, self.brain_mask):
            if isinstance(source, str | Path):
                yield Path(source)


def read(request: Request) -> Request:
    """The same request with its files in memory; what is in memory already stays as it is.

    Raises
    ------
    InputError
        A missing or damaged image, mask or prompt.
    UsageError
        A series of a file that is not DICOM.
    """
    began = time.perf_counter()
    scans = {
        name: _scan(source, request.series.get(name)) for name, source in request.images.items()
    }
    first = next(iter(scans.values())).volume
    by_number = bool(request.prompt_labels)
    prompt = _labels(request.prompt, first, by_number=by_number)
    mask = _labels(request.brain_mask, first, by_number=True)
    seconds = request.read_s + time.perf_counter() - began
    return replace(request, images=scans, prompt=prompt, brain_mask=mask, read_s=seconds)


def _scan(source: Source, series: str | None) -> Scan:
    if isinstance(source, Scan):
        return source
    if isinstance(source, Volume):
        return Scan(source)
    return read_scan(Path(source), series)


def _labels(source: Source | None, scan: Volume, *, by_number: bool) -> Volume | None:
    if source is None or isinstance(source, Volume):
        return source
    if isinstance(source, Scan):
        return source.volume
    return read_labels(Path(source), scan.grid, by_number=by_number)
