"""Everything that needs a GPU, checked and measured in one go that nothing ends half-way.

    python -m benchmarks.full_size_model --out full-size.ckpt
    python -m benchmarks.gpu --prepare gpu --checkpoint full-size.ckpt --data BraTS2021   # anywhere
    python -m benchmarks.gpu --run gpu --json gpu.json --figure gpu.png                   # on a GPU

The second machine needs this folder tree as the working folder, what `tlp-mri` itself needs,
onnxruntime-gpu or tensorrt-rtx with cuda-bindings, and for ``peers`` PyTorch, onnx and MONAI.
Parts:

rtx      does TensorRT-RTX open its engines (default, SM80) here at all, and do they run;
         if one does, it takes part in everything below
parity   every graph against the checkpoint in float64 and against ONNX Runtime on the CPU
peers    for each batch: PyTorch eager and compiled, the plain export and ours, each in a process of
         its own, in turns, beside the rate of plain matrix products
volume   100 slices, host to host and on the device
copies   25 batches in flight against the sum of their uploads, runs and downloads
profile  the kernels that the time of ours goes into

Each part is a process of its own, ended after --limit seconds; what it found until then is kept.
Results are written after every part, and parts that --json has already stay unless run again, so
that several short sessions fill one file.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.gpu_report import contests, draw, tables, verdicts

PARTS = ("rtx", "parity", "peers", "volume", "copies", "profile")
NO_GPU = "no GPU: --device cpu"
ON_GPU_ONLY = ("rtx/default", "rtx/sm80", "copies", "profile")
KINDS = ("fp32", "fp16", "bf16")
LIBRARIES = (
    "torch", "triton", "onnx", "onnxruntime", "onnxruntime-gpu", "tensorrt-rtx-cu13",
    "cuda-bindings", "nvidia-cudnn-cu13", "nvidia-cublas", "numpy",
)  # fmt: skip

Record = dict[str, Any]


def units(options: argparse.Namespace) -> list[str]:
    """What runs, each by itself; the dearest batches last."""
    inside = {
        "rtx": ["rtx/default", "rtx/sm80"],
        "peers": [f"peers/{batch}" for batch in options.batches],
    }
    return [unit for part in options.parts for unit in inside.get(part, [part])]


def perform(unit: str, options: argparse.Namespace, save: Any) -> None:
    """Run one unit in this process."""
    from benchmarks import gpu_parts

    place = gpu_parts.Place(options.run, options.device)
    part, _, detail = unit.partition("/")
    rtx = [f"rtx {target}" for target in options.rtx]
    if part == "rtx":
        gpu_parts.rtx(place, detail, save)
    elif part == "parity":
        gpu_parts.parity(place, ["plain", *options.kinds, *rtx], save)
    elif part == "volume":
        gpu_parts.volume(
            place, [*options.kinds, *rtx], options.batches, options.slices, options.rounds, save
        )
    elif part == "copies":
        gpu_parts.copies(place, [*options.kinds, *rtx], 4, 25, options.rounds, save)
    else:
        from benchmarks import gpu_peers

        if part == "profile":
            gpu_peers.profile(place, options.profile, max(options.batches), save)
            return
        contest = gpu_peers.Contest(
            batch=int(detail),
            rounds=options.rounds,
            repeats=options.repeats,
            compiled=int(detail) in options.compile_batches,
            mode=options.compile_mode,
            limit_s=options.limit,
        )
        gpu_peers.peers(place, ["plain", *options.kinds, *rtx], contest, save)


def isolated(unit: str, options: argparse.Namespace, found: Path) -> Record:
    """Run one unit in a process of its own: a crash or a broken CUDA context ends only that."""
    argv = [*options.argv, "--unit", unit, "--found", os.fspath(found), "--rtx", *options.rtx]
    said = found.with_suffix(".log")
    with said.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-m", "benchmarks.gpu", *argv],
            stderr=log,
            start_new_session=True,
        )
        try:
            code = process.wait(options.limit)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end(process)
    lines = said.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    if code == 0:
        return {"status": "done"}
    how = f"ended after --limit {options.limit:g} s" if code is None else f"exit status {code}"
    last = lines[-1] if lines else "it said nothing"
    return {"status": "failed", "message": f"{how}: {last}", "stderr": lines[-25:]}


def together(unit: str, options: argparse.Namespace, found: Path) -> Record:
    """Run one unit here: quicker to start, for what is not expected to crash."""
    try:
        perform(unit, options, lambda result: _write(found, result))
    except Exception as error:
        return {"status": "failed", "message": f"{type(error).__name__}: {error}"}
    return {"status": "done"}


def run(options: argparse.Namespace) -> Record:
    """Run every unit and keep the record; nothing but an interrupt ends this early."""
    record: Record = {"parts": {}}
    if options.json.is_file():
        record = json.loads(options.json.read_text(encoding="utf-8"))
    prepared = json.loads((options.run / "prepared.json").read_text(encoding="utf-8"))
    record |= {"prepared": prepared, "machine": machine(options)}
    record.setdefault("commands", []).append(
        {"at": _now(), "argv": ["benchmarks.gpu", *options.argv]}
    )
    parts: Record = record["parts"]
    with tempfile.TemporaryDirectory(prefix="tlp-gpu-") as folder:
        os.environ.setdefault("TLP_HOME", os.fspath(Path(folder) / "home"))
        for number, unit in enumerate(units(options)):
            options.rtx = [] if options.device == "cpu" else _rtx_that_runs(parts)
            found, began = Path(folder) / f"{number}.json", time.perf_counter()
            if options.device == "cpu" and unit in ON_GPU_ONLY:
                outcome: Record = {"status": "not run", "message": NO_GPU}
            else:
                print(f"--- {unit}", flush=True)
                how = together if options.together else isolated
                outcome = how(unit, options, found)
            outcome |= {"at": _now(), "device": options.device, "rounds": options.rounds}
            outcome["seconds"] = round(time.perf_counter() - began, 1)
            outcome["result"] = _read(found)
            parts[unit] = outcome
            try:
                record["verdicts"] = verdicts(parts, prepared["gflop"])
            except Exception as error:  # what was measured is worth more than its judgement
                record["verdicts"] = []
                print(f"no verdicts: {type(error).__name__}: {error}", flush=True)
            _write(options.json, record)
            print(f"--- {unit}: {outcome['status']} {outcome.get('message', '')}", flush=True)
    return record


def machine(options: argparse.Namespace) -> Record:
    """GPU, driver, CUDA and versions: what a figure is worth nothing without."""
    from tlp_runtime.bench import environment

    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    found: Record = {**environment("see libraries"), "libraries": versions, "gpu": NO_GPU}
    if options.device != "cpu":
        try:
            from tlp_runtime.engines.cuda import Cuda

            found["cuda"] = dict(zip(("driver", "runtime"), Cuda().versions(), strict=True))
        except Exception as error:
            found["cuda"] = f"{type(error).__name__}: {error}"
        found["gpu"] = _nvidia_smi()
    return found


def _nvidia_smi() -> Record | str:
    asked = "name,driver_version,memory.total,power.limit,clocks.max.sm,clocks.sm,temperature.gpu"
    command = ["nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
        values = said.stdout.strip().splitlines()[0].split(", ")
        return dict(zip(asked.split(","), values, strict=True))
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
        return f"nvidia-smi failed: {type(error).__name__}: {error}"


def _rtx_that_runs(parts: Record) -> list[str]:
    """The targets whose engine ran here."""
    return [
        target
        for target in ("default", "sm80")
        if ((parts.get(f"rtx/{target}", {}).get("result") or {}).get("runs") or {}).get("status")
        == "done"
    ]


def _end(process: subprocess.Popen[bytes]) -> None:
    """With all that it started, such as the workers of torch.compile."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _write(path: Path, value: Any) -> None:
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",") if part]


