"""Which fit of the T1 to the T1ce gives the enhancement: against the phantom's own.

    python -m benchmarks.enhancement --json enhancement.json --figure enhancement.png

The phantom knows its gain (how many times as bright the T1ce shows what no contrast agent reaches)
and its enhancement map. Noise and bias field of the T1 pair are raised until T1 and T1ce correlate
by r over normal brain, as they do in real cases (0.18 to 0.81). Every fit then estimates the gain
there; its enhancement, T1ce minus the fitted T1, is held against the phantom's.

With `--data` a model that hallucinates on purpose is measured on BraTS cases too: the T1, with a
blob of half of normal brain's median at the mirrored core.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from tlp_runtime.bench import environment
from tlp_runtime.files.markdown import markdown_table
from tlp_runtime.io.datasets import find_cases
from tlp_runtime.spec.model import ModelSpec
from tlp_train.evaluating import evaluation_slices, needed_arrays, read_case
from tlp_train.metrics import LinearFit, Truth
from tlp_train.phantom import PhantomCase, make_case
from tlp_train.phantom.imaging import Scanner

Float = NDArray[np.float64]
Fit = Callable[[Float, Float, float], LinearFit]
"""From T1 and T1ce of normal brain, and the ratio of their noises' variances."""

CORRELATIONS = (None, 0.8, 0.6, 0.4, 0.2)
"""None is the phantom as it is."""


def least_squares(t1: Float, t1ce: Float, noise: float) -> LinearFit:
    """Of the T1ce on the T1: the gain is r times the ratio of standard deviations."""
    return LinearFit.of(t1, t1ce)


def standard_deviations(t1: Float, t1ce: Float, noise: float) -> LinearFit:
    """The reduced major axis."""
    gain = float(t1ce.std() / t1.std())
    return LinearFit(gain, float(t1ce.mean()) - gain * float(t1.mean()))


def interquartile_ranges(t1: Float, t1ce: Float, noise: float) -> LinearFit:
    """A robust ratio of spreads, through the medians."""
    (low, middle, high), (low_ce, middle_ce, high_ce) = (
        np.quantile(values, (0.25, 0.5, 0.75)) for values in (t1, t1ce)
    )
    gain = float((high_ce - low_ce) / (high - low))
    return LinearFit(gain, float(middle_ce - gain * middle))


def deming(t1: Float, t1ce: Float, noise: float) -> LinearFit:
    """Errors in both, their ratio of variances from what neighbouring voxels differ by."""
    x, y = t1.var(), t1ce.var()
    together = float(np.cov(t1, t1ce, bias=True)[0, 1])
    difference = y - noise * x
    gain = float((difference + np.sqrt(difference**2 + 4 * noise * together**2)) / (2 * together))
    return LinearFit(gain, float(t1ce.mean()) - gain * float(t1.mean()))


def medians(t1: Float, t1ce: Float, noise: float) -> LinearFit:
    """The ratio of medians, without an offset: no signal is no signal in both."""
    return LinearFit(float(np.median(t1ce) / np.median(t1)), 0.0)


FITS: Mapping[str, Fit] = {
    "least squares": least_squares,
    "ratio of standard deviations": standard_deviations,
    "ratio of interquartile ranges": interquartile_ranges,
    "Deming": deming,
    "ratio of medians": medians,
}


def noise_ratio(t1: Float, t1ce: Float, normal: NDArray[np.bool_]) -> float:
    """Of the variances of what is finer than three voxels."""
    fine = [np.var((image - uniform_filter(image, 3))[normal]) for image in (t1, t1ce)]
    return float(fine[1] / fine[0])


def correlated(index: int, wanted: float | None) -> tuple[PhantomCase, float]:
    """A case whose T1 and T1ce correlate by ``wanted`` over normal brain, and by how much."""
    if wanted is None:
        case = make_case(7, index)
        return case, correlation(case)
    low, high = np.log(0.5), np.log(100.0)
    for _ in range(9):
        middle = (low + high) / 2
        scanner = Scanner(float(np.exp(middle)), bias=0.05 + 0.25 * (1 - wanted), same_coil=0.0)
        case = make_case(7, index, scanner)
        found = correlation(case)
        if abs(found - wanted) < 0.01:
            break
        low, high = (low, middle) if found > wanted else (middle, high)
    return case, found


def normal_brain(case: PhantomCase) -> NDArray[np.bool_]:
    """Brain outside every label, as an evaluation takes it."""
    normal: NDArray[np.bool_] = (case.t1ce > 0) & (case.seg == 0)
    return normal


def correlation(case: PhantomCase) -> float:
    """Of T1 and T1ce over normal brain."""
    normal = normal_brain(case)
    return float(np.corrcoef(case.t1[normal], case.t1ce[normal])[0, 1])


