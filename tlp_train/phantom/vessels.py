"""Blood vessels: the superior sagittal sinus, deep vessels, and branches on the cortex."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from tlp_train.phantom.anatomy import Anatomy
from tlp_train.phantom.fields import Float, ramp
from tlp_train.phantom.geometry import Node
from tlp_train.phantom.grid import BOX_SHAPE, to_box_voxel
from tlp_train.phantom.outline import Outline

STEP_MM = 0.7

DEEP_VESSELS: tuple[tuple[Node, ...], ...] = (
    ((2, 2, 78, 0.9), (2, 20, 80, 1.0), (1, 34, 74, 1.4), (0, 46, 68, 1.7), (0, 66, 58, 2.0)),
    ((-2, 2, 78, 0.9), (-2, 20, 80, 1.0), (-1, 34, 74, 1.4)),
    ((0, -7, 24, 1.5), (0, -8, 40, 1.5)),
    ((2, -30, 46, 1.2), (2, -44, 62, 1.1), (2, -44, 80, 1.0), (2, -26, 99, 0.9)),
    ((-2, -30, 46, 1.2), (-2, -44, 62, 1.1), (-2, -44, 80, 1.0), (-2, -26, 99, 0.9)),
    ((14, -14, 50, 1.5), (28, -14, 54, 1.3), (42, -8, 58, 1.2), (50, 8, 63, 0.9)),
    ((-14, -14, 50, 1.5), (-28, -14, 54, 1.3), (-42, -8, 58, 1.2), (-50, 8, 63, 0.9)),
)
"""Internal cerebral veins and straight sinus, basilar, anterior and middle cerebral arteries.

Nodes of x, y, z and radius in mm, in standard coordinates.
"""


def draw_vessels(rng: np.random.Generator, outline: Outline, anatomy: Anatomy) -> Float:
    """Draw the part of each voxel of the working box that is blood in a vessel, 0 to 1."""
    fraction = _sagittal_sinus(rng, anatomy)
    paths = [_placed(rng, nodes, outline) for nodes in DEEP_VESSELS]
    paths += _cortical(rng, outline, count=int(rng.integers(45, 70)))
    points = np.concatenate(paths)
    _stamp(fraction, points[:, :3], points[:, 3])
    fraction *= anatomy.mask
    return fraction


def _sagittal_sinus(rng: np.random.Generator, anatomy: Anatomy) -> Float:
    """The sinus under the vertex: it follows the midline just below the surface."""
    radius = float(rng.uniform(2.0, 3.0))
    distance = np.hypot(anatomy.midline_mm, anatomy.depth_mm - np.float32(radius))
    height = np.arange(BOX_SHAPE[2], dtype=np.float32)
    back = np.arange(BOX_SHAPE[1], dtype=np.float32)
    fades = np.minimum(height[None, :] - 62.0, 8.0) / 4.0 + (back[:, None] - 92.0) / 60.0
    return ramp(radius - distance + np.minimum(fades, 0.0))


def _placed(
    rng: np.random.Generator, nodes: tuple[Node, ...], outline: Outline
) -> NDArray[np.floating]:
    """Points (n, 4) along a deep vessel in this head: box voxel x, y, z and radius in mm.

    The deformation of the head is small and smooth, so going back once along it is enough.
    """
    path = np.array(nodes, dtype=np.float32)
    path[:, :3] += rng.normal(0.0, 1.0, (len(nodes), 3))
    length = np.concatenate(
        [[0.0], np.cumsum(np.linalg.norm(np.diff(path[:, :3], axis=0), axis=1))]
    )
    along = np.arange(0.0, length[-1], STEP_MM)
    fine = np.stack([np.interp(along, length, path[:, k]) for k in range(4)], axis=1)
    voxel = to_box_voxel(fine[:, :3])
    bent = np.stack(
        [
            map_coordinates(source, voxel.T / 2.0, order=1, mode="nearest")
            for source in (outline.at.x, outline.at.y, outline.at.z)
        ],
        axis=1,
    )
    fine[:, :3] = voxel + (fine[:, :3] - bent)
    return fine


def _cortical(rng: np.random.Generator, outline: Outline, count: int) -> list[NDArray[np.floating]]:
    """Arteries and veins that wander just below the surface, each (n, 4) as in `_placed`."""
    depth = outline.depth_mm
    slope = np.stack(list(np.gradient(depth)))
    start = np.flatnonzero((depth > 0.5) & (depth < 4.0) & (outline.infratentorial == 0.0))
    start = start[rng.integers(start.size, size=count)]
    here = np.stack(np.unravel_index(start, depth.shape)).astype(np.float64)
    heading = rng.standard_normal((3, count))
    target = rng.uniform(0.5, 5.0, count)
    radius = rng.uniform(0.5, 1.1, count)
    trail = []
    for _ in range(int(45.0 / STEP_MM)):
        level = map_coordinates(depth, here, order=1, mode="nearest")
        normal = np.stack([map_coordinates(part, here, order=1, mode="nearest") for part in slope])
        normal /= np.linalg.norm(normal, axis=0) + 1e-6
        heading += 0.25 * rng.standard_normal((3, count))
        heading -= normal * (heading * normal).sum(axis=0)
        heading /= np.linalg.norm(heading, axis=0) + 1e-6
        toward = normal * np.clip(target - level, -1.0, 1.0) * 0.3
        here = here + (heading + toward) * (STEP_MM / 2.0)
        trail.append(np.concatenate([2.0 * here, radius[None]]))
    visited = np.stack(trail, axis=-1)
    lengths = rng.integers(visited.shape[-1] // 3, visited.shape[-1] + 1, size=count)
    return [visited[:, k, :n].T for k, n in enumerate(lengths)]


def _stamp(fraction: Float, centre: NDArray[np.floating], radius: NDArray[np.floating]) -> None:
    """Put balls of the given radius (mm) at box voxel positions (n, 3), keeping the maximum."""
    near = np.arange(-3, 4)
    offsets = np.stack(np.meshgrid(near, near, near, indexing="ij"), axis=-1).reshape(-1, 3)
    voxel = np.rint(centre).astype(np.intp)[:, None, :] + offsets
    distance = np.linalg.norm(voxel - centre[:, None, :], axis=-1)
    value = ramp((radius[:, None] - distance).astype(np.float32))
    inside = ((voxel >= 0) & (voxel < fraction.shape)).all(axis=-1) & (value > 0.0)
    where = np.ravel_multi_index(tuple(voxel[inside].T), fraction.shape)
    np.maximum.at(fraction.reshape(-1), where, value[inside])
