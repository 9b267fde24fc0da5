"""A pool of synthesized images, so that a discriminator does not only see the newest ones."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn


class ImagePool(nn.Module):
    """Synthesized images of earlier steps (section 4 of the CycleGAN paper).

    While there is room, an image is kept and returned. After that, one with a coin below one half
    is returned as it is; any other takes the place of one in the pool, which is returned instead.
    Several processes share one pool: each keeps the images of all.

    Parameters
    ----------
    size
        Images that it holds.
    channels, height, width
        Of an image.
    """

    images: Tensor
    held: Tensor

    def __init__(self, size: int, channels: int, height: int, width: int) -> None:
        super().__init__()
        self.register_buffer("images", torch.zeros(size, channels, height, width))
        self.register_buffer("held", torch.zeros((), dtype=torch.int64))

    def exchange(self, images: Tensor, coins: Tensor, places: Tensor) -> Tensor:
        """Images (B, channels, H, W) for a discriminator, in return for those of this step.

        Parameters
        ----------
        coins
            Numbers in [0, 1), (B,).
        places
            Which image of the pool is exchanged, (B,) of int64.
        """
        given = _of_all(images.detach()).to(self.images)
        flips, slots = _of_all(coins).tolist(), _of_all(places).tolist()
        held = int(self.held)
        returned = given.clone()
        for index, (coin, place) in enumerate(zip(flips, slots, strict=True)):
            if held < len(self.images):
                self.images[held] = given[index]
                held += 1
            elif coin >= 0.5:
                returned[index] = self.images[place]
                self.images[place] = given[index]
        self.held.fill_(held)
        first = len(images) * (dist.get_rank() if _several() else 0)
        return returned[first : first + len(images)]


def _several() -> bool:
    return dist.is_available() and dist.is_initialized()


def _of_all(own: Tensor) -> Tensor:
    """Rows of all processes, in their order."""
    if not _several():
        return own
    rows = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(rows, own.contiguous())
    return torch.cat(rows)
