"""Specifications of networks, in fewer words; the tables of docs/networks.md.

python -m tests.networks        # writes them
"""

from __future__ import annotations

import re
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from tlp_runtime.errors import SpecError
from tlp_runtime.spec.model import ModelSpec, NetworkSpec
from tlp_train.config import preset
from tlp_train.networks import registry
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


def tables() -> dict[str, str]:
    """The parts of docs/networks.md that the registry gives, by their mark."""
    rows, differs = [], []
    for name in registry.NAMES:
        network = registry.network(name)
        options = ", ".join(
            f"`{one.name}` {_shown(one.default)}" for one in fields(network.options)
        )
        told = {**preset("paper", ("t1", "t2"), name).to_dict()}
        recipe = network.recipe
        trained = (
            f"{recipe.TITLE}; Adam {told['learning_rate']:g}, batch {told['batch_size']}, "
            f"{told['epochs']} epochs"
        )
        inputs = "one or two" if _takes_one(name) else "two"
        card = network.card
        rows.append(
            f"| `{name}` | {card.title} | {options} | {inputs} | {trained} | {card.paper} | "
            f"{card.licence} |"
        )
        differs.append(f"- `{name}`: {card.differs}.")
    head = (
        "| network | what it is | options, with their defaults | inputs | trained on | paper | "
        "licence of the original |\n|---|---|---|---|---|---|---|\n"
    )
    return {"table": head + "\n".join(rows), "differs": "\n".join(differs)}


def _takes_one(name: str) -> bool:
    try:
        preset("paper", ("t1",), name)
    except SpecError:
        return False
    return True


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def written(text: str) -> str:
    """The page with those parts as they are now."""
    for mark, part in tables().items():
        text = re.sub(
            rf"<!-- {mark} -->.*?<!-- end -->",
            lambda found, mark=mark, part=part: f"<!-- {mark} -->\n\n{part}\n<!-- end -->",  # type: ignore[misc]
            text,
            count=1,
            flags=re.DOTALL,
        )
    return text


PAGE = Path(__file__).parents[1] / "docs" / "networks.md"

if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
