"""Image metrics: the published ones, and those that the guess of one scale cannot decide.

Arrays are (Z, H, W). *Unit* values are ``(x + 1) / 2`` of the network's [-1, 1], float64. A mask
selects pixels; a metric over no pixel at all is left out, never counted as 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

DATA_RANGE = 255
ENHANCING = 0.2
"""Enhancing: brighter than the T1 at its level by this share of normal brain's median T1ce."""

NORMAL_QUANTILE = 0.99
"""A voxel of the core enhances at patient level where it is above this share of normal brain."""

WEAK = 0.5
"""Where T1 and T1ce correlate less over normal brain, their difference is not uptake alone."""

Float = NDArray[np.float64]
Levels = NDArray[np.uint8]
Mask = NDArray[np.bool_]

Values = dict[str, list[float]]
"""Metric keys to the values of one case: one a slice, or one alone."""


def to_unit64(values: NDArray[np.float32]) -> Float:
    """[-1, 1] to [0, 1], in float64."""
    unit: Float = (values.astype(np.float64) + 1) / 2
    return unit


def to_levels(unit: Float) -> Levels:
    """[0, 1] to 0..255, truncated, as published."""
    return np.asarray(np.clip(unit * DATA_RANGE, 0, DATA_RANGE).astype(np.uint8))


@dataclass(frozen=True)
class LinearFit:
    """``gain * x + offset``."""

    gain: float
    offset: float

    @classmethod
    def of(cls, x: Float, y: Float) -> LinearFit:
        """Least squares from ``x`` to ``y``; a constant ``x`` gives the mean of ``y``."""
        spread = float(x.var())
        gain = float(((x - x.mean()) * (y - y.mean())).mean()) / spread if spread > 0 else 0.0
        return cls(gain, float(y.mean()) - gain * float(x.mean()))

    @classmethod
    def of_medians(cls, x: Float, y: Float) -> LinearFit:
        """The ratio of medians, without an offset; a gain of 0 where ``x`` has no signal."""
        level = float(np.median(x))
        return cls(float(np.median(y)) / level if level > 0 else 0.0, 0.0)

    def __call__(self, x: Float) -> Float:
        return self.gain * x + self.offset


@dataclass(frozen=True)
class Truth:
    """What a synthesis of one case is held against.

    Parameters
    ----------
    t1ce, t1
        Unit values of the evaluated slices.
    brain
        Voxels whose T1ce is not background: BraTS volumes are skull-stripped.
    core, oedema
        The labelled tumour and oedema.
    enhancing
        The labelled enhancing part; None where labels do not tell it apart.
    voxel_ml
        Volume of a voxel.
    prompted
        Where the model was told that there is a tumour; None where it was told nothing.
    """

    t1ce: Float
    t1: Float
    brain: Mask
    core: Mask
    oedema: Mask
    enhancing: Mask | None = None
    voxel_ml: float = 0.001
    prompted: Mask | None = None

    @property
    def normal(self) -> Mask:
        """Brain outside every label."""
        return self.brain & ~self.core & ~self.oedema

    @property
    def correlation(self) -> float | None:
        """Of T1 and T1ce over normal brain; None where one of them is constant."""
        x, y = self.t1[self.normal], self.t1ce[self.normal]
        if len(x) < 2 or min(float(x.std()), float(y.std())) <= 0:
            return None
        return float(np.corrcoef(x, y)[0, 1])

    @property
    def mirrored_core(self) -> Mask:
        """Normal brain at the place of the core on the other side of the head."""
        return self.core[:, :, ::-1] & self.normal

    @property
    def wrongly_prompted(self) -> Mask:
        """Brain that the model was told is tumour, and is not."""
        if self.prompted is None:
            return np.zeros_like(self.core)
        return self.prompted & self.brain & ~self.core


def published_metrics(truth: Truth, image: Float) -> Values:
    """Slice by slice on 0..255, whole and inside each label.

    PSNR and SSIM are scikit-image's with its defaults (7 x 7 uniform window); NMSE is the mean
    squared error over the reference's variance, 0 where that is 0. Identical slices have no PSNR.
    Inside a label, SSIM is the mean of its map there, and slices without the label are left out.
    """
    values: Values = {}
    regions: Mapping[str, Mask] = {"core": truth.core, "oedema": truth.oedema}
    for z, (reference, made) in enumerate(
        zip(to_levels(truth.t1ce), to_levels(image), strict=True)
    ):
        ssim, ssim_map = structural_similarity(reference, made, data_range=DATA_RANGE, full=True)
        if (reference != made).any():
            _add(values, "slice.psnr_db", peak_signal_noise_ratio(reference, made, data_range=255))
        _add(values, "slice.ssim", ssim)
        a, b = reference.astype(np.float64), made.astype(np.float64)
        _add(values, "slice.nmse", nmse(a, b))
        for name, mask in regions.items():
            inside = mask[z]
            if not inside.any():
                continue
            _add(values, f"{name}.psnr_db", psnr(a[inside], b[inside], DATA_RANGE))
            _add(values, f"{name}.ssim", ssim_map[inside].mean())
            _add(values, f"{name}.nmse", nmse(a[inside], b[inside]))
    return values


