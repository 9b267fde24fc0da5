"""Engines on disk: built, found, refused with the reason, built anew once for all who wait."""

from __future__ import annotations

import importlib
import json
import logging
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fakes.cuda_runtime import FakeRuntime
from tests.fakes.tensorrt_binding import VERSIONS, FakeBinding
from tests.support import TinyModel
from tlp_runtime.bundle import Bundle
from tlp_runtime.engines import builds, plans
from tlp_runtime.engines.builds import build_engine, pick_flavour
from tlp_runtime.engines.cuda import Cuda, Gpu
from tlp_runtime.engines.plans import BatchProfile, EngineOptions, StoredEngine, require_precision
from tlp_runtime.engines.tensorrt import binding as bindings
from tlp_runtime.engines.tensorrt.binding import TensorRT
from tlp_runtime.engines.trt import TensorRTEngine
from tlp_runtime.errors import DependencyMissing, DeviceUnavailable, EngineError, UsageError

ROOT = Path(__file__).parents[2]


class Machine:
    """A GPU and TensorRT of one version that are not there, and a bundle."""

    def __init__(self, version: str, folder: Path, tiny: TinyModel) -> None:
        self.cuda = FakeRuntime()
        self.module = FakeBinding(version, self.cuda)
        place = folder / version
        place.mkdir()
        self.bundle = Bundle.open(tiny.copy(place))
        self.flavour: Any = self.module.flavour

    @property
    def gpu(self) -> Gpu:
        return Cuda(self.cuda).gpus()[0]

    @property
    def binding(self) -> TensorRT:
        return TensorRT(self.flavour, self.module)

    def build(self, **options: Any) -> StoredEngine:
        gpu = self.gpu if self.cuda.gpus else None
        return build_engine(self.bundle, EngineOptions(**options), self.binding, gpu)

    def open(self, *, build: bool = True) -> TensorRTEngine:
        return TensorRTEngine(
            self.bundle,
            flavour=self.flavour,
            build=build,
            cuda=Cuda(self.cuda),
            binding=self.binding,
        )

    def refusal(self) -> str:
        """What opening says when building is refused; nothing may have been built."""
        before = self.module.builds
        with pytest.raises(EngineError) as e:
            self.open(build=False)
        assert e.value.exit_code == 5
        assert self.module.builds == before
        assert "\n" not in str(e.value)
        return str(e.value)


@pytest.fixture(params=VERSIONS)
def machine(request: pytest.FixtureRequest, tiny: TinyModel, tmp_path: Path) -> Machine:
    return Machine(request.param, tmp_path, tiny)


@pytest.fixture
def rtx(tiny: TinyModel, tmp_path: Path) -> Machine:
    return Machine("1.7.1", tmp_path, tiny)


@pytest.fixture
def enterprise(tiny: TinyModel, tmp_path: Path) -> Machine:
    return Machine("11.4.0", tmp_path, tiny)


def edit(stored: StoredEngine, **changes: Any) -> None:
    sidecar = dict(stored.sidecar) | changes
    (stored.folder / "engine.json").write_text(json.dumps(sidecar), encoding="utf-8")


def test_the_sidecar_says_what_was_built(machine: Machine) -> None:
    stored = machine.build(profiles=(BatchProfile(1, 2, 4), BatchProfile(8, 8, 8)))
    said = json.loads((stored.folder / "engine.json").read_text(encoding="utf-8"))
    assert said["flavour"] == machine.flavour
    assert said["version"] == machine.module.__version__
    assert said["onnx_sha256"] == machine.bundle.onnx_sha256
    assert said["options"]["profiles"][1] == {"minimum": 8, "optimum": 8, "maximum": 8}
    assert stored.folder.name == said["fingerprint"]
    assert sum(sum(types.values()) for types in said["layers"].values()) == 1
    assert said["layers_from"] == "engine"  # there is a GPU to open it on
    if machine.flavour == "trt":
        assert said["gpu"] == {"name": "Fake RTX", "compute_capability": "8.6"}
    assert stored.options.profiles == (BatchProfile(1, 2, 4), BatchProfile(8, 8, 8))
    assert Bundle.open(machine.bundle.path).onnx_sha256 == machine.bundle.onnx_sha256


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


