"""CycleGAN (arXiv 1703.10593): residual convolutions with instance norm, one body per direction."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from tlp_runtime.options import option
from tlp_runtime.spec.model import ModelSpec
from tlp_train.cycle import UnpairedCycle
from tlp_train.networks.base import Card, Network, SynthesisNetwork, wide
from tlp_train.networks.options import NetworkOptions
from tlp_train.recipes import normal_start

if TYPE_CHECKING:
    from tlp_train.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class CycleGANOptions(NetworkOptions):
    """Shape of CycleGAN's generators.

    Parameters
    ----------
    width
        Channels at full resolution; the residual blocks have 4 times as many.
    blocks
        Residual blocks.
    """

    NAME: ClassVar[str] = "cyclegan"

    width: int = option(64, minimum=1)
    blocks: int = option(9, minimum=1)

    @property
    def multiple(self) -> int:
        """Two downsamplings."""
        return 4


def conv_unit(inputs: int, outputs: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    """A convolution that pads with zeros where it has a stride, instance norm, ReLU."""
    padding = kernel // 2 if stride > 1 else 0
    conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=padding)
    return [conv, nn.InstanceNorm2d(outputs), nn.ReLU()]


def up_unit(inputs: int, outputs: int) -> list[nn.Module]:
    """To twice the size: a transposed 3x3 convolution, instance norm, ReLU."""
    conv = nn.ConvTranspose2d(inputs, outputs, 3, stride=2, padding=1, output_padding=1)
    return [conv, nn.InstanceNorm2d(outputs), nn.ReLU()]


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions over reflected borders, added to what they read."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.ReflectionPad2d(1),
            *conv_unit(channels, channels, 3),
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3),
            nn.InstanceNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)  # type: ignore[no-any-return]


class ResnetBody(nn.Sequential):
    """(B, in_channels, H, W) images to (B, out_channels, H, W) images in [-1, 1].

    The layers have the indices of the published ones, whatever the number of blocks.

    Parameters
    ----------
    width
        Channels at full resolution.
    blocks
        Residual blocks, at a quarter of the resolution.
    """

    def __init__(self, in_channels: int, width: int, blocks: int, out_channels: int = 1) -> None:
        super().__init__(
            nn.ReflectionPad2d(3),
            *conv_unit(in_channels, width, 7),
            *conv_unit(width, 2 * width, 3, 2),
            *conv_unit(2 * width, 4 * width, 3, 2),
            *(ResidualBlock(4 * width) for _ in range(blocks)),
            *up_unit(4 * width, 2 * width),
            *up_unit(2 * width, width),
            nn.ReflectionPad2d(3),
            nn.Conv2d(width, out_channels, 7),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(wide(super().forward(x)))  # type: ignore[no-untyped-call]


class InstancePatchGAN(nn.Sequential):
    """The PatchGAN with instance norm: (B, in_channels, H, W) images to a map of scores.

    4x4 convolutions with biases, ``channels`` x (1, 2, 4, 8), strides 2, 2, 2, 1, then one to the
    scores; instance norm from the second convolution on, LeakyReLU 0.2, padding 1.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        layers: list[nn.Module] = []
        inputs = in_channels
        for step, stride in enumerate((2, 2, 2, 1)):
            outputs = channels * 2**step
            layers.append(nn.Conv2d(inputs, outputs, 4, stride=stride, padding=1))
            if step:
                layers.append(nn.InstanceNorm2d(outputs))
            layers.append(nn.LeakyReLU(0.2))
            inputs = outputs
        super().__init__(*layers, nn.Conv2d(inputs, 1, 4, padding=1))


class CycleGAN(SynthesisNetwork):
    """The generator from the inputs to T1ce."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        net = CycleGANOptions.of(spec)
        self.body = ResnetBody(len(spec.tensor_names), net.width, net.blocks)

    def forward(self, *tensors: Tensor) -> Tensor:
        return self.body(self.stacked(tensors))  # type: ignore[no-any-return]


def body_official(key: str) -> str:
    """The name in :class:`ResnetBody` of a published key. Raises :class:`KeyError`."""
    found = re.fullmatch(r"model\.(\d+)\.(?:conv_block(\.\d))?(.*)", key)
    if found is None:
        raise KeyError(key)
    inner, leaf = found[2], found[3]
    return f"{found[1]}.layers{inner}{leaf}" if inner else f"{found[1]}.{leaf}"


def official(key: str) -> str:
    """Our name of a published key. Raises :class:`KeyError`."""
    return f"body.{body_official(key)}"


def discriminator_official(key: str) -> str:
    """The name in :class:`InstancePatchGAN` of a published key. Raises :class:`KeyError`."""
    if not key.startswith("model."):
        raise KeyError(key)
    return key.removeprefix("model.")


def shown(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Width and number of blocks that a state dict shows."""
    blocks = {name.split(".")[1] for name in state if ".layers." in name}
    return {"width": len(state["body.1.weight"]), "blocks": len(blocks)}


def backward(config: TrainConfig) -> ResnetBody:
    """The generator from T1ce to all inputs."""
    net, inputs = CycleGANOptions.of(config.spec), len(config.spec.inputs)
    return ResnetBody(1, net.width, net.blocks, inputs)


def discriminator(in_channels: int, config: TrainConfig) -> nn.Module:
    """The published discriminator with its start."""
    return InstancePatchGAN(in_channels, config.discriminator_channels).apply(normal_start)


NETWORK = Network(
    options=CycleGANOptions,
    build=CycleGAN,
    recipe=UnpairedCycle(
        make_backward=backward,
        make_discriminator=discriminator,
        published={
            "epochs": 200,
            "constant_epochs": 100,
            "batch_size": 1,
            "learning_rate": 2e-4,
        },
    ),
    demo={"width": 8, "blocks": 3},
    official=official,
    shown=shown,
    card=Card(
        title="CycleGAN: ResNet generators in a cycle",
        paper="arXiv 1703.10593",
        licence="BSD",
        differs="slices are not resized to 286 x 286 and cropped at random; no flips; the T1ce of "
        "a step is of another patient than its inputs; with two inputs the way back gives both as "
        "channels of one image; with a prompt or two inputs there is no identity loss",
    ),
)
