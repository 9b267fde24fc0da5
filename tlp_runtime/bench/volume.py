"""Latency of the whole path, stage by stage: what a case costs from file to file."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from tlp_runtime.bench.latency import Latency
from tlp_runtime.bench.load import Load, LoadMeter
from tlp_runtime.bench.machine import environment, peak_memory_mib
from tlp_runtime.geometry.volume import Volume
from tlp_runtime.io.nifti import write_volume
from tlp_runtime.options import OptionGroup, option
from tlp_runtime.spec.model import ModelSpec
from tlp_runtime.synthesis.request import Prompt, Request
from tlp_runtime.synthesis.synthesizer import Synthesizer

STAGES = ("read", "prepare", "engine", "restore", "write")


@dataclass(frozen=True, kw_only=True)
class BenchOptions(OptionGroup):
    """How many runs are measured. Valid once constructed.

    Parameters
    ----------
    volumes
        Volumes to measure.
    slices
        Single slices to measure.
    warmup
        Volumes, then slices, that run first and are not counted.
    """

    TITLE: ClassVar[str] = "Measuring a case"

    volumes: int = option(5, minimum=1)
    slices: int = option(30, minimum=1)
    warmup: int = option(1, minimum=0)

    @property
    def steps(self) -> int:
        """Runs in all, warm-up included."""
        return self.warmup + self.volumes + max(self.warmup, 1) + self.slices


@dataclass(frozen=True)
class BenchReport:
    """What was measured, on what, with what.

    Parameters
    ----------
    volume
        Latency from reading the inputs to the written output.
    stages
        The same, stage by stage.
    slice_batch1
        Latency of the engine on one slice at a time.
    slices_per_second
        Rate of the engine at the batch used, median over volumes.
    peak_memory_mib
        Largest resident memory of the process so far; None where the system does not tell.
    load
        What else the machine did meanwhile; None where the system does not tell.
    """

    engine: str
    device: str
    precision: str
    model: str
    batch: int
    slices: int
    warmup: int
    volume: Latency
    stages: Mapping[str, Latency]
    slice_batch1: Latency
    slices_per_second: float
    peak_memory_mib: float | None
    environment: Mapping[str, str]
    load: Load | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def bench(
    synthesizer: Synthesizer,
    request: Request | None = None,
    options: BenchOptions | None = None,
    *,
    on_step: Callable[[], None] | None = None,
) -> BenchReport:
    """Measure warm runs of whole volumes, then of single slices.

    Parameters
    ----------
    request
        The case to run; None makes a stand-in of BraTS size in a temporary folder.
    on_step
        Called after each measurement, :attr:`BenchOptions.steps` times.
    """
    options = options or BenchOptions()
    warmup, step = options.warmup, on_step or (lambda: None)
    meter, own = LoadMeter(), time.process_time()
    meter.start()
    with tempfile.TemporaryDirectory(prefix="tlp-bench-") as folder:
        place = Path(folder)
        if request is None:
            request = write_stand_in(synthesizer.spec, place)
        stages: dict[str, list[float]] = {name: [] for name in STAGES}
        rates = []
        for number in range(warmup + options.volumes):
            result = synthesizer.run(request)
            record = result.save(place / f"out-{number}.nii.gz")
            step()
            if number >= warmup:
                for name in STAGES:
                    stages[name].append(record["seconds"][name])
                rates.append(result.slices_run / sum(s for _, s in result.batches))
    tensors = {
        name: result.prepared.tensors[name][result.prepared.brain][:1, None]
        for name in synthesizer.spec.tensor_names
    }
    single = []
    for number in range(max(warmup, 1) + options.slices):
        began = time.perf_counter()
        synthesizer.engine.run(tensors)
        if number >= max(warmup, 1):
            single.append(time.perf_counter() - began)
        step()
    meter.stop(time.process_time() - own)
    engine = synthesizer.engine
    return BenchReport(
        engine=engine.name,
        device=engine.device,
        precision=engine.bundle.precision,
        model=engine.bundle.name,
        batch=synthesizer.batch,
        slices=result.slices_run,
        warmup=warmup,
        volume=Latency.of([sum(values) for values in zip(*stages.values(), strict=True)]),
        stages={name: Latency.of(values) for name, values in stages.items()},
        slice_batch1=Latency.of(single),
        slices_per_second=statistics.median(rates),
        peak_memory_mib=peak_memory_mib(),
        environment=environment(engine.library),
        load=meter.load(),
    )


def write_stand_in(spec: ModelSpec, folder: Path) -> Request:
    """A head-sized ellipsoid on the BraTS grid for every input, and a prompt inside.

    A model that takes no prompt gets none. The network's speed does not depend on what it
    sees; the files compress as int16 images do.
    """
    affine = np.array([[-1, 0, 0, 0], [0, -1, 0, 239], [0, 0, 1, 0], [0, 0, 0, 1]], np.float64)
    x, y, z = np.ogrid[:240, :240, :155]
    radius = ((x - 119.5) / 68) ** 2 + ((y - 129.5) / 85) ** 2 + ((z - 70) / 68) ** 2
    rng = np.random.default_rng(0)
    paths = {}
    for name in spec.inputs:
        grain = rng.normal(700, 60, radius.shape)
        data = np.where(radius < 1, grain, 0).clip(0).astype(np.int16)
        paths[name] = folder / f"stand-in_{name}.nii.gz"
        write_volume(Volume(data, affine), paths[name], description="TLP bench stand-in")
    roi = ((x - 100) ** 2 + (y - 120) ** 2 + (z - 80) ** 2 < 15**2).astype(np.uint8)
    write_volume(Volume(roi, affine), folder / "roi.nii.gz", description="TLP bench stand-in")
    prompt = Prompt(folder / "roi.nii.gz") if spec.network.prompt else Prompt()
    return Request(images=paths, prompt=prompt)
