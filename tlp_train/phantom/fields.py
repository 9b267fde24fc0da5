"""Smooth random fields and soft edges, the raw material of every irregular shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Float: TypeAlias = NDArray[np.float32]
Shape3: TypeAlias = tuple[int, int, int]


@dataclass(frozen=True)
class _Basis:
    """A uniform cubic B-spline, evaluated at evenly spaced points along one axis.

    Parameters
    ----------
    nodes
        Number of nodes; node ``k`` lies at position ``k - 1``, in units of their distance.
    first
        First of the four nodes that each point depends on.
    weights
        (points, 4), each row with the sum 1.
    """

    nodes: int
    first: NDArray[np.intp]
    weights: Float

    @classmethod
    def evenly(cls, points: int, step: float) -> _Basis:
        """Points at the positions ``0, step, 2 * step, ...``."""
        position = np.arange(points) * step
        first = np.floor(position).astype(np.intp)
        t = position - first
        weights = np.stack(
            [(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], axis=1
        )
        return cls(int(first[-1]) + 4, first, (weights / 6.0).astype(np.float32))

    def evaluate(self, nodes: Float) -> Float:
        """Evaluate along the first axis: (nodes, ...) to (points, ...).

        A plain loop over slabs that fit the cache. A matrix product would be as fast, but it
        starts threads that stand in each other's way when there is a worker on every core.
        """
        nodes = np.ascontiguousarray(nodes, dtype=np.float32)
        values = np.empty((self.first.size, *nodes.shape[1:]), dtype=np.float32)
        term = np.empty(nodes.shape[1:], dtype=np.float32)
        for value, first, weights in zip(values, self.first, self.weights, strict=True):
            np.multiply(nodes[first], weights[0], out=value)
            for offset in (1, 2, 3):
                np.multiply(nodes[first + offset], weights[offset], out=term)
                value += term
        return values


def _expand(nodes: Float, bases: Sequence[_Basis]) -> Float:
    """Evaluate a tensor-product spline, one basis an axis."""
    for basis in reversed(bases):
        nodes = basis.evaluate(nodes.transpose(2, 0, 1))
    return nodes


def double(values: Float) -> Float:
    """Bring an array from the 2 mm to the 1 mm grid with a cubic B-spline.

    The spline smooths (it does not pass through the nodes), which turns the corners of a
    level function into rounded ones.

    Parameters
    ----------
    values
        (x, y, z) samples 2 mm apart.

    Returns
    -------
    Array of twice that size along each axis; sample ``2 * i`` lies on input sample ``i``.
    """
    bases = [_Basis.evenly(2 * size, 0.5) for size in values.shape]
    padding = [(1, basis.nodes - 1 - size) for basis, size in zip(bases, values.shape, strict=True)]
    return _expand(np.pad(values, padding, mode="edge"), bases)


def smooth_field(
    rng: np.random.Generator, shape: Shape3, *, length_mm: float, spacing_mm: float = 1.0
) -> Float:
    """Draw a smooth random field with mean 0 and standard deviation 1.

    White noise on nodes ``length_mm`` apart, joined by a cubic B-spline.

    Parameters
    ----------
    rng
        Source of the noise.
    shape
        (x, y, z) size of the field.
    length_mm
        Node distance; features are about twice as wide.
    spacing_mm
        Voxel size.
    """
    bases = [_Basis.evenly(size, spacing_mm / length_mm) for size in shape]
    noise = rng.standard_normal([basis.nodes for basis in bases], dtype=np.float32)
    field = _expand(noise, bases)
    field -= field.mean()
    field /= field.std()
    return field


def variation(rng: np.random.Generator, shape: Shape3, *, length_mm: float, amount: float) -> Float:
    """Draw a smooth factor on the 1 mm grid that stays within ``1 - amount .. 1 + amount``."""
    field = smooth_field(rng, shape, length_mm=length_mm)
    field *= 0.5
    np.clip(field, -1.0, 1.0, out=field)
    field *= amount
    field += 1.0
    return field


def ramp(level: Float, width: float = 1.0) -> Float:
    """Fraction of a voxel inside a surface whose signed distance is ``level`` (inside > 0).

    Linear from 0 at ``-width / 2`` to 1 at ``width / 2``: the partial volume of a plane
    through a voxel of that width.
    """
    fraction: Float = level / np.float32(width)
    fraction += np.float32(0.5)
    return np.clip(fraction, 0.0, 1.0, out=fraction)
