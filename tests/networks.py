"""Specifications of networks, in fewer words."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from tlp_runtime.spec.model import ModelSpec, NetworkSpec
from tlp_train.networks.tlp.options import TLPOptions


def tlp(**options: Any) -> NetworkSpec:
    """The TLP network with some of its options."""
    return TLPOptions.changed(asdict(TLPOptions()), options).as_spec()


def changed(network: NetworkSpec, **options: Any) -> NetworkSpec:
    """The same with other options."""
    return replace(network, options={**network.options, **options})


def tlp_spec(*inputs: str, **options: Any) -> ModelSpec:
    """A model of that network."""
    return ModelSpec(inputs=inputs, network=tlp(**options))
