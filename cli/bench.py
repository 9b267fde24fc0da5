"""`tlp bench`: a volume stage by stage, or engines and models side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import RenderableType

from tlp_runtime.bench import BenchOptions, BenchReport, SweepOptions, bench
from tlp_runtime.engines.choice import EngineChoice
from tlp_runtime.errors import UsageError
from tlp_runtime.files.atomic import require_writable
from tlp_runtime.synthesis.request import Request
from tlp_runtime.synthesis.synthesizer import Synthesizer

from .console import JsonPath, Overwrite, Quiet, Verbose, begin, table, write_json
from .model import choose_model, open_engine
from .options import Pick, verb
from .sweep import SweepTargets, run_sweep


@verb
def command(
    *,
    asked: Annotated[
        dict[str, Any],
        Request,
        Pick(only=("t1", "t2", "prompt", "allow_empty_prompt"), changes=True),
    ],
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            help="Bundle folder or registered name; several are measured side by side; default: "
            "the default model.",
            rich_help_panel=EngineChoice.TITLE,
        ),
    ] = None,
    choice: EngineChoice,
    options: BenchOptions,
    engines: Annotated[
        str | None,
        typer.Option(
            "--engines",
            metavar="A,B,…",
            help="Engines to measure, each with each model.",
            rich_help_panel=SweepOptions.TITLE,
        ),
    ] = None,
    sweep: Annotated[dict[str, Any], SweepOptions, Pick(changes=True)],
    csv_path: Annotated[
        Path | None,
        typer.Option(
            "--csv",
            help="Write the points as CSV.",
            rich_help_panel=SweepOptions.TITLE,
        ),
    ] = None,
    figure: Annotated[
        Path | None,
        typer.Option(
            "--figure",
            help="Draw slices/s against batch, PNG.",
            rich_help_panel=SweepOptions.TITLE,
        ),
    ] = None,
    json_path: JsonPath = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Measure how fast a model runs here, stage by stage, from file to file.

    --engines, --batches or --concurrency compare engines side by side instead, on single slices:
    each in a process of its own, in turn. A busy machine is named.

    They report latency, slices/s, memory, energy, and TFLOP/s against a matrix product.

    Example: tlp bench --engines ort-cpu,ort-cuda --batches 1,4,16 --json bench.json
    """
    output = begin(quiet, verbose)
    several = len(model or ()) > 1 or sweep.keys() & {"batches", "concurrency"}
    if engines or several or csv_path or figure:
        if asked:
            raise UsageError("a sweep runs slices of noise: leave out --t1, --t2 and --prompt.")
        points = SweepOptions(**{"batches": (choice.batch,), **sweep})
        targets = SweepTargets(json_path, csv_path, figure, overwrite)
        names = engines or choice.engine
        run_sweep(output, names, model or [None], points, choice, targets)
        return
    if "prompt" in asked and "images" not in asked:
        raise UsageError("--prompt belongs to an image: give --t1 or --t2 with it.")
    request = Request(**asked) if asked else None
    if json_path not in (None, "-"):
        require_writable(Path(str(json_path)), overwrite=overwrite)
    inputs = tuple(request.images) if request else None
    selected, bundle = choose_model(output, model[0] if model else None, inputs, choice)
    if request is None:
        output.default("input", "a stand-in of BraTS size (the speed does not depend on it)")
    engine = open_engine(output, selected, bundle, choice)
    with (
        Synthesizer(engine, batch=choice.batch) as synthesizer,
        output.progress("measuring") as bar,
    ):
        task = bar.add_task("", total=options.steps)
        report = bench(synthesizer, request, options, on_step=lambda: bar.advance(task))
    write_json(json_path, report.to_dict(), overwrite=overwrite)
    if json_path != "-":
        output.table(_table(report))
    made = f"a benchmark of {report.volume.count} volumes and {report.slice_batch1.count} slices"
    output.done(
        made + (f" in {json_path}" if json_path not in (None, "-") else ""),
        "tlp evaluate --data DIR" if json_path else "tlp bench --json bench.json",
    )


def _table(report: BenchReport) -> RenderableType:
    env = report.environment
    found = [("one slice, batch 1", report.slice_batch1), ("one volume", report.volume)]
    found += [(f"  {name}", latency) for name, latency in report.stages.items()]
    rows = []
    for name, latency in found:
        values = (latency.p50_ms, latency.p90_ms, latency.p95_ms, latency.p99_ms)
        rows.append((name, *(f"{value:.1f}" for value in values), str(latency.count)))
    held = report.peak_memory_mib
    peak = "unknown" if held is None else f"{held:.0f} MiB"
    return table(
        ("", "p50 ms", "p90 ms", "p95 ms", "p99 ms", "n"),
        rows,
        title=f"{report.model} · {report.engine} on {report.device} · {report.precision}",
        caption=(
            f"{env['cpu']}, {env['cores']} cores · {env['engine_library']} · Python "
            f"{env['python']} · {report.slices} slices a volume, batch {report.batch}\n"
            f"{report.slices_per_second:.1f} slices/s in the engine · peak memory "
            f"{peak} · warm-up {report.warmup} volume(s)"
            + (f"\n{report.load}" if report.load is not None else "")
        ),
        left=("",),
    )
