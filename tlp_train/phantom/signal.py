"""MR physics: spin echo, contrast agent, flowing blood, receive bias, noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from tlp_train.phantom.fields import Float, Shape3, variation

R1_PER_MMOL_S = 4.5
R2_PER_MMOL_S = 5.5
"""Relaxivities in L/(mmol s) of a typical gadolinium chelate in plasma at 37 degrees C.

Rohrer et al., Invest Radiol 40:715 (2005): r1 3.5 to 5.2, r2 4.3 to 7.1 for the common agents
at 1.5 and 3 T.
"""

Number = TypeVar("Number", float, Float)


@dataclass(frozen=True)
class SpinEcho:
    """A spin-echo acquisition.

    Parameters
    ----------
    tr_ms, te_ms
        Repetition and echo time in ms, ``0 < te_ms < tr_ms``.
    """

    tr_ms: float
    te_ms: float

    def __post_init__(self) -> None:
        if not 0.0 < self.te_ms < self.tr_ms:
            raise ValueError(f"0 < TE < TR expected, got TE {self.te_ms} ms, TR {self.tr_ms} ms")

    def signal(self, t1_ms: Float, t2_ms: Float, pd: Float) -> Float:
        """Steady-state signal ``PD (1 - exp(-TR / T1)) exp(-TE / T2)``.

        Holds for TE much shorter than TR. Relative to fully relaxed water, so in [0, 1].
        """
        recovery = -np.expm1(-self.tr_ms / t1_ms)
        recovery *= np.exp(-self.te_ms / t2_ms)
        recovery *= pd
        return np.asarray(recovery, dtype=np.float32)

    def stationary_fraction(self, speed_mm_per_s: float, slice_mm: float) -> float:
        """Part of flowing blood that meets both pulses of the echo, in [0, 1].

        Spins that leave the slice between the 90 and the 180 degree pulse, TE / 2 apart, give
        no echo: the flow void (Bradley and Waluch, Radiology 154:443, 1985).
        """
        return max(0.0, 1.0 - speed_mm_per_s * self.te_ms / 2000.0 / slice_mm)


def t1_weighted(rng: np.random.Generator) -> SpinEcho:
    """A T1-weighted protocol: TR about 600 ms, TE about 10 ms."""
    return SpinEcho(tr_ms=600.0 * rng.uniform(0.9, 1.1), te_ms=10.0 * rng.uniform(0.85, 1.2))


def t2_weighted(rng: np.random.Generator) -> SpinEcho:
    """A T2-weighted protocol: TR about 4500 ms, TE about 100 ms."""
    return SpinEcho(tr_ms=4500.0 * rng.uniform(0.9, 1.1), te_ms=100.0 * rng.uniform(0.9, 1.1))


def with_contrast(t_ms: Number, relaxivity: float, concentration_mmol_l: Number) -> Number:
    """Relaxation time in ms with contrast agent: ``1 / T' = 1 / T + r C``.

    Parameters
    ----------
    t_ms
        T1 or T2 without contrast agent in ms.
    relaxivity
        r1 or r2 in L/(mmol s).
    concentration_mmol_l
        Concentration in mmol/L.
    """
    return t_ms / (1.0 + t_ms * (relaxivity / 1000.0) * concentration_mmol_l)


def receive_bias(rng: np.random.Generator, shape: Shape3, amount: float = 0.1) -> Float:
    """Smooth factor of the receive coil, 1 - ``amount`` to 1 + ``amount``."""
    return variation(rng, shape, length_mm=75.0, amount=amount)


def add_rician_noise(rng: np.random.Generator, signal: Float, sigma: float) -> Float:
    """Magnitude of the signal with Gaussian noise in both channels.

    Gudbjartsson and Patz, Magn Reson Med 34:910 (1995).
    """
    real = rng.standard_normal(signal.shape, dtype=np.float32)
    real *= np.float32(sigma)
    real += signal
    imaginary = rng.standard_normal(signal.shape, dtype=np.float32)
    imaginary *= np.float32(sigma)
    return np.hypot(real, imaginary)
