"""How an engine is built: batch profiles, effort, and the machines it is for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from tlp_runtime.errors import UsageError
from tlp_runtime.options import OptionGroup, option
from tlp_runtime.spec.model import ModelSpec

TensorShape = tuple[int, ...]
ProfileShapes = tuple[TensorShape, TensorShape, TensorShape]
"""Smallest, usual and largest."""

Hardware = Literal["none", "same-cc", "ampere+"]


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
class EngineOptions(OptionGroup):
    """How an engine is built. Valid once constructed.

    Parameters
    ----------
    profiles
        Batch sizes of the engine: least, usual and most slices per run; by default 1,4,16. Several
        may be given; a run takes the one that fits its batch best.
    workspace_mib
        Most GPU memory that the builder may use, in MiB; by default as TensorRT decides.
    level
        Effort of the builder, from 0 (fast build) to 5 (fast engine); by default as TensorRT
        decides (3).
    targets
        TensorRT-RTX: compute capability to build for, such as 8.6, or current; several may be
        given; by default all that it supports.
    hardware
        Enterprise TensorRT: GPUs that the engine runs on: none (this model of GPU), same-cc (its
        compute capability) or ampere+.
    version_compatible
        Enterprise TensorRT: later versions of the same major may open the engine.
    """

    TITLE: ClassVar[str] = "TensorRT engine"

    profiles: tuple[BatchProfile, ...] = option(
        (BatchProfile(),), name="batch", metavar="MIN,OPT,MAX", parse=BatchProfile.parse
    )
    workspace_mib: int | None = option(None, minimum=1, name="workspace", metavar="MIB")
    level: int | None = option(None, minimum=0, maximum=5, name="builder_level")
    targets: tuple[str, ...] = option((), name="target", metavar="CAPABILITY")
    hardware: Hardware = option("none")
    version_compatible: bool = option(False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.profiles:
            raise UsageError("batch profiles: expected at least one MIN,OPT,MAX.")

    def shapes(self, spec: ModelSpec) -> list[dict[str, ProfileShapes]]:
        """For each profile, of each of ``spec``'s inputs."""
        return [dict.fromkeys(spec.tensor_names, profile.shapes(spec)) for profile in self.profiles]
