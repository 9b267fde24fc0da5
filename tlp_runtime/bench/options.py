"""What is measured of engines side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tlp_runtime.errors import UsageError
from tlp_runtime.options import Form, OptionGroup, option


def _list(name: str, example: str) -> Form:
    """An option that is written as whole numbers from 1, separated by commas."""

    def parse(text: str) -> tuple[int, ...]:
        parts = [part.strip() for part in text.split(",")]
        if not all(part.isdecimal() and int(part) for part in parts):
            raise UsageError(f"{name} {text!r}: expected whole numbers from 1, such as 1,4,16.")
        return tuple(int(part) for part in parts)

    return Form(name=name, metavar=example, parse=parse)


@dataclass(frozen=True, kw_only=True)
class SweepOptions(OptionGroup):
    """What is measured of engines side by side. Valid once constructed.

    Parameters
    ----------
    batches
        Slices per run of the engine, one or several, such as 1,4,16.
    concurrency
        Callers at once, one or several, such as 1,2,4.
    rounds
        Rounds in which all take turns, for each point.
    runs
        Measured runs of each caller in a turn.
    spread
        Warm-up ends when medians of successive windows differ by less than this fraction.
    most_warmup
        Warm-up ends after this many runs at the latest.
    """

    TITLE: ClassVar[str] = "Engines side by side"

    batches: tuple[int, ...] = option((1, 4), forms=[_list("batches", "1,4,…")])
    concurrency: tuple[int, ...] = option((1,), forms=[_list("concurrency", "1,2,…")])
    rounds: int = option(5, minimum=1)
    runs: int = option(4, minimum=1)
    spread: float = 0.03
    most_warmup: int = 60

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, values in (("batches", self.batches), ("concurrency", self.concurrency)):
            if not values or min(values) < 1:
                raise UsageError(f"{name} {values}: expected whole numbers from 1.")
        if self.most_warmup < 1:
            raise UsageError(f"most_warmup is {self.most_warmup}, expected at least 1.")
