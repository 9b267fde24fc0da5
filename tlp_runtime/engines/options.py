"""How an engine is built: batch profiles, effort, and the machines it is for."""

from __future__ import annotations

from dataclasses import dataclass

from tlp_runtime.errors import UsageError
from tlp_runtime.spec.model import ModelSpec

TensorShape = tuple[int, ...]
ProfileShapes = tuple[TensorShape, TensorShape, TensorShape]
"""Smallest, usual and largest."""

HARDWARE = ("none", "same-cc", "ampere+")


@dataclass(frozen=True)
class BatchProfile:
    """Batch sizes an engine accepts and is tuned for."""

    minimum: int = 1
    optimum: int = 4
    maximum: int = 16

    def __post_init__(self) -> None:
        if not 1 <= self.minimum <= self.optimum <= self.maximum:
            raise UsageError(f"batch profile {self}: expected 1 <= MIN <= OPT <= MAX.")

    @classmethod
    def parse(cls, text: str) -> BatchProfile:
        """Read ``MIN,OPT,MAX``. Raises :class:`UsageError`."""
        parts = text.split(",")
        if len(parts) != 3 or not all(part.strip().isdigit() for part in parts):
            raise UsageError(f"batch profile {text}: expected MIN,OPT,MAX such as 1,4,16.")
        return cls(*(int(part) for part in parts))

    def shapes(self, spec: ModelSpec) -> ProfileShapes:
        """The smallest, usual and largest (B, 1, H, W) of an input of the network."""
        crop, sizes = (spec.crop.height, spec.crop.width), spec.sizes
        low, high = (crop, crop) if sizes is None else (sizes.smallest, sizes.largest)
        return (
            (self.minimum, 1, *low),
            (self.optimum, 1, *crop),
            (self.maximum, 1, *high),
        )

    def __str__(self) -> str:
        return f"{self.minimum},{self.optimum},{self.maximum}"


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How an engine is built. Valid once constructed.

    Parameters
    ----------
    profiles
        One or more; a run takes the one that fits its batch best.
    workspace_mib
        Limit of the builder's temporary GPU memory; None leaves it to TensorRT.
    level
        Builder optimisation level, 0 to 5; None leaves it to TensorRT (3).
    targets
        TensorRT-RTX: compute capabilities such as ``8.6``, or ``current``; none builds for all.
    hardware
        Enterprise: ``none`` (this GPU model), ``same-cc``, or ``ampere+``.
    version_compatible
        Enterprise: later versions of the same major may open it.
    """

    profiles: tuple[BatchProfile, ...] = (BatchProfile(),)
    workspace_mib: int | None = None
    level: int | None = None
    targets: tuple[str, ...] = ()
    hardware: str = "none"
    version_compatible: bool = False

    def __post_init__(self) -> None:
        if not self.profiles:
            raise UsageError("batch profiles: expected at least one MIN,OPT,MAX.")
        if self.workspace_mib is not None and self.workspace_mib < 1:
            raise UsageError(f"workspace of {self.workspace_mib} MiB: expected at least 1 MiB.")
        if self.level is not None and not 0 <= self.level <= 5:
            raise UsageError(f"builder level {self.level}: expected 0 to 5.")
        if self.hardware not in HARDWARE:
            raise UsageError(f"hardware {self.hardware!r}: expected one of {', '.join(HARDWARE)}.")

    def shapes(self, spec: ModelSpec) -> list[dict[str, ProfileShapes]]:
        """For each profile, of each of ``spec``'s inputs."""
        return [dict.fromkeys(spec.tensor_names, profile.shapes(spec)) for profile in self.profiles]
