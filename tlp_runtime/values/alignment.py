"""Whether two images show one head in one place, by their edges.

Contrasts differ in what is bright, not in where tissues meet. So the directions of the images'
gradients are compared (normalised gradient fields: Haber and Modersitzki, 2006), within both
brains and away from their surfaces, so that masks say nothing: first at every shift, by Fourier
transforms, then rigidly from the best of these.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tlp_runtime.geometry.boxes import box_of, widened
from tlp_runtime.geometry.grid import Grid
from tlp_runtime.geometry.resample import filled, resampled
from tlp_runtime.geometry.volume import Volume
from tlp_runtime.warnings import NOT_ALIGNED, Warn

DISPLACEMENT_MM = 3.0
"""Mean displacement within the brain from which two images are not aligned. In seven BraTS cases,
their slices thickened, noisy or cut too, right pairs have at most 2.1 mm; moved by 5 mm at least
4.1, turned by 5 degrees at least 3.2."""

AGREEMENT = 0.5
"""Least agreement of edges of images of one head. Right pairs have 0.59 to 0.85, those of two
patients at most 0.57, and directions at random 0.33."""
_ONE_HEAD = 0.58
"""Agreement from which a warning says how to move the image; below it may be of another head."""

_STEP_MM = 2.5
_REACH = 8
"""Voxels by which the second image is shifted at most in the first search: 20 mm."""
_SIGMA = 0.8
_SURFACE = 2
"""Voxels below the brain's surface that are left out."""
_LEAST_ML = 300.0
_EDGE = 0.3
"""Squared length of a normalised gradient from which a voxel is an edge."""
_MOST_POINTS = 12000
_RADIUS_MM = 60.0
"""Turns a rotation into the millimetres that it moves the brain's surface by."""
_FARTHEST_MM = 30.0
_MARGIN = 3

_TENSOR = ((0, 0, 1), (1, 1, 1), (2, 2, 1), (0, 1, 2), (0, 2, 2), (1, 2, 2))
"""Components of a symmetric tensor, and how often each counts."""


@dataclass(frozen=True)
class Alignment:
    """How the second of two images lies on the first.

    Parameters
    ----------
    agreement
        Of the edges' directions once the second image is moved: 1 where all are parallel, 1/3 at
        random.
    displacement_mm
        By how much that moves the brain's voxels, on average.
    shift_mm, rotation_degrees
        Of its centre, and about it.
    """

    agreement: float
    displacement_mm: float
    shift_mm: float
    rotation_degrees: float

    @property
    def is_good(self) -> bool:
        """Whether nothing speaks against one head in one place."""
        return self.displacement_mm <= DISPLACEMENT_MM and self.agreement >= AGREEMENT


def check_alignment(first: Volume, second: Volume, warn: Warn) -> None:
    """Warn when the second image does not lie on the first, or shows another head.

    Parameters
    ----------
    first, second
        Background 0, on any grids.
    """
    found = alignment(first, second)
    if found is None or found.is_good:
        return
    if found.agreement < _ONE_HEAD:
        problem = (
            f"its edges agree little with those of {first.name}, however it is laid on it "
            f"({found.agreement:.2f}; images of one head have 0.6 to 0.85). Are they of one "
            "patient, and neither of them mirrored?"
        )
        fix = "Give images of one patient, or register one to the other first."
    else:
        problem = (
            f"does not lie on {first.name}: its edges fit better moved by "
            f"{found.displacement_mm:.1f} mm on average (shifted by {found.shift_mm:.1f} mm, "
            f"turned by {found.rotation_degrees:.1f} degrees)."
        )
        fix = "Register one to the other first."
    warn(
        NOT_ALIGNED.warning(
            f"{second.name}: {problem}",
            fix=fix,
            agreement=round(found.agreement, 3),
            displacement_mm=round(found.displacement_mm, 2),
            shift_mm=round(found.shift_mm, 2),
            rotation_degrees=round(found.rotation_degrees, 2),
        )
    )


def alignment(first: Volume, second: Volume) -> Alignment | None:
    """Measure how the second image lies on the first; None where there is too little brain.

    Takes about a second at full size.
    """
    first, second = _cut(first), _cut(second)
    if min(_brain_ml(first), _brain_ml(second)) < _LEAST_ML:
        return None
    grid = _coarse(first.grid)
    fixed, moving = (_edges(resampled(volume, grid)) for volume in (first, second))
    if not (fixed.any() and moving.any()):
        return None
    rigid = _Rigid(fixed, moving)
    shift = np.concatenate([_best_shift(fixed, moving) * _STEP_MM, np.zeros(3)])
    start = max((np.zeros(6), shift), key=rigid.agreement)
    best = rigid.refined(start)
    return Alignment(
        agreement=rigid.agreement(best),
        displacement_mm=rigid.displacement_mm(best),
        shift_mm=float(np.linalg.norm(best[:3])),
        rotation_degrees=float(np.degrees(np.linalg.norm(best[3:]) / _RADIUS_MM)),
    )


def _cut(volume: Volume) -> Volume:
    """The part of a volume that is not background."""
    box = widened(box_of(volume.data != 0), _MARGIN)
    affine = volume.affine.copy()
    affine[:3, 3] = volume.grid.world(np.array([[span.start for span in box]]))[0]
    return Volume(volume.data[box], affine, name=volume.name)


