"""Healthy anatomy: what part of each voxel is CSF, grey matter, white matter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from tlp_train.phantom.fields import Float, double, ramp, smooth_field
from tlp_train.phantom.geometry import ellipsoid, tube
from tlp_train.phantom.grid import Points
from tlp_train.phantom.outline import Outline

CALLOSUM_CENTRE_YZ_MM = (2.0, 66.0)
CALLOSUM_SEMI_AXES_YZ_MM = (44.0, 33.0)
"""Mid-sagittal ellipse, in standard coordinates, through which the hemispheres are joined."""

MIDDLE_Z_MM = 68.0
"""Height of the middle of the cerebrum in standard coordinates."""


@dataclass(frozen=True)
class Push:
    """Mass effect of a lesion: the brain around it moves outwards.

    Parameters
    ----------
    centre_mm
        Head coordinates (x, y, z).
    radius_mm
        Radius of the lesion, where the shift is greatest.
    shift_mm
        That greatest shift, below half the radius.
    """

    centre_mm: tuple[float, float, float]
    radius_mm: float
    shift_mm: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.shift_mm < 0.5 * self.radius_mm:
            raise ValueError(
                f"shift must be at least 0 and below half the radius, "
                f"got {self.shift_mm} mm for a radius of {self.radius_mm} mm"
            )


@dataclass(frozen=True)
class Anatomy:
    """Tissue fractions of a healthy brain; all arrays have the shape of the working box.

    Parameters
    ----------
    mask
        The brain, bool. Every image is zero elsewhere.
    depth_mm
        Distance below the outer surface.
    midline_mm
        Signed distance from the mid-sagittal sheet, positive to the left.
    csf, grey, white, deep_grey, choroid
        Fractions, float32; they add up to 1 inside the mask.
    """

    mask: NDArray[np.bool_]
    depth_mm: Float
    midline_mm: Float
    csf: Float
    grey: Float
    white: Float
    deep_grey: Float
    choroid: Float


def build_anatomy(rng: np.random.Generator, outline: Outline, pushes: Sequence[Push]) -> Anatomy:
    """Fill an outline with cortex, white matter, ventricles and deep nuclei.

    The shapes are level functions on the 2 mm grid. They are brought to 1 mm as levels and
    only there turned into fractions, so that sheets thinner than a coarse voxel stay sharp.
    """
    at = _pushed(outline, pushes)
    depth = double(outline.depth_mm)
    midline = double(at.x)
    sheets = _Sheets.draw(rng, outline, at)
    csf, grey = _cortex(depth, midline, sheets)

    atrophy = float(rng.uniform(-0.9, 2.6))
    ventricle = ramp(double(_ventricles(rng, at, atrophy)), 1.2)
    deep = ramp(double(_deep_nuclei(at)), 2.0)
    deep *= 1.0 - ventricle
    choroid = 0.8 * ramp(double(_choroid_plexus(at)), 1.5) * ventricle

    cortex = 1.0 - ventricle
    cortex -= deep
    csf *= cortex
    grey *= cortex
    white = cortex
    white -= csf
    white -= grey
    np.clip(white, 0.0, 1.0, out=white)
    csf += ventricle
    csf -= choroid
    mixed = 0.2 * double(np.clip(outline.brainstem_mm / 4.0, 0.0, 1.0)) * white
    return Anatomy(depth > 0.0, depth, midline, csf, grey + mixed, white - mixed, deep, choroid)


def _pushed(outline: Outline, pushes: Sequence[Push]) -> Points:
    """Standard coordinates seen through the mass effect, which fades towards the surface."""
    at = outline.at
    give = np.clip(outline.depth_mm / 12.0, 0.0, 1.0)
    for push in pushes:
        dx, dy, dz = (
            axis - centre
            for axis, centre in zip(
                (outline.grid.x, outline.grid.y, outline.grid.z), push.centre_mm, strict=True
            )
        )
        relative = np.sqrt(dx**2 + dy**2 + dz**2) / push.radius_mm
        pull = give * push.shift_mm / push.radius_mm * np.exp(0.5 * (1.0 - relative**2))
        at = Points(at.x - pull * dx, at.y - pull * dy, at.z - pull * dz)
    return at


@dataclass(frozen=True)
class _Sheets:
    """Sheets of CSF that cut into the brain, on the 2 mm grid.

    Parameters
    ----------
    sulcus_mm
        Signed distance from the nearest sulcus.
    sulcal_depth_mm
        How deep sulci reach there.
    bridge_mm
        How far inside the callosum or brainstem, where the hemispheres are joined.
    folds_mm
        Distance from the Sylvian fissure and the tentorium.
    ribbon_mm
        Thickness of the cortex.
    widening_mm
        Extra width of the CSF spaces at the surface.
    """

    sulcus_mm: Float
    sulcal_depth_mm: Float
    bridge_mm: Float
    folds_mm: Float
    ribbon_mm: Float
    widening_mm: Float

    @classmethod
    def draw(cls, rng: np.random.Generator, outline: Outline, at: Points) -> _Sheets:
        """Draw the sulcal pattern and place the fissures."""
        shape = (at.x.shape[0], at.x.shape[1], at.x.shape[2])
        lower = outline.infratentorial
        stem = np.clip(outline.brainstem_mm / 3.0 + 0.5, 0.0, 1.0)
        sulcus = (1.0 - lower) * _sulci(rng, at) + lower * _folia(rng, at)
        reach = 12.0 + 5.0 * smooth_field(rng, shape, length_mm=20.0, spacing_mm=2.0)
        reach = np.clip(reach, 4.0, 20.0) * np.clip((_relative_radius(at) - 0.4) / 0.2, 0.0, 1.0)
        reach = (1.0 - lower) * reach + lower * 7.0
        cortex = 3.1 + 0.4 * smooth_field(rng, shape, length_mm=14.0, spacing_mm=2.0)
        cortex = (cortex - 0.9 * lower) * (1.0 - stem) - 2.0 * stem
        wide = smooth_field(rng, shape, length_mm=13.0, spacing_mm=2.0)
        wide = rng.uniform(-0.3, 0.4) + 0.5 * wide
        return cls(
            sulcus_mm=(sulcus + 8.0 * stem).astype(np.float32),
            sulcal_depth_mm=reach.astype(np.float32),
            bridge_mm=_bridge(outline, at),
            folds_mm=_folds(outline, at),
            ribbon_mm=cortex.astype(np.float32),
            widening_mm=np.clip(wide, -0.7, 1.8).astype(np.float32),
        )


def _relative_radius(at: Points) -> Float:
    """Distance from the middle of the head, about 1 at the surface of the cerebrum."""
    x, y, z = at.x / 66.0, at.y / 86.0, (at.z - MIDDLE_Z_MM) / 66.0
    return np.asarray(np.sqrt(x**2 + y**2 + z**2), dtype=np.float32)


def _sulci(rng: np.random.Generator, at: Points) -> Float:
    """Signed distance in mm from a folded sheet, roughly square to the surface.

    The zero set of a smooth random field, which is drawn in space and read off near the
    surface along the ray from the middle of the head, so that it changes little with depth.
    """
    stretch = 0.3 + 0.7 / (_relative_radius(at) + 0.05)
    shape = (at.x.shape[0], at.x.shape[1], at.x.shape[2])
    fold = smooth_field(rng, shape, length_mm=6.2, spacing_mm=2.0)
    fold -= 0.8 * smooth_field(rng, shape, length_mm=18.0, spacing_mm=2.0)
    where = np.stack([at.x * stretch, at.y * stretch, (at.z - MIDDLE_Z_MM) * stretch])
    where /= 2.0
    where += ((np.array(shape) - 1) / 2.0).reshape(3, 1, 1, 1)
    pattern = map_coordinates(fold, where, order=1, mode="reflect", output=np.float32)
    return np.clip(_distance_to_zero(pattern, 0.04), -12.0, 12.0)


def _distance_to_zero(level: Float, least_slope: float) -> Float:
    """Signed distance in mm from the zero set of a function on the 2 mm grid, to first order.

    Where the function is flatter than ``least_slope`` (1 / mm), the distance is too small.
    """
    slope = np.sqrt(sum(np.square(part) for part in np.gradient(level, 2.0)))
    return np.asarray(level / np.maximum(slope, least_slope), dtype=np.float32)


def _folia(rng: np.random.Generator, at: Points) -> Float:
    """Signed distance in mm from the fissures of the cerebellum, 4.5 mm apart."""
    shape = (at.x.shape[0], at.x.shape[1], at.x.shape[2])
    wave = smooth_field(rng, shape, length_mm=12.0, spacing_mm=2.0)
    phase = 0.85 * at.z + 0.5 * at.y + 0.15 * np.abs(at.x) + 1.5 * wave
    return np.asarray(2.0 * np.sin(phase * (np.pi / 4.5)), dtype=np.float32)


def _bridge(outline: Outline, at: Points) -> Float:
    """Distance in mm inside the parts through which both sides are joined, 0 outside."""
    y = (at.y - CALLOSUM_CENTRE_YZ_MM[0]) / CALLOSUM_SEMI_AXES_YZ_MM[0]
    z = (at.z - CALLOSUM_CENTRE_YZ_MM[1]) / CALLOSUM_SEMI_AXES_YZ_MM[1]
    inside = (1.0 - np.sqrt(y**2 + z**2)) * min(CALLOSUM_SEMI_AXES_YZ_MM)
    lower = np.maximum(outline.cerebellum_mm, outline.brainstem_mm) - outline.cerebrum_mm
    return np.asarray(np.clip(np.maximum(inside, lower + 2.0), 0.0, 40.0), dtype=np.float32)


def _folds(outline: Outline, at: Points) -> Float:
    """Distance in mm from the Sylvian fissures and from the cleft under the tentorium."""
    side = np.abs(at.x)
    plane = at.z - (61.0 + 0.28 * at.y)
    short = np.maximum(36.0 - side, 0.0) + np.maximum(np.abs(at.y + 6.0) - 24.0, 0.0)
    sylvian = np.hypot(plane, short)
    cleft = _distance_to_zero(outline.cerebrum_mm - outline.cerebellum_mm, 0.4)
    joined = np.maximum(outline.brainstem_mm + 2.0, 0.0)
    folds = np.minimum(sylvian, np.hypot(cleft, joined)) - 0.5
    return np.asarray(folds, dtype=np.float32)


def _cortex(depth: Float, midline: Float, sheets: _Sheets) -> tuple[Float, Float]:
    """Fractions of CSF and grey matter from the distance to surface, fissures and sulci."""
    surface = np.hypot(midline, double(sheets.bridge_mm))
    np.minimum(surface, depth, out=surface)
    np.minimum(surface, double(sheets.folds_mm), out=surface)

    beyond = surface - double(sheets.sulcal_depth_mm)
    np.maximum(beyond, 0.0, out=beyond)
    edge = np.hypot(double(sheets.sulcus_mm), beyond)
    half_width = np.exp(surface * np.float32(-1.0 / 7.0))
    widening = double(sheets.widening_mm)
    widening += np.float32(1.0)
    half_width *= widening
    half_width += np.float32(0.15)
    edge -= half_width
    widening -= np.float32(0.4)
    surface -= widening
    np.minimum(edge, surface, out=edge)

    csf = ramp(-edge)
    grey = ramp(double(sheets.ribbon_mm) - edge, 1.2)
    grey -= csf
    return csf, np.clip(grey, 0.0, 1.0, out=grey)


def _ventricles(rng: np.random.Generator, at: Points, atrophy: float) -> Float:
    """Level of the lateral, third and fourth ventricles; ``atrophy`` widens them, in mm."""
    lean = float(rng.uniform(-0.8, 0.8))
    wide = atrophy + lean * np.sign(at.x)
    side = Points(np.abs(at.x), at.y, at.z)
    lateral = tube(
        side,
        [(10, -34, 80, 2), (10, -27, 82, 5), (10, -8, 87, 4), (13, 12, 88, 4), (22, 32, 80, 6),
         (25, 40, 74, 5), (21, 58, 70, 1.5)],
    )  # fmt: skip
    temporal = tube(side, [(24, 34, 78, 4), (33, 22, 62, 2.5), (33, -6, 50, 2)])
    third = ellipsoid(at, (0.0, 2.0, 70.0), (2.6, 14.0, 10.0))
    fourth = ellipsoid(at, (0.0, 25.0, 30.0), (5.5, 4.5, 9.0))
    narrow = np.maximum(np.maximum(temporal, third), fourth) + 0.35 * atrophy
    return np.maximum(lateral + wide, narrow).astype(np.float32)


def _deep_nuclei(at: Points) -> Float:
    """Level of thalamus, caudate head and lentiform nucleus on both sides."""
    side = Points(np.abs(at.x), at.y, at.z)
    thalamus = ellipsoid(side, (11.0, 9.0, 72.0), (8.0, 14.0, 8.5))
    caudate = tube(side, [(14, -24, 76, 5), (16, -10, 86, 3), (18, 8, 90, 2)])
    lentiform = ellipsoid(side, (25.0, -5.0, 70.0), (7.0, 17.0, 10.0))
    return np.maximum(np.maximum(thalamus, caudate), lentiform).astype(np.float32)


def _choroid_plexus(at: Points) -> Float:
    """Level of the choroid plexus, a strand on the floor of each lateral ventricle."""
    side = Points(np.abs(at.x), at.y, at.z)
    return tube(side, [(9, 2, 84, 1.0), (17, 22, 82, 2.0), (24, 36, 76, 3.0), (31, 26, 66, 1.0)])
