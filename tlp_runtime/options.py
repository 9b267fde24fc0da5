"""Options, declared once: in the frozen dataclass of the code that uses them.

A field made by :func:`option` is an option. Its type and its default are the field's; its help is
its entry under "Parameters" in the dataclass's docstring; its bounds, and the names it has outside
of Python, are in its metadata. Front ends derive theirs from it: flags and help, environment
variables, HTTP parameters.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from functools import cache, partial
from typing import Any, ClassVar, Literal, get_args, get_origin, get_type_hints

from tlp_runtime.errors import UsageError

_KEY = "option"

Text = Callable[[str], Any]
"""Makes a value of what is typed. Raises :class:`UsageError`."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """One way to write an option's value, with a name of its own.

    Parameters
    ----------
    name
        The option's public name in this form, such as ``prompt_sphere``.
    help
        Help text; None takes the field's.
    kind
        Type of the value, or of each of several.
    parse
        Makes the value of a text; None where ``kind`` says how.
    repeated
        Whether it may be given several times.
    key
        Key of the value in an option that is a mapping.
    """

    name: str
    help: str | None = None
    kind: Any = str
    parse: Text | None = None
    repeated: bool = False
    key: str | None = None
    metavar: str | None = None


@dataclass(frozen=True, kw_only=True)
class Option:
    """An option as its dataclass declares it.

    Parameters
    ----------
    name
        The field's name.
    default
        Its value where none is given; ``MISSING`` where one is required.
    names
        Gives the names it may have; None where any value of its type will do.
    forms
        The ways to write it outside of Python, at least one.
    join
        Makes the field's value of everything that was given in all forms.
    """

    name: str
    default: Any
    help: str
    minimum: float | None
    maximum: float | None
    names: Callable[[], Sequence[str]] | None
    forms: tuple[Form, ...]
    join: Callable[[Sequence[Any]], Any] | None

    @property
    def choices(self) -> Sequence[str]:
        """The names it may have; empty where any value of its type will do."""
        return self.names() if self.names is not None else ()

    def value(self, given: Sequence[tuple[Form, Any]]) -> Any:
        """The field's value of what was given: pairs of a form and what stood there.

        Raises
        ------
        UsageError
            A text that is no such value.
        """
        parsed = [
            (form, item if form.parse is None else form.parse(item))
            for form, found in given
            for item in (found if form.repeated else (found,))
        ]
        if self.join is not None:
            return self.join([item for _, item in parsed])
        if self.forms[0].key is not None:
            return {form.key: item for form, item in parsed}
        if self.forms[0].repeated:
            return tuple(item for _, item in parsed)
        return parsed[0][1]


class OptionGroup:
    """Base of dataclasses that hold options; checks bounds and choices at construction.

    Attributes
    ----------
    TITLE
        What the group is called in help texts.
    ENVIRONMENT
        Whether ``TLP_`` and an option's public name is an environment variable that sets it.
    """

    TITLE: ClassVar[str | None] = None
    ENVIRONMENT: ClassVar[bool] = False

    def __post_init__(self) -> None:
        kind: type = type(self)
        for one in options_of(kind):
            value = getattr(self, one.name)
            if isinstance(value, int | float) and not isinstance(value, bool):
                if one.minimum is not None and value < one.minimum:
                    raise UsageError(f"{one.name} is {value}, expected at least {one.minimum:g}.")
                if one.maximum is not None and value > one.maximum:
                    raise UsageError(f"{one.name} is {value}, expected at most {one.maximum:g}.")
            if isinstance(value, str) and one.choices and value not in one.choices:
                raise UsageError(f"{one.name} is {value!r}, expected {alternatives(one.choices)}.")


def option(
    default: Any = MISSING,
    *,
    factory: Any = MISSING,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: Callable[[], Sequence[str]] | None = None,
    name: str | None = None,
    metavar: str | None = None,
    kind: Any = None,
    parse: Text | None = None,
    forms: Sequence[Form] = (),
    join: Callable[[Sequence[Any]], Any] | None = None,
) -> Any:
    """Declare a dataclass field that is an option.

    Parameters
    ----------
    default, factory
        As of :func:`dataclasses.field`.
    minimum, maximum
        Bounds of a number, both included.
    choices
        Gives the names it may have, where its type does not.
    name
        What it is called outside of Python; the field's name if None.
    kind
        Type of what is written outside of Python, where the field takes more than that.
    parse
        Makes the value, or each of several, of a text.
    forms
        Several ways to write it, in place of one.
    join
        Makes the field's value of all that was given.
    """
    declared = {
        "minimum": minimum, "maximum": maximum, "choices": choices, "name": name,
        "metavar": metavar, "kind": kind, "parse": parse, "forms": tuple(forms), "join": join,
    }  # fmt: skip
    return field(default=default, default_factory=factory, metadata={_KEY: declared})


def by_key(keys: Sequence[str], name: str, kind: Any, help: str) -> tuple[Form, ...]:  # noqa: A002
    """The forms of an option that is a mapping: one per key, which replaces ``{}`` in texts."""
    return tuple(
        Form(name=name.format(key), help=help.format(key.upper()), kind=kind, key=key)
        for key in keys
    )


@cache
def options_of(record: type) -> tuple[Option, ...]:
    """The options of a dataclass in the order of its fields, without those of its parts."""
    hints, texts, found = get_type_hints(record), help_of(record), []
    for one in fields(record):
        declared = one.metadata.get(_KEY)
        if declared is None:
            continue
        default = one.default if one.default_factory is MISSING else one.default_factory()
        hint = _plain(hints[one.name])
        names = partial(get_args, hint) if get_origin(hint) is Literal else None
        found.append(
            Option(
                name=one.name,
                default=default,
                help=texts.get(one.name, ""),
                minimum=declared["minimum"],
                maximum=declared["maximum"],
                names=declared["choices"] or names,
                forms=declared["forms"] or (_form(one.name, hint, declared),),
                join=declared["join"],
            )
        )
    return tuple(found)


def parts_of(record: type) -> dict[str, type]:
    """The fields of a dataclass that are groups of options themselves, and their types."""
    hints = get_type_hints(record)
    return {
        one.name: hints[one.name]
        for one in fields(record)
        if isinstance(hints[one.name], type) and issubclass(hints[one.name], OptionGroup)
    }


def help_of(record: type) -> dict[str, str]:
    """What the docstring of a dataclass and those it derives from say of each parameter."""
    found: dict[str, str] = {}
    for kind in reversed(record.__mro__):
        section = re.search(
            r"^Parameters\n-+\n(.*?)(?=^\S[^\n]*\n-+\n|\Z)",
            inspect.cleandoc(kind.__doc__ or ""),
            re.DOTALL | re.MULTILINE,
        )
        for names, text in re.findall(
            r"^(\S[^\n]*)\n((?:[ \t]+[^\n]*\n?|\n)+)", section[1] if section else "", re.MULTILINE
        ):
            plain = " ".join(text.split()).replace("``", "")
            found |= {name.strip(): plain for name in names.split(",")}
    return found


def alternatives(names: Sequence[str]) -> str:
    """``a, b or c``."""
    return " or ".join([", ".join(names[:-1])] * (len(names) > 1) + [names[-1]])


def _form(field_name: str, hint: Any, declared: Mapping[str, Any]) -> Form:
    """The one form of an option that names none."""
    repeated = get_origin(hint) is tuple and get_args(hint)[-1] is Ellipsis
    kind = declared["kind"] or (get_args(hint)[0] if repeated else hint)
    return Form(
        name=declared["name"] or field_name,
        kind=str if declared["parse"] else kind,
        parse=declared["parse"],
        repeated=repeated or declared["join"] is not None,
        metavar=declared["metavar"],
    )


def _plain(hint: Any) -> Any:
    """A type without its None."""
    kinds = [kind for kind in get_args(hint) if kind is not type(None)]
    return kinds[0] if type(None) in get_args(hint) and len(kinds) == 1 else hint
