"""What is asked of the engine: which one, where, how many slices at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from tlp_runtime.options import OptionGroup, option

AUTO = "auto"
"""Stands for an engine or a device that is to be chosen."""


def _names() -> Sequence[str]:
    from tlp_runtime.engines.registry import engine_names  # engines know what is asked of them

    return (AUTO, *engine_names())


@dataclass(frozen=True, kw_only=True)
class EngineChoice(OptionGroup):
    """The engine that runs a model. Valid once constructed.

    Parameters
    ----------
    engine
        Engine: auto takes the fastest that can run here.
    device
        auto, cpu or cuda[:INDEX]; a cohort and a server take several, separated by commas.
    batch
        Slices per run of the engine; halved when the device's memory runs out.
    threads
        CPU threads; by default one per core.
    build
        Build a TensorRT engine that is missing; otherwise refuse to run.

    Raises
    ------
    UsageError
        An engine of another name, or numbers below 1.
    """

    TITLE: ClassVar[str] = "Model and engine"
    ENVIRONMENT: ClassVar[bool] = True

    engine: str = option(AUTO, choices=_names)
    device: str = option(AUTO)
    batch: int = option(4, minimum=1)
    threads: int | None = option(None, minimum=1)
    build: bool = option(True)
