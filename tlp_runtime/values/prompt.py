"""The prompt code: a label map to the values the network was trained with."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tlp_runtime.errors import SetOption, UnknownLabels, UsageError
from tlp_runtime.geometry.boxes import box_of
from tlp_runtime.spec.model import PromptSpec
from tlp_runtime.values.intensity import require_numbers

CLASSES = ("tumour", "oedema")

WHOLE = 1e-3
"""How far a label may be from a whole number."""

Labels = Mapping[str, Sequence[int]]
"""Numbers in a label map by what they mean, such as ``{"tumour": (1, 4), "oedema": (2,)}``."""

NO_LABELS: Labels = MappingProxyType({})
"""Labels mean what the model's specification says."""


def encode(labels: NDArray[Any], spec: PromptSpec, name: str) -> NDArray[np.float32]:
    """Labels of any shape to prompt values: tumour, oedema, 0 elsewhere.

    Values within :data:`WHOLE` of a whole number are taken as that: scaling and interpolation of
    a mask leave 0.9999999 in the place of 1.

    Raises
    ------
    ContentError
        A value that is not a whole number.
    UnknownLabels
        A label that ``spec`` does not know.
    """
    require_numbers(labels, name)
    labels = rounded(labels)
    box = box_of(labels != 0)
    within = labels[box]  # all the rest is background, usually nearly everything
    known = {0, *spec.tumour_labels, *spec.oedema_labels}
    unknown = [value for value in np.unique(within).tolist() if value not in known]
    if unknown:
        shown = ", ".join(f"{value:g}" for value in unknown[:8])
        raise UnknownLabels(
            f"{name}: labels {shown}{', …' if len(unknown) > 8 else ''} have no meaning here. "
            f"Expected 0 background, {_list(spec.tumour_labels)} tumour, "
            f"{_list(spec.oedema_labels)} oedema",
            fix=SetOption("prompt_labels", "tumour=1,3 oedema=2", "or what is true of this map"),
        )
    order: Literal["C", "F"] = "F" if labels.flags.f_contiguous else "C"
    prompt = np.zeros(labels.shape, dtype=np.float32, order=order)
    prompt[box][np.isin(within, spec.oedema_labels)] = spec.oedema_value
    prompt[box][np.isin(within, spec.tumour_labels)] = spec.tumour_value
    return prompt


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
        tumour_labels=tuple(labels.get("tumour", ())),
        oedema_labels=tuple(labels.get("oedema", ())),
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
    """Labels of assignments such as ``tumour=1,4`` and ``oedema=2``, several in a text or one each.

    Raises
    ------
    UsageError
        An assignment of another form, or a class named twice.
    """
    labels: dict[str, tuple[int, ...]] = {}
    for text in (word for words in texts for word in words.split()):
        match = re.fullmatch(rf"({'|'.join(CLASSES)})=(\d+(?:,\d+)*)", text)
        if match is None or match[1] in labels:
            raise UsageError(
                f"labels {text!r}: expected tumour=N[,N…] or oedema=N[,N…], each once."
            )
        labels[match[1]] = tuple(int(n) for n in match[2].split(","))
    return labels


def label_texts(labels: Labels) -> list[str]:
    """The assignments that :func:`parse_labels` reads as ``labels``."""
    return [f"{name}={_list(tuple(numbers))}" for name, numbers in labels.items()]


def _list(labels: tuple[int, ...]) -> str:
    return ",".join(str(n) for n in labels) or "none"
