"""The files of a case, whatever the layout of the data set it is from; and its name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tlp_runtime.errors import InputError

ARRAYS = ("t1", "t2", "t1ce", "seg")
"""The arrays that a case may have."""

_SHOWN = 8
_LONGEST_NAME = 200


@dataclass(frozen=True)
class CaseFiles:
    """One case: its name and the file of each array that was asked for.

    Parameters
    ----------
    patient
        Whose visit it is; empty where its name must tell.
    """

    name: str
    files: Mapping[str, Path]
    patient: str = ""


def require_complete(
    data: Path, problems: Sequence[str], complete: Sequence[CaseFiles], arrays: Iterable[str]
) -> None:
    """Refuse a data set in which cases lack arrays.

    Parameters
    ----------
    problems
        A text for each case that lacks something, which names it.
    complete
        The other cases.
    arrays
        What each case must have.

    Raises
    ------
    InputError
        Naming every such case.
    """
    if problems:
        raise InputError(
            f"{data}: {len(problems)} of {len(problems) + len(complete)} cases are not complete; "
            "expected one file each of "
            + ", ".join(arrays)
            + ". Complete or move them away:\n"
            + "\n".join(f"  {problem}" for problem in problems)
        )


def require_distinct(names: Iterable[tuple[str, str]], where: Path) -> None:
    """Refuse names that would be the same file, or cannot be a file name.

    Parameters
    ----------
    names
        Each case's name, and where it stands, such as ``line 4``; empty where its name says that.

    Raises
    ------
    InputError
        Naming every such case.
    """
    seen: dict[str, str] = {}
    twice, unfit = [], []
    for name, place in names:
        shown = f"{name!r} ({place})" if place else f"{name!r}"
        folded = name.casefold()
        if folded in seen:
            twice.append(f"{seen[folded]} and {shown}")
        seen[folded] = shown
        if not _is_file_name(name):
            unfit.append(shown)
    if unfit:
        raise InputError(
            f"{where}: {some(unfit)} cannot name a file. Expected case names of 1 to "
            f"{_LONGEST_NAME} characters without slashes, not beginning with a dot."
        )
    if twice:
        raise InputError(
            f"{where}: case names must differ, also where capitals do not count: {some(twice)}.",
            fix="Rename one of each.",
        )


def some(items: Sequence[str]) -> str:
    """The first few, and how many more there are."""
    more = len(items) - _SHOWN
    return ", ".join(items[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _is_file_name(name: str) -> bool:
    return (
        0 < len(name.encode()) <= _LONGEST_NAME
        and not name.startswith(".")
        and not set(name) & set("/\\")
        and name.isprintable()
    )
