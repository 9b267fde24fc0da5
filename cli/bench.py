"""`tlp bench`: latency a slice and a volume, stage by stage."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from .console import JsonPath, Output, Overwrite, Quiet, Verbose, write_json
from .model import (
    BatchOption,
    DeviceOption,
    EngineOption,
    ModelOption,
    NoBuildOption,
    ThreadsOption,
    choose_model,
    open_engine,
)

if TYPE_CHECKING:
    from tlp_runtime.bench import BenchReport


def command(
    t1: Annotated[Path | None, typer.Option("--t1", help="T1 image; default: a stand-in.")] = None,
    t2: Annotated[Path | None, typer.Option("--t2", help="T2 image.")] = None,
    prompt: Annotated[Path | None, typer.Option("--prompt", help="Prompt for them.")] = None,
    model: ModelOption = None,
    engine: EngineOption = "auto",
    device: DeviceOption = "auto",
    batch: BatchOption = 4,
    threads: ThreadsOption = None,
    no_build: NoBuildOption = False,
    volumes: Annotated[int, typer.Option("--volumes", min=1, help="Volumes to measure.")] = 5,
    slices: Annotated[int, typer.Option("--slices", min=1, help="Single slices to measure.")] = 30,
    warmup: Annotated[int, typer.Option("--warmup", min=0, help="Volumes run first.")] = 1,
    json_path: JsonPath = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Measure a model: latency percentiles a slice and a volume, slices/s, memory.

    Example: tlp bench --volumes 10 --json bench.json
    """
    output = Output(quiet, verbose)
    from tlp_runtime.bench import bench
    from tlp_runtime.errors import UsageError
    from tlp_runtime.io.atomic import require_writable
    from tlp_runtime.synthesize import Synthesizer

    images = {name: path for name, path in (("t1", t1), ("t2", t2)) if path is not None}
    if prompt is not None and not images:
        raise UsageError("--prompt belongs to an image: give --t1 or --t2 with it.")
    if json_path not in (None, "-"):
        require_writable(Path(str(json_path)), overwrite=overwrite)
    choice, bundle = choose_model(output, model, tuple(images) or None, engine, device)
    if not images:
        output.default("input", "a stand-in of BraTS size (the speed does not depend on it)")
    with (
        Synthesizer(
            open_engine(output, choice, bundle, threads, no_build), batch=batch
        ) as synthesizer,
        output.progress("measuring") as bar,
    ):
        task = bar.add_task("", total=warmup + volumes + max(warmup, 1) + slices)
        report = bench(
            synthesizer,
            images or None,
            prompt,
            volumes=volumes,
            slices=slices,
            warmup=warmup,
            on_step=lambda: bar.advance(task),
        )
    write_json(json_path, report.to_dict(), overwrite=overwrite)
    if json_path != "-":
        output.table(_table(report))
    made = f"a benchmark of {report.volume.count} volumes and {report.slice_batch1.count} slices"
    output.done(
        made + (f" in {json_path}" if json_path not in (None, "-") else ""),
        "tlp evaluate --data DIR" if json_path else "tlp bench --json bench.json",
    )


def _table(report: BenchReport) -> Table:
    env = report.environment
    table = Table(
        title=f"{report.model} · {report.engine} on {report.device} · {report.precision}",
        caption=(
            f"{env['cpu']}, {env['cores']} cores · {env['engine_library']} · Python "
            f"{env['python']} · {report.slices} slices a volume, batch {report.batch}\n"
            f"{report.slices_per_second:.1f} slices/s in the engine · peak memory "
            f"{report.peak_memory_mib:.0f} MiB · warm-up {report.warmup} volume(s)"
        ),
    )
    for column in ("", "p50 ms", "p90 ms", "p99 ms", "n"):
        table.add_column(column, justify="left" if not column else "right")
    rows = [("one slice, batch 1", report.slice_batch1), ("one volume", report.volume)]
    rows += [(f"  {name}", latency) for name, latency in report.stages.items()]
    for name, latency in rows:
        figures = (f"{v:.1f}" for v in (latency.p50_ms, latency.p90_ms, latency.p99_ms))
        table.add_row(name, *figures, str(latency.count))
    return table