def _brain_ml(volume: Volume) -> float:
    return np.count_nonzero(volume.data) * volume.grid.voxel_ml


def _coarse(grid: Grid) -> Grid:
    """Axes along the world's, voxels of 2.5 mm, over all of a grid."""
    low, high = grid.corners_ras.min(axis=0), grid.corners_ras.max(axis=0)
    shape = np.ceil((high - low) / _STEP_MM).astype(int) + 1
    affine = np.diag([_STEP_MM, _STEP_MM, _STEP_MM, 1.0])
    affine[:3, 3] = (low + high - _STEP_MM * (shape - 1)) / 2
    return Grid((int(shape[0]), int(shape[1]), int(shape[2])), affine)


def _edges(data: NDArray[np.float32]) -> NDArray[np.float32]:
    """(3, I, J, K): directions of the gradient, of length 0 where it is flat, to 1.

    0 outside the brain and near its surface.
    """
    from scipy import ndimage

    brain = filled(data != 0)
    if not brain.any():
        return np.zeros((3, *data.shape), np.float32)
    # The brain is continued outwards, so that its surface makes no edge.
    nearest = ndimage.distance_transform_edt(~brain, return_distances=False, return_indices=True)
    data = data[tuple(nearest)]
    gradient = np.stack(
        [
            ndimage.gaussian_filter(data, _SIGMA, order=[int(a == axis) for a in range(3)])
            for axis in range(3)
        ]
    )
    inside = ndimage.binary_erosion(brain, iterations=_SURFACE)
    squared = (gradient**2).sum(axis=0)
    usual = np.median(squared[inside]) if inside.any() else 0.0
    length = np.sqrt(squared + usual)
    return np.where(inside & (length > 0), gradient / np.where(length > 0, length, 1), 0).astype(
        np.float32
    )


def _best_shift(fixed: NDArray[np.float32], moving: NDArray[np.float32]) -> NDArray[np.float64]:
    """(3,) voxels by which ``moving`` is to be read further on to agree best."""
    from scipy import fft

    shape = [fft.next_fast_len(count + _REACH, real=True) for count in fixed.shape[1:]]

    def transformed(values: NDArray[np.float32]) -> NDArray[np.complex64]:
        return np.asarray(fft.rfftn(values, shape))

    parallel = sum(
        count * np.conj(transformed(fixed[a] * fixed[b])) * transformed(moving[a] * moving[b])
        for a, b, count in _TENSOR
    )
    lengths = np.conj(transformed((fixed**2).sum(axis=0))) * transformed((moving**2).sum(axis=0))
    agreed, possible = fft.irfftn(parallel, shape), fft.irfftn(lengths, shape)
    score = agreed / np.maximum(possible, 0.3 * possible.max())
    near = np.roll(score, (_REACH,) * 3, axis=(0, 1, 2))[tuple([slice(2 * _REACH + 1)] * 3)]
    return np.array(np.unravel_index(near.argmax(), near.shape), float) - _REACH


class _Rigid:
    """Agreement of the edges of one image with another's, which is shifted and turned.

    A move is (6,): the shift and the rotation vector, this in mm at 60 mm from the centre.
    """

    def __init__(self, fixed: NDArray[np.float32], moving: NDArray[np.float32]) -> None:
        points = np.argwhere((fixed**2).sum(axis=0) > _EDGE)
        points = points[:: max(1, len(points) // _MOST_POINTS)]
        self._points = points.astype(np.float64)
        self._directions = fixed[:, points[:, 0], points[:, 1], points[:, 2]].T
        self._lengths = (self._directions**2).sum(axis=1)
        self._moving = moving
        self._centre = self._points.mean(axis=0)

    def agreement(self, move: NDArray[np.float64]) -> float:
        from scipy import ndimage

        places = self._moved(move).T
        found = [ndimage.map_coordinates(part, places, order=1) for part in self._moving]
        there = np.stack(found, axis=1) @ _rotation(move)  # turned back
        possible = float((self._lengths * (there**2).sum(axis=1)).sum())
        agreed = float(((self._directions * there).sum(axis=1) ** 2).sum())
        # Little overlap is no agreement, however good it is there.
        return agreed / max(possible, 0.15 * float(self._lengths.sum()))

    def refined(self, start: NDArray[np.float64]) -> NDArray[np.float64]:
        """The move near ``start`` of the best agreement."""
        from scipy import optimize

        found = optimize.minimize(
            lambda move: -self.agreement(move),
            start,
            method="Powell",
            bounds=[(-_FARTHEST_MM, _FARTHEST_MM)] * 6,
            options={"xtol": 0.2, "ftol": 1e-3, "maxiter": 6},
        )
        return np.asarray(found.x)

    def displacement_mm(self, move: NDArray[np.float64]) -> float:
        away = np.linalg.norm(self._moved(move) - self._points, axis=1)
        return float(away.mean()) * _STEP_MM

    def _moved(self, move: NDArray[np.float64]) -> NDArray[np.float64]:
        turned = (self._points - self._centre) @ _rotation(move).T
        moved: NDArray[np.float64] = turned + self._centre + move[:3] / _STEP_MM
        return moved


def _rotation(move: NDArray[np.float64]) -> NDArray[np.float64]:
    """(3, 3) rotation of a move."""
    from scipy.spatial.transform import Rotation

    turned: NDArray[np.float64] = Rotation.from_rotvec(move[3:] / _RADIUS_MM).as_matrix()
    return turned
