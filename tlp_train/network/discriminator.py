"""The PatchGAN discriminator: MONAI's, which is the published one layer for layer."""

from __future__ import annotations

from monai.networks.nets import PatchDiscriminator

from tlp_train.config import DiscriminatorNorm


def build_discriminator(
    channels: int = 64, norm: DiscriminatorNorm = "batch"
) -> PatchDiscriminator:
    """4x4 convolutions ``channels`` x (1, 2, 4, 8), strides 2, 2, 2, 1, then one to a logit map.

    BatchNorm from the second convolution on unless ``norm`` is none, LeakyReLU 0.2, padding 1,
    one input channel.
    Convolutions start from N(0, 0.02), BatchNorm weights from N(1, 0.02). ``forward`` returns
    every layer's features; the last is the (B, 1, h, w) map of patch scores.
    """
    return PatchDiscriminator(
        spatial_dims=2,
        channels=channels,
        in_channels=1,
        out_channels=1,
        num_layers_d=3,
        norm="BATCH" if norm == "batch" else None,
    )
