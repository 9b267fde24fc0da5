"""An engine proves at its first opening that it computes what the model promises."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pytest
from tlp_cli.main import main

from tests.scans import scan
from tests.servers import saved
from tests.support import TinyModel
from tlp_runtime.engines import proof as module
from tlp_runtime.engines.base import Engine, Opening, Slices
from tlp_runtime.engines.caches import caches_folder
from tlp_runtime.engines.choice import EngineChoice
from tlp_runtime.engines.onnx import OnnxEngine
from tlp_runtime.engines.registry import register, unregister
from tlp_runtime.engines.select import SelectedEngine
from tlp_runtime.errors import MemoryExhausted, ParityError
from tlp_runtime.models.bundle import Bundle
from tlp_runtime.synthesis.synthesizer import Synthesizer


class StandIn(Engine):
    """ONNX Runtime under another name, whose answer a test may change."""

    name = "stand-in"
    device = "cpu"
    library = "stand-in 1.0"
    gpu = "none"
    ran: ClassVar[list[int]] = []
    closed: ClassVar[list[bool]] = []
    room = 99

    def __init__(self, bundle: Bundle, warnings: Any = None) -> None:
        super().__init__(bundle, warnings)
        self._inner = OnnxEngine(bundle)
        self.opening = {"open": 0.0}

    @classmethod
    def open(cls, bundle: Bundle, *, index: int = 0, opening: Opening | None = None) -> Self:
        return cls(bundle)

    def machine(self) -> Mapping[str, str]:
        return {"gpu": self.gpu}

    def change(self, image: Slices) -> Slices:
        return image

    def _run(self, tensors: Mapping[str, Slices]) -> Slices:
        batch = len(tensors["prompt"])
        if batch > self.room:
            raise MemoryExhausted("out of memory")
        self.ran.append(batch)
        return self.change(self._inner.run(tensors))

    def close(self) -> None:
        self.closed.append(True)
        self._inner.close()


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[StandIn]]:
    monkeypatch.setattr(module, "_proven", set())
    monkeypatch.setattr(StandIn, "ran", [])
    monkeypatch.setattr(StandIn, "closed", [])
    register(StandIn)
    yield StandIn
    unregister(StandIn.name)


def opened(bundle: Bundle, batch: int = 4) -> Engine:
    choice = EngineChoice(batch=batch)
    return SelectedEngine("stand-in", None, "as the test says").open(bundle, Opening(choice))


def as_in_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_proven", set())


WRONG: dict[str, Callable[[Slices], Slices]] = {
    "halved": lambda image: image * np.float32(0.5),
    "a little off": lambda image: image + np.float32(1e-3),
    "one pixel": lambda image: np.where(np.arange(image.shape[-1]) == 7, image + 0.5, image),
    "mirrored": lambda image: image[..., ::-1].copy(),
    "not a number": lambda image: np.where(image > image.max() * 0.99, np.nan, image),
    "only the last of a batch": lambda image: np.concatenate([image[:-1], -image[-1:]]),
}


@pytest.mark.parametrize("how", list(WRONG))
def test_a_wrong_answer_is_refused(
    tiny: TinyModel, stand_in: type[StandIn], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(stand_in, "change", lambda self, image: WRONG[how](image))
    for _ in range(2):  # and never remembered as right
        with pytest.raises(ParityError, match="computes something else than tiny-t1") as e:
            opened(tiny.bundle)
        assert e.value.exit_code == 7
        assert "stand-in 1.0" in str(e.value)
    assert len(stand_in.closed) == 2


def test_at_the_command_line_that_is_exit_7_and_nothing_is_written(
    tiny: TinyModel,
    stand_in: type[StandIn],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(stand_in, "change", lambda self, image: -image)
    tiny.register()
    t1, out = saved(scan(), tmp_path / "t1.nii.gz"), tmp_path / "out.nii.gz"
    words = ["infer", "--t1", str(t1), "--engine", "stand-in", "--out", str(out)]
    assert main(words) == 7
    said = " ".join(capfd.readouterr().err.split())
    assert "computes something else" in said
    assert "Traceback" not in said
    assert not out.exists()


def test_it_is_asked_once_for_an_engine_a_library_a_device_and_a_model(
    tiny: TinyModel, stand_in: type[StandIn], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def runs(bundle: Bundle = tiny.bundle, batch: int = 4) -> int:
        stand_in.ran.clear()
        opened(bundle, batch).close()
        return len(stand_in.ran)

    assert runs() == 1
    assert stand_in.ran == [4], "in the batch that will be used"
    assert runs() == 0
    as_in_another_process(monkeypatch)
    assert runs() == 0, "it is remembered under TLP_HOME"
    monkeypatch.setattr(stand_in, "library", "stand-in 1.1")
    assert runs() == 1
    monkeypatch.setattr(stand_in, "gpu", "another")
    assert runs() == 1
    monkeypatch.setattr(stand_in, "variant", "from a cache")
    assert runs() == 1
    assert runs(batch=2) == 1
    files = dict(tiny.bundle.manifest.files) | {"generator.onnx": "0" * 64}
    other = replace(tiny.bundle, manifest=replace(tiny.bundle.manifest, files=files))
    assert runs(other) == 1
    for record in (caches_folder() / "proofs").iterdir():
        record.write_text("{")
    as_in_another_process(monkeypatch)
    assert runs() == 1, "a damaged record proves nothing"


def test_a_home_that_cannot_be_written_does_not_keep_it_from_running(
    tiny: TinyModel, stand_in: type[StandIn], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TLP_HOME", "/proc/none")
    engine = opened(tiny.bundle)
    assert list(engine.warnings) == []
    engine.close()
    opened(tiny.bundle).close()
    assert stand_in.ran == [4], "this process remembers it"


def test_little_memory_halves_the_batch(
    tiny: TinyModel, stand_in: type[StandIn], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stand_in, "room", 1)
    opened(tiny.bundle).close()
    assert stand_in.ran == [1]


def test_a_bundle_without_a_proof_slice_is_said_to_be_unproven(
    tiny: TinyModel, stand_in: type[StandIn], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stand_in, "change", lambda self, image: image * np.float32(0.5))
    old = replace(tiny.bundle, manifest=replace(tiny.bundle.manifest, proof=None))
    with Synthesizer(opened(old)) as synthesizer:
        (warning,) = synthesizer.engine.warnings
    assert warning.code.name == "engine-unproven"
    assert warning.kind == "operational"
    assert "was not checked" in warning.text
    assert stand_in.ran == []


def test_the_proof_slice_of_a_damaged_file_is_not_believed(tiny: TinyModel, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny.bundle.path, tmp_path / "copy"))
    content = bytearray((copy / "proof.npz").read_bytes())
    content[-2000] ^= 0x40
    (copy / "proof.npz").write_bytes(content)
    t1 = saved(scan(), tmp_path / "t1.nii.gz")
    assert main(["infer", "--t1", str(t1), "--model", str(copy)]) == 4
