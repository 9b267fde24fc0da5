"""Attributes of a DICOM header that the software cannot do without, checked one by one."""

from __future__ import annotations

import math
from typing import Any

from tlp_runtime.errors import GeometryError, InputUnreadable, first_line

_SHOWN = 60

INVALID = (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, Warning)
"""What pydicom raises about a value, warnings as errors included."""


def numbers(header: Any, keyword: str, count: int, where: str) -> tuple[float, ...]:
    """The finite numbers of an attribute.

    Parameters
    ----------
    where
        The file, and the frame of it, for the message.

    Raises
    ------
    GeometryError
        The attribute is absent or empty.
    InputUnreadable
        Its value is not ``count`` numbers.
    """
    if keyword not in header:
        raise GeometryError(
            f"{where}: lacks {named(keyword)}, so its place is unknown.",
            fix="Export the series again with its geometry.",
        )
    expected = "a number" if count == 1 else f"{count} numbers"
    try:
        value = header[keyword].value
        parts = [value] if _is_single(value) else value
        found = tuple(float(part) for part in parts if part is not None and part != "")
    except INVALID:
        found = ()
    if len(found) != count or not all(math.isfinite(v) for v in found):
        raise InputUnreadable(
            f"{where}: {named(keyword)} is {raw(header, keyword)}, expected {expected}.",
            fix="Correct it or export the series again.",
        )
    return found


def positive(header: Any, keyword: str, count: int, where: str) -> tuple[float, ...]:
    """As :func:`numbers`, all of them above 0."""
    found = numbers(header, keyword, count, where)
    if min(found) <= 0:
        raise InputUnreadable(
            f"{where}: {named(keyword)} is {raw(header, keyword)}, expected numbers above 0.",
            fix="Correct it or export the series again.",
        )
    return found


def integer(header: Any, keyword: str, where: str) -> int:
    """As :func:`positive`, one whole number."""
    (found,) = positive(header, keyword, 1, where)
    if found != int(found):
        raise InputUnreadable(
            f"{where}: {named(keyword)} is {raw(header, keyword)}, expected a whole number.",
            fix="Correct it or export the series again.",
        )
    return int(found)


def text(header: Any, keyword: str) -> str:
    """An attribute as a text without surrounding blanks; empty where it is absent or empty."""
    try:
        value = header.get(keyword)
    except INVALID:
        return raw(header, keyword)
    return "" if value is None else str(value).strip()


def number_or_none(header: Any, keyword: str) -> float | None:
    """A number that the file may do without; None where it is absent or makes no sense."""
    try:
        value = float(text(header, keyword))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def named(keyword: str) -> str:
    """An attribute's keyword with its tag: ``PixelSpacing (0028,0030)``."""
    from pydicom.datadict import tag_for_keyword

    tag = tag_for_keyword(keyword)
    assert tag is not None, keyword
    return f"{keyword} ({tag >> 16:04X},{tag & 0xFFFF:04X})"


def raw(header: Any, keyword: str) -> str:
    """What a file says in an attribute, also where that cannot be converted."""
    try:
        value = header.get_item(keyword).value
    except INVALID as error:
        return f"not readable ({first_line(error)})"
    if isinstance(value, bytes):
        value = value.decode("ascii", "replace").strip(" \0")
    parts = [value] if _is_single(value) else value
    shown = "\\".join("" if part is None else str(part) for part in parts)
    if not shown:
        return "empty"
    return f"'{shown}'" if len(shown) <= _SHOWN else f"'{shown[:_SHOWN]}…'"


def _is_single(value: Any) -> bool:
    return isinstance(value, str | bytes) or not hasattr(value, "__len__")
