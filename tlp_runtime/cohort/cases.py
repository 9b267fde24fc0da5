"""The cases of a run: from a CSV table or a folder in BraTS layout."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tlp_runtime.errors import InputError
from tlp_runtime.io.brats import SUFFIXES, case_folders
from tlp_runtime.io.case_files import require_distinct
from tlp_runtime.io.table import read_rows
from tlp_runtime.spec.model import MODALITIES
from tlp_runtime.synthesis.request import Prompt, Request
from tlp_runtime.warnings import Warn

COLUMNS = ("case", *MODALITIES, "prompt", "brain_mask")
"""Columns of a table; the first and one of the images are required."""

MakeRequest = Callable[..., Request]
"""Makes the request of a case from its images, prompt and brain mask; the options that hold for
every case are bound to it."""


@dataclass(frozen=True, kw_only=True)
class CohortCase:
    """One case of many.

    Parameters
    ----------
    name
        Unique within the run.
    output
        Where its synthesis goes, below the run's folder.
    request
        What is asked, or why nothing can be asked.
    extra
        Further keys of the JSON next to its output.
    """

    name: str
    output: str
    request: Request | InputError
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def named(cls, name: str, request: Request | InputError) -> CohortCase:
        """With the output of a run that is not a BIDS dataset."""
        return cls(name=name, output=f"{name}_synth-t1ce.nii.gz", request=request)

    @property
    def asked(self) -> Request | None:
        """Its request, if it has one."""
        return self.request if isinstance(self.request, Request) else None


def read_table(
    path: Path, *, make: MakeRequest = Request, warn: Warn | None = None
) -> list[CohortCase]:
    """The cases of a CSV file: UTF-8, columns separated by commas, semicolons or tabs.

    The first line names the columns: ``case``, ``t1`` and/or ``t2``, ``prompt``, ``brain_mask``.
    Relative paths start at the table's folder; an empty cell is none. Other columns are left
    out, with a warning.

    Parameters
    ----------
    make
        Makes the request of a case.
    warn
        Called when columns are left out.

    Raises
    ------
    InputError
        A table that cannot be read, without a column it must have, with one that has no name or
        whose name looks mistyped, with lines of another length, or with names that are not
        distinct.
    """
    rows = read_rows(
        path,
        COLUMNS,
        required=(("case",), MODALITIES),
        expected=f"'case' and at least one of {', '.join(MODALITIES)}; prompt and brain_mask may "
        "follow",
        warn=warn,
    )
    require_distinct(((row.cells["case"], f"line {row.line}") for row in rows), path)
    return [_of_row(row.cells, path.absolute().parent, make) for row in rows]


def folder_cases(folder: Path, *, prompts: bool, make: MakeRequest = Request) -> list[CohortCase]:
    """The case folders of a folder in BraTS layout; those that lack an image have an error.

    Parameters
    ----------
    prompts
        Take a case's segmentation as its prompt.
    make
        Makes the request of a case.

    Raises
    ------
    InputMissing
        No such folder, or no case in it.
    InputError
        Names that are not distinct.
    """
    cases = []
    for one in case_folders(folder.absolute()):
        name, found = one.name, one.found
        several = [key for key in (*MODALITIES, "seg") if len(found[key]) > 1]
        images = {key: found[key][0] for key in MODALITIES if len(found[key]) == 1}
        request: Request | InputError
        if several:
            files = ", ".join(path.name for key in several for path in found[key])
            request = InputError(
                f"{name}: {one.path}: several files for {', '.join(several)}: {files}."
            )
        elif not images:
            expected = " or ".join(f"{end}.nii.gz" for key in MODALITIES for end in SUFFIXES[key])
            request = InputError(f"{name}: {one.path}: neither T1 nor T2 (…{expected}).")
        else:
            seg = found["seg"][0] if prompts and len(found["seg"]) == 1 else None
            request = make(images=images, prompt=Prompt(seg))
        cases.append(CohortCase.named(name, request))
    require_distinct(((case.name, "") for case in cases), folder)
    return cases


def _of_row(cells: Mapping[str, str], folder: Path, make: MakeRequest) -> CohortCase:
    paths = {key: folder / cells[key] for key in COLUMNS[1:] if cells.get(key)}
    images = {key: paths[key] for key in MODALITIES if key in paths}
    name = cells["case"]
    if not images:
        return CohortCase.named(name, InputError(f"{name}: its line names no image."))
    prompt, mask = Prompt(paths.get("prompt")), paths.get("brain_mask")
    return CohortCase.named(name, make(images=images, prompt=prompt, brain_mask=mask))
