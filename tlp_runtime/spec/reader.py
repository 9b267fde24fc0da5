"""Parts of a specification from plain values: each checked against its dataclass, none guessed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_type_hints

from tlp_runtime.errors import SpecError

T = TypeVar("T")


def build(kind: type[T], data: Any, path: str, extra: list[str]) -> T:
    """Construct the dataclass ``kind`` from plain values.

    Parameters
    ----------
    path
        Where in the whole specification ``data`` stands, for messages: empty, or ends in a dot.
    extra
        Unknown keys are added to it, with their path.

    Raises
    ------
    SpecError
        Missing keys, or values of other types than the dataclass declares.
    """
    if not isinstance(data, Mapping):
        raise SpecError(f"model spec: {path or 'top level'} is {data!r}, expected an object")
    hints = get_type_hints(kind)
    names = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    missing = [path + name for name in names if name not in data]
    if missing:
        raise SpecError(f"model spec: missing keys {', '.join(missing)}")
    extra.extend(path + str(key) for key in data if key not in names)
    values: dict[str, Any] = {}
    for name in names:
        hint: Any = hints[name]
        value = data[name]
        if isinstance(hint, UnionType):  # a part that may be absent
            hint = get_args(hint)[0] if value is not None else type(None)
        part = (get_args(hint) or (None,))[0]
        if isinstance(hint, type) and is_dataclass(hint):
            values[name] = build(hint, value, f"{path}{name}.", extra)
        elif isinstance(part, type) and is_dataclass(part):
            if not isinstance(value, list | tuple):
                raise SpecError(f"model spec: {path}{name} is {value!r}, expected a list")
            values[name] = tuple(
                build(part, item, f"{path}{name}[{index}].", extra)
                for index, item in enumerate(value)
            )
        else:
            values[name] = _plain(hint, value, path + name)
    return kind(**values)


def _plain(hint: Any, value: Any, path: str) -> Any:
    """Check a leaf against its annotation; lists become tuples."""
    arguments = get_args(hint)
    if getattr(hint, "__origin__", None) is tuple:
        if not isinstance(value, list | tuple):
            raise SpecError(f"model spec: {path} is {value!r}, expected a list")
        kinds = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        if len(kinds) != len(value):
            raise SpecError(f"model spec: {path} is {value!r}, expected {len(kinds)} values")
        return tuple(_plain(k, v, path) for k, v in zip(kinds, value, strict=True))
    if getattr(hint, "__origin__", None) is Literal:
        if value not in arguments:
            raise SpecError(f"model spec: {path} is {value!r}, expected one of {arguments}")
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not hint:
        raise SpecError(f"model spec: {path} is {value!r}, expected {hint.__name__}")
    return value
