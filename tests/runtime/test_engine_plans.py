"""Engines on disk: used where they fit, refused with the reason where they do not."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.fakes.machine import Machine
from tests.support import TinyModel
from tlp_runtime.engines import plans
from tlp_runtime.engines.cuda import Gpu
from tlp_runtime.engines.options import BatchProfile, EngineOptions
from tlp_runtime.engines.plans import BuiltOn, StoredEngine
from tlp_runtime.engines.tensorrt.binding import TensorRT
from tlp_runtime.engines.tensorrt.flavours import FlavourName
from tlp_runtime.errors import EngineError, UsageError


def edit(stored: StoredEngine, **changes: Any) -> None:
    sidecar = stored.sidecar.to_dict() | changes
    (stored.folder / "engine.json").write_text(json.dumps(sidecar), encoding="utf-8")


def test_fingerprints_are_those_of_the_versions_before(tiny: TinyModel) -> None:
    """Engines that were built then are found under their names."""
    files = dict.fromkeys(tiny.bundle.manifest.files, "a" * 64)
    manifest = replace(tiny.bundle.manifest, files=files, compute_precision="fp16")
    bundle = replace(tiny.bundle, manifest=manifest)
    gpu = Gpu(0, "NVIDIA X", (8, 6), 1, "GPU-0")

    def name(flavour: FlavourName, **options: Any) -> str:
        binding = cast(TensorRT, SimpleNamespace(flavour=flavour, version="10.16.1"))
        return plans.fingerprint(plans.identity(bundle, binding, EngineOptions(**options), gpu))

    profiles = (BatchProfile(1, 2, 4), BatchProfile(8, 8, 8))
    assert name("trt") == "8ef60ab4fa5a6d6b"
    assert name("trt-rtx", targets=("8.6", "12.0"), level=2, profiles=profiles) == (
        "8f57da182dfe0449"
    )
    assert name("trt-rtx", targets=("current",)) == "26abdf024b0a922b"


def test_a_sidecar_of_the_version_before_is_read(machine: Machine) -> None:
    """Schema 2.0 as it was first written, and with only what an engine needs."""
    stored = machine.build(profiles=(BatchProfile(1, 2, 4),))
    written = json.loads((stored.folder / "engine.json").read_text(encoding="utf-8"))
    assert list(written) == [
        "schema", "flavour", "version", "onnx_sha256", "precision", "options",
        "compute_capabilities", "gpu", "fingerprint", "layers", "layers_from", "engine_sha256",
        "engine_bytes", "cuda", "seconds", "built", "built_on", "tf32",
    ]  # fmt: skip
    assert stored.sidecar == StoredEngine.open(stored.folder).sidecar
    for name in ("layers", "layers_from", "cuda", "seconds", "built", "built_on"):
        del written[name]
    written["schema"] = {"major": 2, "minor": 0}
    (stored.folder / "engine.json").write_text(json.dumps(written), encoding="utf-8")
    machine.open(build=False).close()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"engine_bytes": "many"}, "engine_bytes is 'many', expected int"),
        ({"colour": "red"}, "unknown keys colour"),
        ({"flavour": "other"}, "flavour is 'other', expected one of"),
        ({"options": {"profiles": []}}, "batch profiles: expected at least one"),
        ({"options": {"profiles": [{"minimum": 1, "size": 2}]}}, "unknown keys"),
        ({"gpu": {"name": "X"}}, "missing keys gpu.compute_capability"),
        ({"schema": {"major": 2, "minor": 2}, "colour": "red"}, ""),
    ],
)
def test_a_sidecar_is_read_as_its_schema_says(
    machine: Machine, changes: dict[str, Any], said: str
) -> None:
    edit(machine.build(), **changes)
    if said:
        assert f"its sidecar cannot be read: {said}" in machine.refusal()
    else:
        machine.open(build=False).close()


def test_the_fingerprint_covers_everything_that_matters(machine: Machine) -> None:
    def name(binding: TensorRT | None = None, gpu: Gpu | None = machine.gpu, **options: Any) -> str:
        return plans.fingerprint(
            plans.identity(
                machine.bundle, binding or machine.binding, EngineOptions(**options), gpu
            )
        )

    same = name()
    assert name() == same
    others = {name(profiles=(BatchProfile(1, 4, 8),)), name(level=5), name(workspace_mib=100)}
    if machine.flavour == "trt":
        others |= {name(hardware="ampere+"), name(version_compatible=True)}
        others.add(name(gpu=Gpu(0, "Fake RTX", (8, 9), 1, "GPU-0")))
    else:
        others |= {name(targets=("8.6",)), name(targets=("8.6", "12.0"))}
        assert name(gpu=None) == same  # built without a GPU, for all
    newer = machine.binding
    newer.version = "99.1"
    others.add(name(newer))
    assert same not in others
    assert len(others) in (6, 7)


@pytest.mark.parametrize(("precision", "tf32"), [("fp32", False), ("fp16", True)])
def test_float32_is_not_built_to_be_computed_in_tf32(
    machine: Machine, precision: Any, tf32: bool
) -> None:
    manifest = replace(machine.bundle.manifest, compute_precision=precision)
    machine.bundle = replace(machine.bundle, manifest=manifest)
    machine.module.layer_type = "Half" if precision == "fp16" else "Float"
    stored = machine.build()
    assert stored.sidecar.tf32 == tf32
    assert f'"tf32": {str(tf32).lower()}'.encode() in stored.read()
    edit(stored, tf32=True)  # as engines before schema 2.1 were
    if precision == "fp32":
        assert "compute float32 in TF32" in machine.refusal()
    else:
        machine.open(build=False).close()


def test_a_truncated_engine_is_told_by_its_length(machine: Machine) -> None:
    stored = machine.build()
    stored.file.write_bytes(stored.file.read_bytes()[:-100])
    assert "bytes," in machine.refusal()
    with machine.open():
        assert machine.module.builds == 2


def test_an_altered_engine_is_told_by_its_hash(machine: Machine) -> None:
    stored = machine.build()
    plan = bytearray(stored.file.read_bytes())
    plan[-1] ^= 1
    stored.file.write_bytes(plan)
    assert "its SHA-256 is another" in machine.refusal()


def test_a_missing_engine_file_is_told(machine: Machine) -> None:
    machine.build().file.unlink()
    assert "generator.engine cannot be read" in machine.refusal()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": {"major": 2, "minor": 0}}'])
def test_a_damaged_sidecar_is_told_and_built_around(machine: Machine, text: str) -> None:
    stored = machine.build()
    (stored.folder / "engine.json").write_text(text, encoding="utf-8")
    assert "its sidecar cannot be read" in machine.refusal()
    with machine.open():
        pass


def test_a_sidecar_of_another_schema_is_not_guessed_at(machine: Machine) -> None:
    edit(machine.build(), schema={"major": 1, "minor": 0})
    assert "its sidecar is of schema 1" in machine.refusal()


def test_a_stale_engine_is_told_by_the_graph(machine: Machine) -> None:
    edit(machine.build(), onnx_sha256="0" * 64)
    assert "it was built from another graph (000000000000" in machine.refusal()


def test_an_engine_of_another_version_is_told(machine: Machine) -> None:
    edit(machine.build(), version="10.99")
    said = machine.refusal()
    assert "10.99" in said
    assert f"{machine.module.__version__} is installed" in said


def test_an_engine_of_another_gpu_is_told(enterprise: Machine) -> None:
    enterprise.build()
    enterprise.cuda.capability, enterprise.cuda.gpu_name = (9, 0), "Other"
    said = enterprise.refusal()
    assert "built on Fake RTX (compute capability 8.6), this is Other (9.0)" in said
    with enterprise.open() as engine:
        assert engine.stored.sidecar.gpu == BuiltOn(name="Other", compute_capability="9.0")


@pytest.mark.parametrize(
    ("hardware", "capability", "name", "fits"),
    [
        ("none", (8, 6), "Fake RTX", True),
        ("none", (8, 6), "Its sister", False),
        ("same-cc", (8, 6), "Its sister", True),
        ("same-cc", (8, 9), "Its sister", False),
        ("ampere+", (12, 0), "Another", True),
        ("ampere+", (7, 5), "Older", False),
    ],
)
def test_hardware_compatible_engines_travel_as_far_as_they_say(
    enterprise: Machine, hardware: str, capability: tuple[int, int], name: str, fits: bool
) -> None:
    enterprise.build(hardware=hardware)
    enterprise.cuda.capability, enterprise.cuda.gpu_name = capability, name
    if fits:
        enterprise.open(build=False).close()
    else:
        assert name in enterprise.refusal()


def test_a_version_compatible_engine_is_opened_by_a_later_one(
    enterprise: Machine,
) -> None:
    stored = enterprise.build(version_compatible=True)
    edit(stored, version="11.0.0")
    enterprise.open(build=False).close()
    for version in ("10.16.1", "11.5.0"):  # another major; a later one than is installed
        edit(stored, version=version)
        assert f"built by TensorRT {version}" in enterprise.refusal()


def test_rtx_targets_decide_where_an_engine_runs(rtx: Machine) -> None:
    rtx.build(targets=("8.9", "12.0"))
    assert "built for compute capability 8.9 and 12.0, Fake RTX has 8.6" in rtx.refusal()
    with rtx.open() as engine:  # built anew for all
        assert engine.stored.options.targets == ()
    rtx.cuda.capability = (8, 9)
    rtx.open(build=False).close()


def test_tensorrts_own_refusal_is_a_reason_and_leads_to_a_build(machine: Machine) -> None:
    machine.build()
    machine.module.opens_fail = "Error Code 4: serialization mismatch\n(odd words)"
    said = machine.refusal()
    assert "cannot open the engine: Error Code 4: serialization mismatch (odd words)" in said
    with pytest.raises(EngineError, match="cannot open the engine: Error Code 4"):
        machine.open()


@pytest.mark.parametrize(
    "options",
    [{"level": 6}, {"workspace_mib": 0}, {"hardware": "all"}, {"profiles": ()}],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="expected"):
        EngineOptions(**options)


def test_engines_of_other_models_in_the_home_are_not_looked_at(
    machine: Machine, tiny: TinyModel, tmp_path: Path
) -> None:
    machine.open().close()
    (plans.engines_folder() / "broken").mkdir()
    foreign = next(plans.engines_folder().glob("*/engine.json")).parent
    copy = plans.engines_folder() / "foreign"
    shutil.copytree(foreign, copy)
    edit(StoredEngine.open(copy), onnx_sha256="1" * 64)
    edit(StoredEngine.open(foreign), version="0.1")
    assert "foreign" not in machine.refusal()
    assert "broken" not in machine.refusal()
