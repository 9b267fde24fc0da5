"""The parts of :mod:`gpu` that need no PyTorch: TensorRT-RTX at all, parity, volume, copies.

Each part takes what was prepared and says what it finds as soon as it is found, so that what
breaks later costs nothing that was there.
"""

from __future__ import annotations

import json
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlp_runtime.engines.base import Engine, Opening
from tlp_runtime.engines.choice import EngineChoice
from tlp_runtime.engines.plans import ENGINE_FILE, SIDECAR_FILE, StoredEngine
from tlp_runtime.engines.select import choose
from tlp_runtime.engines.tensorrt.binding import load
from tlp_runtime.engines.tensorrt.run import open_plan
from tlp_runtime.engines.trt_rtx import RtxEngine
from tlp_runtime.models.bundle import MANIFEST, Bundle
from tlp_runtime.models.store import home
from tlp_runtime.spec.model import PROMPT_NAME, ModelSpec

Tensors = Mapping[str, NDArray[np.float32]]
Found = dict[str, Any]
Save = Callable[[Found], None]

WARM_UPS = 3


@dataclass(frozen=True)
class Slices:
    """One set of slices, the network's float64 output of them, and PyTorch's fp32 on a CPU."""

    label: str
    tensors: Tensors
    reference: NDArray[np.float64]
    torch_fp32: NDArray[np.float32]


@dataclass(frozen=True)
class Place:
    """A prepared folder, and the device that everything runs on.

    Parameters
    ----------
    device
        ``cuda``, ``cuda:INDEX`` or ``cpu``.
    """

    folder: Path
    device: str

    @property
    def on_gpu(self) -> bool:
        """Whether the device is one."""
        return self.device != "cpu"

    @property
    def provider(self) -> str:
        """The ONNX Runtime engine of the device."""
        return "ort-cuda" if self.on_gpu else "ort-cpu"

    @cached_property
    def record(self) -> Mapping[str, Any]:
        """``prepared.json``."""
        record: Mapping[str, Any] = json.loads(
            (self.folder / "prepared.json").read_text(encoding="utf-8")
        )
        return record

    @cached_property
    def spec(self) -> ModelSpec:
        """The network's, by whichever bundle was taken along."""
        found = sorted(self.folder.glob(f"*/{MANIFEST}"))
        return Bundle.open(found[0].parent if found else self.folder / "fp32").spec

    def sets(self) -> Iterator[Slices]:
        """Every set of slices."""
        for entry in self.record["slices"]:
            with np.load(self.folder / "slices" / entry["file"]) as arrays:
                tensors = {name: arrays[name] for name in self.spec.tensor_names}
                yield Slices(entry["label"], tensors, arrays["reference"], arrays["torch_fp32"])

    def batch(self, count: int) -> Slices:
        """``count`` slices of all sets, over and over."""
        sets = list(self.sets())

        def some(arrays: list[NDArray[Any]]) -> NDArray[Any]:
            every = np.concatenate(arrays)
            return np.ascontiguousarray(every[np.arange(count) % len(every)])

        names = self.spec.tensor_names
        return Slices(
            f"{count} slices",
            {name: some([one.tensors[name] for one in sets]) for name in names},
            some([one.reference for one in sets]),
            some([one.torch_fp32 for one in sets]),
        )

    def open(self, which: str, choice: EngineChoice | None = None) -> Engine:
        """``plain``, ``fp32``, ``fp16``, ``bf16`` or ``int8``, or ``rtx TARGET``.

        Parameters
        ----------
        choice
            Another engine than the place's, or more of it.
        """
        if which.startswith("rtx "):
            bundle = self.rtx_bundle(which.removeprefix("rtx "))
            return RtxEngine(bundle, build=False)
        choice = choice or EngineChoice(engine=self.provider)
        selected = choose(choice.engine, self.device)
        return selected.open(Bundle.open(self.folder / which), Opening(choice))

    def title(self, which: str) -> str:
        """What tables call it."""
        if which.startswith("rtx "):
            target = which.removeprefix("rtx ")
            return f"ours {self.record['rtx']['precision']}, trt-rtx {target}"
        return f"{'plain export' if which == 'plain' else f'ours {which}'}, {self.provider}"

    def precision(self, which: str) -> str:
        """Of its convolutions."""
        if which.startswith("rtx "):
            return str(self.record["rtx"]["precision"])
        return "fp32" if which == "plain" else which

    def rtx_bundle(self, target: str) -> Bundle:
        """The bundle with that engine in it, said to be for every GPU.

        The question is whether it runs here, not whether it was made to; an engine's sidecar
        would answer before anything is tried.
        """
        bundle = Bundle.open(self.folder / self.record["rtx"]["precision"])
        source, folder = self.folder / "rtx" / target, home() / f"rtx-{target}"
        shutil.rmtree(folder, ignore_errors=True)
        engine = folder / "engines" / target
        engine.mkdir(parents=True)
        for name in (*bundle.manifest.files, MANIFEST):
            (folder / name).symlink_to((bundle.path / name).resolve())
        (engine / ENGINE_FILE).symlink_to((source / ENGINE_FILE).resolve())
        sidecar = json.loads((source / SIDECAR_FILE).read_text(encoding="utf-8"))
        sidecar["compute_capabilities"] = []
        (engine / SIDECAR_FILE).write_text(json.dumps(sidecar), encoding="utf-8")
        return Bundle.open(folder)


