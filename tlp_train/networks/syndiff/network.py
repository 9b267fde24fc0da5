"""SynDiff as it is deployed: the diffusive generator and its sampling loop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from tlp_runtime.spec.model import ModelSpec
from tlp_train.networks.base import Card, SynthesisNetwork, wide
from tlp_train.networks.cyclegan import ResnetBody
from tlp_train.networks.syndiff.ncsnpp import NCSNpp
from tlp_train.networks.syndiff.options import SynDiffOptions
from tlp_train.networks.syndiff.schedule import NoiseSchedule


def translator(in_channels: int, width: int = 64) -> ResnetBody:
    """The non-diffusive generator, which translates one contrast to the other."""
    return ResnetBody(in_channels, width, 6)


class SynDiff(SynthesisNetwork):
    """The diffusive generator and its sampling loop; every slice starts from the same noise."""

    noise: Tensor
    latents: Tensor

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        net = SynDiffOptions.of(spec)
        self.size = net.size
        self.schedule = NoiseSchedule.of(net.steps)
        self.denoiser = NCSNpp(1 + len(spec.tensor_names), net)
        rng = np.random.default_rng(0)
        for name, shape in (
            ("noise", (net.steps, 1, 1, net.size, net.size)),
            ("latents", (net.steps, 1, net.latent)),
        ):
            values = torch.as_tensor(rng.standard_normal(shape, np.float32))
            self.register_buffer(name, values, persistent=False)

    def forward(self, *tensors: Tensor) -> Tensor:
        height, width = tensors[0].shape[-2:]
        source = self.padded(self.stacked(tensors), self.size, self.size)
        return self.cropped(self.sample(source, self.noise, self.latents), height, width)

    def sample(
        self, source: Tensor, noise: Sequence[Tensor] | Tensor, latents: Sequence[Tensor] | Tensor
    ) -> Tensor:
        """Image (B, 1, H, W) of the last step. Parameters: as of :meth:`steps`."""
        *_, (image, _) = self.steps(source, noise, latents)
        return image

    def steps(
        self, source: Tensor, noise: Sequence[Tensor] | Tensor, latents: Sequence[Tensor] | Tensor
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the image that each step predicts, and the noisy image that the next step takes.

        Parameters
        ----------
        source
            Inputs, and the prompt where there is one, (B, inputs, H, W) in the padded size.
        noise
            One per step, (B, 1, H, W) or (1, 1, H, W): the start of sampling, then the noise added
            after each step but the last.
        latents
            One per step, (B, latent) or (1, latent).
        """
        x = wide(noise[0]).expand(source.shape[0], -1, -1, -1)
        for index in range(len(self.schedule.betas)):
            t = len(self.schedule.betas) - 1 - index
            step = torch.full((1,), t, device=source.device)
            seen = torch.cat((x.to(source.dtype), source), dim=1)
            image = self.denoiser(seen, step, latents[index])[:, :1]
            x = self.schedule.denoised(image, x, t, noise[index + 1] if t else None)
            yield image, x


card = Card(
    title="SynDiff: adversarial diffusion in four steps",
    paper="arXiv 2207.08208",
    licence="MIT, files of NVIDIA's under its source code licence; written here from facts of "
    "their code",
    differs="the noise of inference is the same for every slice; all inputs, and the prompt, are "
    "given to each step; slices are padded to 256 x 256 inside the network",
)
