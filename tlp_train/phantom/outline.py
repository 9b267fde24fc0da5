"""The outer shape of the brain: cerebrum, cerebellum and brainstem on the 2 mm grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tlp_train.phantom.fields import Float, smooth_field
from tlp_train.phantom.geometry import ellipsoid, smooth_union, tube
from tlp_train.phantom.grid import BOX_SHAPE, Points, half_grid


@dataclass(frozen=True)
class Outline:
    """Solids that make up a brain; all arrays (nx, ny, nz) on the 2 mm grid.

    Parameters
    ----------
    grid
        Head coordinates of the grid.
    at
        Standard coordinates there: where in the average brain each point came from.
    depth_mm
        Distance below the outer surface in mm, negative outside the brain.
    cerebrum_mm, cerebellum_mm, brainstem_mm
        Levels of the solids (mm, positive inside); the brain is their union.
    """

    grid: Points
    at: Points
    depth_mm: Float
    cerebrum_mm: Float
    cerebellum_mm: Float
    brainstem_mm: Float

    @property
    def infratentorial(self) -> Float:
        """1 where cerebellum or brainstem, 0 where cerebrum."""
        lower = np.maximum(self.cerebellum_mm, self.brainstem_mm)
        return (lower > self.cerebrum_mm).astype(np.float32)


def draw_outline(rng: np.random.Generator) -> Outline:
    """Draw the head size and a smooth deformation, and place the solids."""
    grid = half_grid()
    at = _deformed(rng, grid)
    cerebrum = _cerebrum(rng, at)
    side = Points(np.abs(at.x), at.y, at.z)
    cerebellum = smooth_union(
        ellipsoid(side, (21.0, 46.0, 29.0), (30.0, 30.0, 24.0), 2.2),
        ellipsoid(at, (0.0, 42.0, 29.0), (17.0, 26.0, 24.0)),
        6.0,
    )
    brainstem = tube(
        at,
        [(0, 21, -12, 7), (0, 18, 10, 8), (0, 9, 27, 15), (0, 8, 36, 14), (0, 9, 60, 14)],
    )
    lower = smooth_union(cerebellum, brainstem, 3.0)
    depth = smooth_union(cerebrum, lower, 2.0)
    return Outline(grid, at, _kept_in_box(depth), cerebrum, cerebellum, brainstem)


def _deformed(rng: np.random.Generator, grid: Points) -> Points:
    """Head coordinates scaled to this head's size and bent by a smooth displacement."""
    shape = grid.x.shape
    size = rng.uniform(0.945, 1.0)
    scale = size * rng.uniform(0.98, 1.02, 3)
    bend = [
        smooth_field(rng, (shape[0], shape[1], shape[2]), length_mm=42.0, spacing_mm=2.0)
        for _ in range(3)
    ]
    x = grid.x / scale[0] + 1.6 * bend[0]
    y = grid.y / scale[1] + 2.2 * bend[1]
    z = grid.z / scale[2] + 2.0 * bend[2]
    return Points(x.astype(np.float32), y.astype(np.float32), z.astype(np.float32))


def _cerebrum(rng: np.random.Generator, at: Points) -> Float:
    """Both hemispheres with their temporal lobes: widest behind the middle, flat below."""
    taper = 1.0 + 0.09 * np.tanh(at.y / 40.0)
    x = (at.x / taper).astype(np.float32)
    dome = ellipsoid(Points(x, at.y, at.z), (0.0, 0.0, 72.0), (65.0, 84.0, 65.0), 2.25)
    floor = 46.0 - 0.1 * at.y + 5.0 * np.cos(at.x / 18.0)
    dome = -smooth_union(-dome, (floor - at.z).astype(np.float32), 14.0)
    side = Points(np.abs(x), at.y, at.z)
    temporal = ellipsoid(side, (42.0, -4.0, 47.0), (22.0, 42.0, 21.0), 2.2)
    cerebrum = smooth_union(dome, temporal, 5.0)
    gyri = smooth_field(
        rng, (at.x.shape[0], at.x.shape[1], at.x.shape[2]), length_mm=11.0, spacing_mm=2.0
    )
    return (cerebrum + 0.8 * gyri).astype(np.float32)


def _kept_in_box(depth: Float) -> Float:
    """Limit the depth so that no brain touches a side of the working box."""
    limited = depth
    for axis, size in enumerate(BOX_SHAPE):
        position = np.arange(0, size, 2, dtype=np.float32)
        wall = np.minimum(position, size - 1 - position) - 1.0
        shape = [1, 1, 1]
        shape[axis] = -1
        limited = np.minimum(limited, wall.reshape(shape))
    return limited.astype(np.float32)
