"""The prompt code: a label map to the values the network was trained with."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tlp_runtime.errors import (
    ChooseAnother,
    ContentError,
    NotLabels,
    SetOption,
    UnknownLabels,
    UsageError,
)
from tlp_runtime.geometry.boxes import box_of
from tlp_runtime.spec.model import PromptSpec
from tlp_runtime.values.intensity import require_numbers

CLASSES = ("tumour", "oedema", "background")
"""What a label can mean; background is named where a scheme has a label that is no region here."""

WHOLE = 1e-3
"""How far a label may be from a whole number."""

Labels = Mapping[str, Sequence[int]]
"""Numbers in a label map by what they mean, such as ``{"tumour": (1, 4), "oedema": (2,)}``."""

NO_LABELS: Labels = MappingProxyType({})
"""Labels mean what the model's specification says."""

SCHEMES: Mapping[str, Labels] = MappingProxyType(
    {
        "brats2021": {"tumour": (1, 4), "oedema": (2,)},
        "brats2023": {"tumour": (1, 3), "oedema": (2,)},
        "brats2024-gli": {"tumour": (1, 3), "oedema": (2,), "background": (4,)},
        "brats-ped": {"tumour": (1, 2, 3), "oedema": (4,)},
        "binary": {"tumour": (1,)},
    }
)
"""Published schemes by name.

``brats2021``: 1 necrotic core, 2 oedema, 4 enhancing tumour. ``brats2023``: the same with 3 for
enhancing. ``brats2024-gli``, after treatment: 4 is the resection cavity, which is no tumour.
``brats-ped``: 1 enhancing, 2 not enhancing, 3 cystic, 4 oedema. ``binary``: 1 tumour.
"""

ENHANCING: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {
        "": (3, 4),
        "brats2021": (4,),
        "brats2023": (3,),
        "brats2024-gli": (3,),
        "brats-ped": (1,),
    }
)
"""Labels of enhancing tumour by scheme; the others do not tell it apart. Empty: nobody said one."""

_READ_DIFFERENTLY: tuple[tuple[re.Pattern[str], frozenset[int], tuple[str, ...]], ...] = (
    (re.compile(r"brats[-_]?ped", re.IGNORECASE), frozenset(), ("brats-ped",)),
    (re.compile(r"brats[-_]?gli", re.IGNORECASE), frozenset({4}), ("brats2024-gli", "brats2021")),
    (re.compile(""), frozenset({1, 2, 3, 4}), ("brats2024-gli", "brats-ped")),
)
"""Names and labels that several schemes read differently, and these schemes."""

MOST_LABELS = 64
"""More unknown values than any map of a tumour has; scans have hundreds."""

MOST = 0.5
"""More of a brain than any tumour with its oedema takes."""

_MEANING_OF_4 = {
    "brats2021": "if 4 is enhancing tumour",
    "brats2024-gli": "if 4 is a resection cavity",
    "brats-ped": "if 4 is oedema",
}


def encode(labels: NDArray[Any], spec: PromptSpec, name: str) -> NDArray[np.float32]:
    """Labels of any shape to prompt values: tumour, oedema, 0 elsewhere.

    Values within :data:`WHOLE` of a whole number are taken as that: scaling and interpolation of
    a mask leave 0.9999999 in the place of 1.

    Raises
    ------
    NotLabels
        It is an image: more than :data:`MOST_LABELS` values, or fractions.
    UnknownLabels
        A label that ``spec`` does not know, or labels as of :func:`require_one_scheme`.
    """
    require_numbers(labels, name)
    labels = rounded(labels)
    box = box_of(labels != 0)
    within = labels[box]  # all the rest is background, usually nearly everything
    known = {0, *spec.tumour_labels, *spec.oedema_labels, *spec.background_labels}
    found = np.unique(within).tolist()
    unknown = [value for value in found if value not in known]
    if not unknown:
        require_one_scheme(found, name, spec)
    else:
        broken = sum(not float(value).is_integer() for value in unknown)
        if len(unknown) > MOST_LABELS or broken > 1:
            raise NotLabels(
                f"{name}: holds {len(found)} different values from {found[0]:g} to {found[-1]:g}"
                f"{', fractions among them' if broken else ''}, as a scan does; expected the few "
                "whole numbers of a mask",
                fix=ChooseAnother("prompt", "mask"),
            )
        shown = ", ".join(f"{value:g}" for value in unknown[:8])
        raise UnknownLabels(
            f"{name}: labels {shown}{', …' if len(unknown) > 8 else ''} have no meaning here. "
            f"Expected 0 background, {_list(spec.tumour_labels)} tumour, "
            f"{_list(spec.oedema_labels)} oedema",
            fix=SetOption("labels", "tumour=1,3 oedema=2", "or what is true of this map"),
        )
    order: Literal["C", "F"] = "F" if labels.flags.f_contiguous else "C"
    prompt = np.zeros(labels.shape, dtype=np.float32, order=order)
    prompt[box][np.isin(within, spec.oedema_labels)] = spec.oedema_value
    prompt[box][np.isin(within, spec.tumour_labels)] = spec.tumour_value
    return prompt


