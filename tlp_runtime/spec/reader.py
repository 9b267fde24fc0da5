"""Dataclasses from plain values: each value is checked against its field, none is guessed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

from tlp_runtime.errors import GivenFixes, SpecError, TLPError

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Contract:
    """What is read, for messages, and how strictly.

    Parameters
    ----------
    what
        Begins every message, such as ``model spec`` or the name of a file.
    error
        The error of values that cannot be read.
    fix
        What to do then.
    defaults
        Whether fields that have a default may be absent.
    """

    what: str
    error: type[TLPError] = SpecError
    fix: GivenFixes = ()
    defaults: bool = False

    def refuse(self, problem: str) -> NoReturn:
        """Raise the contract's error."""
        raise self.error(f"{self.what}: {problem}", fix=self.fix)


def build(kind: type[T], data: Any, contract: Contract, extra: list[str], *, path: str = "") -> T:
    """Construct the dataclass ``kind`` from plain values.

    Lists become tuples, objects become dataclasses or mappings, as the fields are annotated. A
    dataclass with a ``from_dict`` of its own reads itself.

    Parameters
    ----------
    extra
        Unknown keys are added to it, with their path.
    path
        Where in the whole ``data`` stands, for messages: empty, or ends in a dot.

    Raises
    ------
    TLPError
        The contract's: missing keys, or values of other types than the dataclass declares.
    """
    if not isinstance(data, Mapping):
        contract.refuse(f"{path or 'top level'} is {data!r}, expected an object")
    declared = [field for field in fields(kind) if field.init]  # type: ignore[arg-type]
    names = [field.name for field in declared]
    missing = [
        path + field.name
        for field in declared
        if field.name not in data and not (contract.defaults and _has_default(field))
    ]
    if missing:
        contract.refuse(f"missing keys {', '.join(missing)}")
    extra.extend(path + str(key) for key in data if key not in names)
    hints = get_type_hints(kind)
    values = {
        name: _value(hints[name], data[name], contract, extra, path + name)
        for name in names
        if name in data
    }
    return kind(**values)


def read_schema(data: Mapping[str, Any], contract: Contract) -> tuple[int, int]:
    """The (major, minor) version that ``data`` names under ``schema``.

    Raises
    ------
    TLPError
        The contract's: it names none.
    """
    schema = data.get("schema")
    if not (
        isinstance(schema, Mapping)
        and set(schema) == {"major", "minor"}
        and all(type(number) is int for number in schema.values())
    ):
        contract.refuse(f"schema is {schema!r}, expected {{major, minor}}")
    return schema["major"], schema["minor"]


def _has_default(field: Field[Any]) -> bool:
    return field.default is not MISSING or field.default_factory is not MISSING


def _value(hint: Any, value: Any, contract: Contract, extra: list[str], path: str) -> Any:
    """A value as its annotation has it."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (UnionType, Union):
        return _one_of(arguments, value, contract, extra, path)
    if isinstance(hint, type) and is_dataclass(hint):
        own = getattr(hint, "from_dict", None)
        if own is not None:
            return own(value)
        return build(hint, value, contract, extra, path=f"{path}.")
    if origin is tuple:
        if not isinstance(value, list | tuple):
            contract.refuse(f"{path} is {value!r}, expected a list")
        kinds = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        if len(kinds) != len(value):
            contract.refuse(f"{path} is {value!r}, expected {len(kinds)} values")
        return tuple(
            _value(kind, item, contract, extra, f"{path}[{index}]")
            for index, (kind, item) in enumerate(zip(kinds, value, strict=True))
        )
    if origin is Mapping or (isinstance(origin, type) and issubclass(origin, Mapping)):
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            contract.refuse(f"{path} is {value!r}, expected an object")
        return {
            key: _value(arguments[1], item, contract, extra, f"{path}.{key}")
            for key, item in value.items()
        }
    return _plain(hint, value, contract, path)


def _one_of(
    kinds: tuple[Any, ...], value: Any, contract: Contract, extra: list[str], path: str
) -> Any:
    """A value of one of several kinds, or None where that is one of them."""
    if value is None and NoneType in kinds:
        return None
    *others, last = [kind for kind in kinds if kind is not NoneType]
    for kind in others:
        try:
            return _value(kind, value, contract, extra, path)
        except contract.error:
            continue
    return _value(last, value, contract, extra, path)


def _plain(hint: Any, value: Any, contract: Contract, path: str) -> Any:
    """Check a leaf against its annotation."""
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            contract.refuse(f"{path} is {value!r}, expected one of {get_args(hint)}")
        return value
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        contract.refuse(f"{path} is {value!r}, expected {hint.__name__}")
    return value
