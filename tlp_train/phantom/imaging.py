"""The scanner: turns a head into images with bias, noise and an arbitrary gain."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tlp_train.phantom.fields import Float
from tlp_train.phantom.grid import BOX_SHAPE, on_brats_grid
from tlp_train.phantom.mixture import Compartment, Head
from tlp_train.phantom.signal import (
    R1_PER_MMOL_S,
    R2_PER_MMOL_S,
    SpinEcho,
    add_rician_noise,
    receive_bias,
    t1_weighted,
    t2_weighted,
    with_contrast,
)


@dataclass(frozen=True)
class Scanner:
    """How well a scanner images.

    Parameters
    ----------
    white_matter_snr
        Signal of normal white matter over the noise of one channel.
    bias
        Largest deviation of the receive coil's factor from 1.
    same_coil
        Share of the bias field that the two images of a T1 pair have in common.
    """

    white_matter_snr: float = 40.0
    bias: float = 0.1
    same_coil: float = 0.8


@dataclass(frozen=True)
class T1Pair:
    """T1-weighted images before and after contrast agent, and what is true of them.

    Parameters
    ----------
    enhancement
        float32, in units of ``t1ce``: what the contrast agent adds, without bias and noise.
    gain
        How many times as bright ``t1ce`` shows what contrast agent does not reach.
    """

    t1: NDArray[np.int16]
    t1ce: NDArray[np.int16]
    enhancement: NDArray[np.float32]
    gain: float


USUAL = Scanner()


def take_t1_pair(rng: np.random.Generator, head: Head, scanner: Scanner = USUAL) -> T1Pair:
    """One protocol, two acquisitions, with contrast agent between them.

    The coil is the same, the patient has moved a little: the bias fields differ slightly.
    """
    echo = t1_weighted(rng)
    coil = receive_bias(rng, BOX_SHAPE, scanner.bias)
    other = receive_bias(rng, BOX_SHAPE, scanner.bias)
    moved = scanner.same_coil * coil + (1 - scanner.same_coil) * other
    before, after = (noiseless(head, echo, contrast=contrast) for contrast in (False, True))
    t1, t1_gain = _acquire(rng, head, echo, before * coil[head.mask], scanner)
    t1ce, gain = _acquire(rng, head, echo, after * moved[head.mask], scanner)
    added = np.zeros(head.mask.shape, dtype=np.float32)
    added[head.mask] = gain * (after - before)
    return T1Pair(t1, t1ce, on_brats_grid(added), gain / t1_gain)


def take_t2(rng: np.random.Generator, head: Head) -> NDArray[np.int16]:
    """T2-weighted image, before contrast agent."""
    coil, echo = receive_bias(rng, BOX_SHAPE), t2_weighted(rng)
    signal = noiseless(head, echo, contrast=False) * coil[head.mask]
    return _acquire(rng, head, echo, signal, USUAL)[0]


def noiseless(head: Head, echo: SpinEcho, *, contrast: bool) -> Float:
    """Signal of every brain voxel, (n,), relative to fully relaxed water."""
    image = np.zeros(head.t1_factor.shape, dtype=np.float32)
    flow = echo.stationary_fraction(head.blood_speed_mm_per_s, head.slice_mm)
    for part in head.compartments:
        signal = _signal(part, head, echo, contrast=contrast)
        image[part.voxel] += part.fraction * signal * (flow if part.flows else 1.0)
    return image


def _signal(part: Compartment, head: Head, echo: SpinEcho, *, contrast: bool) -> Float:
    """Signal of one compartment in its voxels, were it alone there."""
    t1 = np.float32(part.relaxation.t1_ms) * head.t1_factor[part.voxel]
    t2 = np.float32(part.relaxation.t2_ms) * head.t2_factor[part.voxel]
    if contrast:
        t1 = with_contrast(t1, R1_PER_MMOL_S, part.concentration_mmol_l)
        t2 = with_contrast(t2, R2_PER_MMOL_S, part.concentration_mmol_l)
    return echo.signal(t1, t2, np.float32(part.relaxation.pd) * head.pd_factor[part.voxel])


def _acquire(
    rng: np.random.Generator, head: Head, echo: SpinEcho, signal: Float, scanner: Scanner
) -> tuple[NDArray[np.int16], float]:
    """One image, int16 on the BraTS grid: 0 outside the brain, 1 to about 4000 inside; its gain."""
    healthy = head.white_matter
    sigma = healthy.pd * -np.expm1(-echo.tr_ms / healthy.t1_ms)
    sigma *= np.exp(-echo.te_ms / healthy.t2_ms) / scanner.white_matter_snr
    image = add_rician_noise(rng, signal, float(sigma))
    gain = np.float32(rng.uniform(1000.0, 4000.0) / image.max())
    image *= gain
    box = np.zeros(head.mask.shape, dtype=np.int16)
    box[head.mask] = np.maximum(np.rint(image), 1.0).astype(np.int16)
    return on_brats_grid(box), float(gain)
