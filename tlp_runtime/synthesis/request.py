"""What is asked of one case, and its files brought into memory."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from tlp_runtime.errors import SetOption, UsageError
from tlp_runtime.geometry.volume import Volume
from tlp_runtime.io.scan import Scan, read_labels, read_scan
from tlp_runtime.options import Form, OptionGroup, by_key, option
from tlp_runtime.spec.model import MODALITIES
from tlp_runtime.values.prompt import Labels, parse_labels, require_labels
from tlp_runtime.values.shapes import Box, Shape, Sphere

Source = str | Path | Volume | Scan
"""Where an image comes from: a file or DICOM folder, or what was read of one."""


@dataclass(frozen=True)
class Prompt(OptionGroup):
    """The region that is expected to enhance: a label map, shapes, both or nothing.

    Parameters
    ----------
    source
        Region drawn by a radiologist: a label map, NIfTI or DICOM SEG.
    labels
        What labels mean, where it is not as in BraTS 2021 and 2023, or not clear: brats2021,
        brats2023, brats2024-gli, brats-ped, binary, or numbers, such as tumour=1,4 oedema=2.
    shapes
        Spheres and boxes, in addition to the map or alone.
    allow_empty
        Accept a prompt that marks nothing, or nothing in the brain; otherwise it is refused.

    Raises
    ------
    UsageError
        Labels of unknown classes, or that two classes share.
    """

    TITLE: ClassVar[str] = "Prompt"

    source: Source | None = option(None, name="prompt", kind=Path)
    labels: Labels = option(
        factory=dict,
        join=parse_labels,
        forms=[
            Form(
                name="labels",
                metavar="SCHEME|tumour=N[,N…] oedema=N[,N…]",
                repeated=True,
            )
        ],
    )
    shapes: Sequence[Shape] = option(
        (),
        forms=[
            Form(
                name="prompt_sphere",
                help="Ball of R mm about a point, in world millimetres (RAS). May begin with "
                "oedema: and with lps: or voxel:, for other coordinates. Repeatable.",
                metavar="X,Y,Z,R",
                parse=Sphere.parse,
                repeated=True,
            ),
            Form(
                name="prompt_box",
                help="Box between two corners, written as a sphere is. Repeatable.",
                metavar="X,Y,Z,X,Y,Z",
                parse=Box.parse,
                repeated=True,
            ),
        ],
    )

    allow_empty: bool = option(False, name="allow_empty_prompt")

    def __post_init__(self) -> None:
        super().__post_init__()
        require_labels(self.labels)

    def __bool__(self) -> bool:
        """Whether there is anything to prompt with."""
        return self.source is not None or bool(self.shapes)


@dataclass(frozen=True, kw_only=True)
class Request(OptionGroup):
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
        The region to enhance; by default none.
    brain_mask
        Brain mask for a scan with skull: not 0 in the brain.
    resample
        Bring images, mask and prompt that lie on other grids to the first image's grid;
        otherwise they are refused.
    allow_incomplete
        Leave out files of a DICOM series that cannot be read, and slices that are missing.
    ignore_frame_of_reference
        Accept images, mask and prompt of different DICOM frames of reference.
    all_slices
        Run slices without brain too, which are 0 in the output otherwise.
    strict
        Make a warning about the scan an error.
    evidence
        Run what the prompt touches without it too, and map what the prompt alone made.
    read_s
        Duration of reading in seconds, of a request whose files are in memory.

    Raises
    ------
    UsageError
        There is no image, or a series is named of one that is not given.
    """

    TITLE: ClassVar[str] = "Inputs"

    images: Mapping[str, Source] = option(
        factory=dict,
        forms=by_key(MODALITIES, "{}", Path, "{} image: NIfTI, DICOM folder or multi-frame file."),
    )
    series: Mapping[str, str] = option(
        factory=dict,
        forms=by_key(
            MODALITIES, "{}_series", str, "Series Instance UID, of a {} folder with several series."
        ),
    )
    prompt: Prompt = field(default_factory=Prompt)
    brain_mask: Source | None = option(None, kind=Path)
    resample: bool = option(False)
    allow_incomplete: bool = option(False)
    ignore_frame_of_reference: bool = option(False)
    all_slices: bool = option(False)
    strict: bool = option(False)
    evidence: bool = option(False)
    read_s: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.images:
            raise UsageError(
                "nothing to synthesize from: a case needs at least one image",
                fix=SetOption("t1", "FILE"),
            )
        stray = [name for name in self.series if name not in self.images]
        if stray:
            raise UsageError(
                f"a series of the {' and '.join(stray).upper()} is named, but that is not given."
            )
        if not isinstance(self.prompt, Prompt):
            raise UsageError(f"the prompt is {self.prompt!r}, expected a Prompt of it.")

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
        for name, source in (("prompt", self.prompt.source), ("brain_mask", self.brain_mask)):
            if source is not None:
                assert isinstance(source, Volume), "read() comes first"
                found[name] = source
        return found

    def paths(self) -> Iterator[Path]:
        """Every file and folder that it names."""
        for source in (*self.images.values(), self.prompt.source, self.brain_mask):
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
        name: _scan(source, request.series.get(name), request.allow_incomplete)
        for name, source in request.images.items()
    }
    first = next(iter(scans.values()))
    by_number = bool(request.prompt.labels)
    labels = _labels(request.prompt.source, first, by_number=by_number)
    mask = _labels(request.brain_mask, first, by_number=True)
    seconds = request.read_s + time.perf_counter() - began
    prompt = replace(request.prompt, source=labels)
    return replace(request, images=scans, prompt=prompt, brain_mask=mask, read_s=seconds)


def _scan(source: Source, series: str | None, allow_incomplete: bool) -> Scan:
    if isinstance(source, Scan):
        return source
    if isinstance(source, Volume):
        return Scan(source)
    return read_scan(Path(source), series, allow_incomplete=allow_incomplete)


def _labels(source: Source | None, scan: Scan, *, by_number: bool) -> Volume | None:
    if source is None or isinstance(source, Volume):
        return source
    if isinstance(source, Scan):
        return source.volume
    return read_labels(Path(source), scan, by_number=by_number)
