"""What is printed of data sets: where segmentations are taken from, and what was resampled."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tlp_runtime.errors import SetOption, UsageError
from tlp_runtime.io.case_files import some
from tlp_runtime.io.datasets import DataOptions, default_segmentations

from .console import Output


def choose_segmentations(output: Output, data: Path | None, layout: DataOptions) -> Path | None:
    """The folder of segmentations that was given, or that a data set has by itself; prints which.

    Raises
    ------
    UsageError
        One was given, but no data.
    InputError
        A BIDS dataset has several.
    """
    given = layout.segmentations
    if data is None:
        if given is not None:
            raise UsageError(
                f"a folder of segmentations was given, {given}, but no images for them",
                fix=SetOption("data", "DIR"),
            )
        return None
    if given is not None:
        return given
    found = default_segmentations(data)
    if found is not None:
        output.default("segmentations", found, "the only ones in the derivatives of the dataset")
    return found


def say_brought(output: Output, names: Sequence[str]) -> None:
    """Name the cases that were brought to the model's grid, if there are any."""
    if names:
        output.note(f"brought to the model's grid: {len(names)} cases ({some(names)})")
