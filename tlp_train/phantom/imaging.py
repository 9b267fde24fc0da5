"""The scanner: turns a head into images with bias, noise and an arbitrary gain."""

from __future__ import annotations

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

WHITE_MATTER_SNR = 40.0


def take_t1_pair(
    rng: np.random.Generator, head: Head
) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
    """T1-weighted images before and after contrast agent: one protocol, two acquisitions.

    The coil is the same, the patient has moved a little: the bias fields differ slightly.
    """
    echo = t1_weighted(rng)
    coil = receive_bias(rng, BOX_SHAPE)
    moved = 0.8 * coil + 0.2 * receive_bias(rng, BOX_SHAPE)
    return (
        _acquire(rng, head, echo, coil[head.mask], contrast=False),
        _acquire(rng, head, echo, moved[head.mask], contrast=True),
    )


def take_t2(rng: np.random.Generator, head: Head) -> NDArray[np.int16]:
    """T2-weighted image, before contrast agent."""
    coil = receive_bias(rng, BOX_SHAPE)
    return _acquire(rng, head, t2_weighted(rng), coil[head.mask], contrast=False)


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
    rng: np.random.Generator, head: Head, echo: SpinEcho, bias: Float, *, contrast: bool
) -> NDArray[np.int16]:
    """One image, int16 on the BraTS grid: 0 outside the brain, 1 to about 4000 inside."""
    healthy = head.white_matter
    sigma = healthy.pd * -np.expm1(-echo.tr_ms / healthy.t1_ms)
    sigma *= np.exp(-echo.te_ms / healthy.t2_ms) / WHITE_MATTER_SNR
    image = add_rician_noise(rng, noiseless(head, echo, contrast=contrast) * bias, float(sigma))
    image *= np.float32(rng.uniform(1000.0, 4000.0) / image.max())
    box = np.zeros(head.mask.shape, dtype=np.int16)
    box[head.mask] = np.maximum(np.rint(image), 1.0).astype(np.int16)
    return on_brats_grid(box)
