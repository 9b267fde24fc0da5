"""The cases of a data set, whatever its layout: case folders, a BIDS dataset or a CSV table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tlp_runtime.errors import InputMissing, UsageError
from tlp_runtime.io.bids import DESCRIPTION_FILE
from tlp_runtime.io.bids_cases import bids_cases, derived_segmentations
from tlp_runtime.io.brats import brats_cases
from tlp_runtime.io.case_files import ARRAYS, CaseFiles, require_complete, require_distinct
from tlp_runtime.io.table import read_rows
from tlp_runtime.options import OptionGroup, option
from tlp_runtime.warnings import Warn

PATIENT = "patient"
"""Column of the patient whose visit a case is."""

_UNDERSTOOD = (
    "Give a folder of case folders (BraTS, UCSF-PDGM, UPENN-GBM), a BIDS dataset (a folder with "
    f"{DESCRIPTION_FILE}) or a CSV table with the columns case, {', '.join(ARRAYS)}."
)


@dataclass(frozen=True, kw_only=True)
class DataOptions(OptionGroup):
    """How the cases of a data set are found.

    Parameters
    ----------
    segmentations
        Folder of the segmentations, where they do not lie with the images: of a BIDS dataset a
        derivative dataset, by default the only one below its derivatives folder that has any.
    """

    TITLE: ClassVar[str] = "Data"

    segmentations: Path | None = option(None, metavar="DIR")


def find_cases(
    data: Path,
    arrays: Iterable[str],
    optional: Iterable[str] = (),
    *,
    segmentations: Path | None = None,
    warn: Warn | None = None,
) -> list[CaseFiles]:
    """Every case of a data set, sorted by name.

    A file is a CSV table (:func:`table_cases`), a folder with ``dataset_description.json`` a BIDS
    dataset (:func:`~tlp_runtime.io.bids_cases.bids_cases`), any other folder one of case folders
    (:func:`~tlp_runtime.io.brats.brats_cases`).

    Parameters
    ----------
    arrays
        The arrays each case must have, of ``t1``, ``t2``, ``t1ce`` and ``seg``.
    optional
        Those it may have.
    segmentations
        As of :class:`DataOptions`.
    warn
        Called when columns of a table are left out.

    Raises
    ------
    InputMissing
        ``data`` is none of them, or holds no case.
    InputError
        Cases that lack something or cannot be told apart; every one is named.
    UsageError
        A folder of segmentations for a table, which names them itself.
    """
    arrays, optional = list(arrays), list(optional)
    if data.is_file():
        if segmentations is not None:
            raise UsageError(
                f"{data}: a table names its segmentations itself, but {segmentations} was given "
                "as their folder",
                fix="Leave it out, and name them in the column seg.",
            )
        return table_cases(data, arrays, optional, warn=warn)
    if segmentations is not None and not segmentations.is_dir():
        raise InputMissing(f"{segmentations}: is not a folder, expected one with segmentations.")
    if is_bids(data):
        return bids_cases(data, arrays, optional, segmentations=segmentations)
    try:
        return brats_cases(data, arrays, optional, segmentations=segmentations)
    except InputMissing as error:
        raise InputMissing(error.problem, fix=(*error.fixes, _UNDERSTOOD)) from error


def default_segmentations(data: Path) -> Path | None:
    """The folder that segmentations are taken from if none is given; None where it is the data's.

    Raises
    ------
    InputError
        A BIDS dataset of which several derivative datasets have segmentations.
    """
    return derived_segmentations(data) if is_bids(data) else None


def is_bids(data: Path) -> bool:
    """Whether a folder is a BIDS dataset."""
    return (data / DESCRIPTION_FILE).is_file()


def table_cases(
    path: Path,
    arrays: Sequence[str],
    optional: Sequence[str] = (),
    *,
    warn: Warn | None = None,
) -> list[CaseFiles]:
    """The cases of a CSV table, sorted by name.

    The columns are ``case``, ``patient``, ``t1``, ``t2``, ``t1ce`` and ``seg``; those that nobody
    asked for may be left out. A patient's cases stay in one part of a split. Relative paths start
    at the table's folder; an empty cell is none.

    Raises
    ------
    InputError
        As :func:`~tlp_runtime.io.table.read_rows`; two cases of one name, or names that
        no folder can have; files that are missing or do not exist. All are named, with their lines.
    """
    needed = ("case", *arrays)
    rows = read_rows(
        path,
        ("case", PATIENT, *ARRAYS),
        required=[(name,) for name in needed],
        expected=f"the columns {', '.join(needed)}",
        warn=warn,
    )
    require_distinct(((row.cells["case"], f"line {row.line}") for row in rows), path)
    folder = path.absolute().parent
    cases, problems = [], []
    for row in rows:
        asked = (*arrays, *(name for name in optional if row.cells.get(name)))
        files = {name: folder / row.cells[name] for name in asked if row.cells[name]}
        bad = [
            f"{name} is missing (its cell is empty)"
            if name not in files
            else f"{name} does not exist: {files[name]}"
            for name in asked
            if name not in files or not files[name].is_file()
        ]
        if bad:
            problems.append(f"line {row.line}, {row.cells['case']}: {'; '.join(bad)}")
        else:
            cases.append(CaseFiles(row.cells["case"], files, row.cells.get(PATIENT, "")))
    require_complete(path, problems, cases, arrays)
    return sorted(cases, key=lambda case: case.name)
