"""The discriminators. Each takes (B, C, H, W) images and gives a (B, 1, h, w) map of scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from monai.networks.nets import PatchDiscriminator

    from tlp_train.config import TrainConfig


def patch_discriminator(in_channels: int, config: TrainConfig) -> PatchDiscriminator:
    """The PatchGAN of pix2pix, which is the published one of TLP and ResViT too: MONAI's.

    4x4 convolutions ``config.discriminator_channels`` x (1, 2, 4, 8), strides 2, 2, 2, 1, then one
    to a logit map; BatchNorm from the second convolution on unless ``discriminator_norm`` is none,
    LeakyReLU 0.2, padding 1. Convolutions start from N(0, 0.02), BatchNorm weights from
    N(1, 0.02). ``forward`` returns every layer's features; the last is the map of scores.
    """
    from monai.networks.nets import PatchDiscriminator  # training alone needs MONAI, not export

    return PatchDiscriminator(
        spatial_dims=2,
        channels=config.discriminator_channels,
        in_channels=in_channels,
        out_channels=1,
        num_layers_d=3,
        norm="BATCH" if config.discriminator_norm == "batch" else None,
    )


class StridedDiscriminator(nn.Sequential):
    """Four 3x3 convolutions of stride 2 and one to a map of scores, without padding.

    The discriminators of HiNet and MMgSN-Net: BatchNorm with eps 0.8, LeakyReLU 0.2.

    Parameters
    ----------
    channels
        Of the first convolution; each next one has twice as many.
    norm
        Whether there is BatchNorm at all.
    norm_first
        Whether the first convolution has one (MMgSN-Net).
    """

    def __init__(self, in_channels: int, channels: int, *, norm: bool, norm_first: bool) -> None:
        layers: list[Any] = []
        width = in_channels
        for step in range(4):
            out = channels * 2**step
            layers.append(nn.Conv2d(width, out, 3, stride=2, padding=1))
            if norm and (norm_first or step):
                layers.append(nn.BatchNorm2d(out, eps=0.8))
            layers.append(nn.LeakyReLU(0.2, inplace=True))
            width = out
        super().__init__(*layers, nn.Conv2d(width, 1, 3))
