"""One phantom case: anatomy, lesions and vessels, imaged three times."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from tlp_train.phantom.anatomy import Anatomy, build_anatomy
from tlp_train.phantom.fields import Float
from tlp_train.phantom.grid import VOLUME_SHAPE, brats_affine, on_brats_grid
from tlp_train.phantom.imaging import USUAL, Scanner, take_t1_pair, take_t2
from tlp_train.phantom.lesions import Lesion, LesionShape, draw_lesions, shape_lesion
from tlp_train.phantom.mixture import mix
from tlp_train.phantom.outline import draw_outline
from tlp_train.phantom.tissue import TissueTable, draw_table
from tlp_train.phantom.vessels import draw_vessels

MAX_INDEX = 9999
"""Case numbers are 90000 + index, with five digits, and so clear of every BraTS 2021 number."""


class Stream(IntEnum):
    """Random number streams of a case; each is used for one purpose only."""

    TISSUE = 0
    OUTLINE = 1
    LESIONS = 2
    ANATOMY = 3
    LESION_SHAPES = 4
    VESSELS = 5
    MIXTURE = 6
    T1_PAIR = 7
    T2 = 8


@dataclass(frozen=True)
class PhantomCase:
    """A phantom patient in the layout of BraTS 2021.

    Parameters
    ----------
    name
        ``BraTS2021_9xxxx``.
    seed, index
        What the case was drawn from.
    t1, t2, t1ce
        int16 (240, 240, 155), axes (x, y, z) towards left, back and top (LPS), 1 mm;
        0 outside the brain, at least 1 inside.
    enhancement
        float32 of the same shape, in units of ``t1ce``: what the contrast agent adds, by the
        phantom's own physics, without bias and noise.
    gain
        How many times as bright ``t1ce`` shows what contrast agent does not reach.
    seg
        uint8 of the same shape: 0 nothing, 1 necrotic or non-enhancing core, 2 oedema,
        4 enhancing rim.
    affine
        4 x 4 voxel to RAS world transform in mm.
    """

    name: str
    seed: int
    index: int
    t1: NDArray[np.int16]
    t2: NDArray[np.int16]
    t1ce: NDArray[np.int16]
    enhancement: NDArray[np.float32]
    gain: float
    seg: NDArray[np.uint8]
    affine: NDArray[np.float64]

    def __post_init__(self) -> None:
        for modality in ("t1", "t2", "t1ce", "enhancement", "seg"):
            shape = getattr(self, modality).shape
            if shape != VOLUME_SHAPE:
                raise ValueError(f"{modality}: shape {VOLUME_SHAPE} expected, got {shape}")


@dataclass(frozen=True)
class Patient:
    """What a case shows, before it is imaged."""

    tissues: TissueTable
    anatomy: Anatomy
    vessels: Float
    lesions: tuple[tuple[Lesion, LesionShape], ...]


def make_case(seed: int, index: int, scanner: Scanner = USUAL) -> PhantomCase:
    """Make one case; the same arguments always give the same case.

    Parameters
    ----------
    seed
        Seed of the cohort, at least 0.
    index
        Number of the case in the cohort, 0 to 9999.
    scanner
        What takes the T1 pair.

    Raises
    ------
    ValueError
        If seed or index is out of range.
    """
    name = case_name(index)
    patient = draw_patient(seed, index)
    head, labels = mix(
        _stream(seed, index, Stream.MIXTURE),
        patient.tissues,
        patient.anatomy,
        patient.vessels,
        patient.lesions,
    )
    pair = take_t1_pair(_stream(seed, index, Stream.T1_PAIR), head, scanner)
    t2 = take_t2(_stream(seed, index, Stream.T2), head)
    seg = on_brats_grid(labels)
    return PhantomCase(
        name, seed, index, pair.t1, t2, pair.t1ce, pair.enhancement, pair.gain, seg, brats_affine()
    )


def case_name(index: int) -> str:
    """``BraTS2021_9xxxx``; ValueError unless the index is 0 to 9999."""
    if not 0 <= index <= MAX_INDEX:
        raise ValueError(f"a phantom's index is 0 to {MAX_INDEX}, got {index}")
    return f"BraTS2021_{90000 + index}"


def draw_patient(seed: int, index: int) -> Patient:
    """Draw who is imaged in a case. Arguments as of `make_case`."""
    tissues = draw_table(_stream(seed, index, Stream.TISSUE))
    outline = draw_outline(_stream(seed, index, Stream.OUTLINE))
    lesions = draw_lesions(_stream(seed, index, Stream.LESIONS), outline, tissues.lesion)
    anatomy = build_anatomy(
        _stream(seed, index, Stream.ANATOMY), outline, [lesion.push for lesion in lesions]
    )
    rng = _stream(seed, index, Stream.LESION_SHAPES)
    shapes = [
        shape_lesion(rng, lesion, depth_mm=anatomy.depth_mm, midline_mm=anatomy.midline_mm)
        for lesion in lesions
    ]
    vessels = draw_vessels(_stream(seed, index, Stream.VESSELS), outline, anatomy)
    return Patient(tissues, anatomy, vessels, tuple(zip(lesions, shapes, strict=True)))


def _stream(seed: int, index: int, stream: Stream) -> np.random.Generator:
    """The generator of one purpose in one case, independent of all others."""
    if seed < 0:
        raise ValueError(f"a seed is at least 0, got {seed}")
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(index, stream)))