def volume_metrics(truth: Truth, image: Float) -> Values:
    """Of all evaluated slices at once, in float: nothing is truncated, no slice counts more.

    PSNR's data range is 1; SSIM has a 7 x 7 x 7 uniform window.
    """
    values: Values = {}
    _add(values, "volume.psnr_db", psnr(truth.t1ce, image, 1.0))
    ssim = structural_similarity(
        truth.t1ce.astype(np.float32), image.astype(np.float32), data_range=1.0
    )
    _add(values, "volume.ssim", ssim)
    _add(values, "volume.nmse", nmse(truth.t1ce, image))
    _add(values, "volume.mae", np.abs(truth.t1ce - image).mean())
    return values


def fitted_metrics(truth: Truth, image: Float) -> Values:
    """Inside the brain after the best linear fit of the image to the T1ce there.

    The fit takes away what the level and contrast of the whole image cost; PSNR's data range is
    1. SSIM is the mean over the brain of the slices' maps, both images 0 outside the brain.
    Through-plane is how much the error changes from slice to slice, over how much it changes within
    slices: 1 where no direction is special, more where slices flicker.
    """
    values: Values = {}
    brain = truth.brain
    if not brain.any():
        return values
    fitted = LinearFit.of(image[brain], truth.t1ce[brain])(image)
    _add(values, "brain.psnr_db", psnr(truth.t1ce[brain], fitted[brain], 1.0))
    maps = [
        structural_similarity(a, b, data_range=1.0, full=True)[1]
        for a, b in zip(truth.t1ce * brain, fitted * brain, strict=True)
    ]
    _add(values, "brain.ssim", np.stack(maps)[brain].mean())
    _add(values, "brain.through_plane", through_plane(fitted - truth.t1ce, brain))
    return values


def through_plane(error: Float, brain: Mask) -> float | None:
    """Mean absolute change of ``error`` along z over that along y and x, inside ``brain``.

    None where the brain has no neighbours, or the error is the same throughout slices.
    """
    changes = []
    for axis in range(3):
        size = brain.shape[axis]
        both = brain.take(range(size - 1), axis) & brain.take(range(1, size), axis)
        if not both.any():
            return None
        changes.append(float(np.abs(np.diff(error, axis=axis))[both].mean()))
    within = (changes[1] + changes[2]) / 2
    return changes[0] / within if within > 0 else None


def enhancement_metrics(truth: Truth, image: Float) -> Values:
    """The uptake of contrast agent itself: T1ce minus the T1 that was brought to its level.

    T1 and image are brought to the T1ce by the ratio of medians over normal brain, so that the
    lesion has no say in the level; a least-squares fit would shrink what it fits by how little
    both correlate (docs/adr/0028-enhancement-by-medians.md). Differences are in shares of normal
    brain's median T1ce. Inside the core: mean absolute
    error, Pearson correlation, Dice of the voxels that enhance by more than :data:`ENHANCING`,
    and PSNR of the fitted image. At the mirrored core: the mean enhancement the image shows beyond
    the true one, 0 for a model that a wrong prompt cannot mislead; the same wherever the prompt
    covers brain outside the core.
    """
    values: Values = {}
    normal, core, mirrored = truth.normal, truth.core, truth.mirrored_core
    if not normal.any():
        return values
    level = float(np.median(truth.t1ce[normal]))
    plain = LinearFit.of_medians(truth.t1[normal], truth.t1ce[normal])(truth.t1)
    fitted = LinearFit.of_medians(image[normal], truth.t1ce[normal])(image)
    wrong = {"mirror": mirrored, "prompt": truth.wrongly_prompted}
    for name, mask in wrong.items():
        if mask.any() and level > 0:
            beyond = (fitted - truth.t1ce)[mask].mean() / level
            _add(values, f"{name}.false_enhancement", beyond)
    if not core.any() or level <= 0:
        return values
    true, made = ((x - plain)[core] / level for x in (truth.t1ce, fitted))
    _add(values, "enhancement.psnr_db", psnr(truth.t1ce[core], fitted[core], 1.0))
    _add(values, "enhancement.mae", np.abs(made - true).mean())
    if min(float(true.std()), float(made.std())) > 1e-9:
        _add(values, "enhancement.correlation", np.corrcoef(true, made)[0, 1])
    a, b = true > ENHANCING, made > ENHANCING
    if a.any() or b.any():
        _add(values, "enhancement.dice", 2 * float((a & b).sum()) / float(a.sum() + b.sum()))
    if truth.enhancing is not None:
        above = float(np.quantile(((truth.t1ce - plain) / level)[normal], NORMAL_QUANTILE))
        volumes = {
            "core": core.sum(),
            "labelled": truth.enhancing.sum(),
            "made": (made > above).sum(),
        }
        for name, count in volumes.items():
            _add(values, f"patient.{name}_ml", float(count) * truth.voxel_ml)
    return values


