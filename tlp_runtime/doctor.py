"""What can run on this machine, what is missing, and how to fix it."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tlp_runtime.engines.base import Opening
from tlp_runtime.engines.choice import EngineChoice
from tlp_runtime.engines.cuda import NEWER_DRIVER, Cuda, Gpu
from tlp_runtime.engines.onnx import require_onnxruntime
from tlp_runtime.engines.openvino import computes_bf16, require_openvino
from tlp_runtime.engines.plans import stored_engines
from tlp_runtime.engines.registry import engines, find_engine
from tlp_runtime.engines.select import choose
from tlp_runtime.engines.tensorrt.binding import installed, load
from tlp_runtime.engines.tensorrt.flavours import FLAVOURS, FlavourName
from tlp_runtime.errors import (
    Advice,
    DependencyConflict,
    DependencyMissing,
    DeviceError,
    Fix,
    Install,
    ModelMissing,
    RunTask,
    TLPError,
    first_line,
    fix_to_dict,
)
from tlp_runtime.models.bundle import Bundle
from tlp_runtime.models.choice import find_bundle
from tlp_runtime.models.store import home

_INSTALL_DRIVER = Advice("Install NVIDIA's driver.")

State = Literal["ok", "missing", "broken", "unusable"]


@dataclass(frozen=True)
class Finding:
    """One thing that was examined.

    Parameters
    ----------
    state
        ``ok``; ``missing``: not installed; ``broken``: installed, but it cannot be used;
        ``unusable``: sound, but not on this machine.
    detail
        A version, or the problem.
    fixes
        What fixes it; empty if nothing needs to be fixed or can be.
    """

    name: str
    state: State
    detail: str
    fixes: tuple[Fix, ...] = ()

    @classmethod
    def of(cls, name: str, state: State, error: TLPError, before: str = "") -> Finding:
        """The finding of an error; ``before`` is put before its problem."""
        return cls(name, state, before + error.problem.rstrip("."), error.fixes)


@dataclass(frozen=True)
class Diagnosis:
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
        groups = {
            name: getattr(self, name) for name in ("machine", "libraries", "engines", "model")
        }
        findings = {
            name: [
                {
                    "name": finding.name,
                    "state": finding.state,
                    "detail": finding.detail,
                    "fixes": [fix_to_dict(fix) for fix in finding.fixes],
                }
                for finding in group
            ]
            for name, group in groups.items()
        }
        return {**findings, "gpus": [asdict(gpu) for gpu in self.gpus], "runs": self.runs}


def examine(model: str | None = None) -> Diagnosis:
    """Look at machine, libraries, engines and the default bundle; what is wrong is reported.

    Parameters
    ----------
    model
        A bundle's folder or registered name; None takes the default one.
    """
    gpus = _gpus()
    bundle, runs = _model(model, gpus)
    return Diagnosis(_machine(), gpus, _libraries(), _engines(), bundle, runs)


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
            () if writable else (Advice("Set TLP_HOME to a folder that can be written to."),),
        ),
        _driver(),
        _cuda(),
    )


def _writable(folder: Path) -> bool:
    """Whether a file can be made there; permissions do not show read-only file systems."""
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True


def _driver() -> Finding:
    if importlib.util.find_spec("pynvml") is None:
        return Finding(
            "NVIDIA driver",
            "missing",
            "nvidia-ml-py is not installed, which reports its version",
            (Install(("nvidia-ml-py",)),),
        )
    import pynvml

    try:
        pynvml.nvmlInit()
        said = pynvml.nvmlSystemGetDriverVersion()
        pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        return Finding("NVIDIA driver", "missing", str(error), (_INSTALL_DRIVER,))
    return Finding("NVIDIA driver", "ok", said if isinstance(said, str) else said.decode())


def _cuda() -> Finding:
    try:
        cuda = Cuda()
        driver, runtime = cuda.versions()
        too_old = not cuda.gpus() and cuda.driver_is_too_old()
    except DependencyMissing as error:
        return Finding.of("CUDA", "missing", error)
    except TLPError as error:
        return Finding.of("CUDA", "broken", error)
    if driver == "0.0":
        return Finding("CUDA", "missing", f"no driver; runtime {runtime}", (_INSTALL_DRIVER,))
    versions = f"driver {driver}, runtime {runtime}"
    if too_old:
        return Finding("CUDA", "broken", versions, (NEWER_DRIVER,))
    return Finding("CUDA", "ok", versions)


def _libraries() -> tuple[Finding, ...]:
    found = [_onnxruntime(), _openvino()]
    for flavour in FLAVOURS:
        name = "TensorRT-RTX" if flavour == "trt-rtx" else "TensorRT"
        try:
            found.append(Finding(name, "ok", load(flavour).version))
        except DependencyMissing as error:
            state: State = "broken" if flavour in installed() else "missing"
            found.append(Finding.of(name, state, error))
        except DeviceError as error:
            found.append(Finding.of(name, "broken", error))
    dicom = "tlp-mri[dicom]"
    for name, wanted in (
        ("cuda-bindings", "cuda-bindings"), ("nvidia-ml-py", "nvidia-ml-py"),
        ("pydicom", dicom), ("highdicom", dicom), ("isal", "isal"), ("ray", "tlp-mri[ray]"),
    ):  # fmt: skip
        try:
            found.append(Finding(name, "ok", version(name)))
        except PackageNotFoundError:
            found.append(Finding(name, "missing", "is not installed", (Install((wanted,)),)))
    return tuple(found)


def _onnxruntime() -> Finding:
    try:
        library = require_onnxruntime()
    except DependencyConflict as error:
        return Finding.of("ONNX Runtime", "broken", error)
    except DependencyMissing as error:
        return Finding.of("ONNX Runtime", "missing", error)
    import onnxruntime as ort

    names = [name.removesuffix("ExecutionProvider") for name in ort.get_available_providers()]
    return Finding("ONNX Runtime", "ok", f"{library} ({', '.join(names)})")


def _openvino() -> Finding:
    try:
        library = require_openvino()
    except DependencyConflict as error:
        return Finding.of("OpenVINO", "broken", error)
    except DependencyMissing as error:
        return Finding.of("OpenVINO", "missing", error)
    return Finding("OpenVINO", "ok", library + (" (bf16)" if computes_bf16() else ""))


def _engines() -> tuple[Finding, ...]:
    found = []
    for engine in engines():
        problem = engine.unavailable()
        if problem is None:
            found.append(Finding(engine.name, "ok", "can run"))
        else:
            can_install = any(isinstance(fix, Install) for fix in problem.fixes)
            state: State = "missing" if can_install else "unusable"
            found.append(Finding.of(engine.name, state, problem))
    return tuple(found)


def _model(model: str | None, gpus: tuple[Gpu, ...]) -> tuple[tuple[Finding, ...], bool | None]:
    try:
        bundle, why = find_bundle(model, None)
    except ModelMissing as error:
        return (Finding.of("model", "missing", error),), None if model is None else False
    except TLPError as error:
        return (Finding.of("model", "broken", error),), False
    found = [Finding("model", "ok", f"{bundle.name}, {bundle.precision} ({why})")]
    for flavour in FLAVOURS:
        # An engine whose sidecar cannot be read may be of either flavour.
        found += [one for one in _stored(bundle, flavour, gpus) if one not in found]
    try:
        choice = choose(bundle=bundle)
        fits = any(one.name.startswith("engine") and one.state == "ok" for one in found)
        if find_engine(choice.name).builds and not fits:
            detail = f"{choice.name}: no engine fits this GPU yet; the first run builds one"
            found.append(Finding("runs", "unusable", detail, (_build(choice.name),)))
            return tuple(found), None
        began = time.perf_counter()
        with choice.open(bundle, Opening(EngineChoice(build=False))) as engine:
            crop = bundle.spec.crop
            zeros = np.zeros((1, 1, crop.height, crop.width), np.float32)
            engine.run(dict.fromkeys(bundle.spec.tensor_names, zeros))
        seconds = time.perf_counter() - began
    except TLPError as error:
        found.append(Finding.of("runs", "broken", error))
        return tuple(found), False
    except Exception as error:  # whatever a broken library raises is a finding
        found.append(Finding("runs", "broken", first_line(error)))
        return tuple(found), False
    found.append(Finding("runs", "ok", f"{choice.name}: opened and ran a slice in {seconds:.1f} s"))
    return tuple(found), True


def _stored(bundle: Bundle, flavour: FlavourName, gpus: tuple[Gpu, ...]) -> list[Finding]:
    """Each TensorRT engine of the bundle, and whether it fits."""
    found = []
    for stored in stored_engines(bundle, flavour):
        if isinstance(stored, str):
            found.append(Finding("engine", "broken", stored, (_build(FLAVOURS[0]),)))
            continue
        name = f"engine {stored.folder.name}"
        which = f"{flavour} {stored.sidecar.version}"
        try:
            binding = load(flavour)
            why = stored.misfit(bundle, binding, gpus[0]) if gpus else None
            stored.read()
        except TLPError as error:
            finding = Finding.of(name, "broken", error, f"{which}: ")
            found.append(finding if finding.fixes else replace(finding, fixes=(_build(flavour),)))
            continue
        if why is not None:
            found.append(Finding(name, "unusable", f"{which}: {why}", (_build(flavour),)))
        elif not gpus:
            detail = f"{which}: sound; there is no GPU to run it on"
            found.append(Finding(name, "unusable", detail))
        else:
            found.append(Finding(name, "ok", which))
    return found


def _build(engine: str) -> RunTask:
    return RunTask("export", (("engine", engine),))
