"""SynDiff (arXiv 2207.08208): adversarial diffusion in four steps, given the inputs."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from tlp_runtime.options import option
from tlp_runtime.spec.model import ModelSpec
from tlp_train.networks.base import Card, SynthesisNetwork, wide
from tlp_train.networks.cyclegan import ResnetBody, body_official
from tlp_train.networks.options import NetworkOptions, require

ROOT_HALF = math.sqrt(0.5)
"""Keeps the variance of a sum of two."""

LATENT_LAYERS = 4
"""Linear layers between a latent and the styles."""

Table = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class SynDiffOptions(NetworkOptions):
    """Shape of SynDiff's diffusive generator, and its number of steps.

    Parameters
    ----------
    width
        Channels at full resolution, before they are multiplied.
    multipliers
        Channels of each level, in widths; each level has half the size of the one before.
    blocks
        Residual blocks of each level on the way down; there is one more on the way up.
    attention
        Columns of the level that has attention; none has it where no level has that size.
    size
        Rows and columns that slices are padded to.
    latent
        Values of the random latent.
    latent_width
        Width of the layers that turn it into styles.
    steps
        Denoising steps.
    """

    NAME: ClassVar[str] = "syndiff"

    width: int = option(64, minimum=4)
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4, 4)
    blocks: int = option(2, minimum=1)
    attention: int = option(16, minimum=1)
    size: int = option(256, minimum=4)
    latent: int = option(100, minimum=1)
    latent_width: int = option(256, minimum=1)
    steps: int = option(4, minimum=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            bool(self.multipliers) and all(one > 0 for one in self.multipliers),
            f"multipliers is {self.multipliers}, expected positive numbers, one for each level",
        )
        step = 2 ** (len(self.multipliers) - 1)
        require(
            self.size % step == 0,
            f"size {self.size} does not halve {len(self.multipliers) - 1} times; expected a "
            f"multiple of {step}",
        )
        # GroupNorm has a quarter as many groups as channels, 32 at most.
        few = 2 * self.width * max(self.multipliers) <= 128
        wanted = 4 if few else 32
        require(
            self.width % wanted == 0,
            f"width is {self.width}, expected a multiple of {wanted} with multipliers "
            f"{self.multipliers}",
        )

    def attends(self, level: int) -> bool:
        """Whether that level has attention; level 0 has the full resolution."""
        return bool(self.size == self.attention * 2**level)

    def require_on(self, spec: ModelSpec) -> None:
        """As :meth:`NetworkOptions.require_on`; slices are padded to one size."""
        largest = spec.sizes.largest if spec.sizes else (spec.crop.height, spec.crop.width)
        require(
            max(largest) <= self.size,
            f"slices of {largest[0]} x {largest[1]}: syndiff pads them to "
            f"{self.size} x {self.size}",
        )


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


def sinusoid(t: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """Steps (B,) as sines, then cosines, of geometrically falling frequencies, (B, width)."""
    half = width // 2
    places = torch.arange(half, dtype=torch.promote_types(dtype, torch.float32), device=t.device)
    rates = torch.exp(places * (-math.log(10000) / max(half - 1, 1)))
    angles = t[:, None].to(rates.dtype) * rates
    return torch.cat((angles.sin(), angles.cos()), dim=1).to(dtype)


class Smooth(nn.Module):
    """Filter [1, 3, 3, 1] along rows and columns, with zero padding, to another size.

    Parameters
    ----------
    to
        Output size: half or double the input's, or one pixel more.
    """

    kernel: Tensor

    def __init__(self, to: Literal["half", "double", "one more"]) -> None:
        super().__init__()
        self.to_size = to
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        kernel = torch.outer(taps, taps)[None, None] * (4 if to == "double" else 1)
        self.register_buffer("kernel", kernel, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        kernel = self.kernel.to(x.dtype).expand(channels, 1, 4, 4)
        if self.to_size == "double":
            return F.conv_transpose2d(x, kernel, stride=2, padding=1, groups=channels)
        stride, padding = (2, 1) if self.to_size == "half" else (1, 2)
        return F.conv2d(x, kernel, stride=stride, padding=padding, groups=channels)


def group_norm(channels: int, *, affine: bool = True) -> nn.GroupNorm:
    """GroupNorm with a quarter as many groups as channels, 32 at most."""
    return nn.GroupNorm(min(channels // 4, 32), channels, eps=1e-6, affine=affine)


class AdaptiveGroupNorm(nn.Module):
    """GroupNorm whose scale and shift come from the latent."""

    def __init__(self, channels: int, latent_width: int) -> None:
        super().__init__()
        self.norm = group_norm(channels, affine=False)
        self.style = nn.Linear(latent_width, 2 * channels)
        with torch.no_grad():
            self.style.bias[:channels] = 1
            self.style.bias[channels:] = 0

    def forward(self, x: Tensor, latent: Tensor) -> Tensor:
        scale, shift = wide(self.style(latent))[:, :, None, None].chunk(2, dim=1)
        return (scale * self.norm(wide(x)) + shift).to(x.dtype)  # type: ignore[no-any-return]


class Block(nn.Module):
    """Two 3x3 convolutions, conditioned on latent and step, and a skip connection.

    Parameters
    ----------
    resample
        Changes the size before the first convolution.
    """

    def __init__(
        self, inputs: int, outputs: int, net: SynDiffOptions, resample: Smooth | None = None
    ) -> None:
        super().__init__()
        self.resample = resample or nn.Identity()
        self.norm1 = AdaptiveGroupNorm(inputs, net.latent_width)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.time = nn.Linear(4 * net.width, outputs)
        self.norm2 = AdaptiveGroupNorm(outputs, net.latent_width)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        projected = inputs != outputs or resample is not None
        self.skip = nn.Conv2d(inputs, outputs, 1) if projected else nn.Identity()

    def forward(self, x: Tensor, time: Tensor, latent: Tensor) -> Tensor:
        h = self.conv1(self.resample(F.silu(self.norm1(x, latent))))
        h = h + self.time(time)[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h, latent)))
        return (self.skip(self.resample(x)) + h) * ROOT_HALF  # type: ignore[no-any-return]


class Pointwise(nn.Module):
    """Linear layer over the last axis; its weight is (in, out), as published."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        bound = channels**-0.5
        self.weight = nn.Parameter(torch.empty(channels, channels).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.to(x.dtype) + self.bias.to(x.dtype)


class Attention(nn.Module):
    """Self-attention over all pixels, with one head."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.query, self.key, self.value, self.project = (Pointwise(channels) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        pixels = self.norm(wide(x)).to(x.dtype).flatten(2).transpose(1, 2)
        q, k, v = (part(pixels) for part in (self.query, self.key, self.value))
        scores = wide(q) @ wide(k).transpose(1, 2) * q.shape[-1] ** -0.5
        seen = self.project(scores.softmax(dim=-1).to(v.dtype) @ v)
        return (x + seen.transpose(1, 2).unflatten(2, x.shape[-2:])) * ROOT_HALF  # type: ignore[no-any-return]


class DownLevel(nn.Module):
    """Blocks at one resolution, then, but for the lowest level, a block to half of it, to which
    the downsampled inputs are added."""

    def __init__(self, level: int, inputs: int, pyramid: int, net: SynDiffOptions) -> None:
        super().__init__()
        width = net.width * net.multipliers[level]
        self.blocks = nn.ModuleList(
            Block(width if index else inputs, width, net) for index in range(net.blocks)
        )
        self.attentions = nn.ModuleList(
            Attention(width) if net.attends(level) else nn.Identity() for _ in self.blocks
        )
        self.shrink: Block | None = None
        if level < len(net.multipliers) - 1:
            self.shrink = Block(width, width, net, Smooth("half"))
            self.pyramid = nn.Sequential(Smooth("one more"), nn.Conv2d(pyramid, width, 3, stride=2))

    def forward(
        self, x: Tensor, pyramid: Tensor, time: Tensor, latent: Tensor
    ) -> tuple[list[Tensor], Tensor]:
        """Return all features of the level, and the downsampled inputs for the next."""
        features = []
        for block, attend in zip(self.blocks, self.attentions, strict=True):
            x = attend(block(x, time, latent))
            features.append(x)
        if self.shrink is not None:
            pyramid = (self.pyramid(pyramid) + self.shrink(x, time, latent)) * ROOT_HALF
            features.append(pyramid)
        return features, pyramid


class UpLevel(nn.Module):
    """Blocks at one resolution, each with a skipped feature, then a block to double of it."""

    def __init__(self, level: int, inputs: int, skips: list[int], net: SynDiffOptions) -> None:
        super().__init__()
        width = net.width * net.multipliers[level]
        self.blocks = nn.ModuleList(
            Block((width if index else inputs) + skips.pop(), width, net)
            for index in range(net.blocks + 1)
        )
        self.attention = Attention(width) if net.attends(level) else nn.Identity()
        self.grow = Block(width, width, net, Smooth("double")) if level else None

    def forward(self, x: Tensor, features: list[Tensor], time: Tensor, latent: Tensor) -> Tensor:
        """Remove the features that are used from the end of the list."""
        for block in self.blocks:
            x = block(torch.cat((x, features.pop()), dim=1), time, latent)
        x = self.attention(x)
        return x if self.grow is None else self.grow(x, time, latent)


class PixelNorm(nn.Module):
    """Scales latents (B, latent) to a mean square of one."""

    def forward(self, z: Tensor) -> Tensor:
        values = wide(z)
        power = values.square().mean(dim=1, keepdim=True)
        return (values * torch.rsqrt(power + 1e-8)).to(z.dtype)


class NCSNpp(nn.Module):
    """Diffusive generator: predicts the image from a noisy one, the inputs, a step and a latent.

    Parameters
    ----------
    channels
        Of the noisy image and the inputs together; as many come out, of which the first is the
        image.
    """

    def __init__(self, channels: int, net: SynDiffOptions) -> None:
        super().__init__()
        n = net.width
        self.width = n
        self.time = nn.Sequential(nn.Linear(n, 4 * n), nn.SiLU(), nn.Linear(4 * n, 4 * n))
        layers: list[nn.Module] = [PixelNorm()]
        for index in range(LATENT_LAYERS):
            inputs = net.latent_width if index else net.latent
            layers += [nn.Linear(inputs, net.latent_width), nn.SiLU()]
        self.latent = nn.Sequential(*layers)
        self.first = nn.Conv2d(channels, n, 3, padding=1)
        self.downs = nn.ModuleList()
        width, pyramid, skips = n, channels, [n]
        levels = range(len(net.multipliers))
        for level in levels:
            self.downs.append(DownLevel(level, width, pyramid, net))
            width = pyramid = n * net.multipliers[level]
            skips += [width] * (net.blocks + (level < levels[-1]))
        self.middle = nn.ModuleList(
            [Block(width, width, net), Attention(width), Block(width, width, net)]
        )
        self.ups = nn.ModuleList()
        for level in reversed(levels):
            self.ups.append(UpLevel(level, width, skips, net))
            width = n * net.multipliers[level]
        self.last_norm = group_norm(width)
        self.last = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, z: Tensor) -> Tensor:
        """Predict (B, channels, H, W) in [-1, 1].

        Parameters
        ----------
        x
            (B, channels, H, W), the noisy image first.
        t
            Steps as integers, (B,) or (1,).
        z
            Latents, (B, latent) or (1, latent).
        """
        time = F.silu(self.time(sinusoid(t, self.width, x.dtype)))
        latent = self.latent(z.to(x.dtype))
        features, pyramid = [self.first(x)], x
        for down in self.downs:
            made, pyramid = down(features[-1], pyramid, time, latent)
            features += made
        before, attend, after = self.middle
        h = after(attend(before(features[-1], time, latent)), time, latent)
        for up in self.ups:
            h = up(h, features, time, latent)
        h = F.silu(self.last_norm(wide(h))).to(x.dtype)
        return torch.tanh(wide(self.last(h)))


class DiscriminatorBlock(nn.Module):
    """Two 3x3 convolutions to half the size, conditioned on the step, and a skip connection."""

    def __init__(self, inputs: int, outputs: int, embedding: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.time = nn.Linear(embedding, outputs)
        self.shrink = Smooth("half")
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = self.conv1(F.leaky_relu(x, 0.2)) + self.time(time)[:, :, None, None]
        h = self.conv2(self.shrink(F.leaky_relu(h, 0.2)))
        return (h + self.skip(self.shrink(x))) * ROOT_HALF  # type: ignore[no-any-return]


class TimeDiscriminator(nn.Module):
    """Scores (B, 1) of pairs of noisy images: does the noisier one come from the other?

    Parameters
    ----------
    width
        An eighth of the channels at the lowest scale.
    embedding
        Width of the step embedding.
    """

    def __init__(self, width: int = 64, embedding: int = 256) -> None:
        super().__init__()
        widths = [width * factor for factor in (2, 4, 8, 8, 8, 8, 8)]
        self.embedding = embedding
        self.time = nn.Sequential(
            nn.Linear(embedding, embedding), nn.LeakyReLU(0.2), nn.Linear(embedding, embedding)
        )
        self.first = nn.Conv2d(2, widths[0], 1)
        self.blocks = nn.ModuleList(
            DiscriminatorBlock(a, b, embedding) for a, b in itertools.pairwise(widths)
        )
        self.last = nn.Conv2d(widths[-1] + 1, widths[-1], 3, padding=1)
        self.score = nn.Linear(widths[-1], 1)

    def forward(self, x: Tensor, t: Tensor, noisier: Tensor) -> Tensor:
        """Score ``x[t]`` (B, 1, H, W) and ``x[t + 1]``, for t (B,)."""
        embedded = sinusoid(t, self.embedding, x.dtype)
        time = F.leaky_relu(self.time(embedded), 0.2)
        h = self.first(torch.cat((x, noisier), dim=1))
        for block in self.blocks:
            h = block(h, time)
        h = F.leaky_relu(self.last(torch.cat((h, deviation(h)), dim=1)), 0.2)
        return self.score(wide(h).sum(dim=(2, 3)).to(h.dtype))  # type: ignore[no-any-return]


def deviation(features: Tensor) -> Tensor:
    """Mean deviation between up to four samples of a batch, as a channel (B, 1, H, W)."""
    batch, _, height, width = features.shape
    samples = max(count for count in range(1, 5) if batch % count == 0)
    groups = wide(features).reshape(samples, -1, *features.shape[1:])
    spread = (groups.var(dim=0, correction=0) + 1e-8).sqrt().mean(dim=(1, 2, 3))
    return spread.repeat(samples)[:, None, None, None].expand(-1, 1, height, width).to(features)


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


def _layout(net: SynDiffOptions) -> list[str]:
    """Our names of the published modules, in the order of their list."""
    names = ["time.0", "time.2", "first"]
    levels = range(len(net.multipliers))
    for level in levels:
        for block in range(net.blocks):
            names.append(f"downs.{level}.blocks.{block}")
            names += [f"downs.{level}.attentions.{block}"] * net.attends(level)
        names += [f"downs.{level}.shrink", f"downs.{level}.pyramid"] * (level < levels[-1])
    names += [f"middle.{index}" for index in range(3)]
    for index, level in enumerate(reversed(levels)):
        names += [f"ups.{index}.blocks.{block}" for block in range(net.blocks + 1)]
        names += [f"ups.{index}.attention"] * net.attends(level)
        names += [f"ups.{index}.grow"] * (level > 0)
    return [*names, "last_norm", "last"]


_INNER = {
    "GroupNorm_0.style": "norm1.style", "GroupNorm_1.style": "norm2.style", "GroupNorm_0": "norm",
    "Conv_0": "conv1", "Conv_1": "conv2", "Conv_2": "skip", "Dense_0": "time", "Conv2d_0": "1",
    "NIN_0": "query", "NIN_1": "key", "NIN_2": "value", "NIN_3": "project",
}  # fmt: skip
_LEAF = {"W": "weight", "b": "bias", "weight": "weight", "bias": "bias"}


def official(key: str, net: SynDiffOptions | None = None) -> str:
    """Our name of a published key of the diffusive generator.

    Parameters
    ----------
    net
        The shape, which the order of the published modules depends on; None is the published one.

    Raises
    ------
    KeyError
        It is none.
    """
    if found := re.fullmatch(r"z_transform\.(\d+\.\w+)", key):
        return f"denoiser.latent.{found[1]}"
    found = re.fullmatch(r"all_modules\.(\d+)\.(?:(\w+(?:\.style)?)\.)?(\w+)", key)
    names = _layout(net or SynDiffOptions())
    if found is None or int(found[1]) >= len(names):
        raise KeyError(key)
    inner = f"{_INNER[found[2]]}." if found[2] else ""
    return f"denoiser.{names[int(found[1])]}.{inner}{_LEAF[found[3]]}"


def translator_official(key: str) -> str:
    """Our name of a published key of the translator. Raises :class:`KeyError`."""
    return body_official(key)


_JUDGE = {
    "t_embed.main": "time", "start_conv": "first", "final_conv": "last", "end_linear": "score",
}  # fmt: skip
_JUDGE_BLOCK = {"conv1.0": "conv1", "conv2.0": "conv2", "dense_t1": "time", "skip.0": "skip"}


def discriminator_official(key: str) -> str:
    """The name in :class:`TimeDiscriminator` of a published key. Raises :class:`KeyError`."""
    if found := re.fullmatch(r"conv([1-6])\.(\w+(?:\.0)?)\.(weight|bias)", key):
        return f"blocks.{int(found[1]) - 1}.{_JUDGE_BLOCK[found[2]]}.{found[3]}"
    if found := re.fullmatch(r"(t_embed\.main|[a-z]+_[a-z]+)((?:\.\d)?\.(?:weight|bias))", key):
        return f"{_JUDGE[found[1]]}{found[2]}"
    raise KeyError(key)


def shown(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Options that a state dict shows; the padded size is taken to be the published one."""
    width = len(state["denoiser.first.weight"])
    latent_width, latent = state["denoiser.latent.1.weight"].shape
    found = {"width": width, "latent": latent, "latent_width": latent_width}
    widths: dict[int, list[int]] = {}
    for name, tensor in state.items():
        if block := re.fullmatch(r"denoiser\.downs\.(\d+)\.blocks\.\d+\.conv2\.weight", name):
            widths.setdefault(int(block[1]), []).append(len(tensor))
        if level := re.match(r"denoiser\.downs\.(\d+)\.attentions\.", name):
            found["attention"] = SynDiffOptions.size >> int(level[1])
    multipliers = tuple(widths[level][0] // width for level in sorted(widths))
    return {**found, "multipliers": multipliers, "blocks": len(widths[0])}


card = Card(
    title="SynDiff: adversarial diffusion in four steps",
    paper="arXiv 2207.08208",
    licence="MIT, files of NVIDIA's under its source code licence; written here from facts of "
    "their code",
    differs="the noise of inference is the same for every slice; all inputs, and the prompt, are "
    "given to each step; slices are padded to 256 x 256 inside the network",
)
