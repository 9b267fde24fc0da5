"""From shapes to compartments: who shares a voxel, in which state, and with which label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tlp_train.phantom.anatomy import Anatomy
from tlp_train.phantom.fields import Float, variation
from tlp_train.phantom.grid import BOX_SHAPE
from tlp_train.phantom.lesions import Lesion, LesionKind, LesionShape
from tlp_train.phantom.tissue import Relaxation, TissueTable

NECROTIC_CORE, OEDEMA, ENHANCING = 1, 2, 4
"""Labels of BraTS 2021; the first also stands for tumour that does not enhance."""

OEDEMA_MMOL_L = 0.008
"""Contrast agent in oedema, whatever the lesion: about that of healthy tissue."""


@dataclass(frozen=True)
class Compartment:
    """One tissue in one state, in some of the brain's voxels.

    Parameters
    ----------
    voxel
        (n,) which voxels, numbered in the order of ``array[mask]``.
    fraction
        (n,) part of each voxel.
    relaxation
        T1, T2 and proton density without contrast agent.
    concentration_mmol_l
        (n,) or a scalar: contrast agent in mmol/L once it was injected.
    flows
        True for blood in a vessel.
    """

    voxel: NDArray[np.intp]
    fraction: Float
    relaxation: Relaxation
    concentration_mmol_l: Float
    flows: bool = False


@dataclass(frozen=True)
class Head:
    """All that a scanner sees: the compartments and how their properties vary in space.

    Parameters
    ----------
    mask
        The brain, bool, working box; n voxels.
    compartments
        What is in these voxels.
    t1_factor, t2_factor, pd_factor
        (n,) smooth variation of the tissues, 0.95 to 1.05.
    white_matter
        Healthy white matter, against which noise is measured.
    blood_speed_mm_per_s, slice_mm
        Mean speed of the blood and thickness of the excited slice: the flow void.
    """

    mask: NDArray[np.bool_]
    compartments: Sequence[Compartment]
    t1_factor: Float
    t2_factor: Float
    pd_factor: Float
    white_matter: Relaxation
    blood_speed_mm_per_s: float
    slice_mm: float


def mix(
    rng: np.random.Generator,
    tissues: TissueTable,
    anatomy: Anatomy,
    vessels: Float,
    lesions: Sequence[tuple[Lesion, LesionShape]],
) -> tuple[Head, NDArray[np.uint8]]:
    """Share out every voxel between healthy tissue, lesions and blood.

    Core and rim of a lesion replace all that was there; oedema seeps into white matter and,
    a third as much, into grey; vessels run through all of it.

    Returns
    -------
    The head, and the labels (uint8, working box): where tumour makes up more than half of a
    voxel, the label of its greatest part. Mimics have none.
    """
    mask = anatomy.mask
    names = ("csf", "grey", "white", "deep_grey", "choroid")
    healthy = {name: getattr(anatomy, name)[mask] for name in names}
    tally = _Tally(mask)
    number = np.cumsum(mask.ravel(), dtype=np.intp).reshape(mask.shape) - 1
    parts: list[Compartment] = []
    for lesion, shape in lesions:
        core, rim = _replace(healthy, lesion, shape, mask, number)
        tally.add_solid(lesion.kind, core.voxel, core.fraction, rim.fraction)
        parts += [core, rim]
    for lesion, shape in lesions:
        oedema = _infiltrate(healthy, lesion, shape, mask, number)
        tally.add_oedema(lesion.kind, oedema.voxel, oedema.fraction)
        parts.append(oedema)

    blood_mmol_l = float(rng.uniform(1.0, 2.0))
    perfused = float(rng.uniform(0.6, 1.4))
    dose_mmol_l = {
        "csf": 0.0,
        "grey": 0.012 * perfused,
        "white": 0.006 * perfused,
        "deep_grey": 0.010 * perfused,
        "choroid": 0.5 * blood_mmol_l,
    }
    parts += [_compartment(healthy[n], getattr(tissues, n), dose_mmol_l[n]) for n in names]
    blood = vessels[mask]
    parts = [_scaled(part, 1.0 - blood) for part in parts]
    parts.append(_compartment(blood, tissues.blood, blood_mmol_l, flows=True))
    return _head(rng, mask, parts, tissues.white), tally.labels()


def _head(
    rng: np.random.Generator,
    mask: NDArray[np.bool_],
    parts: Sequence[Compartment],
    white_matter: Relaxation,
) -> Head:
    """Draw how the tissues vary in space and how fast the blood flows."""
    t1, t2, pd = (
        variation(rng, BOX_SHAPE, length_mm=28.0, amount=amount)[mask]
        for amount in (0.05, 0.05, 0.03)
    )
    return Head(
        mask=mask,
        compartments=tuple(parts),
        t1_factor=t1,
        t2_factor=t2,
        pd_factor=pd,
        white_matter=white_matter,
        blood_speed_mm_per_s=float(rng.uniform(60.0, 160.0)),
        slice_mm=float(rng.uniform(3.0, 6.0)),
    )


def _replace(
    healthy: Mapping[str, Float],
    lesion: Lesion,
    shape: LesionShape,
    mask: NDArray[np.bool_],
    number: NDArray[np.intp],
) -> tuple[Compartment, Compartment]:
    """Put core and rim of a lesion in the place of healthy tissue, which is changed."""
    voxel, (core, rim, uptake) = _inside(
        shape, mask, number, shape.core + shape.rim, (shape.core, shape.rim, shape.uptake)
    )
    left = np.sum([tissue[voxel] for tissue in healthy.values()], axis=0)
    for tissue in healthy.values():
        tissue[voxel] *= 1.0 - core - rim
    states = lesion.tissues
    return (
        Compartment(voxel, core * left, states.core, lesion.core_mmol_l * uptake),
        Compartment(voxel, rim * left, states.rim, lesion.rim_mmol_l * uptake),
    )


def _infiltrate(
    healthy: Mapping[str, Float],
    lesion: Lesion,
    shape: LesionShape,
    mask: NDArray[np.bool_],
    number: NDArray[np.intp],
) -> Compartment:
    """Let the oedema of a lesion seep into healthy tissue, which is changed."""
    voxel, (seep,) = _inside(shape, mask, number, shape.oedema, (shape.oedema,))
    amount = np.zeros(voxel.size, dtype=np.float32)
    for name, affinity in (("white", 1.0), ("grey", 1 / 3), ("deep_grey", 1 / 3)):
        taken = healthy[name][voxel] * seep * np.float32(affinity)
        healthy[name][voxel] -= taken
        amount += taken
    return Compartment(voxel, amount, lesion.tissues.oedema, np.asarray(OEDEMA_MMOL_L, np.float32))


def _inside(
    shape: LesionShape,
    mask: NDArray[np.bool_],
    number: NDArray[np.intp],
    extent: Float,
    values: tuple[Float, ...],
) -> tuple[NDArray[np.intp], list[Float]]:
    """Brain voxels in which ``extent`` is above 0, and the values there."""
    touched = mask[shape.window] & (extent > 0.0)
    return number[shape.window][touched], [value[touched] for value in values]


def _compartment(
    fraction: Float, relaxation: Relaxation, dose_mmol_l: float, *, flows: bool = False
) -> Compartment:
    """A compartment of all the voxels in which the fraction is above 0."""
    voxel = np.flatnonzero(fraction)
    return Compartment(
        voxel, fraction[voxel], relaxation, np.asarray(dose_mmol_l, dtype=np.float32), flows
    )


def _scaled(part: Compartment, factor: Float) -> Compartment:
    """The compartment with its fractions multiplied by ``factor`` (one value a brain voxel)."""
    return Compartment(
        part.voxel,
        part.fraction * factor[part.voxel],
        part.relaxation,
        part.concentration_mmol_l,
        part.flows,
    )


class _Tally:
    """Adds up the labelled fractions of every brain voxel."""

    def __init__(self, mask: NDArray[np.bool_]) -> None:
        self._mask = mask
        count = int(np.count_nonzero(mask))
        self._sums = {
            label: np.zeros(count, np.float32) for label in (NECROTIC_CORE, OEDEMA, ENHANCING)
        }

    def add_solid(self, kind: LesionKind, voxel: NDArray[np.intp], core: Float, rim: Float) -> None:
        """Count core and rim of a lesion."""
        if kind is not LesionKind.MIMIC:
            enhances = kind is LesionKind.ENHANCING
            self._sums[NECROTIC_CORE][voxel] += core
            self._sums[ENHANCING if enhances else NECROTIC_CORE][voxel] += rim

    def add_oedema(self, kind: LesionKind, voxel: NDArray[np.intp], amount: Float) -> None:
        """Count the oedema of a lesion."""
        if kind is not LesionKind.MIMIC:
            self._sums[OEDEMA][voxel] += amount

    def labels(self) -> NDArray[np.uint8]:
        """The label of the greatest part where tumour makes up more than half of a voxel."""
        codes = np.array(list(self._sums), dtype=np.uint8)
        sums = np.stack(list(self._sums.values()))
        volume = np.zeros(self._mask.shape, dtype=np.uint8)
        volume[self._mask] = np.where(sums.sum(axis=0) > 0.5, codes[sums.argmax(axis=0)], 0)
        return volume
