"""Patient level: does a synthesis show enhancement where the patient has it, and only there?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import mannwhitneyu

LEAST = 10
"""Cases with enhancement, and as many without, below which no figure is given."""

CALLED = 0.05
"""A synthesis calls a tumour enhancing where more than this share of its core enhances.

A voxel enhances above the 99th percentile of the case's own normal brain: chance gives 0.01.
"""


@dataclass(frozen=True)
class Patients:
    """Over cases with a core; those without an enhancing label count as much as the others.

    Parameters
    ----------
    enhancing, others
        Cases with an enhancing label, and without.
    sensitivity, specificity
        Of :data:`CALLED`; None, as all figures, where there are fewer than :data:`LEAST` of each.
    auc
        Of the enhancing volume: the chance that a case with enhancement has more than one without.
    r_squared
        Squared correlation of synthesized and labelled volume; None where one does not vary.
    """

    enhancing: int
    others: int
    sensitivity: float | None
    specificity: float | None
    auc: float | None
    r_squared: float | None

    @classmethod
    def of(cls, labelled_ml: ArrayLike, made_ml: ArrayLike, core_ml: ArrayLike) -> Patients:
        """From the volumes of each case: labelled as enhancing, enhancing in the image, core."""
        labelled, made, core = (np.asarray(v, np.float64) for v in (labelled_ml, made_ml, core_ml))
        positive = labelled > 0
        counts = int(positive.sum()), int((~positive).sum())
        if min(counts) < LEAST:
            return cls(*counts, None, None, None, None)
        called = made > CALLED * core
        varies = min(float(labelled.std()), float(made.std())) > 0
        return cls(
            *counts,
            sensitivity=float(called[positive].mean()),
            specificity=float((~called[~positive]).mean()),
            auc=float(mannwhitneyu(made[positive], made[~positive]).statistic)
            / (counts[0] * counts[1]),
            r_squared=float(np.corrcoef(labelled, made)[0, 1]) ** 2 if varies else None,
        )
