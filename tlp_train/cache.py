"""A memory-mapped cache of the cropped slices, so that each volume is decoded once.

One folder a case: the raw voxels of the training slices of each array (``.npy``, in the file's own
type) and ``case.json``, with the volume's minimum and maximum inside the crop. The folder gets
its name by renaming when it is whole; a folder that does not match its sources, its spec or its
own sizes is made again. A case on another grid than the model's is brought to it first
(:mod:`tlp_runtime.synthesis.published`).
"""

from __future__ import annotations

import io
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlp_runtime.errors import ChooseAnother, InputError, OutputError, TLPError
from tlp_runtime.files.atomic import atomic_folder, entries, make_folder, require_folder
from tlp_runtime.geometry.crop import crop_slices
from tlp_runtime.io.case_files import ARRAYS, CaseFiles
from tlp_runtime.io.nifti import read_volume
from tlp_runtime.spec.model import OUTPUT_NAME, IntensitySpec, ModelSpec, PromptSpec
from tlp_runtime.synthesis.published import on_published_grid
from tlp_runtime.values import checks
from tlp_runtime.values.intensity import background, limits, require_numbers, scale_between
from tlp_runtime.values.prompt import encode, require_region, rounded
from tlp_train.metrics import to_unit64
from tlp_train.reference_rows import PUBLISHED, Example

logger = logging.getLogger(__name__)

FORMAT = 5
RECORD = "case.json"

_ELSEWHERE = ChooseAnother("cache", "folder", "for the decoded slices")


@dataclass(frozen=True)
class CachedCase:
    """The training slices of one case, mapped from disk.

    ``arrays`` are (Z, H, W) raw voxels; ``limits`` and ``brightness`` are of each image inside the
    in-plane crop of the whole volume: the values that ``intensity`` makes the ends of its range,
    and the percentiles of the scaled brain; ``examples`` says which factor is best for each image
    but the T1ce; ``first_slice`` is the z of index 0; ``voxels`` has the hash of each whole volume,
    ``labels`` those of the whole segmentation. Of a case that was ``brought`` to the model's grid,
    slices are counted from the first of its placement, and limits of what was interpolated are of
    the scan's own voxels.
    """

    name: str
    first_slice: int
    arrays: Mapping[str, NDArray[Any]]
    limits: Mapping[str, tuple[float, float]]
    brightness: Mapping[str, tuple[float, ...]]
    examples: Mapping[str, Example]
    intensity: IntensitySpec
    voxels: Mapping[str, str]
    labels: tuple[int, ...]
    brought: bool = False

    def __len__(self) -> int:
        return int(next(iter(self.arrays.values())).shape[0])

    def image(self, name: str, index: int | slice) -> NDArray[np.float32]:
        """Slices of an image, scaled as the model's specification says."""
        return scale_between(self.arrays[name][index], self.limits[name], self.intensity)

    def prompt(self, index: int | slice, spec: PromptSpec) -> NDArray[np.float32]:
        """Slices of the exact prompt."""
        return encode(np.asarray(self.arrays["seg"][index]), spec, self.name)


def open_cases(
    cases: Sequence[CaseFiles],
    spec: ModelSpec,
    folder: Path,
    on_case: Callable[[str], None] | None = None,
) -> list[CachedCase]:
    """Open every case, decoding those the cache does not hold yet, several at a time.

    Raises
    ------
    InputError
        Cases that cannot be used, each with its reason; nothing of them is cached.
    OutputError
        The cache cannot be written.
    """

    def one(case: CaseFiles) -> CachedCase | InputError:
        try:
            return _open_case(case, spec, folder)
        except InputError as error:
            return error
        finally:
            if on_case is not None:
                on_case(case.name)

    make_folder(folder)
    try:
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            try:
                opened = list(pool.map(one, cases))
            except BaseException:  # Ctrl-C, say: the cases in hand are finished, no more are begun
                pool.shutdown(cancel_futures=True)
                raise
    except OutputError as error:
        raise OutputError(
            f"{error.problem.rstrip('.')}. The cases cached before it are kept",
            fix=dict.fromkeys((*error.fixes, _ELSEWHERE)),
        ) from error
    problems = [
        f"  {case.name}: {result}"
        for case, result in zip(cases, opened, strict=True)
        if isinstance(result, TLPError)
    ]
    if problems:
        raise InputError(
            f"{len(problems)} of {len(cases)} cases cannot be used. Mend or remove them:\n"
            + "\n".join(problems)
        )
    return [result for result in opened if isinstance(result, CachedCase)]