def _parts(text: str) -> list[str]:
    parts = text.split(",")
    unknown = set(parts) - set(PARTS)
    if unknown:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: expected some of {PARTS}")
    return parts


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    made = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    verb = made.add_mutually_exclusive_group(required=True)
    verb.add_argument("--prepare", type=Path, metavar="DIR")
    verb.add_argument("--run", type=Path, metavar="DIR")
    made.add_argument("--checkpoint", type=Path, help="prepare: of what")
    made.add_argument("--data", type=Path, help="prepare: BraTS cases whose slices go along")
    made.add_argument("--count", type=int, default=4, help="prepare: phantom slices")
    made.add_argument("--no-rtx", action="store_true", help="prepare: no TensorRT-RTX engines")
    made.add_argument("--json", type=Path, help="run: the record, kept and added to")
    made.add_argument("--figure", type=Path)
    made.add_argument("--device", default="cuda", help="cuda, cuda:INDEX, or cpu to try this out")
    made.add_argument("--parts", type=_parts, default=list(PARTS))
    made.add_argument(
        "--kinds",
        type=lambda text: text.split(","),
        default=list(KINDS),
        help="bundles to run, int8 among them, so that a session carries what it has time for",
    )
    made.add_argument("--batches", type=_numbers, default=[16, 1, 8, 32, 4])
    made.add_argument("--compile-batches", type=_numbers, default=[16, 1])
    made.add_argument("--compile-mode", default="default")
    made.add_argument("--rounds", type=int, default=9)
    made.add_argument("--repeats", type=int, default=3)
    made.add_argument("--slices", type=int, default=100, help="of the volume")
    made.add_argument("--profile", default="fp16", help="which of ours is profiled")
    made.add_argument("--limit", type=float, default=420, help="seconds for one part or batch")
    made.add_argument("--together", action="store_true", help="all parts in this process")
    made.add_argument("--unit", help=argparse.SUPPRESS)
    made.add_argument("--found", type=Path, help=argparse.SUPPRESS)
    made.add_argument("--rtx", nargs="*", default=[], help=argparse.SUPPRESS)
    return made


def main(argv: Sequence[str] | None = None) -> None:
    given = list(sys.argv[1:] if argv is None else argv)
    made = parser()
    options = made.parse_args(given)
    options.argv = given
    if options.prepare is not None:
        if options.checkpoint is None:
            made.error("--prepare needs --checkpoint")
        from benchmarks.gpu_prepare import Preparation, prepare

        wanted = Preparation(
            checkpoint=options.checkpoint,
            folder=options.prepare,
            data=options.data,
            count=options.count,
            rtx=not options.no_rtx,
        )
        sizes = prepare(wanted)["mib"]
        print(f"made {options.prepare}: {sum(sizes.values()):.0f} MiB {sizes}")
        return
    if options.unit is not None:
        perform(options.unit, options, lambda result: _write(options.found, result))
        return
    if options.json is None:
        made.error("--run needs --json")
    record = run(options)
    gflop = record["prepared"]["gflop"]
    print(tables(record["parts"], gflop, record["verdicts"]))
    if options.figure is not None and contests(record["parts"]):
        gpu = record["machine"]["gpu"]
        draw(record["parts"], options.figure, gpu["name"] if isinstance(gpu, dict) else str(gpu))


if __name__ == "__main__":
    main()
