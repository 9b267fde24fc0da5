"""Prompts for augmentation (section V of the paper): variants of one, or lesions anywhere.

One scan under many prompts gives many plausible contrast images with known regions, to train
downstream models on. Prompts are label maps on the scan's own grid; nothing here needs torch.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tlp_runtime.errors import ContentError
from tlp_runtime.geometry.crop import crop_slices, uncrop_slices
from tlp_runtime.geometry.volume import Volume
from tlp_runtime.spec.model import ModelSpec, PromptSpec
from tlp_runtime.values.prompt import encode
from tlp_train.fpg import FuzzyPrompt

RADIUS_MM = (6.0, 20.0)
OEDEMA_RATIO = (1.2, 1.9)
STRETCH = (0.75, 1.33)
_TRIES = 100
_MIN_CORE_MM3 = 100.0


def fuzzy_variant(
    prompt: Volume, code: PromptSpec, spec: ModelSpec, rng: np.random.Generator
) -> Volume:
    """A label map as another reader might have drawn it: Algorithm 1 on every axial slice.

    Parameters
    ----------
    prompt
        Labels that ``code`` gives a meaning, on any axis order.
    """
    oriented = prompt.reoriented(spec.crop.orientation)
    values = encode(oriented.data, code, prompt.name)
    fuzzy = FuzzyPrompt(drop=0.0)
    varied = np.zeros_like(values)
    for z in np.flatnonzero(values.any(axis=(0, 1))):
        varied[:, :, z] = fuzzy(values[:, :, z], code, rng)
    return _labels(varied, oriented, prompt, spec.prompt)


def random_lesion(scan: Volume, spec: ModelSpec, rng: np.random.Generator) -> Volume:
    """An ellipsoidal tumour in oedema at a random place of the brain.

    Mean radius, elongation and the oedema's extent are uniform in :data:`RADIUS_MM`,
    :data:`STRETCH` and :data:`OEDEMA_RATIO`; the centre is uniform in the brain the model sees,
    and the lesion is cut off at its edge.

    Raises
    ------
    ContentError
        No room for a lesion was found.
    """
    oriented = scan.reoriented(spec.crop.orientation)
    seen = crop_slices(oriented, spec.crop) != 0
    brain = uncrop_slices(seen.astype(np.float32), oriented.shape, spec.crop) > 0
    places = np.argwhere(brain)
    spacing = np.array(spec.crop.spacing_mm)
    for _ in range(_TRIES if len(places) else 0):
        centre = places[rng.integers(len(places))]
        radius = rng.uniform(*RADIUS_MM)
        rotation, _ = np.linalg.qr(rng.standard_normal((3, 3)))
        stretch = rng.uniform(*STRETCH, 3)
        axes = rotation * (radius * stretch / np.prod(stretch) ** (1 / 3))[:, None] ** -1
        reach = np.ceil(radius * max(STRETCH) ** 2 * max(OEDEMA_RATIO) / spacing).astype(int)
        window = tuple(slice(max(0, c - r), c + r + 1) for c, r in zip(centre, reach, strict=True))
        inside = brain[window]
        corner = np.array([part.start for part in window])
        offsets = (np.indices(inside.shape).reshape(3, -1).T + corner - centre) * spacing
        distance = np.linalg.norm(offsets @ axes.T, axis=1).reshape(inside.shape)
        core = (distance < 1) & inside
        if core.sum() * np.prod(spacing) < _MIN_CORE_MM3:
            continue
        values = np.zeros(brain.shape, np.float32)
        part = values[window]
        part[(distance < rng.uniform(*OEDEMA_RATIO)) & inside] = spec.prompt.oedema_value
        part[core] = spec.prompt.tumour_value
        return _labels(values, oriented, scan, spec.prompt)
    raise ContentError(f"{scan.name}: no room for a lesion in the part the model sees.")


def _labels(
    values: NDArray[np.float32], oriented: Volume, original: Volume, code: PromptSpec
) -> Volume:
    """Prompt values as a label map on the original's grid, in the model's own labels."""
    data = np.zeros(values.shape, np.uint8)
    tumour, oedema = code.drawn_labels
    data[values == code.oedema_value] = oedema
    data[values == code.tumour_value] = tumour
    return replace(oriented, data=data).restored_to(original)