def require_region(prompt: NDArray[np.float32], brain: NDArray[np.bool_], name: str) -> None:
    """Refuse a segmentation of a whole brain, such as one of its tissues, as one of a tumour.

    Parameters
    ----------
    prompt
        What :func:`encode` made of it.
    brain
        The brain, of the same shape.

    Raises
    ------
    ContentError
        It marks more than :data:`MOST` of the brain.
    """
    held = int(np.count_nonzero(brain))
    share = np.count_nonzero(prompt[brain]) / held if held else 0.0
    if share > MOST:
        raise ContentError(
            f"{name}: marks {share:.0%} of the brain, expected a tumour. Is it a segmentation of "
            "tissues?",
            fix=(
                SetOption("segmentations", "the folder of the tumours' segmentations"),
                SetOption("labels", "tumour=1,3 oedema=2", "if other labels are the tumour"),
            ),
        )


def require_one_scheme(found: Iterable[float], name: str, spec: PromptSpec) -> None:
    """Refuse labels that published schemes read differently, unless their scheme was named.

    Parameters
    ----------
    found
        Labels of a map, or of all maps of a data set.
    name
        Of the map with its folders, or of the data set.

    Raises
    ------
    UnknownLabels
        Schemes differ. The fixes are the candidates.
    """
    if spec.scheme:
        return
    there = {int(value) for value in found}
    for pattern, labels, candidates in _READ_DIFFERENTLY:
        if there - {0} and labels <= there and pattern.search(name):
            listed = ", ".join(str(n) for n in sorted(there - {0}))
            raise UnknownLabels(
                f"{name}: labels {listed} mean different things in different data sets, and "
                "nothing says which this is",
                fix=tuple(SetOption("labels", one, _MEANING_OF_4[one]) for one in candidates),
            )


def rounded(labels: NDArray[Any]) -> NDArray[Any]:
    """Labels or a mask with values nearly whole made whole; others stay as they are."""
    if not np.issubdtype(labels.dtype, np.floating):
        return labels
    whole: NDArray[Any] = np.rint(labels)
    near = np.abs(labels - whole) <= WHOLE
    return whole if near.all() else np.where(near, whole, labels)


def with_labels(spec: PromptSpec, labels: Labels) -> PromptSpec:
    """``spec`` with other meanings of labels; itself where there are none.

    Raises
    ------
    UsageError
        As :func:`require_labels`.
    """
    require_labels(labels)
    if not labels:
        return spec
    return replace(
        spec,
        scheme=next((name for name, one in SCHEMES.items() if dict(labels) == one), "given"),
        tumour_labels=tuple(labels.get("tumour", ())),
        oedema_labels=tuple(labels.get("oedema", ())),
        background_labels=tuple(labels.get("background", ())),
    )


def labels_of(spec: PromptSpec) -> Labels:
    """What :func:`with_labels` made ``spec`` of, in the order of :data:`CLASSES`."""
    numbers = {name: getattr(spec, f"{name}_labels") for name in CLASSES}
    return {name: held for name, held in numbers.items() if held} if spec.scheme else NO_LABELS


def coded(spec: PromptSpec) -> PromptSpec:
    """``spec`` for labels whose meaning a file's own codes gave, in the numbers of BraTS 2021."""
    usual = PromptSpec()
    return replace(
        spec,
        scheme="coded",
        tumour_labels=usual.tumour_labels,
        oedema_labels=usual.oedema_labels,
        background_labels=(),
    )


def require_labels(labels: Labels) -> None:
    """Raise :class:`UsageError` for another class, no label, or a label that two classes share."""
    unknown = [name for name in labels if name not in CLASSES]
    if unknown:
        raise UsageError(f"labels of {unknown[0]!r}: expected {' and '.join(CLASSES)}.")
    numbers = [number for name in labels for number in labels[name]]
    if len(set(numbers)) < len(numbers) or any(number < 1 for number in numbers):
        listed = " and ".join(f"{name}={_list(tuple(labels[name]))}" for name in labels)
        raise UsageError(f"labels: {listed} must not share a label, and 0 is background.")
    if not all(labels.values()):
        raise UsageError("labels: a class without a label; leave it out.")


def parse_labels(texts: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """Labels by the name of a scheme, or of assignments such as ``tumour=1,4`` and ``oedema=2``.

    Assignments are several in a text or one each.

    Raises
    ------
    UsageError
        A text of another form, a class named twice, or a scheme that is not alone.
    """
    words = [word for text in texts for word in text.split()]
    if len(words) == 1 and words[0].lower() in SCHEMES:
        return {name: tuple(numbers) for name, numbers in SCHEMES[words[0].lower()].items()}
    labels: dict[str, tuple[int, ...]] = {}
    for text in words:
        match = re.fullmatch(rf"({'|'.join(CLASSES)})=(\d+(?:,\d+)*)", text)
        if match is None or match[1] in labels:
            raise UsageError(
                f"labels {text!r}: expected one of {', '.join(SCHEMES)} alone, or "
                f"{', '.join(f'{name}=N[,N…]' for name in CLASSES)}, each once."
            )
        labels[match[1]] = tuple(int(n) for n in match[2].split(","))
    return labels


def label_texts(labels: Labels) -> list[str]:
    """The assignments that :func:`parse_labels` reads as ``labels``."""
    return [f"{name}={_list(tuple(numbers))}" for name, numbers in labels.items()]


def _list(labels: tuple[int, ...]) -> str:
    return ",".join(str(n) for n in labels) or "none"
