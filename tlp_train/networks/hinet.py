"""HiNet (arXiv 2002.05000): two encoders, fusion at every scale, and their reconstructions."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tlp_runtime.errors import SetOption, SpecError
from tlp_runtime.options import option
from tlp_runtime.spec.model import ModelSpec
from tlp_train.discriminators import StridedDiscriminator
from tlp_train.networks.base import Card, Network, SynthesisNetwork, wide
from tlp_train.networks.options import NetworkOptions
from tlp_train.recipes import PairedGAN, normal_start

if TYPE_CHECKING:
    from tlp_train.config import TrainConfig

Activation = Callable[[], nn.Module]

leaky: Activation = partial(nn.LeakyReLU, 0.2)


@dataclass(frozen=True, kw_only=True)
class FusionOptions(NetworkOptions):
    """Shape of a network that fuses two encoders.

    Parameters
    ----------
    width
        Channels at full resolution; doubled at each of the next two scales.
    """

    width: int = option(32, minimum=1)

    def require_on(self, spec: ModelSpec) -> None:
        """As :meth:`NetworkOptions.require_on`; each encoder takes one of two inputs."""
        if len(spec.inputs) != 2:
            raise SpecError(
                f"{self.NAME} fuses two inputs, T1 and T2; this model has {spec.inputs[0]} alone",
                fix=SetOption("inputs", "t1,t2"),
            )


@dataclass(frozen=True, kw_only=True)
class HiNetOptions(FusionOptions):
    """Shape of HiNet. Parameters: as of :class:`FusionOptions`."""

    NAME: ClassVar[str] = "hinet"

    @property
    def multiple(self) -> int:
        """Three downsamplings."""
        return 8


def unit(inputs: int, outputs: int, activation: Activation = nn.ReLU) -> list[nn.Module]:
    """A 3x3 convolution, BatchNorm, activation."""
    return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), activation()]


def two_units(inputs: int, outputs: int) -> nn.Sequential:
    """An encoder's scale."""
    return nn.Sequential(*unit(inputs, outputs, leaky), *unit(outputs, outputs, leaky))


class Fusion(nn.Module):
    """Sum, product and maximum of two features through a unit, then a unit with what came before.

    Parameters
    ----------
    width
        Channels of each of the two features.
    before
        Channels of what came before; 0 where nothing did.
    """

    def __init__(
        self, width: int, before: int, outputs: int, activation: Activation = nn.ReLU
    ) -> None:
        super().__init__()
        self.mixed = nn.Sequential(*unit(3 * width, width, activation))
        self.merged = nn.Sequential(*unit(width + before, outputs, activation))

    def forward(self, a: Tensor, b: Tensor, before: Tensor | None = None) -> Tensor:
        mixed = self.mixed(torch.cat((a + b, a * b, torch.maximum(a, b)), dim=1))
        if before is not None:
            mixed = torch.cat((mixed, before), dim=1)
        return self.merged(mixed)  # type: ignore[no-any-return]


def halved(x: Tensor) -> Tensor:
    """Max-pooled to half the size."""
    return F.max_pool2d(x, 2)