def test_an_engine_that_fits_is_opened_and_not_built(machine: Machine) -> None:
    machine.build()
    with machine.open(build=False) as engine:
        assert engine.stored.folder.parent == machine.bundle.path / "engines"
        assert engine.library.endswith(machine.module.__version__)
        assert engine.opening["open"] > 0
    assert machine.module.builds == 1


def test_no_engine_at_all_is_said_and_one_is_built_once(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    said = machine.refusal()
    assert f"has no {machine.binding.product} engine" in said
    assert (
        f"--no-build). Run without it, or build one here with tlp export --engine {machine.flavour}"
        in said
    )
    with caplog.at_level(logging.WARNING), machine.open() as engine:
        assert engine.stored.folder.parent == plans.engines_folder()
    assert "Building one; this is done once" in caplog.text
    with machine.open(build=False):
        pass
    assert machine.module.builds == 1
    assert not (machine.bundle.path / "engines").exists()  # a run leaves the bundle as it is


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
        assert engine.stored.sidecar["gpu"]["name"] == "Other"


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
    edit(stored, version="10.16.1")
    assert "built by TensorRT 10.16.1" in enterprise.refusal()


def test_rtx_targets_decide_where_an_engine_runs(rtx: Machine) -> None:
    rtx.build(targets=("8.9", "12.0"))
    assert "built for compute capability 8.9 and 12.0, Fake RTX has 8.6" in rtx.refusal()
    with rtx.open() as engine:  # built anew for all
        assert engine.stored.options.targets == ()
    rtx.cuda.capability = (8, 9)
    rtx.open(build=False).close()


def test_current_is_this_gpus_capability(rtx: Machine) -> None:
    assert rtx.build(targets=("current",)).sidecar["compute_capabilities"] == ["8.6"]
    rtx.cuda.gpus = 0
    with pytest.raises(DeviceUnavailable, match=r"--target current builds on the GPU"):
        rtx.build(targets=("current",))


def test_tensorrts_own_refusal_is_a_reason_and_leads_to_a_build(machine: Machine) -> None:
    machine.build()
    machine.module.opens_fail = "Error Code 4: serialization mismatch\n(odd words)"
    said = machine.refusal()
    assert "cannot open the engine: Error Code 4: serialization mismatch (odd words)" in said
    with pytest.raises(EngineError, match="cannot open the engine: Error Code 4"):
        machine.open()


def test_options_of_the_other_flavour_are_refused(enterprise: Machine, rtx: Machine) -> None:
    with pytest.raises(EngineError, match=r"compute capabilities 8\.6: enterprise TensorRT builds"):
        enterprise.build(targets=("8.6",))
    for options in ({"hardware": "ampere+"}, {"version_compatible": True}):
        with pytest.raises(EngineError, match="are of enterprise TensorRT"):
            rtx.build(**options)
    with pytest.raises(EngineError, match=r"9\.0: TensorRT-RTX builds for .*8\.6"):
        rtx.build(targets=("9.0",))
    assert not (rtx.bundle.path / "engines").exists()


@pytest.mark.parametrize(
    "options",
    [{"level": 6}, {"workspace_mib": 0}, {"hardware": "all"}, {"profiles": ()}],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="expected"):
        EngineOptions(**options)


def test_enterprise_needs_a_gpu_to_build_and_rtx_does_not(
    enterprise: Machine, rtx: Machine
) -> None:
    enterprise.cuda.gpus = rtx.cuda.gpus = 0
    with pytest.raises(DeviceUnavailable, match=r"TensorRT builds on the GPU.*--engine trt-rtx"):
        enterprise.build()
    assert rtx.build().sidecar["layers_from"] == "build log"


def test_timings_are_kept_from_build_to_build(enterprise: Machine) -> None:
    enterprise.build()
    enterprise.build(level=1)
    (cache,) = plans.caches_folder().glob("timings-*")
    assert cache.read_bytes() == b"+1+1"
    cache.write_bytes(b"foreign")  # of another GPU or version: TensorRT refuses it
    enterprise.build(level=2)
    assert cache.read_bytes() == b"+1"


def test_an_engine_in_other_types_than_the_graphs_is_not_kept(machine: Machine) -> None:
    """An exporter that asked for half precision and got float32 would not notice otherwise."""
    machine.module.layer_type = "Half"
    with pytest.raises(EngineError, match=r"is not fp32: its convolutions compute in .*half"):
        machine.build()
    assert not (machine.bundle.path / "engines").exists()


@pytest.mark.parametrize(
    ("precision", "layers", "right"),
    [
        ("fp16", {"correlation": {"Half": 9}, "gemm": {"Float": 9}}, True),
        ("fp16", {"correlation": {"Half": 9, "Float": 1}}, False),
        ("fp16", {"Convolution": {"FP16": 3}}, True),
        ("bf16", {"correlation": {"BFloat16": 9}}, True),
        ("int8", {"correlation": {"Int8": 9, "Float": 20}}, True),
        ("int8", {"correlation": {"Float": 20}}, False),
        ("fp32", {"gemm": {"Float": 20}}, False),
        ("fp32", {}, False),
    ],
)
def test_the_convolutions_types_are_the_bundles(precision: Any, layers: Any, right: bool) -> None:
    if right:
        require_precision(layers, precision)
    else:
        with pytest.raises(EngineError, match=f"is not {precision}"):
            require_precision(layers, precision)


def test_progress_is_told_and_an_error_in_it_is_raised(machine: Machine) -> None:
    told: list[str] = []

    class Progress:
        def start(self, phase: str, steps: int) -> None:
            told.append(f"start {phase} {steps}")

        def step(self, phase: str, done: int) -> None:
            told.append(f"{done}")

        def finish(self, phase: str) -> None:
            told.append("finish")

    build_engine(machine.bundle, EngineOptions(), machine.binding, machine.gpu, progress=Progress())
    assert told == ["start Building engine 3", "1", "2", "3", "finish"]

    class Broken(Progress):
        def step(self, phase: str, done: int) -> None:
            raise ValueError("no terminal")

    with pytest.raises(ValueError, match="no terminal"):
        build_engine(
            machine.bundle, EngineOptions(level=1), machine.binding, machine.gpu, progress=Broken()
        )


def test_an_interrupt_cancels_the_build_and_leaves_nothing(machine: Machine) -> None:
    import signal

    class Interrupting:
        def start(self, phase: str, steps: int) -> None: ...

        def step(self, phase: str, done: int) -> None:
            if done == 2:
                signal.raise_signal(signal.SIGINT)

        def finish(self, phase: str) -> None: ...

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        build_engine(
            machine.bundle, EngineOptions(), machine.binding, machine.gpu, progress=Interrupting()
        )
    assert machine.module.builds == 0
    assert not (machine.bundle.path / "engines").exists()
    assert signal.getsignal(signal.SIGINT) is before


def test_processes_that_start_at_once_build_once(rtx: Machine, tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(
        textwrap.dedent(f"""
        import time
        from pathlib import Path
        from tests.fakes.cuda_runtime import FakeRuntime
        from tests.fakes.tensorrt_binding import FakeBinding
        from tlp_runtime.bundle import Bundle
        from tlp_runtime.engines.cuda import Cuda
        from tlp_runtime.engines.tensorrt.binding import TensorRT
        from tlp_runtime.engines.trt import TensorRTEngine

        class Slow:
            def start(self, phase, steps): time.sleep(1)
            def step(self, phase, done): ...
            def finish(self, phase): ...

        cuda = FakeRuntime()
        module = FakeBinding("1.7.1", cuda)
        bundle = Bundle.open(Path({os.fspath(rtx.bundle.path)!r}))
        with TensorRTEngine(bundle, flavour="trt-rtx", cuda=Cuda(cuda), progress=Slow(),
                            binding=TensorRT("trt-rtx", module)) as engine:
            print(module.builds, engine.stored.folder.name)
        """),
        encoding="utf-8",
    )
    processes = [
        subprocess.Popen(
            [sys.executable, os.fspath(script)],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.fspath(ROOT)},
        )
        for _ in range(3)
    ]
    said = [process.communicate(timeout=120)[0].split() for process in processes]
    assert sorted(builds for builds, _ in said) == ["0", "0", "1"]
    assert len({name for _, name in said}) == 1


def test_a_home_that_cannot_be_written_only_costs_the_caches(
    enterprise: Machine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(plans, "caches_folder", lambda: Path("/proc/none"))
    enterprise.build()
    assert "It is made anew each time" in caplog.text


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


def test_flavours_that_are_installed_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu(0, "x", (9, 0), 1, "GPU-0")
    for found, without, with_gpu in (
        ({"trt": "11.4"}, "trt", "trt"),
        ({"trt-rtx": "1.7"}, "trt-rtx", "trt-rtx"),
        ({"trt": "11.4", "trt-rtx": "1.7"}, "trt-rtx", "trt"),
    ):
        monkeypatch.setattr(builds, "installed", lambda found=found: found)
        assert pick_flavour(None) == without
        assert pick_flavour(gpu) == with_gpu
    monkeypatch.setattr(builds, "installed", dict)
    with pytest.raises(DependencyMissing, match=r"tlp-mri\[trt-rtx\].*tlp-mri\[trt\]"):
        pick_flavour(None)


def test_versions_the_adapter_does_not_know_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Module:
        __version__ = "10.3.0"

    for flavour, version, known in (
        ("trt", "10.3.0", r"10\.16 to before 12\.0"),
        ("trt", "12.0.1", r"10\.16 to before 12\.0"),
        ("trt-rtx", "1.2.0.54", r"1\.7 to before 2\.0"),
    ):
        Module.__version__ = version
        with pytest.raises(EngineError, match=f"{version} is installed; .*{known}"):
            TensorRT(flavour, Module())  # type: ignore[arg-type]


def test_a_flavour_that_cannot_be_imported_says_the_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert bindings.installed() == {}
    with pytest.raises(DependencyMissing, match=r"TensorRT is not .*pip install 'tlp-mri\[trt\]'"):
        bindings.load("trt")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())

    def stub(name: str) -> Any:
        raise ImportError("libnvinfer.so.11: cannot open shared object file")

    monkeypatch.setattr(importlib, "import_module", stub)
    with pytest.raises(DependencyMissing, match=r"cannot be imported \(libnvinfer"):
        bindings.load("trt")
    assert set(bindings.installed()) == {"trt", "trt-rtx"}  # looked up, not imported
    for broken in (OSError("bad ELF header"), None):

        def other(name: str, broken: Any = broken) -> Any:
            if broken is None:
                return object()  # without a version
            raise broken

        monkeypatch.setattr(importlib, "import_module", other)
        with pytest.raises(DependencyMissing, match=r"cannot be imported \("):
            bindings.load("trt")


def test_the_inspectors_and_the_logs_types_are_read_alike() -> None:
    from tlp_runtime.engines.tensorrt.build import layers_of_log
    from tlp_runtime.engines.tensorrt.run import layers_of_json

    log = [
        "INFO other",
        "VERBOSE Layers:\nName: a, LayerType: correlation, Inputs: [ { Name: x, Dimensions: [1], "
        "Datatype: Half, Format: x }, { Name: y, Datatype: Float }], Outputs: []\n"
        "Name: b, LayerType: wait, Inputs: [], Constants: []",
    ]
    text = json.dumps(
        {"Layers": [{"LayerType": "correlation", "Inputs": [{"Datatype": "Half"}]}, "wait"]}
    )
    assert layers_of_log(log) == layers_of_json(text) == {"correlation": {"Half": 1}}
    assert layers_of_log(["INFO nothing"]) == {}


def test_results_of_a_rebuilt_engine_are_right(machine: Machine) -> None:
    tensors = {
        name: np.full((2, 1, 192, 160), value, np.float32)
        for name, value in (("t1", 0.5), ("prompt", 1.0))
    }
    with machine.open() as engine:
        np.testing.assert_array_equal(engine.run(tensors), np.full((2, 1, 192, 160), 0.5))
