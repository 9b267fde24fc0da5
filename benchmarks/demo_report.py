"""The demonstration's report: one HTML file that opens without a server."""

from __future__ import annotations

import base64
import csv
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

mpl.use("Agg")


METRICS = (
    ("slice.psnr_db", "whole slice: PSNR dB", 2),
    ("slice.ssim", "whole slice: SSIM", 3),
    ("core.psnr_db", "tumour core: PSNR dB", 2),
    ("core.ssim", "tumour core: SSIM", 3),
    ("brain.psnr_db", "brain, linear fit: PSNR dB", 2),
    ("enhancement.mae", "enhancement: MAE", 3),
    ("enhancement.correlation", "enhancement: correlation", 3),
    ("enhancement.dice", "enhancement: Dice", 3),
)


@dataclass(frozen=True)
class Slices:
    """One axial slice: images by title and the labels, (rows, columns) each."""

    z: int
    images: Mapping[str, NDArray[Any]]
    seg: NDArray[Any]


@dataclass(frozen=True)
class DemoReport:
    """All that the report shows, as the commands wrote it."""

    evaluations: Mapping[str, Mapping[str, Any]]
    bench: Mapping[str, Any]
    metrics: Path
    case: str
    slices: Sequence[Slices]
    commands: Sequence[tuple[str, float]]
    seconds: float

    @property
    def gain_db(self) -> float:
        """Tumour-core PSNR with prompt minus without."""
        with_prompt, without = (
            self.evaluations[use]["summary"]["synthesis"]["core.psnr_db"]["mean"]
            for use in ("seg", "none")
        )
        return float(with_prompt - without)

    def first(self) -> list[tuple[str, ...]]:
        """The three numbers to look at first, and what they are held against."""
        none, seg, mirrored = (
            self.evaluations[use]["summary"]["synthesis"] for use in ("none", "seg", "mirrored")
        )
        learnt = self.evaluations["none"]["summary"]["t1 x learnt factor"]
        error, overlap = "enhancement.mae", "enhancement.dice"
        invented = "mirror.false_enhancement"
        return [
            ("look at first", "this model", "held against", "good"),
            (
                "1. how far its enhancement is from the true one: MAE in the tumour, prompted",
                _figure(seg[error], 3),
                f"{_figure(learnt[error], 3)} (T1 x learnt factor, no network)",
                "far lower",
            ),
            (
                "2. whether a reader would outline the same: Dice of what enhances, prompted",
                _figure(seg[overlap], 3),
                f"{_figure(none[overlap], 3)} (without the prompt)",
                "near 1",
            ),
            (
                "3. what it invents where a wrong prompt says so: false enhancement, mirrored",
                _figure(mirrored[invented], 3),
                f"{_figure(none[invented], 3)} (without the prompt)",
                "as without",
            ),
        ]

    def record(self) -> dict[str, Any]:
        """What was measured, for a file."""
        return {
            "seconds": self.seconds,
            "commands": [{"command": c, "seconds": round(s, 1)} for c, s in self.commands],
            "evaluations": {
                use: {key: found[key] for key in ("prompt", "engine", "method", "summary")}
                for use, found in self.evaluations.items()
            },
            "bench": dict(self.bench),
        }

    def rows(self) -> list[tuple[str, ...]]:
        """Metric, then its figure without the prompt, with it, and of the reference rows."""
        references = self.evaluations["none"]["summary"]
        images = {
            "no prompt": references["synthesis"],
            "prompted": self.evaluations["seg"]["summary"]["synthesis"],
            "T1 copied": references["t1 copied"],
            "T1 x learnt factor": references["t1 x learnt factor"],
            "T1 x best factor": references["t1 x best factor (oracle)"],
        }
        return [
            ("", *images),
            *(
                (title, *(_figure(row[key], digits) for row in images.values()))
                for key, title, digits in METRICS
            ),
        ]


def as_text(lines: Sequence[Sequence[str]]) -> str:
    """A table as plain text."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        for line in lines
    )


def _figure(statistic: Mapping[str, Any], digits: int) -> str:
    if statistic["mean"] is None:
        return "none"
    return f"{statistic['mean']:.{digits}f} ± {statistic['sd']:.{digits}f}"


def write_report(path: Path, report: DemoReport) -> None:
    """Write the HTML file with its figures inside, and the case's figure beside it."""
    figure = _case_figure(report.slices)
    figure.savefig(path.with_name("case.png"), dpi=80, bbox_inches="tight")
    cases = len(report.evaluations["none"]["cases"])
    bench = report.bench
    latency = {"one slice, batch 1": bench["slice_batch1"], "one volume": bench["volume"]}
    latency |= {f"&nbsp; {name}": figures for name, figures in bench["stages"].items()}
    body = f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>TLP demonstration</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
  color: #1c2430; }}
