"""A plain U-Net trained on the L1 distance: MONAI's DynUNet in 2-D, as nnU-Net configures it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tlp_runtime.errors import DependencyMissing, Install
from tlp_runtime.options import option
from tlp_runtime.spec.model import ModelSpec
from tlp_train.networks.base import Card, Network, SynthesisNetwork, wide
from tlp_train.networks.options import NetworkOptions
from tlp_train.recipes import Regression


@dataclass(frozen=True, kw_only=True)
class UNetOptions(NetworkOptions):
    """Shape of the U-Net.

    Parameters
    ----------
    width
        Channels at full resolution; doubled at each stage, up to 16 times as many.
    stages
        Resolutions, the full one included.
    """

    NAME: ClassVar[str] = "unet"

    width: int = option(32, minimum=1)
    stages: int = option(6, minimum=3, maximum=8)

    @property
    def multiple(self) -> int:
        """Two to the number of downsamplings."""
        return int(2 ** (self.stages - 1))


class UNet(SynthesisNetwork):
    """3x3 convolutions in pairs with instance norm and LeakyReLU 0.01, strided downsampling,
    transposed upsampling, skips by concatenation; a 1x1 convolution and tanh at the end."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        net = UNetOptions.of(spec)
        try:
            from monai.networks.nets import DynUNet  # an export of other networks needs no MONAI
        except ModuleNotFoundError as error:
            raise DependencyMissing(
                "unet is MONAI's DynUNet, and MONAI is not installed",
                fix=Install(("tlp-mri[train]",)),
            ) from error
        self.body = DynUNet(
            spatial_dims=2,
            in_channels=len(spec.tensor_names),
            out_channels=1,
            kernel_size=[3] * net.stages,
            strides=[1] + [2] * (net.stages - 1),
            upsample_kernel_size=[2] * (net.stages - 1),
            filters=[net.width * min(2**stage, 16) for stage in range(net.stages)],
        )

    def forward(self, *tensors: Tensor) -> Tensor:
        return torch.tanh(wide(self.body(self.stacked(tensors))))


NETWORK = Network(
    options=UNetOptions,
    build=UNet,
    recipe=Regression(published={"start": "default"}),
    demo={"width": 8},
    card=Card(
        title="U-Net on the L1 distance alone",
        paper="arXiv 1505.04597; stages and widths as nnU-Net takes them (arXiv 1904.08128)",
        licence="MONAI, Apache-2.0: its DynUNet is used as it is",
        differs="tanh at the end; learning rate and epochs are those of TLP, since nobody "
        "published a U-Net for this task",
    ),
)
