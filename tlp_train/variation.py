"""Light augmentation: a pair of images as another head or another scanner would have given it.

Input and target are changed alike, so that what the network has to predict follows from what it is
given.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from monai.transforms import RandBiasField
from numpy.typing import NDArray

from tlp_runtime.spec.model import PROMPT_NAME

Arrays = Mapping[str, NDArray[np.float32]]

GAMMA = (0.8, 1.25)
"""Exponent on unit values, drawn evenly in its logarithm."""

BIAS = (-0.1, 0.1)
"""Coefficients of MONAI's bias field, a polynomial of degree 3."""


def vary(
    arrays: Arrays, between: tuple[float, float], rng: np.random.Generator
) -> dict[str, NDArray[np.float32]]:
    """Flip left and right, gamma and bias field, each on half of the samples.

    Parameters
    ----------
    arrays
        Images and ``prompt`` of one slice, (H, W); the prompt is flipped only.
    between
        The ends of the images' range; their background stays at the low one.
    """
    made = dict(arrays)
    if rng.random() < 0.5:
        made = {name: np.ascontiguousarray(array[:, ::-1]) for name, array in made.items()}
    low, high = between
    gamma = 1.0
    if rng.random() < 0.5:
        gamma = float(np.exp(rng.uniform(*np.log(GAMMA))))
    field = None
    if rng.random() < 0.5:
        field = RandBiasField(prob=1.0, degree=3, coeff_range=BIAS)
        field.set_random_state(int(rng.integers(2**31)))
        field.randomize(img_size=next(iter(made.values())).shape)
    for name in made.keys() - {PROMPT_NAME}:
        unit = np.clip((made[name] - low) / (high - low), 0, 1) ** gamma
        if field is not None:
            unit = np.asarray(field(unit[None], randomize=False))[0]
        made[name] = (np.clip(unit, 0, 1) * (high - low) + low).astype(np.float32)
    return made
