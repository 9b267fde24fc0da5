"""Which cases train, validate and test. Neither a case nor a patient is in two parts."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

from tlp_runtime.errors import InputError, InputMissing, SetOption, UsageError
from tlp_runtime.options import OptionGroup, option

PUBLISHED_SIZES = (850, 20, 130)

NONE: Mapping[str, str] = {}

_VISITS = (
    re.compile(r"(BraTS-[A-Za-z-]+-\d+)-\d+"),  # BraTS 2023 and later: BraTS-GLI-00005-101
    re.compile(r"(Brats1[78]_.+)_\d+"),
    re.compile(r"(UPENN-GBM-\d+)_\d+"),
    re.compile(r"(UCSF-PDGM-\d+)(?:_FU[^_]*)?(?:_nifti)?"),
    re.compile(r"(sub-[^_]+)(?:_.+)?"),  # BIDS: sessions, and runs of one
)
"""Names of cases that are visits of a patient; the group is the patient."""


def patient_of(case: str, patients: Mapping[str, str] = NONE) -> str:
    """The patient whose visit a case is; the case itself where nothing says so.

    Parameters
    ----------
    patients
        Patients of cases that were given with them; of any other the name tells.
    """
    if patients.get(case):
        return patients[case]
    matches = (pattern.fullmatch(case) for pattern in _VISITS)
    return next((match[1] for match in matches if match is not None), case)


@dataclass(frozen=True)
class Split:
    """Case names by part.

    Raises
    ------
    InputError
        A case in two parts or twice in one, or no case to train or validate on.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]

    def __post_init__(self) -> None:
        every = self.train + self.validation + self.test
        twice = sorted({name for name in every if every.count(name) > 1})
        if twice:
            raise InputError(
                f"split: {', '.join(twice[:8])} would be used twice; a case belongs to one part. "
                "Remove the repetitions from the list."
            )
        if not self.train or not self.validation:
            raise InputError(
                f"split: {len(self.train)} cases to train on and {len(self.validation)} to "
                "validate on, expected at least one each. Give more cases or other sizes."
            )

    def to_json(self) -> str:
        """The split as a JSON object of three lists."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, path: Path) -> Split:
        """Read what :meth:`to_json` wrote (a run's ``split.json``)."""
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            return cls(*(tuple(data[part]) for part in ("train", "validation", "test")))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path}: is not a split file (JSON with train, validation, test): {error}"
            ) from error


def _three_numbers(text: str) -> tuple[int, int, int]:
    parts = text.split(",")
    if len(parts) != 3 or not all(part.strip().isdecimal() for part in parts):
        raise UsageError(f"sizes {text!r}: expected three numbers such as 850,20,130.")
    train, validation, test = (int(part) for part in parts)
    return train, validation, test


@dataclass(frozen=True, kw_only=True)
class SplitOptions(OptionGroup):
    """How cases are shared out. Valid once constructed.

    Parameters
    ----------
    split
        List of case ids, one a line: first train, next validation, last test. By default cases are
        shared out at random, in the published proportions.
    split_sizes
        Cases of each part of the list: train, validation, test; by default 850,20,130.
    """

    TITLE: ClassVar[str] = "Data"

    split: Path | None = option(None, metavar="FILE")
    split_sizes: tuple[int, int, int] | None = option(None, metavar="N,N,N", parse=_three_numbers)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.split is None and self.split_sizes is not None:
            raise UsageError(
                "sizes of a split were given without its list", fix=SetOption("split", "FILE")
            )

    def parts(self, names: Sequence[str], seed: int, patients: Mapping[str, str] = NONE) -> Split:
        """Share out the cases called ``names``.

        Parameters
        ----------
        patients
            As of :func:`patient_of`.

        Raises
        ------
        InputError, UsageError
            As :func:`from_list` and :class:`Split`.
        """
        if self.split is None:
            return seeded(names, seed, patients)
        return from_list(self.split, names, self.split_sizes, patients)


