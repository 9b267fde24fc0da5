"""SynDiff as it is deployed: the diffusive generator and its sampling loop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from tlp_runtime.spec.model import ModelSpec
from tlp_train.networks.base import Card, Network, SynthesisNetwork, wide
from tlp_train.networks.syndiff.ncsnpp import NCSNpp
from tlp_train.networks.syndiff.options import SynDiffOptions
from tlp_train.networks.syndiff.published import official, shown
from tlp_train.networks.syndiff.recipe import AdversarialDiffusion
from tlp_train.networks.syndiff.schedule import NoiseSchedule


class SynDiff(SynthesisNetwork):
    """The diffusive generator and its sampling loop.

    Every slice starts from the same noise, drawn by the option ``seed``, unless other noise is
    given: ``noise`` (steps, 1, size, size) and ``latents`` (steps, 1, latent).
    """

    noise: Tensor
    latents: Tensor

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        net = SynDiffOptions.of(spec)
        self.size = net.size
        self.schedule = NoiseSchedule.of(net.steps)
        self.denoiser = NCSNpp(1 + len(spec.tensor_names), net)
        rng = np.random.default_rng(net.seed)
        for name, shape in (
            ("noise", (net.steps, 1, net.size, net.size)),
            ("latents", (net.steps, 1, net.latent)),
        ):
            values = torch.as_tensor(rng.standard_normal(shape, np.float32))
            self.register_buffer(name, values, persistent=False)

    @property
    def drawn(self) -> Mapping[str, Tensor]:
        return {"noise": self.noise, "latents": self.latents}

    def forward(self, *tensors: Tensor) -> Tensor:
        count = len(self.spec.tensor_names)
        noise, latents = tensors[count:] or (self.noise, self.latents)
        height, width = tensors[0].shape[-2:]
        source = self.padded(self.stacked(tensors[:count]), self.size, self.size)
        return self.cropped(self.sample(source, noise[:, None], latents), height, width)

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


NETWORK = Network(
    options=SynDiffOptions,
    build=SynDiff,
    recipe=AdversarialDiffusion(
        published={
            "epochs": 500,
            "constant_epochs": 0,
            "batch_size": 1,
            "betas": (0.5, 0.9),
            "learning_rate": 1.6e-4,
            "discriminator_learning_rate": 1e-4,
            "schedule": "cosine",
            "final_learning_rate": 1e-5,
            "ema": 0.999,
            "start": "default",
        },
        demo={"betas": (0.5, 0.9), "ema": 0.99},
    ),
    demo={
        "width": 8,
        "multipliers": (1, 1, 2, 2),
        "blocks": 1,
        "attention": 24,
        "size": 192,
        "latent": 16,
        "latent_width": 32,
    },
    official=official,
    shown=shown,
    card=Card(
        title="SynDiff: adversarial diffusion in four steps",
        paper="arXiv 2207.08208",
        licence="MIT, files of NVIDIA's under its source code licence; written here from facts of "
        "their code",
        differs="the noise of inference is drawn once, by the option seed, for every slice; all "
        "inputs, and the prompt, are given to each step; slices are padded to 256 x 256 inside the "
        "network; discriminators and generators of a step see the same draws of step, latent and "
        "noise; the T1ce of a step is of another patient than its inputs; the running mean of "
        "weights is kept of the generator of T1ce alone; convolutions of the generators start as "
        "PyTorch's do",
    ),
)
