"""Cases a second, end to end, and what limits them.

    tlp phantom --out phantom-64 --cases 64 --seed 7
    python -m benchmarks.cohort --data phantom-64 --json cohort.json --figure cohort.png
    python -m benchmarks.cohort --data phantom-64 --engine ort-cpu --batch 4 --rounds 1 \
        --only pipeline,files,engine

Contenders, in turns, on the same cases, T1 and prompt in, float32 .nii.gz out:

    plain       a loop with nibabel: read, scale, the network slice by slice, write
    sequential  our stages, batches of `--batch`, one case after another
    pipeline    `tlp infer --cases`: the same with everything side by side, and the journal
    files       the pipeline with a network that takes no time: the floor of the files
    engine      the same batches without files: the floor of the engine

Without `--engine` the network is a stand-in that sleeps for as long as a GPU would compute
(`--run-ms` a batch and `--slice-ms` a slice) and leaves the cores free. With it, a real engine and
the model (`--model`) share the cores with the files; then the sum of both floors' CPU time, shared
by all cores, is what the pipeline is held against.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from tlp_runtime.bench import environment
from tlp_runtime.cohort.cases import CohortCase, folder_cases
from tlp_runtime.cohort.job import Outcome
from tlp_runtime.cohort.pipeline import Pipeline, Span
from tlp_runtime.cohort.run import Summary, run_cohort
from tlp_runtime.engines.base import Engine, Slices
from tlp_runtime.engines.devices import choose_all, open_all
from tlp_runtime.engines.processor import cores
from tlp_runtime.files import gzip
from tlp_runtime.models.bundle import Bundle
from tlp_runtime.models.choice import find_bundle
from tlp_runtime.models.manifest import ONNX, Manifest
from tlp_runtime.spec.model import ModelSpec
from tlp_runtime.synthesis.batches import Batcher, SliceWork
from tlp_runtime.synthesis.prepare import prepare
from tlp_runtime.synthesis.request import Request
from tlp_runtime.synthesis.synthesizer import Synthesizer

CONTENDERS = ("plain", "sequential", "pipeline", "files", "engine")
STAGE_COLOURS = {"read": "#8ecae6", "prepare": "#2a6f97", "engine": "#fb8500", "write": "#7a9e3f"}


class StandIn(Engine):
    """Sleeps as long as a GPU would compute, and gives back the first input.

    Parameters
    ----------
    run_s, slice_s
        Seconds a run, and besides a slice.
    """

    name = "stand-in"
    device = "none"
    library = "none"

    def __init__(self, spec: ModelSpec, run_s: float, slice_s: float) -> None:
        manifest = Manifest(graph_dtype="fp32", compute_precision="fp32", files={ONNX: "0" * 64})
        super().__init__(Bundle(Path("stand-in"), spec, manifest))
        self._run_s, self._slice_s = run_s, slice_s

    def _run(self, tensors: Mapping[str, Slices]) -> Slices:
        image = tensors[self.spec.inputs[0]]
        if self._run_s or self._slice_s:
            time.sleep(self._run_s + self._slice_s * len(image))
        return image

    def close(self) -> None: ...


@dataclass(frozen=True)
class Measured:
    """One contender in one round: wall time, and CPU time of all threads, seconds."""

    name: str
    cases: int
    wall_s: float
    cpu_s: float


class Bench:
    """The contenders on one set of cases.

    Parameters
    ----------
    engines
        Opens the engines that share the work.
    folder
        For the outputs, which are removed after every round.
    """

    def __init__(
        self,
        cases: Sequence[CohortCase],
        spec: ModelSpec,
        engines: Callable[[], list[Engine]],
        *,
        batch: int,
        workers: int,
        folder: Path,
    ) -> None:
        self.cases, self.spec, self.engines = cases, spec, engines
        self.batch, self.workers, self.folder = batch, workers, folder
        self.slices: dict[str, int] = {}
        self.spans: list[Span] = []

    def plain(self) -> None:
        """As one would write it in an hour: nibabel, NumPy, slice by slice."""
        with self._first() as engine:
            for case in self.cases:
                request = self.request(case)
                reference = nib.load(request.images[self.spec.inputs[0]])
                tensors = self._plainly_prepared(request)
                out = np.zeros(reference.shape[::-1], np.float32)
                crop = self.spec.crop
                for z in np.flatnonzero((tensors[self.spec.inputs[0]] > -1).any(axis=(1, 2))):
                    one = {
                        name: np.ascontiguousarray(array[None, z : z + 1])
                        for name, array in tensors.items()
                    }
                    image = (engine.run(one)[0, 0] + 1) / 2
                    out[z, slice(*crop.rows), slice(*crop.columns)] = image
                result = nib.Nifti1Image(out.transpose(2, 1, 0), reference.affine)
                nib.save(result, self.folder / f"{case.name}.nii.gz")

    def request(self, case: CohortCase) -> Request:
        """What is asked of a case, with the model's images alone."""
        assert isinstance(case.request, Request)
        images = {name: case.request.images[name] for name in self.spec.inputs}
        return replace(case.request, images=images)

    def _plainly_prepared(self, request: Request) -> dict[str, NDArray[np.float32]]:
        rows, columns = slice(*self.spec.crop.rows), slice(*self.spec.crop.columns)
        tensors = {}
        for name in self.spec.inputs:
            image = nib.load(request.images[name]).get_fdata().transpose(2, 1, 0)[:, rows, columns]
            low, high = image.min(), image.max()
            tensors[name] = ((image - low) / (high - low) * 2 - 1).astype(np.float32)
        labels = nib.load(request.prompt.source).get_fdata().transpose(2, 1, 0)[:, rows, columns]
        prompt = np.zeros(labels.shape, np.float32)
        prompt[labels == 2] = 0.5
        prompt[(labels == 1) | (labels == 3) | (labels == 4)] = 1.0
        return {**tensors, "prompt": prompt}

    def sequential(self) -> None:
        """Our stages, one after another."""
        with Synthesizer(self._first(), batch=self.batch) as synthesizer:
            for case in self.cases:
                result = synthesizer.synthesize(synthesizer.prepare(self.request(case)))
                result.save(self.folder / f"{case.name}.nii.gz")

    def pipeline(self) -> None:
        """As `tlp infer --cases`."""
        self.spans.clear()
        self._pipelined(self.engines(), self.spans.append)

    def files(self) -> None:
        """The pipeline, its network taking no time."""
        self._pipelined([StandIn(self.spec, 0, 0)], None)

    def engine(self) -> None:
        """As many slices as the cases have, prepared before, through all engines at once."""
        engines = self.engines()
        asked = replace(self.request(self.cases[0]), all_slices=True)
        tensors = prepare(asked, self.spec).tensors
        counts = list(self.slices.values())

        def drain(number: int) -> None:
            works = (
                SliceWork({name: array[:count] for name, array in tensors.items()})
                for count in counts[number :: len(engines)]
            )
            for _ in Batcher(engines[number], self.batch).run(works):
                pass

        with ThreadPoolExecutor(len(engines)) as pool:
            list(pool.map(drain, range(len(engines))))
        for engine in engines:
            engine.close()

    def _first(self) -> Engine:
        first, *others = self.engines()
        for other in others:
            other.close()
        return first

    def _pipelined(self, engines: list[Engine], on_span: Callable[[Span], None] | None) -> None:
        place = self.folder / "pipeline"
        with Pipeline(engines, batch=self.batch, workers=self.workers, on_span=on_span) as pipeline:
            summary = run_cohort(self.cases, place, pipeline, about={}, on_outcome=self._count)
        if summary.done < len(self.cases):
            raise SystemExit(f"cases failed: {summary.failed}")

    def _count(self, outcome: Outcome, summary: Summary) -> None:
        self.slices[outcome.case] = outcome.slices

    def measure(self, name: str) -> Measured:
        """One contender, once."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        began, cpu = time.perf_counter(), time.process_time()
        getattr(self, name)()
        return Measured(
            name, len(self.cases), time.perf_counter() - began, time.process_time() - cpu
        )


def summarise(rounds: Sequence[Mapping[str, Measured]]) -> dict[str, Any]:
    """Medians of wall and CPU time, and medians of ratios within a round."""
    names = list(rounds[0])

    def median(of: Callable[[Mapping[str, Measured]], float]) -> float:
        return statistics.median(of(one) for one in rounds)

    def against_pipeline(seconds: Callable[[Mapping[str, Measured]], float]) -> float:
        return median(lambda one: seconds(one) / one["pipeline"].wall_s)

    found: dict[str, Any] = {
        "cases_per_s": {name: median(partial(_rate, name)) for name in names},
        "cpu_s_per_case": {name: median(partial(_cpu, name)) for name in names},
    }
    if "pipeline" in names:
        for name in {"plain", "sequential"} & set(names):
            found[f"times_{name}"] = against_pipeline(partial(_wall, name))
        if {"files", "engine"} <= set(names):
            found["share_of_slower_floor"] = against_pipeline(
                lambda one: max(_wall("files", one), _wall("engine", one))
            )
            found["share_of_cpu_bound"] = against_pipeline(
                lambda one: (one["files"].cpu_s + one["engine"].cpu_s) / cores()
            )
    return found


def _wall(name: str, one: Mapping[str, Measured]) -> float:
    return one[name].wall_s


def _rate(name: str, one: Mapping[str, Measured]) -> float:
    return one[name].cases / one[name].wall_s


def _cpu(name: str, one: Mapping[str, Measured]) -> float:
    return one[name].cpu_s / one[name].cases


def busy(spans: Sequence[Span], wall_s: float) -> dict[str, float]:
    """Threads that each stage kept busy, on average over the run."""
    return {
        stage: sum(s.ended - s.began for s in spans if s.stage == stage) / wall_s
        for stage in STAGE_COLOURS
    }


def timeline(spans: Sequence[Span], path: Path, caption: str, seconds: float = 4.0) -> None:
    """What every thread did in a stretch of the run's middle."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot
    from matplotlib.patches import Patch

    start = min(span.began for span in spans)
    middle = start + (max(span.ended for span in spans) - start) / 2 - seconds / 2
    threads = sorted({span.thread for span in spans}, key=lambda name: (name[:4] != "read", name))
    figure, axes = pyplot.subplots(figsize=(9, 0.4 * len(threads) + 1.5))
    for span in spans:
        if span.ended > middle and span.began < middle + seconds:
            bar = (span.began - middle, span.ended - span.began)
            row = (threads.index(span.thread) - 0.4, 0.8)
            axes.broken_barh([bar], row, facecolors=STAGE_COLOURS[span.stage])
    axes.set_xlim(0, seconds)
    axes.set_yticks(range(len(threads)), threads)
    axes.invert_yaxis()
    axes.set_xlabel(f"seconds in the middle of the run ({caption})")
    axes.legend(
        handles=[Patch(color=colour, label=stage) for stage, colour in STAGE_COLOURS.items()],
        ncols=4,
        loc="lower left",
        bbox_to_anchor=(0, 1),
        frameon=False,
    )
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def marks(case: CohortCase) -> bool:
    """Whether its prompt marks anything; that of a healthy case of the phantom does not."""
    if not isinstance(case.request, Request):
        raise case.request
    return bool(np.any(nib.load(case.request.prompt.source).dataobj))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="case folders in BraTS layout")
    parser.add_argument("--engine", help="a real one; default: the stand-in")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--model", help="with --engine; default: the default model")
    parser.add_argument("--inputs", default="t1", help="of the stand-in: t1 or t1,t2")
    parser.add_argument("--run-ms", type=float, default=0.5)
    parser.add_argument("--slice-ms", type=float, default=0.25)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--workers", type=int, default=cores())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default=",".join(CONTENDERS))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()

    if options.engine is None:
        spec = ModelSpec(inputs=tuple(options.inputs.split(",")))
        parts = (options.run_ms / 1000, options.slice_ms / 1000)
        library = f"sleeps {options.run_ms} ms a batch and {options.slice_ms} ms a slice"

        def engines() -> list[Engine]:
            return [StandIn(spec, *parts)]
    else:
        bundle, _ = find_bundle(options.model, None)
        choices = choose_all(options.engine, options.device, bundle)
        spec, library = bundle.spec, f"{choices[0].name}, {bundle.name}"

        def engines() -> list[Engine]:
            return open_all(choices, bundle)

    cases = [case for case in folder_cases(options.data, prompts=True) if marks(case)]
    with tempfile.TemporaryDirectory(prefix="tlp-cohort-") as folder:
        bench = Bench(
            cases, spec, engines,
            batch=options.batch, workers=options.workers, folder=Path(folder) / "out",
        )  # fmt: skip
        bench.measure("files")  # fills the page cache, counts the slices
        rounds = []
        for _ in range(options.rounds):
            rounds.append({name: bench.measure(name) for name in options.only.split(",")})
            for one in rounds[-1].values():
                print(f"{one.name:10} {one.cases / one.wall_s:7.2f} cases/s, "
                      f"{one.cpu_s / one.cases:6.3f} s CPU a case", flush=True)  # fmt: skip
    result = summarise(rounds)
    if "pipeline" in rounds[-1]:
        result["busy_threads"] = busy(bench.spans, rounds[-1]["pipeline"].wall_s)
    print(json.dumps(result, indent=2))
    machine = environment(library) | {"gzip": gzip.library()}
    if options.json is not None:
        record = {
            "date": date.today().isoformat(),
            "machine": machine,
            "cases": len(cases),
            "slices": sum(bench.slices.values()),
            "inputs": list(spec.inputs),
            "batch": options.batch,
            "workers": options.workers,
            "engines": len(engines()),
            **result,
            "rounds": [[asdict(one) for one in row.values()] for row in rounds],
        }
        options.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    if options.figure is not None and bench.spans:
        caption = f"{len(cases)} cases, {library}, {cores()} cores"
        timeline(bench.spans, options.figure, caption)


if __name__ == "__main__":
    main()
