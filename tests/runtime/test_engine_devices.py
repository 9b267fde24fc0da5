"""Which engines share a run, on one machine and on several."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.support import TinyModel
from tlp_runtime.cohort.cluster import Cluster, actors_of
from tlp_runtime.engines import devices
from tlp_runtime.engines.base import Engine, Opening
from tlp_runtime.engines.choice import EngineChoice
from tlp_runtime.engines.cuda import Cuda, Gpu
from tlp_runtime.engines.devices import choose_all, open_all
from tlp_runtime.engines.registry import engines
from tlp_runtime.engines.select import SelectedEngine
from tlp_runtime.errors import DependencyMissing, DeviceUnavailable, UsageError
from tlp_runtime.models.bundle import Bundle

ON_CPU = SelectedEngine("ort-cpu", None, "as asked")


@pytest.fixture
def three_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """GPUs 0 and 1 run TensorRT, GPU 2 is too old for it."""
    gpus = tuple(Gpu(n, "GPU", (9, 0), 80_000, f"GPU-{n}") for n in range(3))

    def choose(engine: str, device: str, bundle: Bundle | None) -> SelectedEngine:
        index = None if device == "cpu" else int(device[5:] or 0)
        best = "ort-cuda" if index == 2 else "trt"
        return SelectedEngine(best if engine == "auto" else engine, index, "the fastest")

    monkeypatch.setattr(Cuda, "__init__", lambda self: None)
    monkeypatch.setattr(Cuda, "gpus", lambda self: gpus)
    monkeypatch.setattr(devices, "choose", choose)

    def unavailable(cls: type[Engine], index: int = 0) -> DeviceUnavailable | None:
        return DeviceUnavailable("old") if (cls.name, index) == ("trt", 2) else None

    for kind in engines():
        monkeypatch.setattr(kind, "unavailable", classmethod(unavailable))


def indices(engine: str, device: str) -> list[int | None]:
    return [choice.cuda_index for choice in choose_all(engine, device)]


@pytest.mark.usefixtures("three_gpus")
def test_auto_takes_every_gpu_that_the_engine_can_use() -> None:
    assert indices("auto", "auto") == [0, 1]
    assert indices("ort-cuda", "auto") == [0, 1, 2]
    assert indices("auto", "cuda:1") == [1]
    assert indices("auto", "cuda:1, cuda:0") == [1, 0]
    assert indices("ort-cuda", "cuda:0,cuda:2") == [0, 2]


@pytest.mark.usefixtures("three_gpus")
@pytest.mark.parametrize(
    ("device", "said"),
    [
        ("cuda:0,cuda:0", "one is named twice"),
        ("cpu,cuda:0", "do not share a run"),
        ("cuda:0,cuda:2", "trt on cuda:0, ort-cuda on cuda:2"),
    ],
)
def test_devices_that_cannot_share_a_run_are_refused(device: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        choose_all("auto", device)


@pytest.mark.parametrize(
    ("cpus", "threads", "count"),
    [(1, None, 1), (2, None, 2), (16, None, 4), (8, 4, 2), (2, 8, 1)],
)
def test_engines_share_the_cores_of_a_cpu(
    tiny: TinyModel, cpus: int, threads: int | None, count: int
) -> None:
    opened = open_all(
        [SelectedEngine("ort-cpu", None, "as asked")],
        tiny.bundle,
        Opening(EngineChoice(threads=threads)),
        cpus=cpus,
    )
    assert len(opened) == count
    for engine in opened:
        engine.close()


def test_there_are_no_more_engines_than_cases(tiny: TinyModel) -> None:
    (engine,) = open_all(
        [SelectedEngine("ort-cpu", None, "as asked")], tiny.bundle, cpus=4, cases=1
    )
    engine.close()


def test_every_machine_of_a_cluster_has_its_share() -> None:
    nodes = [
        {"NodeID": "a", "Alive": True, "Resources": {"CPU": 8.0, "GPU": 2.0}},
        {"NodeID": "b", "Alive": True, "Resources": {"CPU": 4.0}},
        {"NodeID": "c", "Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}},
        {"NodeID": "d", "Alive": True, "Resources": {}},
    ]
    assert actors_of(nodes, EngineChoice()) == [("a", 4, 1), ("a", 4, 1)]
    assert actors_of(nodes, EngineChoice(device="cpu")) == [("a", 8, 0), ("b", 4, 0)]
    assert actors_of(nodes[1:], EngineChoice()) == [("b", 4, 0)]
    assert actors_of(nodes, EngineChoice(engine="ort-cpu")) == [("a", 8, 0), ("b", 4, 0)]


def test_without_ray_the_line_that_installs_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(DependencyMissing, match=r"Install tlp-mri\[ray\]"):
        Cluster("auto", Path("m"), EngineChoice())