def seeded(names: Sequence[str], seed: int, patients: Mapping[str, str] = NONE) -> Split:
    """Shuffle patients and share them out in the published proportions.

    At least one is for validation. A patient's visits stay together, so that a part may hold a few
    cases more than its share.
    """
    visits: dict[str, list[str]] = {}
    for name in sorted(names):
        visits.setdefault(patient_of(name, patients), []).append(name)
    order = sorted(visits)
    random.Random(seed).shuffle(order)
    total = len(names)
    validation = max(1, round(total * PUBLISHED_SIZES[1] / sum(PUBLISHED_SIZES)))
    test = round(total * PUBLISHED_SIZES[2] / sum(PUBLISHED_SIZES))

    def last(count: int) -> tuple[str, ...]:
        """The last patients, of so many cases at least."""
        taken: list[str] = []
        while order and len(taken) < count:
            taken[:0] = visits[order.pop()]
        return tuple(taken)

    tested = last(test)
    validated = last(validation)
    return Split(tuple(n for p in order for n in visits[p]), validated, tested)


def from_list(
    path: Path,
    names: Sequence[str],
    sizes: tuple[int, int, int] | None,
    patients: Mapping[str, str] = NONE,
) -> Split:
    """Split in the order of a list: first train, next validation, last test.

    Parameters
    ----------
    path
        One case a line: a folder name or its bare five-digit id; blank lines are skipped.
    names
        The folder names there are.
    sizes
        Cases of each part; None takes the published 850, 20, 130 and needs exactly 1,000 lines.

    Raises
    ------
    InputMissing, InputError
        No such list; ids of no case or of several; a case twice; a patient in two parts.
    UsageError
        Sizes that do not add up to the list.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputMissing(f"{path}: cannot be read as a list of cases ({error}).") from error
    wanted = [line for line in lines if line]
    sizes = sizes or PUBLISHED_SIZES
    if sum(sizes) != len(wanted):
        raise UsageError(
            f"{path}: lists {len(wanted)} cases, but the sizes {sizes[0]},{sizes[1]},{sizes[2]} "
            f"need {sum(sizes)}",
            fix=SetOption("split_sizes", "TRAIN,VALIDATION,TEST"),
        )
    resolved, problems = [], []
    for entry in wanted:
        matches = _matches(entry, names)
        if len(matches) == 1:
            resolved.append(matches[0])
        else:
            problems.append(f"{entry} ({'no' if not matches else len(matches)} folders)")
    if problems:
        raise InputError(
            f"{path}: {len(problems)} entries do not name one case of the data folder: "
            + ", ".join(problems[:12])
            + (", …" if len(problems) > 12 else "")
        )
    split = _take(resolved, sizes)
    _require_patients_apart(split, path, patients)
    return split


def _require_patients_apart(split: Split, path: Path, patients: Mapping[str, str]) -> None:
    parts: dict[str, set[str]] = {}
    for part, names in asdict(split).items():
        for name in names:
            parts.setdefault(patient_of(name, patients), set()).add(part)
    crossing = sorted(patient for patient, where in parts.items() if len(where) > 1)
    if crossing:
        shown = ", ".join(f"{p} ({' and '.join(sorted(parts[p]))})" for p in crossing[:8])
        raise InputError(
            f"{path}: visits of {len(crossing)} patients would be in several parts: {shown}"
            + (", …" if len(crossing) > 8 else "")
            + ". Put all visits of a patient next to each other, in one part."
        )


def _matches(entry: str, names: Sequence[str]) -> list[str]:
    if entry in names:
        return [entry]
    if not re.fullmatch(r"\d{5}", entry):
        return []
    return [name for name in names if entry in re.findall(r"(?<!\d)\d{5}(?!\d)", name)]


def _take(names: Sequence[str], sizes: tuple[int, int, int]) -> Split:
    train, validation, _ = sizes
    return Split(
        tuple(names[:train]),
        tuple(names[train : train + validation]),
        tuple(names[train + validation :]),
    )
