"""pix2pix (arXiv 1611.07004): a U-Net of 4x4 convolutions against a conditional PatchGAN."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tlp_runtime.options import option
from tlp_runtime.spec.model import ModelSpec
from tlp_train.networks.base import Card, Network, SynthesisNetwork, wide
from tlp_train.networks.options import NetworkOptions
from tlp_train.recipes import PairedGAN


@dataclass(frozen=True, kw_only=True)
class Pix2PixOptions(NetworkOptions):
    """Shape of the U-Net.

    Parameters
    ----------
    width
        Channels of the first convolution; doubled at each of the next three.
    downs
        Downsamplings; slices are padded to a multiple of 2 to that power.
    dropout
        Dropout of one half in the inner blocks, in training alone.
    """

    NAME: ClassVar[str] = "pix2pix"

    width: int = option(64, minimum=1)
    downs: int = option(8, minimum=5, maximum=8)
    dropout: bool = option(True)

    def channels(self, depth: int) -> int:
        """What the ``depth``-th convolution gives, counted from 0."""
        return int(self.width * min(2**depth, 8))


class Down(nn.Sequential):
    """LeakyReLU but before the first, a convolution of stride 2, BatchNorm but at either end."""

    def __init__(self, inputs: int, outputs: int, *, outermost: bool, innermost: bool) -> None:
        super().__init__()
        self.activation = nn.Identity() if outermost else nn.LeakyReLU(0.2)
        self.conv = nn.Conv2d(inputs, outputs, 4, stride=2, padding=1, bias=False)
        self.norm = nn.Identity() if outermost or innermost else nn.BatchNorm2d(outputs)


class Up(nn.Sequential):
    """ReLU, a transposed convolution of stride 2, BatchNorm and dropout but at the end."""

    def __init__(self, inputs: int, outputs: int, *, outermost: bool, dropout: bool) -> None:
        super().__init__()
        self.activation = nn.ReLU()
        self.conv = nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1, bias=outermost)
        self.norm = nn.Identity() if outermost else nn.BatchNorm2d(outputs)
        self.dropout = nn.Dropout(0.5 if dropout else 0.0)


class Pix2Pix(SynthesisNetwork):
    """Down to the lowest scale and up again, each scale's features concatenated before what came
    up from below."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        net = Pix2PixOptions.of(spec)
        self.step = 2**net.downs
        last = net.downs - 1
        widths = [len(spec.tensor_names), *(net.channels(depth) for depth in range(net.downs))]
        self.downs = nn.ModuleList(
            Down(widths[d], widths[d + 1], outermost=d == 0, innermost=d == last)
            for d in range(net.downs)
        )
        self.ups = nn.ModuleList(
            Up(
                widths[d + 1] * (1 if d == last else 2),
                widths[d] if d else 1,
                outermost=d == 0,
                dropout=net.dropout and 4 <= d < last,
            )
            for d in range(net.downs)
        )

    def forward(self, *tensors: Tensor) -> Tensor:
        height, width = tensors[0].shape[-2:]
        # Upwards without negative numbers, which ONNX divides towards zero.
        rows, columns = (
            (side + self.step - 1) // self.step * self.step for side in (height, width)
        )
        x = self.padded(self.stacked(tensors), rows, columns)
        features = []
        for down in self.downs:
            x = down(x)
            features.append(x)
        x = features.pop()
        for up in list(self.ups)[:0:-1]:
            x = torch.cat((features.pop(), up(x)), dim=1)
        return self.cropped(torch.tanh(wide(self.ups[0](x))), height, width)


_OUTERMOST = {"0": "downs.{}.conv", "3": "ups.{}.conv"}
_INNER = {
    "1": "downs.{}.conv", "2": "downs.{}.norm", "3": "ups.{}.conv", "4": "ups.{}.norm",
    "5": "ups.{}.conv", "6": "ups.{}.norm",
}  # fmt: skip


def official(key: str) -> str:
    """Our name of a published key: blocks lie within each other there, ``model.1.model.3…``.

    Raises
    ------
    KeyError
        It is none.
    """
    found = re.fullmatch(r"model\.model\.((?:1\.model\.(?:3\.model\.)*)?)(\d)(\..*)?", key)
    if found is None:
        raise KeyError(key)
    depth = found[1].count("model")
    return (_INNER if depth else _OUTERMOST)[found[2]].format(depth) + (found[3] or "")


def shown(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Width and depth that a state dict shows."""
    depths = {name.split(".")[1] for name in state if name.startswith("downs.")}
    return {"width": len(state["downs.0.conv.weight"]), "downs": len(depths)}


NETWORK = Network(
    options=Pix2PixOptions,
    build=Pix2Pix,
    recipe=PairedGAN(
        criterion="bce",
        conditional=True,
        published={
            "epochs": 200,
            "constant_epochs": 100,
            "batch_size": 1,
            "learning_rate": 2e-4,
        },
    ),
    demo={"width": 8},
    official=official,
    shown=shown,
    card=Card(
        title="pix2pix: U-Net against a conditional PatchGAN",
        paper="arXiv 1611.07004",
        licence="BSD",
        differs="slices are padded to 256 x 256 and cropped again, not resized and cropped at "
        "random; no flips; no dropout in inference",
    ),
)