h1, h2 {{ line-height: 1.2; }} img {{ max-width: 100%; }}
table {{ border-collapse: collapse; }} td, th {{ padding: .3rem .8rem; text-align: right;
  border-bottom: 1px solid #d5dae2; }} td:first-child, th:first-child {{ text-align: left; }}
.banner {{ background: #fff3cd; border-left: 4px solid #d39e00; padding: .6rem 1rem; }}
.gain {{ font-size: 1.3rem; }} code {{ background: #f2f4f7; padding: .1rem .3rem; }}
</style>
<h1>TLP: synthetic contrast from a plain T1 and a region</h1>
<p class="banner">Synthetic images of a synthetic phantom by a network trained for minutes.
Not for diagnosis.</p>
<p class="gain">Prompting the tumour raises PSNR inside its core by
<strong>{report.gain_db:+.2f} dB</strong> on {cases} unseen phantom cases.</p>
<h2>Three numbers to look at first</h2>
{_html_table(report.first()[0], report.first()[1:])}
<p>In shares of normal brain's T1ce. The third says what the model does with a prompt that is wrong:
it obeys, as it was trained to.</p>
<h2>All of it</h2>
{_html_table(report.rows()[0], report.rows()[1:])}
<p>Slice and core: the published protocol, slices 27 to 126 of every case, 8-bit, mean ± s.d. over
slices; the core is labels 1 and 4. Enhancement: T1ce minus the T1 at its level inside the core, in
shares of normal brain's T1ce, mean ± s.d. over cases. About half of the phantom's lesions look
like a tumour on T1 but take up no contrast agent: without the prompt, no network could know
which.</p>
<h2>{html.escape(report.case)}, unseen in training</h2>
{_image(figure, "slices of the unseen case")}
<h2>Training</h2>
{_image(_training_figure(report.metrics), "loss and validation PSNR by epoch")}
<h2>Latency</h2>
{
        _html_table(
            ("ms", "p50", "p90", "p99", "n"),
            [
                (
                    name,
                    *(f"{figures[key]:.1f}" for key in ("p50_ms", "p90_ms", "p99_ms")),
                    str(figures["count"]),
                )
                for name, figures in latency.items()
            ],
        )
    }
<p>{html.escape(bench["engine"])} on {html.escape(bench["environment"]["cpu"])},
{bench["environment"]["cores"]} cores, {html.escape(bench["environment"]["engine_library"])},
{bench["precision"]}, batch {bench["batch"]}, {bench["slices"]} slices a volume;
{bench["slices_per_second"]:.1f} slices/s in the engine, peak memory
{bench["peak_memory_mib"]:.0f} MiB.</p>
<h2>The commands</h2>
{
        _html_table(
            ("command", "seconds"),
            [
                (f"<code>{html.escape(command)}</code>", f"{seconds:.0f}")
                for command, seconds in report.commands
            ],
        )
    }
</html>
"""
    path.write_text(body, encoding="utf-8")


def _html_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{cell}</{tag}>" for cell in cells) + "</tr>"

    return "<table>" + line(head, "th") + "".join(line(row, "td") for row in rows) + "</table>"


def _image(figure: Figure, alternative: str) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
    plt.close(figure)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{alternative}" src="data:image/png;base64,{data}">'


def _case_figure(slices: Sequence[Slices]) -> Figure:
    """T1 with the prompt's outline, both syntheses and the true T1ce, a row a slice."""
    titles = list(slices[0].images)
    top = {
        title: np.percentile(np.stack([s.images[title] for s in slices]), 99.8) for title in titles
    }
    # Both syntheses and the truth share one grey scale, so that enhancement can be compared.
    shared = max(level for title, level in top.items() if "T1 " not in title)
    figure, axes = plt.subplots(
        len(slices), len(titles), figsize=(3 * len(titles), 3.5 * len(slices)), squeeze=False
    )
    for row, item in zip(axes, slices, strict=True):
        for axis, title in zip(row, titles, strict=True):
            limit = top[title] if "T1 " in title else shared
            axis.imshow(item.images[title], cmap="gray", vmin=0, vmax=limit)
            if "T1 " in title:
                axis.contour(item.seg > 0, levels=[0.5], colors=["#46a0ff"], linewidths=0.8)
                axis.contour(
                    np.isin(item.seg, (1, 4)), levels=[0.5], colors=["#ff503c"], linewidths=1
                )
                axis.set_ylabel(f"slice {item.z}")
            if item is slices[0]:
                axis.set_title(title)
            axis.set_xticks([])
            axis.set_yticks([])
    figure.tight_layout()
    return figure


def _training_figure(metrics: Path) -> Figure:
    with metrics.open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    epochs = [int(row["epoch"]) + 1 for row in rows]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3))
    left.plot(epochs, [float(row["train_l1"]) for row in rows], marker="o", label="training")
    left.plot(epochs, [float(row["val_l1"]) for row in rows], marker="o", label="validation")
    left.set(xlabel="epoch", ylabel="L1 on [-1, 1]")
    left.legend()
    right.plot(epochs, [float(row["val_psnr"]) for row in rows], marker="o")
    right.set(xlabel="epoch", ylabel="validation PSNR, dB, no prompt")
    figure.tight_layout()
    return figure
