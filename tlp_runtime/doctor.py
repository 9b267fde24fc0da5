"""What can run on this machine, what is missing, and the line that mends it."""

from __future__ import annotations

import ctypes.util
import importlib.util
import platform
import re
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tlp_runtime.engines.cuda import Cuda, Gpu
from tlp_runtime.engines.onnx import require_onnxruntime
from tlp_runtime.engines.plans import stored_engines
from tlp_runtime.engines.select import NAMES, Opening, choose, missing
from tlp_runtime.engines.tensorrt.binding import installed, load
from tlp_runtime.engines.tensorrt.flavours import FLAVOURS, FlavourName
from tlp_runtime.errors import (
    DependencyConflict,
    DependencyMissing,
    DeviceError,
    ModelMissing,
    TLPError,
)
from tlp_runtime.models.bundle import Bundle
from tlp_runtime.models.choice import find_bundle
from tlp_runtime.models.store import home

State = Literal["ok", "missing", "broken", "unusable"]


@dataclass(frozen=True)
class Finding:
    """One thing looked at.

    Parameters
    ----------
    state
        ``ok``; ``missing``: not installed; ``broken``: installed, but not to be used; ``unusable``:
        sound, but not on this machine.
    detail
        A version, or the reason.
    fix
        The line that mends it; empty if nothing needs mending or no line does.
    """

    name: str
    state: State
    detail: str
    fix: str = ""


@dataclass(frozen=True)
class Report:
    """What was found.

    Parameters
    ----------
    machine
        Python, this package, platform, ``TLP_HOME``, driver, CUDA.
    libraries, engines, model
        Findings; ``model`` is about the default bundle.
    runs
        Whether the default bundle ran one slice; None where there is no bundle.
    """

    machine: tuple[Finding, ...]
    gpus: tuple[Gpu, ...]
    libraries: tuple[Finding, ...]
    engines: tuple[Finding, ...]
    model: tuple[Finding, ...]
    runs: bool | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def examine(model: str | None = None) -> Report:
    """Look at machine, libraries, engines and the default bundle; what is wrong is reported.

    Parameters
    ----------
    model
        A bundle's folder or registered name; None takes the default one.
    """
    gpus = _gpus()
    bundle, runs = _model(model, gpus)
    return Report(_machine(), gpus, _libraries(), _engines(), bundle, runs)


def _gpus() -> tuple[Gpu, ...]:
    try:
        return Cuda().gpus()
    except TLPError:
        return ()


def _machine() -> tuple[Finding, ...]:
    place = home()
    there = next(folder for folder in (place, *place.parents) if folder.exists())
    writable = _writable(there)
    free = shutil.disk_usage(there).free / 2**30
    return (
        Finding("Python", "ok", platform.python_version()),
        Finding("tlp-mri", "ok", version("tlp-mri")),
        Finding("platform", "ok", platform.platform()),
        Finding(
            "TLP_HOME",
            "ok" if writable else "broken",
            f"{place}, {free:.0f} GiB free" + ("" if writable else ", cannot be written to"),
            "" if writable else "export TLP_HOME=FOLDER, one that you may write to",
        ),
        _driver(),
        _cuda(),
    )


def _writable(folder: Path) -> bool:
    """By trying: permissions do not tell of read-only file systems."""
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True


def _driver() -> Finding:
    if importlib.util.find_spec("pynvml") is None:
        fix = "pip install nvidia-ml-py"
        return Finding("NVIDIA driver", "missing", "nvidia-ml-py tells its version", fix)
    import pynvml

    try:
        pynvml.nvmlInit()
        said = pynvml.nvmlSystemGetDriverVersion()
        pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        return Finding("NVIDIA driver", "missing", str(error), "install NVIDIA's driver")
    return Finding("NVIDIA driver", "ok", said if isinstance(said, str) else said.decode())


def _cuda() -> Finding:
    try:
        cuda = Cuda()
        driver, runtime = cuda.versions()
        why = "" if cuda.gpus() else cuda.why_none()
    except DependencyMissing as error:
        return Finding("CUDA", "missing", *_apart(str(error)))
    except TLPError as error:
        return Finding("CUDA", "broken", str(error))
    if driver == "0.0":
        return Finding(
            "CUDA", "missing", f"no driver; runtime {runtime}", "install NVIDIA's driver"
        )
    said = f"driver {driver}, runtime {runtime}"
    if "too old" in why:
        return Finding("CUDA", "broken", said, "install a newer NVIDIA driver")
    return Finding("CUDA", "ok", said)


def _libraries() -> tuple[Finding, ...]:
    found = [_onnxruntime()]
    for flavour in FLAVOURS:
        name = "TensorRT-RTX" if flavour == "trt-rtx" else "TensorRT"
        try:
            found.append(Finding(name, "ok", load(flavour).version))
        except DependencyMissing as error:
            state: State = "broken" if flavour in installed() else "missing"
            found.append(Finding(name, state, *_apart(str(error))))
        except DeviceError as error:
            found.append(Finding(name, "broken", *_apart(str(error))))
    dicom = "'tlp-mri[dicom]'"
    for name, wanted in (
        ("cuda-bindings", "cuda-bindings"), ("nvidia-ml-py", "nvidia-ml-py"),
        ("pydicom", dicom), ("highdicom", dicom), ("isal", "isal"), ("ray", "'tlp-mri[ray]'"),
    ):  # fmt: skip
        try:
            found.append(Finding(name, "ok", version(name)))
        except PackageNotFoundError:
            found.append(Finding(name, "missing", "is not installed", f"pip install {wanted}"))
    return tuple(found)