def errors(case: PhantomCase) -> dict[str, dict[str, float]]:
    """How far each fit is off, in shares of normal brain's median T1ce inside the core."""
    normal = normal_brain(case)
    core = np.isin(case.seg, (1, 4))
    t1, t1ce = (image.astype(np.float64) for image in (case.t1, case.t1ce))
    level = float(np.median(t1ce[normal]))
    true = case.enhancement[core].astype(np.float64) / level
    noise = noise_ratio(t1, t1ce, normal)
    found = {}
    for name, fit in FITS.items():
        line = fit(t1[normal], t1ce[normal], noise)
        made = ((t1ce - line(t1))[core]) / level
        found[name] = {
            "gain": line.gain / case.gain,
            "fit": float(np.abs(line(t1) - case.gain * t1)[core].mean()) / level,
            "bias": float(np.mean(made - true)),
            "mae": float(np.abs(made - true).mean()),
        }
    return found


def hallucination(truth: Truth) -> dict[str, float] | None:
    """What two measures see of a blob that is half as bright as normal brain, in a copied T1.

    It lies at the mirrored core, where nothing enhances. None without a core.
    """
    normal, where = truth.normal, truth.mirrored_core
    if not where.any():
        return None
    made = truth.t1 + 0.5 * float(np.median(truth.t1[normal])) * where
    level = float(np.median(truth.t1ce[normal]))

    def seen(fit: Callable[[Float, Float], LinearFit]) -> float:
        with_blob, without = (
            fit(image[normal], truth.t1ce[normal])(image)[where].mean()
            for image in (made, truth.t1)
        )
        return float(with_blob - without) / level

    return {
        "r": truth.correlation or float("nan"),
        "least squares": seen(LinearFit.of),
        "ratio of medians": seen(LinearFit.of_medians),
    }


def hallucinations(data: Path) -> dict[str, dict[str, float]]:
    """Of every case of a folder with a core."""
    spec = ModelSpec(inputs=("t1",))
    found = {}
    for case in find_cases(data, needed_arrays(spec)):
        slices = evaluation_slices(read_case(case, spec), spec, "none", case.name)
        seen = hallucination(slices.truth)
        if seen is not None:
            found[case.name] = seen
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, default=12)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--data", type=Path, help="BraTS cases for the hallucinating model")
    options = parser.parse_args()

    indices = [n for n in range(10 * options.cases) if (make_case(7, n).seg == 4).any()]
    indices = indices[: options.cases]
    found: dict[str, Any] = {}
    for wanted in CORRELATIONS:
        rows, reached = [], []
        for index in indices:
            case, r = correlated(index, wanted)
            rows.append(errors(case))
            reached.append(r)
        found["as it is" if wanted is None else str(wanted)] = {
            "r": float(np.median(reached)),
            "fits": {
                name: {
                    key: [float(v) for v in np.quantile([row[name][key] for row in rows], (0.5,))]
                    + [float(np.mean([row[name][key] for row in rows]))]
                    for key in ("fit", "gain", "bias", "mae")
                }
                for name in FITS
            },
        }
        print(wanted, f"r {np.median(reached):.2f}", flush=True)
    for key, title in (
        ("fit", "error of the fitted T1 inside the core, share of normal brain"),
        ("mae", "error of the enhancement inside the core, share of normal brain"),
        ("bias", "the same with its sign"),
        ("gain", "gain over the true one"),
    ):
        print(f"\n{title}\n")
        rows_ = [
            [name, *(f"{level['fits'][name][key][1]:.3f}" for level in found.values())]
            for name in FITS
        ]
        head = ["mean over cases", *(f"r {level['r']:.2f}" for level in found.values())]
        print(markdown_table(head, rows_))
    invented = hallucinations(options.data) if options.data is not None else {}
    if invented:
        print("\na blob of 0.5 that is not there, as it is measured\n")
        columns = ("r", "least squares", "ratio of medians")
        print(
            markdown_table(
                ["case", *columns],
                [[name, *(f"{row[c]:.2f}" for c in columns)] for name, row in invented.items()],
            )
        )
    if options.json is not None:
        record = {
            "date": date.today().isoformat(),
            "machine": environment(f"numpy {np.__version__}"),
            "cases": indices,
            "figures_are": ["median", "mean"],
            "correlations": found,
            "hallucination": invented,
        }
        options.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    if options.figure is not None:
        draw(found, options.figure)


def draw(found: Mapping[str, Any], path: Path) -> None:
    """Error against correlation, a line per fit."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6.4, 4.0))
    for name in FITS:
        axis.plot(
            [level["r"] for level in found.values()],
            [level["fits"][name]["mae"][1] for level in found.values()],
            marker="o",
            label=name,
        )
    axis.set_xlabel("correlation of T1 and T1ce over normal brain")
    axis.set_ylabel("error of the enhancement in the core")
    axis.invert_xaxis()
    axis.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