def all_metrics(truth: Truth, image: Float) -> Values:
    """Every metric of one synthesized (Z, H, W) unit-valued image."""
    return {
        **published_metrics(truth, image),
        **volume_metrics(truth, image),
        **fitted_metrics(truth, image),
        **enhancement_metrics(truth, image),
    }


def psnr(reference: Float, image: Float, data_range: float) -> float | None:
    """Peak signal-to-noise ratio in dB over all given values; None of an identical pair."""
    mse = float(np.square(reference - image).mean())
    return float(10 * np.log10(data_range**2 / mse)) if mse > 0 else None


def nmse(reference: Float, image: Float) -> float:
    """Mean squared error over the reference's variance, 0 where that is 0."""
    variance = float(reference.var())
    return float(np.square(reference - image).mean()) / variance if variance > 0 else 0.0


def _add(values: Values, key: str, value: float | None) -> None:
    if value is not None:
        values.setdefault(key, []).append(float(value))


@dataclass(frozen=True)
class Column:
    """How a metric is shown: its title, unit and digits, and what of two values is better.

    ``zero``: the one nearer to 0, whatever its sign; ``none``: neither.
    """

    key: str
    title: str
    digits: int
    better: Literal["higher", "lower", "zero", "none"]


@dataclass(frozen=True)
class ColumnGroup:
    """Columns of one table, with a sentence on what they measure."""

    title: str
    unit: str
    columns: tuple[Column, ...]


GROUPS: tuple[ColumnGroup, ...] = (
    ColumnGroup(
        "published",
        "slices",
        (
            Column("slice.psnr_db", "PSNR dB", 2, "higher"),
            Column("slice.ssim", "SSIM", 3, "higher"),
            Column("slice.nmse", "NMSE", 3, "lower"),
        ),
    ),
    ColumnGroup(
        "brain, after the best linear fit",
        "cases",
        (
            Column("brain.psnr_db", "PSNR dB", 2, "higher"),
            Column("brain.ssim", "SSIM", 3, "higher"),
            Column("brain.through_plane", "through-plane", 2, "lower"),
        ),
    ),
    ColumnGroup(
        "enhancement of the tumour core, at normal brain's level",
        "cases",
        (
            Column("enhancement.psnr_db", "PSNR dB", 2, "higher"),
            Column("enhancement.mae", "MAE", 3, "lower"),
            Column("enhancement.correlation", "correlation", 3, "higher"),
            Column("enhancement.dice", f"Dice > {ENHANCING:g}", 3, "higher"),
            Column("mirror.false_enhancement", "false, mirrored", 3, "zero"),
            Column("prompt.false_enhancement", "false, prompted", 3, "zero"),
        ),
    ),
    ColumnGroup(
        "enhancing volume inside the core",
        "cases",
        (
            Column("patient.core_ml", "core ml", 1, "none"),
            Column("patient.labelled_ml", "labelled ml", 1, "none"),
            Column("patient.made_ml", "synthesized ml", 1, "none"),
        ),
    ),
    ColumnGroup(
        "published, inside the tumour core",
        "slices",
        (
            Column("core.psnr_db", "PSNR dB", 2, "higher"),
            Column("core.ssim", "SSIM", 3, "higher"),
            Column("core.nmse", "NMSE", 3, "lower"),
        ),
    ),
    ColumnGroup(
        "published, inside the oedema",
        "slices",
        (
            Column("oedema.psnr_db", "PSNR dB", 2, "higher"),
            Column("oedema.ssim", "SSIM", 3, "higher"),
            Column("oedema.nmse", "NMSE", 3, "lower"),
        ),
    ),
    ColumnGroup(
        "volume, in float",
        "cases",
        (
            Column("volume.psnr_db", "PSNR dB", 2, "higher"),
            Column("volume.ssim", "SSIM", 3, "higher"),
            Column("volume.nmse", "NMSE", 3, "lower"),
            Column("volume.mae", "MAE", 4, "lower"),
        ),
    ),
)
"""Every metric there is, in the order of reports."""

ENHANCEMENT, VOLUMES = GROUPS[2:4]

COLUMNS: tuple[Column, ...] = tuple(column for group in GROUPS for column in group.columns)
