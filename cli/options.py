"""Flags from declarations: each parameter of a verb that is a group of options becomes its flags.

Names, types, defaults, bounds, help texts and environment variables come from the dataclass
(:mod:`tlp_runtime.options`). A verb says which it has::

    @verb
    def command(*, choice: EngineChoice, asked: Annotated[Request, Pick(only=("t1",))]): ...
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Annotated, Any, NamedTuple, TypeVar, get_args, get_origin

import typer

from tlp_runtime.options import Form, Option, OptionGroup, options_of, parts_of

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Pick:
    """Which options of a group a verb has.

    Parameters
    ----------
    only, without
        Public names of the options that it has, or has not; empty: all, or none.
    defaults
        By field, what the verb takes in place of the group's own defaults.
    changes
        Give the verb a dictionary of what was given, by field, in place of the dataclass.
    """

    only: Collection[str] = ()
    without: Collection[str] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    changes: bool = False


class _Flag(NamedTuple):
    """One form of an option, of a group or of a part of it, as a parameter of the command line."""

    part: str | None
    option: Option
    form: Form
    parameter: inspect.Parameter


def flag(name: str) -> str:
    """The flag of a public name."""
    return f"--{name.replace('_', '-')}"


def verb(function: Callable[..., T]) -> Callable[..., T]:
    """Replace the parameters of ``function`` that are groups of options by their flags."""
    signature = inspect.signature(function, eval_str=True)
    parameters: list[inspect.Parameter] = []
    groups: dict[str, tuple[type, Pick, list[_Flag]]] = {}
    for one in signature.parameters.values():
        marks = get_args(one.annotation) if get_origin(one.annotation) is Annotated else ()
        kinds = [k for k in (one.annotation, *marks) if isinstance(k, type)]
        group = next((kind for kind in kinds if issubclass(kind, OptionGroup)), None)
        if group is None:
            parameters.append(one.replace(kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        pick = next((mark for mark in marks if isinstance(mark, Pick)), Pick())
        flags = list(_flags(group, pick))
        groups[one.name] = group, pick, flags
        parameters += [each.parameter for each in flags]

    @functools.wraps(function)
    def command(**values: Any) -> T:
        records = {
            name: _record(group, pick, [(one, values.pop(one.parameter.name)) for one in flags])
            for name, (group, pick, flags) in groups.items()
        }
        return function(**values, **records)

    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in parameters}
    return command


def given_flags(context: typer.Context, *names: str) -> list[str]:
    """Flags of those options, by public name, that were set and did not take their defaults."""
    sources = {name: context.get_parameter_source(name) for name in names}
    return [flag(name) for name, source in sources.items() if source and source.name != "DEFAULT"]


def _flags(group: type, pick: Pick, part: str | None = None) -> Iterator[_Flag]:
    parts = {} if part else parts_of(group)
    declared = {one.name: one for one in options_of(group)}
    for name in (one.name for one in fields(group)):
        if name in parts:
            yield from _flags(parts[name], pick, name)
        for form in declared[name].forms if name in declared else ():
            if form.name not in pick.without and (not pick.only or form.name in pick.only):
                one = declared[name]
                yield _Flag(part, one, form, _parameter(one, form, group, pick))


def _parameter(one: Option, form: Form, group: type[OptionGroup], pick: Pick) -> inspect.Parameter:
    kind: Any = form.kind
    default = pick.defaults.get(one.name, one.default)
    if pick.changes or default is MISSING or form.parse or form.repeated or form.key:
        default = None
    switch = kind is bool and one.default is True
    info = typer.Option(
        f"{flag(form.name)}/{flag('no_' + form.name)}" if switch else flag(form.name),
        help=form.help or one.help,
        min=one.minimum if kind in (int, float) else None,
        max=one.maximum if kind in (int, float) else None,
        metavar=form.metavar or _metavar(one, kind),
        envvar=f"TLP_{form.name.upper()}" if group.ENVIRONMENT else None,
        rich_help_panel=group.TITLE,
    )
    kind = list[kind] if form.repeated else kind
    annotation: Any = Annotated[kind | None if default is None else kind, info]
    keyword = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(form.name, keyword, default=default, annotation=annotation)


def _metavar(one: Option, kind: Any) -> str | None:
    """What stands for a value in the help, where Typer's own says less."""
    if kind is str and one.choices:
        return "|".join(one.choices)
    return {int: "<int>", float: "<number>"}.get(kind)


def _record(group: type, pick: Pick, found: list[tuple[_Flag, Any]]) -> Any:
    """The dataclass, or what was given of it, from the values of its flags."""
    given: dict[tuple[str | None, str], list[tuple[Form, Any]]] = {}
    for one, value in found:
        if value not in (None, [], ()):
            given.setdefault((one.part, one.option.name), []).append((one.form, value))
    options = {(one.part, one.option.name): one.option for one, _ in found}
    whole: dict[str, Any] = dict(pick.defaults)
    inner: dict[str, dict[str, Any]] = {part: {} for part, _ in given if part is not None}
    for (part, name), texts in given.items():
        target = whole if part is None else inner[part]
        target[name] = options[part, name].value(texts)
    kinds = parts_of(group)
    whole |= {part: kinds[part](**values) for part, values in inner.items()}
    return whole if pick.changes else group(**whole)
