"""Level functions of simple solids: signed distance to the surface in mm, positive inside."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from tlp_train.phantom.fields import Float
from tlp_train.phantom.grid import Points

Node = tuple[float, float, float, float]
"""Head coordinates x, y, z and radius of a point on a tube's axis, all in mm."""


def ellipsoid(
    at: Points,
    centre_mm: tuple[float, float, float],
    semi_axes_mm: tuple[float, float, float],
    exponent: float = 2.0,
) -> Float:
    """Level of a (super)ellipsoid, measured along the ray from its centre.

    Exact on the surface and along the axes; near enough elsewhere for shapes that are
    deformed anyway. An exponent above 2 makes the solid boxier.
    """
    dx, dy, dz = at.x - centre_mm[0], at.y - centre_mm[1], at.z - centre_mm[2]
    radius = np.sqrt(dx**2 + dy**2 + dz**2) + np.float32(1e-3)
    relative = (
        np.abs(dx / semi_axes_mm[0]) ** exponent
        + np.abs(dy / semi_axes_mm[1]) ** exponent
        + np.abs(dz / semi_axes_mm[2]) ** exponent
    ) ** (1.0 / exponent) + np.float32(1e-4)
    return np.asarray(radius / relative - radius, dtype=np.float32)


def tube(at: Points, nodes: Sequence[Node]) -> Float:
    """Level of a chain of round cones along ``nodes``."""
    level: Float | None = None
    for start, end in pairwise(nodes):
        axis = np.subtract(end[:3], start[:3]).astype(np.float32)
        dx, dy, dz = at.x - start[0], at.y - start[1], at.z - start[2]
        along = np.clip((dx * axis[0] + dy * axis[1] + dz * axis[2]) / (axis @ axis), 0.0, 1.0)
        distance = np.sqrt(
            (dx - along * axis[0]) ** 2 + (dy - along * axis[1]) ** 2 + (dz - along * axis[2]) ** 2
        )
        piece = start[3] + along * (end[3] - start[3]) - distance
        level = piece if level is None else np.maximum(level, piece)
    if level is None:
        raise ValueError(f"a tube needs at least two nodes, got {len(nodes)}")
    return level.astype(np.float32)


def smooth_union(first: Float, second: Float, blend_mm: float) -> Float:
    """Union of two solids whose seam is rounded over about ``blend_mm``."""
    overlap = np.clip(0.5 + 0.5 * (first - second) / blend_mm, 0.0, 1.0)
    joined = second + (first - second) * overlap + blend_mm * overlap * (1.0 - overlap)
    return np.asarray(joined, dtype=np.float32)
