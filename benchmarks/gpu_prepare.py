"""What :mod:`gpu` takes along to a machine with a GPU: bundles, weights, slices, references.

::

    prepared.json   what is here, and what it was made from
    plain/          the bundle as published; fp32/, fp16/, bf16/: ours
    weights.pt      the checkpoint's state dict, for PyTorch
    slices/         crops with the checkpoint's float64 output (with --data, of patients)
    rtx/            TensorRT-RTX engines of the fp16 bundle: default/ and sm80/

What is there already, of the same checkpoint, is kept: an interrupted run goes on.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tlp_export import export
from tlp_export.fold import savings
from tlp_export.options import BOUNDS, ExportOptions
from tlp_export.slices import Labelled, phantom_slices, real_slices, run_module, unprompted
from tlp_runtime.engines.builds import build_engine
from tlp_runtime.engines.options import BatchProfile, EngineOptions
from tlp_runtime.engines.tensorrt.binding import load
from tlp_runtime.files.atomic import is_temporary
from tlp_runtime.io.datasets import find_cases
from tlp_runtime.models.bundle import MANIFEST, Bundle
from tlp_runtime.spec.model import PROMPT_NAME, ModelSpec
from tlp_runtime.warnings import WarningLog
from tlp_train.checkpoint import Checkpoint, load_checkpoint

BUNDLES = {
    "plain": ExportOptions(fold=False),
    "fp32": ExportOptions(),
    "fp16": ExportOptions(precision="fp16"),
    "bf16": ExportOptions(precision="bf16"),
    "int8": ExportOptions(precision="int8", min_psnr_db=20.0),  # what it keeps is measured
}
TARGETS: dict[str, tuple[str, ...]] = {"default": (), "sm80": ("8.0",)}
"""Of TensorRT-RTX; Hopper is among neither, and whether it runs them all the same is asked."""
RTX_PRECISION = "fp16"


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """What is to be prepared.

    Parameters
    ----------
    data
        BraTS cases whose slices go along too; None takes the phantom's alone.
    count
        Slices of the phantom; of a real case at most two.
    bundles
        Which of :data:`BUNDLES`; without one, what needs it will fail and say so.
    rtx
        Build TensorRT-RTX engines if it is installed.
    """

    checkpoint: Path
    folder: Path
    data: Path | None = None
    count: int = 4
    bundles: tuple[str, ...] = tuple(BUNDLES)
    rtx: bool = True


def prepare(wanted: Preparation) -> dict[str, Any]:
    """Write the folder; returns what ``prepared.json`` holds."""
    checkpoint = load_checkpoint(wanted.checkpoint)
    spec, folder = checkpoint.spec, wanted.folder
    folder.mkdir(parents=True, exist_ok=True)
    for killed in filter(is_temporary, folder.iterdir()):  # what an export that was killed left
        shutil.rmtree(killed)
    torch.save(dict(checkpoint.generator_state), folder / "weights.pt")
    parity = {}
    with tempfile.TemporaryDirectory(prefix="tlp-gpu-home-") as home:
        before = os.environ.get("TLP_HOME")
        os.environ["TLP_HOME"] = home  # where exports are registered, to be forgotten
        try:
            for name in wanted.bundles:
                parity[name] = _bundle(checkpoint, folder / name, BUNDLES[name])
            rtx = _rtx(folder) if wanted.rtx else {"not run": "--no-rtx"}
        finally:
            if before is None:
                del os.environ["TLP_HOME"]
            else:
                os.environ["TLP_HOME"] = before
    folds = savings(spec)
    record = {
        "date": date.today().isoformat(),
        "command": sys.argv,
        "commit": _commit(),
        "checkpoint": {"file": checkpoint.path.name, "sha256": checkpoint.sha256},
        "gflop": {"published": folds[0].before.gflop, "folded": folds[-1].after.gflop},
        "bounds": BOUNDS,
        "parity_on_cpu": parity,
        "slices": _slices(checkpoint, wanted),
        "rtx": rtx,
        "mib": {item.name: round(_bytes(item) / 2**20, 1) for item in sorted(folder.iterdir())},
    }
    (folder / "prepared.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return record


def _bundle(checkpoint: Checkpoint, folder: Path, options: ExportOptions) -> Any:
    if (folder / MANIFEST).is_file():
        made_of = Bundle.open(folder).manifest.provenance.checkpoint
        if made_of is not None and made_of.sha256 == checkpoint.sha256:
            print(f"{folder.name}: is there already", flush=True)
            return json.loads((folder / "parity.json").read_text(encoding="utf-8"))
    began = time.perf_counter()
    exported = export(checkpoint, options, out=folder, overwrite=True)
    print(f"{folder.name}: exported in {time.perf_counter() - began:.0f} s", flush=True)
    return exported.parity.to_dict()


def _rtx(folder: Path) -> dict[str, Any]:
    """Engines for both targets, each with what became of it."""
    if importlib.util.find_spec("tensorrt_rtx") is None:
        return {"not run": "tensorrt_rtx is not installed"}
    bundle = Bundle.open(folder / RTX_PRECISION)
    made: dict[str, Any] = {"precision": RTX_PRECISION}
    for name, targets in TARGETS.items():
        place = folder / "rtx" / name
        try:
            binding = load("trt-rtx")
            options = EngineOptions(profiles=(BatchProfile(1, 8, 32),), targets=targets)
            heard = WarningLog()
            stored = build_engine(
                bundle, options, binding, None, warn=heard.add, root=folder / "rtx"
            )
            made["warnings"] = [warning.to_dict() for warning in heard]
            if place.exists():
                shutil.rmtree(place)
            stored.folder.rename(place)
        except Exception as error:
            made[name] = f"failed: {type(error).__name__}: {error}"
        else:
            made[name] = f"built by {binding.product} {binding.version}"
        print(f"rtx {name}: {made[name]}", flush=True)
    return made


def _slices(checkpoint: Checkpoint, wanted: Preparation) -> list[dict[str, Any]]:
    """Crops, the checkpoint's output in float64, and in PyTorch's own fp32 on the CPU."""
    generator = checkpoint.generator()
    spec, exact = generator.spec, copy.deepcopy(generator).double()
    place = wanted.folder / "slices"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    listed = []
    for number, (label, tensors) in enumerate(_labelled(spec, wanted)):
        file = f"{number:03d}.npz"
        arrays: dict[str, Any] = {
            **tensors,
            "reference": run_module(exact, spec, tensors, torch.float64),
            "torch_fp32": run_module(generator, spec, tensors),
        }
        np.savez_compressed(place / file, **arrays)
        listed.append({"label": label, "file": file, "count": len(tensors[PROMPT_NAME])})
        print(f"slices: {label}", flush=True)
    return listed


def _labelled(spec: ModelSpec, wanted: Preparation) -> Iterator[Labelled]:
    phantom = phantom_slices(spec, wanted.count)
    yield "phantom, prompted", phantom
    yield "phantom, no prompt", unprompted(phantom)
    for case in find_cases(wanted.data, spec.inputs, ("seg",)) if wanted.data is not None else ():
        yield case.name, real_slices(case, spec, min(wanted.count, 2))


def _bytes(item: Path) -> int:
    files = item.rglob("*") if item.is_dir() else [item]
    return sum(file.stat().st_size for file in files if file.is_file())


def _commit() -> str:
    """Of the toolkit's checkout."""
    try:
        said = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError) as error:
        return f"not known: {error}"
    return said.stdout.strip()