def _onnxruntime() -> Finding:
    try:
        library = require_onnxruntime()
    except DependencyConflict as error:
        return Finding("ONNX Runtime", "broken", *_apart(str(error)))
    except DependencyMissing as error:
        return Finding("ONNX Runtime", "missing", *_apart(str(error)))
    try:
        import onnxruntime as ort
    except Exception as error:
        return Finding("ONNX Runtime", "broken", f"{library} cannot be imported ({error})")
    names = [name.removesuffix("ExecutionProvider") for name in ort.get_available_providers()]
    return Finding("ONNX Runtime", "ok", f"{library} ({', '.join(names)})")


def _engines() -> tuple[Finding, ...]:
    found = []
    for name in NAMES:
        try:
            why = missing(name)
        except TLPError as error:
            why = str(error)
        if why is None and name == "ort-trt" and not _libnvinfer():
            why = (
                "libnvinfer of TensorRT 10 is not found (pip install 'tlp-mri[trt]' 'tensorrt<11')"
            )
        if why is None:
            found.append(Finding(name, "ok", "can run"))
        else:
            detail, fix = _apart(why)
            found.append(Finding(name, "missing" if fix else "unusable", detail, fix))
    return tuple(found)


def _libnvinfer() -> bool:
    packaged = any(importlib.util.find_spec(name) for name in ("tensorrt_libs", "tensorrt"))
    return packaged or ctypes.util.find_library("nvinfer") is not None


def _model(model: str | None, gpus: tuple[Gpu, ...]) -> tuple[tuple[Finding, ...], bool | None]:
    try:
        bundle, why = find_bundle(model, None)
    except ModelMissing as error:
        if model is None:
            return (Finding("model", "missing", str(error), "tlp train, then tlp export"),), None
        return (Finding("model", "missing", str(error)),), False
    except TLPError as error:
        return (Finding("model", "broken", str(error)),), False
    found = [Finding("model", "ok", f"{bundle.name}, {bundle.precision} ({why})")]
    for flavour in FLAVOURS:
        # An engine whose sidecar cannot be read may be of either flavour.
        found += [one for one in _stored(bundle, flavour, gpus) if one not in found]
    try:
        choice = choose()
        fits = any(one.name.startswith("engine") and one.state == "ok" for one in found)
        if choice.name in FLAVOURS and not fits:
            detail = f"{choice.name}: no engine fits this GPU yet; the first run builds one"
            found.append(Finding("runs", "unusable", detail, f"tlp export --engine {choice.name}"))
            return tuple(found), None
        began = time.perf_counter()
        with choice.open(bundle, Opening(build=False)) as engine:
            crop = bundle.spec.crop
            zeros = np.zeros((1, 1, crop.height, crop.width), np.float32)
            engine.run(dict.fromkeys(bundle.spec.tensor_names, zeros))
        seconds = time.perf_counter() - began
    except Exception as error:  # whatever a broken library raises is a finding
        found.append(Finding("runs", "broken", *_apart(str(error))))
        return tuple(found), False
    found.append(Finding("runs", "ok", f"{choice.name}: opened and ran a slice in {seconds:.1f} s"))
    return tuple(found), True


def _stored(bundle: Bundle, flavour: FlavourName, gpus: tuple[Gpu, ...]) -> list[Finding]:
    """Each TensorRT engine of the bundle, and whether it fits."""
    found = []
    for stored in stored_engines(bundle, flavour):
        if isinstance(stored, str):
            found.append(Finding("engine", "broken", stored, "tlp export --engine trt"))
            continue
        name = f"engine {stored.folder.name}"
        said = f"{flavour} {stored.sidecar['version']}"
        try:
            binding = load(flavour)
            why = stored.misfit(bundle, binding, gpus[0]) if gpus else None
            stored.read()
        except TLPError as error:
            detail, fix = _apart(str(error))
            found.append(
                Finding(
                    name, "broken", f"{said}: {detail}", fix or f"tlp export --engine {flavour}"
                )
            )
            continue
        if why is not None:
            fix = f"tlp export --engine {flavour}"
            found.append(Finding(name, "unusable", f"{said}: {why}", fix))
        elif not gpus:
            found.append(Finding(name, "unusable", f"{said}: sound; there is no GPU to run it on"))
        else:
            found.append(Finding(name, "ok", said))
    return found


def _apart(text: str) -> tuple[str, str]:
    """A message without the pip line that it ends with, and that line."""
    line = re.search(r"pip (?:un)?install .*", text)
    if line is None:
        return text, ""
    asks = r"(Install (it|one|such a one|it again) ?(with|flavour)?|Run)?"
    before = re.sub(rf"[\s(:]*{asks}[\s(:]*$", "", text[: line.start()]).rstrip(" .,(:")
    return before, line[0].rstrip(").")
