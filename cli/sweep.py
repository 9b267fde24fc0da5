"""The side-by-side part of `tlp bench`: its tables and files."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType

from .console import Output, require, table, write_json

if TYPE_CHECKING:
    from tlp_runtime.bench import Contender, Point, SweepOptions
    from tlp_runtime.engines.choice import EngineChoice
    from tlp_runtime.models.bundle import Bundle


@dataclass(frozen=True)
class SweepTargets:
    """Where the results go, besides the table."""

    json: str | None
    csv: Path | None
    figure: Path | None
    overwrite: bool


def run_sweep(
    output: Output,
    engines: str,
    models: Sequence[str | None],
    options: SweepOptions,
    choice: EngineChoice,
    targets: SweepTargets,
) -> None:
    """Measure every engine with every model, print the table, write the files.

    Raises
    ------
    EngineError
        Nothing could be measured.
    """
    from tlp_runtime.bench import environment, measure
    from tlp_runtime.bench.machine import gpu_environment, visible_gpu
    from tlp_runtime.engines.choice import AUTO
    from tlp_runtime.engines.registry import engine_names
    from tlp_runtime.engines.select import choose
    from tlp_runtime.errors import EngineError, UsageError
    from tlp_runtime.files.atomic import require_writable
    from tlp_runtime.models.choice import find_bundle

    if targets.figure is not None:
        require("train", "matplotlib")
    for path in (targets.csv, targets.figure, targets.json if targets.json != "-" else None):
        if path is not None:
            require_writable(Path(path), overwrite=targets.overwrite)
    names = [name.strip() for name in engines.split(",")]
    unknown = [name for name in names if name not in (AUTO, *engine_names())]
    if unknown:
        raise UsageError(f"--engines {engines}: expected some of {', '.join(engine_names())}.")
    contenders: dict[tuple[str, Path], tuple[str, Bundle]] = {}
    for model in models:
        bundle, why = find_bundle(model, None)
        if model is None:
            output.default("model", bundle.name, why)
        for name in names:
            if name == AUTO:
                selected = choose(AUTO, choice.device, bundle)
                output.default("engine", selected.name, selected.reason)
                name = selected.name
            contenders[name, bundle.path] = (name, bundle)
    with output.progress("measuring", named=True) as bar:
        points = len(options.batches) * len(options.concurrency)
        task = bar.add_task("", total=len(contenders) + points)

        def step(what: str) -> None:
            bar.update(task, description=what, advance=1)

        found = measure(list(contenders.values()), options, choice, on_step=step, warn=output.warn)
    machine = environment(", ".join({one.library for one in found if one.library}))
    indices = [_index(one.device) for one in found if one.device.startswith("cuda:")]
    gpu = visible_gpu(indices[0]) if indices else None
    machine |= {} if gpu is None else gpu_environment(gpu)
    record = {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "environment": machine,
        "options": asdict(options),
        "threads": choice.threads,
        "contenders": [one.to_dict() for one in found],
    }
    write_json(targets.json, record, overwrite=targets.overwrite)
    if targets.csv is not None:
        _write_csv(found, targets.csv, targets.overwrite)
    if targets.figure is not None:
        _write_figure(found, targets.figure, targets.overwrite)
    if targets.json != "-":
        output.table(_table(found, machine))
    for one in found:
        if one.error:
            output.note(f"{one.engine} with {one.model}: {one.error}")
    if not any(one.points for one in found):
        raise EngineError(f"nothing could be measured. {found[0].engine}: {found[0].error}")
    files = [str(path) for path in (targets.json, targets.csv, targets.figure) if path]
    output.done(
        f"a benchmark of {sum(len(one.points) for one in found)} points"
        + (f" in {', '.join(files)}" if files else ""),
        "tlp doctor" if any(one.error for one in found) else "tlp bench",
    )


def _index(device: str) -> int:
    return int(device.partition(":")[2])


def _table(found: Sequence[Contender], machine: dict[str, str]) -> RenderableType:
    place = machine.get("gpu") or machine["cpu"]
    rows: list[tuple[str, ...]] = []
    for one in found:
        name = f"{one.engine} {one.precision}"
        rows += [(name, *_cells(point)) for point in one.points]
        if not one.points:
            rows.append((name, *["-"] * 8))
    columns = ("engine", "batch", "callers", "p50 / p99 ms", "slices/s", "x first")
    return table(
        (*columns, "device + copies ms", "TFLOP/s (of limit)", "MiB"),
        rows,
        title=f"engines side by side · {place}",
        caption=f"{machine['engine_library']} · Python {machine['python']} · "
        f"{machine['cores']} cores\n" + "\n".join(_limits(found)),
        left=("engine",),
    )


def _cells(point: Point) -> list[str]:
    device = "-"
    if point.compute_ms is not None and point.upload_ms is not None:
        device = f"{point.compute_ms:.2f} + {point.upload_ms + (point.download_ms or 0):.2f}"
    tflops = "-" if point.tflops is None else f"{point.tflops:.3g}"
    share = "" if point.share_of_limit is None else f" ({point.share_of_limit:.0%})"
    settled = "" if point.settled else "*"
    return [
        str(point.batch),
        str(point.concurrency),
        f"{point.latency.p50_ms:.1f}{settled} / {point.latency.p99_ms:.1f}",
        f"{point.slices_per_second:.1f}",
        "-" if point.faster is None else f"{point.faster:.2f}",
        device,
        tflops + share,
        "unknown" if point.memory_mib is None else f"{point.memory_mib:.0f}",
    ]


def _limits(found: Sequence[Contender]) -> list[str]:
    """What the limit is, and how long the first call took."""
    lines = []
    for one in found:
        if not one.points:
            continue
        parts = ", ".join(f"{what} {seconds:.1f} s" for what, seconds in one.first_call.items())
        limit = one.limit_error
        if one.limit is not None:
            limit = f"limit {one.limit.tflops:.3g} TFLOP/s ({one.limit.what})"
        lines.append(f"{one.engine} {one.precision}: {parts}; {limit}")
    loads = [point.load for one in found for point in one.points if point.load is not None]
    if loads:
        lines.append(str(max(loads, key=lambda load: (load.busy, load.others + load.steal))))
    if any(not point.settled for one in found for point in one.points):
        lines.append("* times had not settled when measuring began")
    return lines


def _write_csv(found: Sequence[Contender], path: Path, overwrite: bool) -> None:
    from tlp_runtime.files.atomic import write_text

    rows: list[dict[str, Any]] = []
    for one in found:
        same = {"engine": one.engine, "model": one.model, "precision": one.precision,
                "device": one.device, "library": one.library}  # fmt: skip
        for point in one.points:
            values = asdict(point)
            latency, load = values.pop("latency"), values.pop("load")
            rows.append(same | latency | values | {"busy": load and load["busy"]})
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    write_text(path, text.getvalue(), overwrite=overwrite)


def _write_figure(found: Sequence[Contender], path: Path, overwrite: bool) -> None:
    import matplotlib as mpl

    from tlp_runtime.files.atomic import atomic_file

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4))
    for one in found:
        for callers in dict.fromkeys(point.concurrency for point in one.points):
            points = [point for point in one.points if point.concurrency == callers]
            label = f"{one.engine} {one.precision}" + (f", {callers} callers" * (callers > 1))
            rates = [point.slices_per_second for point in points]
            axes.plot([point.batch for point in points], rates, marker="o", label=label)
    axes.set_xlabel("slices per batch")
    axes.set_ylabel("slices per second")
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.tight_layout()
    with atomic_file(path, overwrite=overwrite) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    pyplot.close(figure)
