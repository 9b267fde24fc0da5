"""The generator and the discriminator, as torch modules."""

from tlp_train.network.discriminator import build_discriminator
from tlp_train.network.generator import Generator

__all__ = ["Generator", "build_discriminator"]
