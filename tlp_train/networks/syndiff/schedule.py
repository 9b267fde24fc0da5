"""The noise of each step, and images with more or less of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Table = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """The noise of each step. Step t leads from ``x[t + 1]`` to ``x[t]``; ``x[0]`` is the image.

    Parameters
    ----------
    betas
        Share of the variance that step t adds, (steps,).
    """

    betas: Table

    @classmethod
    def of(cls, steps: int) -> NoiseSchedule:
        """The published schedule: variance preserving, beta from 0.1 to 20, times 0.001 to 1."""
        time = np.arange(steps + 1) / steps * 0.999 + 0.001
        kept = np.exp(-0.5 * time**2 * 19.9 - 0.1 * time)
        return cls(1 - kept[1:] / kept[:-1])

    @property
    def kept(self) -> Table:
        """Share of the image's variance that is left in ``x[t + 1]``, (steps,)."""
        kept: Table = np.cumprod(1 - self.betas, dtype=np.float64)
        return kept

    @property
    def _kept_before(self) -> Table:
        return np.concatenate(([1.0], self.kept[:-1]))

    @property
    def posterior_variance(self) -> Table:
        """Variance of ``x[t]`` given ``x[t + 1]`` and the image, (steps,)."""
        return self.betas * (1 - self._kept_before) / (1 - self.kept)

    @property
    def posterior_log_variance(self) -> Table:
        """Logarithm of the posterior variance, clipped at 1e-20, (steps,)."""
        return np.log(np.maximum(self.posterior_variance, 1e-20))

    @property
    def image_weight(self) -> Table:
        """Weight of the image in the posterior mean, (steps,)."""
        return self.betas * np.sqrt(self._kept_before) / (1 - self.kept)

    @property
    def noisy_weight(self) -> Table:
        """Weight of ``x[t + 1]`` in the posterior mean, (steps,)."""
        return (1 - self._kept_before) * np.sqrt(1 - self.betas) / (1 - self.kept)

    @property
    def forward_betas(self) -> Table:
        """Share of the variance that is new in ``x[t]``, (steps + 1,); 1e-8 in the image."""
        return np.concatenate(([1e-8], self.betas))

    @property
    def forward_kept(self) -> Table:
        """Factor of the image in ``x[t]``, (steps + 1,)."""
        return np.concatenate(([1.0], np.cumprod(np.sqrt(1 - self.betas))))

    def noised(self, image: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Noisy images ``x[t]`` from images (B, 1, H, W), for t (B,) from 0 to ``steps``."""
        kept = self.forward_kept
        return _at(kept, t, image) * image + _at(np.sqrt(1 - kept**2), t, image) * noise

    def noisier(self, x: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """``x[t + 1]`` from ``x[t]`` (B, 1, H, W), for t (B,) from 0 to ``steps - 1``."""
        betas = self.forward_betas
        kept, new = np.sqrt(1 - betas), np.sqrt(betas)
        return _at(kept, t + 1, x) * x + _at(new, t + 1, x) * noise

    def denoised(
        self, image: Tensor, x: Tensor, t: int | Tensor, noise: Tensor | None = None
    ) -> Tensor:
        """``x[t]`` from the image and ``x[t + 1]``; the posterior mean if ``noise`` is None.

        Parameters
        ----------
        t
            One step for the whole batch, or (B,).
        """
        mean = _at(self.image_weight, t, image) * image + _at(self.noisy_weight, t, x) * x
        if noise is None:
            return mean
        deviation = np.exp(0.5 * self.posterior_log_variance)
        deviation[0] = 0
        return mean + _at(deviation, t, noise) * noise


def _at(table: Table, t: int | Tensor, like: Tensor) -> float | Tensor:
    """Entry t of a table as a number, or the entries of a batch, (B, 1, 1, 1)."""
    if isinstance(t, int):
        return float(table[t])
    return torch.as_tensor(table, dtype=like.dtype, device=like.device)[t][:, None, None, None]