def doubled(x: Tensor) -> Tensor:
    """Each pixel repeated to twice the size."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


class Reconstruction(nn.Module):
    """One encoder's lowest features back to its own input."""

    def __init__(self, n: int) -> None:
        super().__init__()
        widths = [4 * n, 4 * n, 4 * n, 2 * n, 2 * n, n, n]
        pairs = itertools.pairwise(widths)
        self.units = nn.ModuleList(nn.Sequential(*unit(a, b)) for a, b in pairs)
        self.out = nn.Conv2d(n, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        for index, one in enumerate(self.units):
            x = one(doubled(x) if index in (1, 3, 5) else x)
        return torch.tanh(wide(self.out(x)))


class FusionNetwork(SynthesisNetwork):
    """The fusions on the way down and the decoder, of ``n`` channels at full resolution."""

    def __init__(self, spec: ModelSpec, n: int) -> None:
        super().__init__(spec)
        self.fusions = nn.ModuleList(
            [
                Fusion(n, 0, 2 * n, leaky),
                Fusion(2 * n, 2 * n, 4 * n, leaky),
                Fusion(4 * n, 4 * n, 4 * n, leaky),
            ]
        )
        self.lowest = nn.Sequential(*unit(4 * n, 8 * n, leaky))
        self.decoder = nn.ModuleList(
            [
                nn.Sequential(*unit(8 * n, 4 * n)),
                Fusion(4 * n, 4 * n, 2 * n),
                Fusion(2 * n, 2 * n, n),
                Fusion(n, n, n),
                nn.Sequential(*unit(n, n)),
            ]
        )


class HiNet(FusionNetwork):
    """What is fused on the way down goes into what is fused on the way up."""

    def __init__(self, spec: ModelSpec) -> None:
        n = HiNetOptions.of(spec).width
        super().__init__(spec, n)
        widths = (self.channels, n, 2 * n, 4 * n)
        self.encoders = nn.ModuleList(
            nn.ModuleList(two_units(a, b) for a, b in itertools.pairwise(widths)) for _ in range(2)
        )
        self.out = nn.Conv2d(n, 1, 3, padding=1)
        self.reconstructions = nn.ModuleList(Reconstruction(n) for _ in range(2))

    def forward(self, *tensors: Tensor) -> Tensor:
        return self._image(*(self._scales(*pair) for pair in self._pairs(tensors)))

    def outputs(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The image, and both inputs reconstructed."""
        a, b = (self._scales(*pair) for pair in self._pairs(tensors))
        again = (
            rebuild(scales[-1])
            for rebuild, scales in zip(self.reconstructions, (a, b), strict=True)
        )
        return (self._image(a, b), *again)

    def shed(self) -> None:
        """Drop the reconstructions."""
        del self.reconstructions

    def _pairs(self, tensors: tuple[Tensor, ...]) -> list[tuple[nn.Module, Tensor]]:
        return list(zip(self.encoders, self.branches(tensors), strict=True))

    @staticmethod
    def _scales(encoder: nn.Module, x: Tensor) -> list[Tensor]:
        """Pooled features, at half, a quarter and an eighth of the size."""
        scales = []
        for level in encoder.children():
            x = halved(level(x))
            scales.append(x)
        return scales

    def _image(self, a: list[Tensor], b: list[Tensor]) -> Tensor:
        fused = None
        for fuse, x, y in zip(self.fusions, a, b, strict=True):
            fused = fuse(x, y, None if fused is None else halved(fused))
        first, *ups, last = self.decoder
        x = first(self.lowest(fused))
        for index, fuse in enumerate(ups):
            level = len(ups) - 1 - index
            x = fuse(a[level], b[level], doubled(x) if index else x)
        return torch.tanh(wide(self.out(last(doubled(x)))))


Rules = list[tuple[str, Callable[[re.Match[str]], str]]]
"""Patterns of published keys, each with a function to our name."""

RENAMED: Rules = [
    (r"down_([123])_([01])\.(.*)", lambda m: f"encoders.{m[2]}.{int(m[1]) - 1}.{m[3]}"),
    (r"down_fu_([123])\.(.*)", lambda m: f"fusions.{int(m[1]) - 1}.{m[2]}"),
    (r"down_fu_4\.(.*)", lambda m: f"lowest.{m[1]}"),
    (r"deconv_([1-5])_0\.(.*)", lambda m: f"decoder.{int(m[1]) - 1}.{m[2]}"),
    (r"out\.0\.(.*)", lambda m: f"out.{m[1]}"),
]
"""Published keys of both networks of this family, and ours."""

_OWN: Rules = [
    (
        r"deconv_([1-6])_([12])\.(.*)",
        lambda m: f"reconstructions.{int(m[2]) - 1}.units.{int(m[1]) - 1}.{m[3]}",
    ),
    (r"out([12])\.0\.(.*)", lambda m: f"reconstructions.{int(m[1]) - 1}.out.{m[2]}"),
]


def renamed(key: str, rules: Rules) -> str:
    """Our name of a published key, by the first rule that matches. Raises :class:`KeyError`."""
    for pattern, name in rules:
        found = re.fullmatch(pattern, key)
        if found:
            return name(found).replace("layer1.", "mixed.").replace("layer2.", "merged.")
    raise KeyError(key)


def official(key: str) -> str:
    """Our name of a published key. Raises :class:`KeyError`."""
    return renamed(key, [*RENAMED, *_OWN])


def discriminator(in_channels: int, config: TrainConfig, *, norm_first: bool = False) -> nn.Module:
    """The published discriminator with its start."""
    made = StridedDiscriminator(
        in_channels,
        config.discriminator_channels,
        norm=config.discriminator_norm == "batch",
        norm_first=norm_first,
    )
    return made.apply(normal_start)


def shown(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The width that a state dict shows."""
    return {"width": len(state["encoders.0.0.0.weight"])}


PUBLISHED = {
    "epochs": 400,
    "constant_epochs": 100,
    "batch_size": 1,
    "learning_rate": 1e-3,
    "discriminator_channels": 32,
}

NETWORK = Network(
    options=HiNetOptions,
    build=HiNet,
    recipe=PairedGAN(
        first="generator",
        reconstruction=20.0,
        make_discriminator=discriminator,
        published=PUBLISHED,
    ),
    demo={"width": 8},
    official=official,
    shown=shown,
    card=Card(
        title="HiNet: hybrid fusion of two encoders",
        paper="arXiv 2002.05000",
        licence="none published; written here from facts of its code",
        differs="trained on whole crops, not on four patches of 128 x 128; inference with the "
        "statistics of the training, not of the batch",
    ),
)
