"""The generator and, in a module of its own that needs MONAI, the discriminator."""

from tlp_train.network.generator import Generator

__all__ = ["Generator"]