def _open_case(case: CaseFiles, spec: ModelSpec, folder: Path) -> CachedCase:
    place = folder / case.name
    identity = _identity(case, spec)
    cached = _load(case.name, place, identity, spec)
    if cached is None:
        require_folder(place, overwrite=True, foreign=_foreign, fix=_ELSEWHERE)
        if place.exists():
            logger.info("cache of %s is stale or half-written; made anew", case.name)
        arrays, record = _decode(case, spec)
        with atomic_folder(place, overwrite=True, foreign=_foreign) as temporary:
            for name, array in arrays.items():
                # By way of memory: np.save to a file says of a full disk only how much it wrote.
                buffer = io.BytesIO()
                np.save(buffer, array, allow_pickle=False)
                (temporary / f"{name}.npy").write_bytes(buffer.getbuffer())
            text = json.dumps({**identity, **record})
            (temporary / RECORD).write_text(text, encoding="utf-8")
        cached = _load(case.name, place, identity, spec)
        if cached is None:
            raise InputError(f"{case.name}: its files changed while they were being read.")
    if "seg" in case.files:  # it may have been cached for a model of other labels
        encode(np.array(cached.labels), spec.prompt, os.fspath(case.files["seg"]))
    return cached


def _foreign(folder: Path) -> Iterator[Path]:
    """What a folder holds besides a cached case; arrays without our record are somebody's own."""
    ours = {RECORD, *(f"{name}.npy" for name in ARRAYS)} if (folder / RECORD).is_file() else ()
    for path in entries(folder):
        if path.name not in ours or not path.is_file():
            yield path


def _identity(case: CaseFiles, spec: ModelSpec) -> dict[str, Any]:
    """What a cached case must have been made from, as JSON gives it back."""
    sources = {
        name: [str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns]
        for name, path in case.files.items()
    }
    identity = {
        "format": FORMAT,
        "sources": sources,
        "crop": asdict(spec.crop),
        "intensity": asdict(spec.intensity),
    }
    return dict(json.loads(json.dumps(identity)))


def _load(
    name: str, place: Path, identity: Mapping[str, Any], spec: ModelSpec
) -> CachedCase | None:
    try:
        record = json.loads((place / RECORD).read_text(encoding="utf-8"))
        between = {key: (float(a), float(b)) for key, (a, b) in record.pop("limits").items()}
        brightness = {
            key: tuple(map(float, values)) for key, values in record.pop("brightness").items()
        }
        examples = {
            key: Example(tuple(map(float, one["levels"])), float(one["factor"]))
            for key, one in record.pop("examples").items()
        }
        hashes, sources = record.pop("voxels"), record["sources"]
        labels = tuple(map(int, record.pop("labels")))
        placed = record.pop("brought", None)
        if placed is not None and placed["reference"] != spec.inputs[0]:
            return None  # it was placed by the brain of another model's input
        first = spec.crop.slices[0] if placed is None else int(placed["first_slice"])
        # They are of more arrays if another model's inputs were cached.
        voxels = {key: str(hashes[key]) for key in identity["sources"]}
        record["sources"] = {key: sources[key] for key in identity["sources"]}
        if record != identity:
            return None
        arrays = {
            key: np.load(place / f"{key}.npy", mmap_mode="r", allow_pickle=False)
            for key in identity["sources"]
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return CachedCase(
        name=name,
        first_slice=first,
        arrays=arrays,
        limits=between,
        brightness=brightness,
        examples=examples,
        intensity=spec.intensity,
        voxels=voxels,
        labels=labels,
        brought=placed is not None,
    )


def _decode(case: CaseFiles, spec: ModelSpec) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """The training slices of every array, and what is kept of the whole volumes."""
    sources = {name: read_volume(path) for name, path in case.files.items()}
    published = on_published_grid(sources, spec, case.name)
    arrays: dict[str, NDArray[Any]] = {}
    record: dict[str, Any] = {"limits": {}, "brightness": {}, "voxels": {}, "labels": []}
    units: dict[str, NDArray[np.float64]] = {}
    brains: dict[str, NDArray[np.bool_]] = {}
    start, stop = published.slices
    if published.brought:
        record["brought"] = {"reference": spec.inputs[0], "first_slice": start}
    for name, volume in published.volumes.items():
        slices = crop_slices(volume.reoriented(spec.crop.orientation), spec.crop)
        require_numbers(slices, volume.name)
        if name == "seg":
            encode(sources[name].data, spec.prompt, volume.name)
            record["labels"] = np.unique(rounded(sources[name].data)).astype(int).tolist()
        else:
            between = limits(published.own.get(name, slices), spec.intensity, volume.name)
            record["limits"][name] = between
            thinned = slices[::2, ::2, ::2]
            scaled = scale_between(thinned, between, spec.intensity)
            record["brightness"][name] = checks.brightness(scaled, thinned != 0)
            seen = slices[start:stop:2, ::2, ::2]
            ends = limits(slices, PUBLISHED, volume.name)
            units[name] = to_unit64(scale_between(seen, ends, PUBLISHED))
            brains[name] = seen != background(volume.data)
        record["voxels"][name] = sources[name].voxels_sha256()
        arrays[name] = np.ascontiguousarray(slices[start:stop])
    if "seg" in arrays:
        drawn = encode(arrays["seg"], spec.prompt, sources["seg"].name)
        require_region(drawn, arrays[spec.inputs[0]] != 0, sources["seg"].name)
    t1ce = units.pop(OUTPUT_NAME, None)
    record["examples"] = {
        name: asdict(Example.of(unit, t1ce, brains[name]))
        for name, unit in units.items()
        if t1ce is not None
    }
    return arrays, record
