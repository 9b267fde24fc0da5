"""Relaxation times and proton densities of the tissues in the phantom."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np


@dataclass(frozen=True)
class Relaxation:
    """What a spin echo sees of a tissue.

    Parameters
    ----------
    t1_ms, t2_ms
        Longitudinal and transverse relaxation time in ms, ``t2_ms <= t1_ms``.
    pd
        Proton density relative to water, in (0, 1].
    """

    t1_ms: float
    t2_ms: float
    pd: float

    def __post_init__(self) -> None:
        if not 0.0 < self.t2_ms <= self.t1_ms:
            raise ValueError(f"0 < T2 <= T1 expected, got T1 {self.t1_ms} ms, T2 {self.t2_ms} ms")
        if not 0.0 < self.pd <= 1.0:
            raise ValueError(f"proton density in (0, 1] expected, got {self.pd}")

    def varied(self, rng: np.random.Generator, amount: float) -> Relaxation:
        """A neighbour whose T1, T2 and proton density differ by up to ``amount`` (relative).

        The proton density varies a quarter as much and stays below that of water.
        """
        t1, t2, pd = rng.uniform(-amount, amount, 3).tolist()
        return Relaxation(
            self.t1_ms * (1 + t1), self.t2_ms * (1 + t2), min(1.0, self.pd * (1 + pd / 4))
        )


@dataclass(frozen=True)
class LesionTissues:
    """The three parts of a lesion, from the inside outwards."""

    core: Relaxation
    rim: Relaxation
    oedema: Relaxation

    def varied(self, rng: np.random.Generator, amount: float) -> LesionTissues:
        """The same parts with every value varied on its own."""
        return LesionTissues(
            self.core.varied(rng, amount),
            self.rim.varied(rng, amount),
            self.oedema.varied(rng, amount),
        )


@dataclass(frozen=True)
class TissueTable:
    """Relaxation of every tissue at one field strength."""

    csf: Relaxation
    grey: Relaxation
    white: Relaxation
    deep_grey: Relaxation
    choroid: Relaxation
    blood: Relaxation
    lesion: LesionTissues

    def varied(self, rng: np.random.Generator, amount: float) -> TissueTable:
        """The table of another person: every healthy tissue varied on its own."""
        healthy = {
            field.name: getattr(self, field.name).varied(rng, amount)
            for field in fields(self)
            if field.name != "lesion"
        }
        return replace(self, **healthy)


TABLE_1T5 = TissueTable(
    csf=Relaxation(4300.0, 2000.0, 1.00),
    grey=Relaxation(1197.0, 95.0, 0.82),
    white=Relaxation(646.0, 72.0, 0.70),
    deep_grey=Relaxation(1000.0, 82.0, 0.78),
    choroid=Relaxation(1600.0, 180.0, 0.88),
    blood=Relaxation(1441.0, 290.0, 0.90),
    lesion=LesionTissues(
        core=Relaxation(2000.0, 290.0, 0.93),
        rim=Relaxation(1320.0, 150.0, 0.86),
        oedema=Relaxation(1150.0, 150.0, 0.83),
    ),
)
"""Values at 1.5 T.

T1 of grey and white matter: Wright et al., MAGMA 21:121 (2008), putamen there 1084 ms.
T2 of grey and white matter, T1 and T2 of blood: Stanisz et al., Magn Reson Med 54:507 (2005).
T1 of CSF, nearly independent of field: Rooney et al., Magn Reson Med 57:308 (2007).
Proton densities: water content after Whittall et al., Magn Reson Med 37:34 (1997).
Lesions, choroid plexus and the T2 of CSF: representative values, within the wide ranges
found in patients (Just and Thelen, Radiology 169:779, 1988).
"""

TABLE_3T = TissueTable(
    csf=Relaxation(4300.0, 2000.0, 1.00),
    grey=Relaxation(1331.0, 110.0, 0.82),
    white=Relaxation(832.0, 79.6, 0.70),
    deep_grey=Relaxation(1180.0, 88.0, 0.78),
    choroid=Relaxation(1900.0, 180.0, 0.88),
    blood=Relaxation(1932.0, 275.0, 0.90),
    lesion=LesionTissues(
        core=Relaxation(2300.0, 270.0, 0.93),
        rim=Relaxation(1560.0, 145.0, 0.86),
        oedema=Relaxation(1380.0, 145.0, 0.83),
    ),
)
"""Values at 3 T.

Grey and white matter: Wansapura et al., J Magn Reson Imaging 9:531 (1999).
Blood: Stanisz et al., Magn Reson Med 54:507 (2005). The rest as at 1.5 T, T1 lengthened.
"""


def draw_table(rng: np.random.Generator) -> TissueTable:
    """Tissues of one examination: 1.5 T or 3 T, varied by up to 4 % from case to case."""
    table = TABLE_3T if rng.random() < 0.5 else TABLE_1T5
    return table.varied(rng, 0.04)
