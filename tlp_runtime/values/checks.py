"""Whether a scan looks like what a model expects; doubts are warnings with numbers, not errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlp_runtime.errors import SetOption
from tlp_runtime.spec.model import BrightnessSpec
from tlp_runtime.warnings import (
    BRAIN_TOO_LARGE,
    BRAIN_TOO_SMALL,
    OTHER_CONTRAST,
    UNLIKE_TRAINING,
    Warn,
)

BRAIN_ML = (700.0, 2200.0)
"""Volumes of a skull-stripped adult head, with room; a head with skull has 3000 ml and more."""

BRIGHT_TAIL = {"t1": 0.3, "t2": 0.4}
"""Skewness of the brain's voxels beyond which a T1 has a T2's bright tail, and of which the
negative is that of a T2 with a T1's dark one. In seven BraTS cases the T1 have -1.2 to -0.5, the
T2 -0.1 to 1.8."""

BRIGHTNESS_PERCENTILES = (5.0, 25.0, 50.0, 75.0, 95.0)
BRIGHTNESS_LIMIT = 4.0
"""Standard deviations of the training volumes beyond which a scan is unlike them."""
BRIGHTNESS_SPREAD = 0.03
"""Least standard deviation assumed: a few training volumes may happen to agree."""


def check_extent(
    inside: NDArray[np.bool_], spacing_mm: Sequence[float], name: str, warn: Warn
) -> None:
    """Warn when the part that is not background is too large or too small for a bare brain."""
    volume_ml = float(np.count_nonzero(inside) * np.prod(spacing_mm) / 1000)
    low, high = BRAIN_ML
    usual = f"a skull-stripped brain has {low:.0f} to {high:.0f} ml"
    if volume_ml > high:
        warn(
            BRAIN_TOO_LARGE.warning(
                f"{name}: {volume_ml:.0f} ml are not background; {usual}.",
                fix=SetOption("brain_mask", purpose="if this is a scan with skull"),
                volume_ml=round(volume_ml, 1),
                low_ml=low,
                high_ml=high,
            )
        )
    elif volume_ml < low:
        warn(
            BRAIN_TOO_SMALL.warning(
                f"{name}: only {volume_ml:.0f} ml are not background; {usual}. Is the whole brain "
                "in the scan?",
                volume_ml=round(volume_ml, 1),
                low_ml=low,
                high_ml=high,
            )
        )


def check_contrast(values: NDArray[Any], modality: str, name: str, warn: Warn) -> None:
    """Warn when the brain's voxels are distributed as in another contrast.

    In a T1 the tail of the distribution is dark (fluid), in a T2 it is bright.
    """
    if values.size < 1000:
        return
    low, high = np.percentile(values, (1, 99))
    clipped = np.clip(values.astype(np.float64), low, high)
    spread = clipped.std()
    if spread == 0:
        return
    skewness = float((((clipped - clipped.mean()) / spread) ** 3).mean())
    limit = BRIGHT_TAIL[modality]
    if (modality == "t1" and skewness > limit) or (modality == "t2" and skewness < -limit):
        tail, side = ("bright", "below") if modality == "t1" else ("dark", "above")
        expected = limit if modality == "t1" else -limit
        warn(
            OTHER_CONTRAST.warning(
                f"{name}: does not look like a {modality.upper()}: its brain's values have a "
                f"{tail} tail (skewness {skewness:.2f}, expected {side} {expected:.1f}). Are the "
                "images exchanged?",
                modality=modality,
                skewness=round(skewness, 3),
                limit=expected,
            )
        )


def brightness(scaled: NDArray[np.float32], inside: NDArray[np.bool_]) -> tuple[float, ...]:
    """The :data:`BRIGHTNESS_PERCENTILES` of a volume's scaled brain voxels."""
    voxels = scaled[inside] if inside.any() else scaled
    return tuple(float(v) for v in np.percentile(voxels, BRIGHTNESS_PERCENTILES))


def check_brightness(
    found: Sequence[float], expected: BrightnessSpec, name: str, warn: Warn
) -> None:
    """Warn when a scan's brightness lies far from that of the volumes the model was trained on."""
    away = [
        abs(value - mean) / max(spread, BRIGHTNESS_SPREAD)
        for value, mean, spread in zip(found, expected.mean, expected.spread, strict=True)
    ]
    worst = int(np.argmax(away))
    if away[worst] > BRIGHTNESS_LIMIT:
        percentile = expected.percentiles[worst]
        warn(
            UNLIKE_TRAINING.warning(
                f"{name}: unlike the {expected.modality.upper()} images the model was trained on: "
                f"percentile {percentile:g} of its brain lies at {found[worst]:.2f} of the "
                f"network's range, in training at {expected.mean[worst]:.2f} ± "
                f"{expected.spread[worst]:.2f} ({away[worst]:.1f} s.d. away). Outliers, another "
                "contrast or another preparation move it; judge the result with care.",
                modality=expected.modality,
                percentile=percentile,
                found=round(found[worst], 4),
                mean=expected.mean[worst],
                spread=expected.spread[worst],
                deviations=round(away[worst], 2),
            )
        )