def attempt(work: Callable[[], Found]) -> Found:
    """What ``work`` finds, or how it failed. Nothing but an interrupt gets past this."""
    began = time.perf_counter()
    try:
        found = {"status": "done", **work()}
    except Exception as error:
        found = {"status": "failed", "message": f"{type(error).__name__}: {error}"}
    return found | {"seconds": round(time.perf_counter() - began, 2)}


def not_run(why: str) -> Found:
    """An entry for what was not tried."""
    return {"status": "not run", "message": why}


def rtx(place: Place, target: str, save: Save) -> None:
    """Does TensorRT-RTX open the engine on this GPU, and does it run?"""
    found: Found = {"target": target}
    built = place.record["rtx"].get(target, place.record["rtx"].get("not run", "not prepared"))
    found["prepared"] = built
    if not built.startswith("built"):
        raise RuntimeError(f"there is no engine: {built}")

    def opens() -> Found:
        stored = StoredEngine.open(place.folder / "rtx" / target)
        binding = load("trt-rtx")
        opened = open_plan(binding, stored.read())
        return {"library": f"{binding.product} {binding.version}", "tensors": opened.tensors()}

    def runs() -> Found:
        one = next(place.sets())
        with place.open(f"rtx {target}") as engine:
            return {"device": engine.device} | differences(engine.run(one.tensors), one.reference)

    def unasked() -> Found:
        binding = load("trt-rtx")
        plan = StoredEngine.open(place.folder / "rtx" / target).read()
        if binding.trt.Runtime(binding.log).deserialize_cuda_engine(plan) is None:
            raise binding.error("deserialising fails")
        return {}

    found["opens"] = attempt(opens)
    save(found)
    found["runs"] = attempt(runs)
    save(found)
    if found["opens"]["status"] == "failed":
        # The header alone may have spoken against it; last, for this may crash.
        found["opens without asking its header"] = attempt(unasked)
        save(found)


def parity(place: Place, kinds: Sequence[str], save: Save) -> None:
    """Every graph on every set of slices, against float64 and against ONNX Runtime on the CPU."""
    found: Found = {}
    host = Place(place.folder, "cpu")
    for which in kinds:
        entry: Found = {}
        # A set that the engine fails on leaves what it made of the others.
        found[place.title(which)] = entry
        images: dict[str, NDArray[np.float32]] = {}

        def here(which: str = which, entry: Found = entry, images: Any = images) -> Found:
            bounds = place.record["bounds"][place.precision(which)]
            with place.open(which) as engine:
                for one in place.sets():
                    images[one.label] = engine.run(one.tensors)
                    own = differences(one.torch_fp32, one.reference)
                    against = differences(images[one.label], one.reference)
                    kept = keeps(against, bounds, own)
                    entry[one.label] = {"against float64": against, "within": kept}
                    save(found)
                return {"library": engine.library, "device": engine.device, "bounds": bounds}

        def on_cpu(which: str = which, entry: Found = entry, images: Any = images) -> Found:
            same = place.precision(which) if which.startswith("rtx ") else which
            with host.open(same) as engine:
                for one in place.sets():
                    image = engine.run(one.tensors)
                    entry[one.label]["against ort-cpu"] = differences(images[one.label], image)
            return {"library": engine.library}

        entry["run"] = attempt(here)
        save(found)
        if place.on_gpu and entry["run"]["status"] == "done":
            entry["ort-cpu"] = attempt(on_cpu)
            save(found)


