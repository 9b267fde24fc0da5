"""The training objective: equation 6 of the paper, least-squares GAN plus weighted L1."""

from __future__ import annotations

import torch
from monai.losses import PatchAdversarialLoss
from torch import Tensor, nn


class AdversarialObjective(nn.Module):
    """The two sides of equation 6, on the discriminator's last output (patch scores)."""

    def __init__(self, l1_weight: float) -> None:
        super().__init__()
        self.l1_weight = l1_weight
        self.least_squares = PatchAdversarialLoss(
            criterion="least_squares", no_activation_leastsq=True
        )

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        """((D(y) - 1)^2 + D(G(x))^2) / 2, means over patches."""
        on_real = self.least_squares(real, target_is_real=True, for_discriminator=True)
        on_fake = self.least_squares(fake, target_is_real=False, for_discriminator=True)
        return (on_real + on_fake) / 2  # type: ignore[no-any-return]

    def generator(self, fake: Tensor, image: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """((D(G(x)) - 1)^2 + weight * L1, and the L1 by itself)."""
        l1 = torch.nn.functional.l1_loss(image, target)
        adversarial = self.least_squares(fake, target_is_real=True, for_discriminator=False)
        return adversarial + self.l1_weight * l1, l1
