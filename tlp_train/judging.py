"""Two figures after each epoch, by which a checkpoint is the best where enhancement counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

ENHANCEMENT, INVENTED = "val_enhancement", "val_invented"
"""Mean absolute error of enhancement in the core with drawn prompts; mean enhancement beyond the
true one where a prompt is mirrored onto normal brain. Shares of normal brain's median T1ce."""

JUDGED = (ENHANCEMENT, INVENTED)


@dataclass(frozen=True)
class Region:
    """Sums over the voxels of a region of several slices."""

    total: Tensor
    voxels: Tensor


def error_of(image: Tensor, target: Tensor, exact: Tensor, core: float) -> Region:
    """Absolute error of enhancement inside the core, each slice at its normal brain's level.

    Parameters
    ----------
    image, target
        (N, 1, H, W), in [0, 1]; background of the target is 0.
    exact
        The segmentation's prompt, same shape; ``core`` is its value of the tumour.
    """
    return _sums((_beyond(image, target, exact)).abs(), exact == core)


def invented_by(image: Tensor, target: Tensor, exact: Tensor, core: float) -> Region:
    """Enhancement beyond the true one at the mirrored core, where that is normal brain."""
    mirrored = (exact == core).flip(-1) & _normal(target, exact)
    return _sums(_beyond(image, target, exact), mirrored)


def score(metrics: Mapping[str, Any]) -> float:
    """Higher is better: both errors weigh alike."""
    return -(float(metrics[ENHANCEMENT]) + abs(float(metrics[INVENTED])))


def _normal(target: Tensor, exact: Tensor) -> Tensor:
    return (target > 0) & (exact == 0)


def _beyond(image: Tensor, target: Tensor, exact: Tensor) -> Tensor:
    """Image minus target as shares of normal brain, the image brought to the target's level.

    By the ratio of medians, as :func:`tlp_train.metrics.enhancement_metrics`; NaN in a slice
    without normal brain.
    """
    nothing = torch.tensor(float("nan"), dtype=torch.float32, device=image.device)
    normal = _normal(target, exact)
    made, true = (
        torch.where(normal, one.float(), nothing).flatten(1).nanmedian(dim=1).values
        for one in (image, target)
    )
    made, true = (one.view(-1, 1, 1, 1) for one in (made, true))
    gain = torch.where(made > 0, true / made, torch.zeros_like(made))
    return (gain * image.float() - target.float()) / true


def _sums(values: Tensor, inside: Tensor) -> Region:
    inside = inside & values.isfinite()
    kept = torch.where(inside, values, torch.zeros_like(values))
    return Region(kept.sum(dtype=torch.float64), inside.sum(dtype=torch.float64))
