"""Lesions: enhancing and non-enhancing gliomas, and mimics that look the same on T1 and T2.

What a lesion looks like on T1 and T2 (size, shape, relaxation times) and what it is are drawn
independently. So no network can tell from T1 and T2 which lesion takes up contrast agent, and
the region prompt says something that the images do not.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from tlp_train.phantom.anatomy import Push
from tlp_train.phantom.fields import Float, ramp, smooth_field
from tlp_train.phantom.grid import BOX_SHAPE, to_box_voxel
from tlp_train.phantom.outline import Outline
from tlp_train.phantom.tissue import LesionTissues


class LesionKind(StrEnum):
    """What a lesion is. Only the first takes up contrast agent; a mimic is not labelled."""

    ENHANCING = "enhancing"
    NON_ENHANCING = "non-enhancing"
    MIMIC = "mimic"


@dataclass(frozen=True)
class Lesion:
    """One lesion: a core in a rim, both in oedema.

    Parameters
    ----------
    kind
        What it is.
    centre_mm
        Head coordinates (x, y, z).
    radius_mm
        Mean radius of core and rim together.
    frame
        (3, 3) rows that take an offset in mm to the unit ball: orientation and elongation.
    rim_mm
        Mean thickness of the rim.
    oedema_ratio
        Mean outer radius of the oedema over ``radius_mm``.
    shift_mm
        Mass effect on the brain around it.
    tissues
        Relaxation of core, rim and oedema.
    rim_mmol_l, core_mmol_l
        Mean concentration of contrast agent in rim and core in mmol/L.
    """

    kind: LesionKind
    centre_mm: tuple[float, float, float]
    radius_mm: float
    frame: NDArray[np.float64]
    rim_mm: float
    oedema_ratio: float
    shift_mm: float
    tissues: LesionTissues
    rim_mmol_l: float
    core_mmol_l: float

    @property
    def push(self) -> Push:
        """Its mass effect."""
        return Push(self.centre_mm, self.radius_mm, self.shift_mm)


@dataclass(frozen=True)
class LesionShape:
    """Where a lesion is, on its own part of the working box.

    Parameters
    ----------
    window
        Part of the working box; the arrays have its shape.
    core, rim
        Fractions of the voxel.
    oedema
        Infiltrated part of the white matter, 0 to 1 (of the grey matter a third of that).
    uptake
        Smooth factor on the concentration of contrast agent, mean about 1.
    """

    window: tuple[slice, slice, slice]
    core: Float
    rim: Float
    oedema: Float
    uptake: Float


def draw_kinds(rng: np.random.Generator) -> list[LesionKind]:
    """Draw what lesions a case has, zero to three.

    12 % of the cases have no tumour, about half of these no lesion at all. A tumour enhances
    with probability 0.8. Mimics are about as frequent as enhancing tumours. The order is random,
    so that no kind gets the better place.
    """
    kinds: list[LesionKind] = []
    if rng.random() >= 0.12:
        for _ in range(2 if rng.random() < 0.12 else 1):
            enhances = rng.random() < 0.8
            kinds.append(LesionKind.ENHANCING if enhances else LesionKind.NON_ENHANCING)
    mimics = int(rng.choice(3, p=[0.4, 0.35, 0.25]))
    kinds += [LesionKind.MIMIC] * min(mimics, 3 - len(kinds))
    return [kinds[place] for place in rng.permutation(len(kinds))]


def draw_lesions(
    rng: np.random.Generator, outline: Outline, tissues: LesionTissues
) -> list[Lesion]:
    """Draw the lesions of a case and find room for them in the hemispheres.

    A lesion for which there is no room is made smaller until there is.
    """
    lesions: list[Lesion] = []
    for kind in draw_kinds(rng):
        radius = float(rng.uniform(11.0, 24.0))
        centre = _find_centre(rng, outline, radius, lesions)
        while centre is None and radius > 10.0:
            radius *= 0.85
            centre = _find_centre(rng, outline, radius, lesions)
        if centre is not None:
            lesions.append(_draw_lesion(rng, kind, centre, radius, tissues))
    return lesions


def _find_centre(
    rng: np.random.Generator, outline: Outline, radius_mm: float, others: list[Lesion]
) -> tuple[float, float, float] | None:
    """A place in one hemisphere, off the midline and the other lesions."""
    z_mm = outline.grid.z
    free = outline.depth_mm > 0.55 * radius_mm + 2.0
    free &= np.abs(outline.at.x) > 0.6 * radius_mm + 6.0
    free &= (z_mm > 50.0) & (z_mm < 104.0) & (outline.infratentorial == 0.0)
    for other in others:
        x, y, z = other.centre_mm
        apart = (outline.grid.x - x) ** 2 + (outline.grid.y - y) ** 2 + (z_mm - z) ** 2
        free &= apart > (1.25 * (radius_mm + other.radius_mm)) ** 2
    places = np.flatnonzero(free)
    if places.size == 0:
        return None
    place = places[rng.integers(places.size)]
    jitter = rng.uniform(-1.0, 1.0, 3)
    axes = (outline.grid.x, outline.grid.y, z_mm)
    x, y, z = (float(axis.flat[place]) + float(d) for axis, d in zip(axes, jitter, strict=True))
    return x, y, z


def _draw_lesion(
    rng: np.random.Generator,
    kind: LesionKind,
    centre_mm: tuple[float, float, float],
    radius_mm: float,
    tissues: LesionTissues,
) -> Lesion:
    """Draw appearance and uptake; only the uptake looks at the kind."""
    rotation, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    stretch = rng.uniform(0.82, 1.22, 3)
    stretch /= np.prod(stretch) ** (1 / 3)
    rim_mm = float(rng.uniform(3.5, min(7.5, 0.5 * radius_mm)))
    appearance = {
        "oedema_ratio": float(rng.uniform(1.25, 1.9)),
        "shift_mm": float(radius_mm * rng.uniform(0.05, 0.3)),
    }
    varied = tissues.varied(rng, 0.12)
    enhancing_mmol_l, leaky_mmol_l = rng.uniform(0.4, 1.0), rng.uniform(0.0, 0.05)
    rim_mmol_l, core_mmol_l = {
        LesionKind.ENHANCING: (enhancing_mmol_l, leaky_mmol_l),
        LesionKind.NON_ENHANCING: (leaky_mmol_l, leaky_mmol_l),
        LesionKind.MIMIC: (0.0, 0.0),
    }[kind]
    return Lesion(
        kind=kind,
        centre_mm=centre_mm,
        radius_mm=radius_mm,
        frame=rotation / stretch[:, None],
        rim_mm=rim_mm,
        tissues=varied,
        rim_mmol_l=float(rim_mmol_l),
        core_mmol_l=float(core_mmol_l),
        **appearance,
    )


def shape_lesion(
    rng: np.random.Generator, lesion: Lesion, *, depth_mm: Float, midline_mm: Float
) -> LesionShape:
    """Give a lesion its irregular surfaces.

    Parameters
    ----------
    rng
        Source of the irregularity.
    lesion
        What to shape.
    depth_mm, midline_mm
        Distance below the surface and signed distance from the midline, working box. No
        lesion leaves the brain or crosses to the other hemisphere.
    """
    centre = to_box_voxel(np.array(lesion.centre_mm))
    reach = 1.45 * lesion.radius_mm * lesion.oedema_ratio
    bounds = [
        (max(0, int(c - reach)), min(size, int(c + reach) + 2))
        for c, size in zip(centre, BOX_SHAPE, strict=True)
    ]
    window = (slice(*bounds[0]), slice(*bounds[1]), slice(*bounds[2]))
    shape = (bounds[0][1] - bounds[0][0], bounds[1][1] - bounds[1][0], bounds[2][1] - bounds[2][0])
    distance = _distance(lesion, centre, bounds)

    side = 1.0 if lesion.centre_mm[0] > 0 else -1.0
    room = np.minimum(depth_mm[window] - 1.0, side * midline_mm[window] - 1.0)
    lobes = smooth_field(rng, shape, length_mm=0.6 * lesion.radius_mm)
    bumps = smooth_field(rng, shape, length_mm=6.0)
    outer = lesion.radius_mm * (1.0 + 0.11 * lobes + 0.03 * bumps) - distance
    thickness = 1.0 + 0.25 * smooth_field(rng, shape, length_mm=0.5 * lesion.radius_mm)
    inner = outer - lesion.rim_mm * np.clip(thickness, 0.5, 1.6) + 0.8 * bumps
    mass = ramp(np.minimum(outer, room), 1.5)
    core = np.minimum(ramp(inner, 2.0), mass)

    spread = smooth_field(rng, shape, length_mm=0.5 * lesion.radius_mm)
    oedema_mm = lesion.radius_mm * (lesion.oedema_ratio + 0.2 * spread + 0.04 * bumps)
    oedema = ramp(np.minimum(oedema_mm - distance, room), 4.0) * (1.0 - mass)
    uptake = smooth_field(rng, shape, length_mm=7.0)
    return LesionShape(
        window,
        core.astype(np.float32),
        (mass - core).astype(np.float32),
        oedema.astype(np.float32),
        np.clip(1.0 + 0.2 * uptake, 0.5, 1.5).astype(np.float32),
    )


def _distance(lesion: Lesion, centre: NDArray[np.floating], bounds: list[tuple[int, int]]) -> Float:
    """Distance from the centre in mm, in the lesion's own elongated frame."""
    axes = [
        np.arange(first, stop, dtype=np.float32) - np.float32(c)
        for (first, stop), c in zip(bounds, centre, strict=True)
    ]
    x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
    rows = lesion.frame.astype(np.float32)
    squares = [np.square(row[0] * x + row[1] * y + row[2] * z) for row in rows]
    return np.asarray(np.sqrt(np.sum(squares, axis=0)), dtype=np.float32)
