"""Engines built: described, kept, cancelled, and made once for all who wait."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from tests.fakes.machine import Machine
from tlp_runtime.engines import builds, plans
from tlp_runtime.engines.builds import build_engine
from tlp_runtime.engines.caches import caches_folder
from tlp_runtime.engines.options import BatchProfile, EngineOptions
from tlp_runtime.errors import DeviceUnavailable, EngineError
from tlp_runtime.models.bundle import Bundle
from tlp_runtime.warnings import CACHE_NOT_KEPT, ENGINE_BUILT, WarningLog

ROOT = Path(__file__).parents[2]


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


def test_an_engine_that_fits_is_opened_and_not_built(machine: Machine) -> None:
    machine.build()
    with machine.open(build=False) as engine:
        assert engine.stored.folder.parent == machine.bundle.path / "engines"
        assert engine.library.endswith(machine.module.__version__)
        assert list(engine.opening) == ["open"]
        assert engine.opening["open"] > 0
    assert machine.module.builds == 1


def test_no_engine_at_all_is_said_and_one_is_built_once(
    machine: Machine,
) -> None:
    said = machine.refusal()
    assert f"has no {machine.binding.product} engine" in said
    assert "Building one was refused. Set build to build it at the first run." in said
    named = f"{machine.bundle.path}, engine {machine.flavour}"
    assert f"Run the task build with {named} to build it now." in said
    with machine.open() as engine:
        assert engine.stored.folder.parent == plans.engines_folder()
        assert engine.opening["open"] > 0
        assert [warning.code for warning in engine.warnings] == [ENGINE_BUILT]
    (warning,) = machine.heard
    assert "Building one; this is done once" in warning.text
    assert warning.numbers == {"fingerprint": engine.stored.folder.name}
    with machine.open(build=False):
        pass
    assert machine.module.builds == 1
    assert not (machine.bundle.path / "engines").exists()  # a run leaves the bundle as it is


def test_current_is_this_gpus_capability(rtx: Machine) -> None:
    assert rtx.build(targets=("current",)).sidecar.compute_capabilities == ("8.6",)
    rtx.cuda.gpus = 0
    with pytest.raises(DeviceUnavailable, match=r"the target 'current' builds on the GPU"):
        rtx.build(targets=("current",))


def test_options_of_the_other_flavour_are_refused(enterprise: Machine, rtx: Machine) -> None:
    with pytest.raises(EngineError, match=r"compute capabilities 8\.6: enterprise TensorRT builds"):
        enterprise.build(targets=("8.6",))
    for options in ({"hardware": "ampere+"}, {"version_compatible": True}):
        with pytest.raises(EngineError, match="exist for enterprise TensorRT only"):
            rtx.build(**options)
    with pytest.raises(EngineError, match=r"9\.0: TensorRT-RTX builds for .*8\.6"):
        rtx.build(targets=("9.0",))
    assert not (rtx.bundle.path / "engines").exists()


def test_enterprise_needs_a_gpu_to_build_and_rtx_does_not(
    enterprise: Machine, rtx: Machine
) -> None:
    enterprise.cuda.gpus = rtx.cuda.gpus = 0
    with pytest.raises(DeviceUnavailable, match=r"TensorRT builds on the GPU.*Set engine to"):
        enterprise.build()
    assert rtx.build().sidecar.layers_from == "build log"


def test_timings_are_kept_from_build_to_build(enterprise: Machine) -> None:
    enterprise.build()
    enterprise.build(level=1)
    (cache,) = caches_folder().glob("timings-*")
    assert cache.read_bytes() == b"+1+1"
    cache.write_bytes(b"foreign")  # of another GPU or version: TensorRT refuses it
    enterprise.build(level=2)
    assert cache.read_bytes() == b"+1"


def test_an_engine_in_other_types_than_the_graphs_is_not_kept(machine: Machine) -> None:
    """An exporter that asked for half precision and got float32 would not notice otherwise."""
    machine.module.layer_type = "Half"
    with pytest.raises(EngineError, match=r"is not fp32: its convolutions compute in .*Half"):
        machine.build()
    assert not (machine.bundle.path / "engines").exists()


def test_progress_is_told_and_an_error_in_it_is_raised(machine: Machine) -> None:
    told: list[str] = []

    class Progress:
        def start(self, phase: str, steps: int) -> None:
            told.append(f"start {phase} {steps}")

        def step(self, phase: str, done: int) -> None:
            told.append(f"{done}")

        def finish(self, phase: str) -> None:
            told.append("finish")

    build_engine(
        machine.bundle,
        EngineOptions(),
        machine.binding,
        machine.gpu,
        progress=Progress(),
        warn=WarningLog().add,
    )
    assert told == ["start Building engine 3", "1", "2", "3", "finish"]

    class Broken(Progress):
        def step(self, phase: str, done: int) -> None:
            raise ValueError("no terminal")

    with pytest.raises(ValueError, match="no terminal"):
        build_engine(
            machine.bundle,
            EngineOptions(level=1),
            machine.binding,
            machine.gpu,
            progress=Broken(),
            warn=WarningLog().add,
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
            machine.bundle,
            EngineOptions(),
            machine.binding,
            machine.gpu,
            progress=Interrupting(),
            warn=WarningLog().add,
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
        from tlp_runtime.models.bundle import Bundle
        from tlp_runtime.engines.cuda import Cuda
        from tlp_runtime.engines.tensorrt.binding import TensorRT
        from tlp_runtime.engines.trt_rtx import RtxEngine

        class Slow:
            def start(self, phase, steps): time.sleep(1)
            def step(self, phase, done): ...
            def finish(self, phase): ...

        cuda = FakeRuntime()
        module = FakeBinding("1.7.1", cuda)
        bundle = Bundle.open(Path({os.fspath(rtx.bundle.path)!r}))
        with RtxEngine(bundle, cuda=Cuda(cuda), progress=Slow(),
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
    enterprise: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builds, "caches_folder", lambda: Path("/proc/none"))
    enterprise.build()
    assert CACHE_NOT_KEPT in [warning.code for warning in enterprise.heard]


def test_results_of_a_rebuilt_engine_are_right(machine: Machine) -> None:
    tensors = {
        name: np.full((2, 1, 192, 160), value, np.float32)
        for name, value in (("t1", 0.5), ("prompt", 1.0))
    }
    with machine.open() as engine:
        np.testing.assert_array_equal(engine.run(tensors), np.full((2, 1, 192, 160), 0.5))


def test_building_and_opening_are_timed_apart(machine: Machine) -> None:
    class Slow:
        def start(self, phase: str, steps: int) -> None:
            time.sleep(0.3)

        def step(self, phase: str, done: int) -> None: ...
        def finish(self, phase: str) -> None: ...

    with machine.open(progress=Slow()) as engine:
        assert set(engine.opening) == {"open", "build"}
        assert engine.opening["build"] == engine.stored.sidecar.seconds >= 0.3
        assert engine.opening["open"] >= 0
    with machine.open() as engine:
        assert set(engine.opening) == {"open"}
