"""What the options of every network have in common; PyTorch is not needed to read them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Self, get_args, get_origin, get_type_hints

from tlp_runtime.errors import SpecError, UsageError
from tlp_runtime.options import OptionGroup, help_of
from tlp_runtime.spec.model import ModelSpec, NetworkSpec
from tlp_runtime.spec.reader import Contract, build


def require(condition: bool, message: str) -> None:
    """Raise :class:`SpecError` unless ``condition`` holds."""
    if not condition:
        raise SpecError(f"network: {message}")


_VALUES: Mapping[Any, Callable[[str], Any]] = {
    int: int,
    float: float,
    bool: {"true": True, "false": False}.__getitem__,
}


@dataclass(frozen=True, kw_only=True)
class NetworkOptions(OptionGroup):
    """Base of the options of one network. Valid once constructed.

    Attributes
    ----------
    NAME
        Of the network, in the registry.
    """

    TITLE: ClassVar[str] = "Network"
    NAME: ClassVar[str]

    def __post_init__(self) -> None:
        try:
            super().__post_init__()
        except UsageError as error:
            raise SpecError(f"network: {error.problem}") from error

    @property
    def multiple(self) -> int:
        """Height and width of the slices are multiples of it; 1 where the network pads them."""
        return 1

    def require_on(self, spec: ModelSpec) -> None:
        """Raise :class:`SpecError` where a model has inputs or sizes that these options exclude."""

    def may_begin_from(self, other: NetworkOptions) -> bool:
        """Whether a training of this network may begin with the weights of that one."""
        return self == other

    def as_spec(self, *, prompt: bool = True) -> NetworkSpec:
        """The network as a specification holds it."""
        return NetworkSpec(
            name=self.NAME, options=asdict(self), multiple=self.multiple, prompt=prompt
        )

    @classmethod
    def of(cls, spec: ModelSpec) -> Self:
        """The options that a model's specification holds.

        Raises
        ------
        SpecError
            Options that are missing, unknown or wrong, or do not fit the model's inputs and sizes.
        """
        network = spec.network
        extra: list[str] = []
        contract = Contract(what=f"model spec: network {network.name}", error=SpecError)
        options = build(cls, network.options, contract, extra)
        if extra:
            contract.refuse(f"unknown options {', '.join(sorted(extra))}, it has {cls.told()}")
        if options.multiple != network.multiple:
            contract.refuse(f"multiple is {network.multiple}, expected {options.multiple}")
        options.require_on(spec)
        return options

    @classmethod
    def changed(cls, own: Mapping[str, Any], changes: Mapping[str, Any]) -> Self:
        """The options ``own``, some of them changed, to values or to texts of them.

        Raises
        ------
        SpecError
            A change of what the network does not have, or to what it cannot be.
        """
        contract = Contract(what=f"network {cls.NAME}", defaults=True)
        extra: list[str] = []
        parsed = {k: cls.parsed(k, v) if isinstance(v, str) else v for k, v in changes.items()}
        options = build(cls, {**own, **parsed}, contract, extra)
        if extra:
            contract.refuse(f"has no option {', '.join(sorted(extra))}; it has {cls.told()}")
        return options

    @classmethod
    def parsed(cls, name: str, text: str) -> Any:
        """The value of an option from what was typed; a text that is none is left as it is."""
        hint = get_type_hints(cls).get(name)
        kind, several = (get_args(hint)[0], True) if get_origin(hint) is tuple else (hint, False)
        words = text.split(",") if several else [text]
        try:
            values = [_VALUES.get(kind, str)(word.strip()) for word in words]
        except (ValueError, KeyError):
            return text
        return tuple(values) if several else values[0]

    @classmethod
    def told(cls) -> str:
        """Names and meanings of the options, for messages."""
        helps = help_of(cls)
        return "; ".join(f"{one.name} ({helps[one.name].rstrip('.')})" for one in fields(cls))