def differences(got: NDArray[Any], want: NDArray[Any]) -> Found:
    """Largest and root-mean-square difference; PSNR in dB, peak to peak 2, None if equal."""
    if got.shape != want.shape:
        raise ValueError(f"shape {got.shape}, expected {want.shape}")
    finite = bool(np.isfinite(got).all())
    gap = np.abs(got.astype(np.float64) - want)
    square = float(np.square(gap).mean()) if finite else float("nan")
    return {
        "finite": finite,
        "max_abs": float(gap.max()) if finite else None,
        "rms": square**0.5 if finite else None,
        "psnr_db": float(10 * np.log10(4 / square)) if finite and square else None,
    }


def keeps(found: Found, bounds: Mapping[str, float], torch_fp32: Found) -> bool:
    """As ``tlp_export.verify``, which this machine may not be able to import."""
    if not found["finite"]:
        return False
    if "psnr_db" in bounds:
        return found["psnr_db"] is None or bool(found["psnr_db"] >= bounds["psnr_db"])
    factor = bounds["torch_fp32_factor"]
    return all(
        found[name] <= max(bounds[name], factor * torch_fp32[name]) for name in ("max_abs", "rms")
    )


def volume(
    place: Place, kinds: Sequence[str], batches: Sequence[int], slices: int, rounds: int, save: Save
) -> None:
    """A volume through :meth:`Engine.run_batches`, host to host, for every batch size."""
    found: Found = {"slices": slices, "engines": {}}
    everything = place.batch(slices).tensors

    def measure(engine: Engine, batch: int) -> Found:
        feeds = [
            {name: array[first : first + batch] for name, array in everything.items()}
            for first in range(0, slices, batch)
        ]
        for _ in range(WARM_UPS if place.on_gpu else 1):
            _drain(engine, feeds)
        totals = [_drain(engine, feeds) for _ in range(rounds)]
        computes = []
        for _ in range(rounds):
            parts = [engine.timed(feed).compute_s for feed in feeds]
            if None not in parts:
                computes.append(sum(part for part in parts if part is not None) * 1e3)
        compute = statistics.median(computes) if computes else None
        return {"total_ms": statistics.median(totals) * 1e3, "compute_ms": compute}

    for which in kinds:
        entry: Found = {"batches": {}}
        found["engines"][place.title(which)] = entry

        def work(which: str = which, entry: Found = entry) -> Found:
            with place.open(which) as engine:
                for batch in batches:
                    entry["batches"][str(batch)] = attempt(partial(measure, engine, batch))
                    save(found)
            return {}

        entry |= attempt(work)
        done = {b: e for b, e in entry["batches"].items() if e["status"] == "done"}
        if done:
            entry["best_batch"] = int(min(done, key=lambda b: done[b]["total_ms"]))
        save(found)


def copies(
    place: Place, kinds: Sequence[str], batch: int, count: int, rounds: int, save: Save
) -> None:
    """Do copies hide behind compute? ``count`` batches in flight against the sum of their parts."""
    found: Found = {"batch": batch, "batches": count, "engines": {}}
    tensors = place.batch(batch).tensors

    def work(which: str) -> Found:
        with place.open(which) as engine:
            for _ in range(WARM_UPS):
                _drain(engine, [tensors] * count)
            totals, sums = [], []
            for _ in range(rounds):
                totals.append(_drain(engine, [tensors] * count) * 1e3)
                runs = [engine.timed(tensors) for _ in range(count)]
                stages = {
                    stage: sum(getattr(run, f"{stage}_s") * 1e3 for run in runs)
                    for stage in ("upload", "compute", "download", "total")
                }
                sums.append(stages)
        parts = {stage: statistics.median(s[stage] for s in sums) for stage in sums[0]}
        total = statistics.median(totals)
        copied = parts["upload"] + parts["download"]
        hidden = (copied + parts["compute"] - total) / copied
        return {
            "together_ms": total,
            "one_by_one_ms": parts.pop("total"),
            **{f"{stage}_ms": value for stage, value in parts.items()},
            "share_of_copies_hidden": hidden,
        }

    for which in kinds:
        found["engines"][place.title(which)] = attempt(partial(work, which))
        save(found)


def _drain(engine: Engine, feeds: Sequence[Tensors]) -> float:
    """Seconds that all of ``feeds`` take, the results looked at."""
    began = time.perf_counter()
    for image in engine.run_batches(feeds):
        if len(image) == 0:
            raise RuntimeError("an empty batch came back")
    return time.perf_counter() - began


def count_of(tensors: Tensors) -> int:
    """Slices in a batch."""
    return len(tensors[PROMPT_NAME])
