"""`tlp bench`: a volume stage by stage, or engines and models side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from .console import JsonPath, Overwrite, Quiet, Verbose, begin, write_json
from .model import (
    BatchOption,
    DeviceOption,
    EngineOption,
    NoBuildOption,
    ThreadsOption,
    choose_model,
    open_engine,
)
from .sweep import SweepTargets, run_sweep

if TYPE_CHECKING:
    from tlp_runtime.bench import BenchReport


def command(
    t1: Annotated[Path | None, typer.Option("--t1", help="T1 image; default: a stand-in.")] = None,
    t2: Annotated[Path | None, typer.Option("--t2", help="T2 image.")] = None,
    prompt: Annotated[Path | None, typer.Option("--prompt", help="Prompt for them.")] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            help="Bundle folder or registered name; repeatable side by side; default: the newest.",
        ),
    ] = None,
    engine: EngineOption = "auto",
    device: DeviceOption = "auto",
    batch: BatchOption = 4,
    threads: ThreadsOption = None,
    no_build: NoBuildOption = False,
    volumes: Annotated[int, typer.Option("--volumes", min=1, help="Volumes to measure.")] = 5,
    slices: Annotated[int, typer.Option("--slices", min=1, help="Single slices to measure.")] = 30,
    warmup: Annotated[int, typer.Option("--warmup", min=0, help="Volumes run first.")] = 1,
    engines: Annotated[
        str | None,
        typer.Option(
            "--engines", metavar="A,B,…", help="Engines side by side, each with each model."
        ),
    ] = None,
    batches: Annotated[
        str | None, typer.Option("--batches", metavar="1,4,…", help="Batches to sweep.")
    ] = None,
    concurrency: Annotated[
        str | None, typer.Option("--concurrency", metavar="1,2,…", help="Callers at once to sweep.")
    ] = None,
    runs: Annotated[int, typer.Option("--runs", min=1, help="Runs of each point and caller.")] = 20,
    csv_path: Annotated[
        Path | None, typer.Option("--csv", help="Write the points of a sweep as CSV.")
    ] = None,
    figure: Annotated[
        Path | None, typer.Option("--figure", help="Draw slices/s against batch, PNG.")
    ] = None,
    json_path: JsonPath = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Measure a model: a volume stage by stage; or engines side by side over batches and callers.

    --engines, --batches and --concurrency make it a sweep: latency percentiles, slices/s, device
    time, memory, energy, and TFLOP/s against a matrix product measured in the same run.

    Example: tlp bench --engines ort-cpu,ort-cuda --batches 1,4,16 --json bench.json
    """
    output = begin(quiet, verbose)
    from tlp_runtime.bench import SweepOptions, bench
    from tlp_runtime.engines.base import Opening
    from tlp_runtime.errors import UsageError
    from tlp_runtime.files.atomic import require_writable
    from tlp_runtime.synthesis.synthesizer import Synthesizer

    if engines or batches or concurrency or csv_path or figure or len(model or ()) > 1:
        if t1 or t2 or prompt:
            raise UsageError("a sweep runs slices of noise: leave out --t1, --t2 and --prompt.")
        options = SweepOptions(
            batches=_numbers("--batches", batches or str(batch)),
            concurrency=_numbers("--concurrency", concurrency or "1"),
            runs=runs,
        )
        targets = SweepTargets(json_path, csv_path, figure, overwrite)
        opening = Opening(threads=threads, build=not no_build, warn=output.warn)
        run_sweep(output, engines or engine, device, model or [None], options, opening, targets)
        return
    images = {name: path for name, path in (("t1", t1), ("t2", t2)) if path is not None}
    if prompt is not None and not images:
        raise UsageError("--prompt belongs to an image: give --t1 or --t2 with it.")
    if json_path not in (None, "-"):
        require_writable(Path(str(json_path)), overwrite=overwrite)
    choice, bundle = choose_model(
        output, model[0] if model else None, tuple(images) or None, engine, device
    )
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


def _numbers(option: str, text: str) -> tuple[int, ...]:
    from tlp_runtime.errors import UsageError

    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() and int(part) for part in parts):
        raise UsageError(f"{option} {text}: expected whole numbers from 1, such as 1,4,16.")
    return tuple(int(part) for part in parts)


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
    for column in ("", "p50 ms", "p90 ms", "p95 ms", "p99 ms", "n"):
        table.add_column(column, justify="left" if not column else "right")
    rows = [("one slice, batch 1", report.slice_batch1), ("one volume", report.volume)]
    rows += [(f"  {name}", latency) for name, latency in report.stages.items()]
    for name, latency in rows:
        values = (latency.p50_ms, latency.p90_ms, latency.p95_ms, latency.p99_ms)
        table.add_row(name, *(f"{value:.1f}" for value in values), str(latency.count))
    return table
