"""The networks by name. A network is one module here, with ``NETWORK`` in it, and one line below.

PyTorch is imported with the first network that is asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tlp_runtime.errors import ChooseAnother, SpecError, UsageError
from tlp_runtime.options import OptionGroup, option
from tlp_runtime.spec.model import ModelSpec

if TYPE_CHECKING:
    from tlp_train.networks.base import Network, SynthesisNetwork

_MODULES: Mapping[str, str] = {
    "tlp": "tlp.generator",
    "unet": "unet",
    "pix2pix": "pix2pix",
    "hinet": "hinet",
    "mmgsn": "mmgsn",
    "resvit": "resvit",
    "cyclegan": "cyclegan",
    "syndiff": "syndiff.network",
}

NAMES = tuple(_MODULES)
"""Names of all networks, in the order of the tables."""


def network(name: str) -> Network:
    """The network of that name.

    Raises
    ------
    SpecError
        There is none.
    """
    if name not in _MODULES:
        raise SpecError(
            f"network {name!r}: this version knows {', '.join(NAMES)}",
            fix=ChooseAnother("network", "network"),
        )
    found: Network = importlib.import_module(f"tlp_train.networks.{_MODULES[name]}").NETWORK
    return found


def build(spec: ModelSpec) -> SynthesisNetwork:
    """The network of a specification, with the weights it starts from.

    Raises
    ------
    SpecError
        No such network, or options that are missing, unknown, wrong, or do not fit the model.
    """
    return network(spec.network.name).build(spec)


def _assignment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UsageError(f"network option {text!r}: expected NAME=VALUE such as width=32.")
    return name.replace("-", "_"), value


@dataclass(frozen=True, kw_only=True)
class NetworkChoice(OptionGroup):
    """Which network is trained.

    Parameters
    ----------
    network
        Network; a wrong network option lists those it has.
    network_options
        An option of the network's own, as NAME=VALUE; several may be given.
    prompt
        Train with a prompt as an input; otherwise the model takes images alone, which is the
        published form of every network but tlp.
    """

    TITLE: ClassVar[str] = "Network"

    network: str = option("tlp", choices=lambda: NAMES)
    network_options: Mapping[str, str] = option(
        factory=dict, name="network_option", metavar="NAME=VALUE", parse=_assignment, join=dict
    )
    prompt: bool = option(True)
