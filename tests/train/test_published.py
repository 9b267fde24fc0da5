"""Published weights: imported and exported they give the published output; bad ones are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.networks import tlp
from tlp_export import export
from tlp_runtime.engines.select import choose
from tlp_runtime.errors import ModelDamaged, ModelMismatch, OutputError, UnsafeCheckpoint
from tlp_runtime.spec.model import ModelSpec, NetworkSpec
from tlp_train.checkpoint import Checkpoint, load_checkpoint
from tlp_train.importing import import_weights
from tlp_train.networks.tlp.generator import Generator
from tlp_train.networks.tlp.published import published_name

KINDS = {"dual": ("t1", "t2"), "single": ("t1",)}

State = dict[str, Tensor]


def published_state(folder: Path, kind: str) -> State:
    """The fixture's state dict."""
    with np.load(folder / f"authors_{kind}_dim8.npz") as data:
        return {
            key.removeprefix("state."): torch.from_numpy(data[key])
            for key in data
            if key.startswith("state.")
        }


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def weights(fixtures_dir: Path, tmp_path: Path, kind: str) -> Path:
    path = tmp_path / f"{kind}.pth"
    torch.save(published_state(fixtures_dir, kind), path)
    return path


def imported(weights: Path, kind: str, folder: Path) -> Checkpoint:
    return load_checkpoint(import_weights(weights, KINDS[kind], folder / "a.ckpt", overwrite=False))


def given(fixtures_dir: Path, kind: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The fixture's inputs and its output."""
    with np.load(fixtures_dir / f"authors_{kind}_dim8.npz") as data:
        names = (*KINDS[kind], "prompt")
        return {name: data[f"input.{name}"] for name in names}, data["output_t1ce"]


def test_imported_weights_give_the_published_output(
    fixtures_dir: Path, tmp_path: Path, kind: str, weights: Path
) -> None:
    checkpoint = imported(weights, kind, tmp_path)
    assert checkpoint.spec == ModelSpec(inputs=KINDS[kind], network=tlp(dim=8))
    assert checkpoint.lineage.imported is not None
    assert checkpoint.lineage.imported.file == weights.name
    tensors, expected = given(fixtures_dir, kind)
    with torch.no_grad():
        output = checkpoint.generator()(*map(torch.from_numpy, tensors.values()))
    assert np.abs(output.numpy() - expected).max() <= 1e-5


@pytest.mark.parametrize(
    "kind", ["dual", pytest.param("single", marks=pytest.mark.proof)], indirect=True
)
def test_their_export_gives_what_the_published_network_gives(
    fixtures_dir: Path, tmp_path: Path, kind: str, weights: Path
) -> None:
    checkpoint = imported(weights, kind, tmp_path)
    names = checkpoint.spec.tensor_names
    tensors, _ = given(fixtures_dir, kind)
    exported = export(checkpoint, out=tmp_path / "bundle")
    card = (exported.bundle.path / "MODEL_CARD.md").read_text()
    assert f"not known: imported from {weights.name}" in card
    # The graph is of the full crop, 4 x 4 of the fixture's images; the network, proven equal to
    # the published one above, is its reference there, in float64 as in the manifest's bound.
    tiled = {name: np.tile(array, (1, 1, 4, 4)) for name, array in tensors.items()}
    with torch.no_grad():
        double = checkpoint.generator().double()
        whole = double(*(torch.from_numpy(tiled[name]).double() for name in names))
    with choose("ort-cpu", "cpu").open(exported.bundle) as engine, torch.no_grad():
        found = engine.run(tiled)
        # torch's fp32 of the same, for the bound that depends on the weights' own rounding
        rounded = checkpoint.generator()(*(torch.from_numpy(tiled[name]) for name in names))
    difference, rounding = np.abs(found - whole.numpy()), np.abs(rounded - whole).numpy()
    bounds = exported.parity.bounds
    factor = bounds["torch_fp32_factor"]
    assert difference.max() <= max(bounds["max_abs"], factor * rounding.max())
    assert _rms(difference) <= max(bounds["rms"], factor * _rms(rounding))


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.square(values).mean()))


def test_every_parameter_of_every_published_size_has_one_published_name(kind: str) -> None:
    for levels in (1, 2, 3):
        spec = ModelSpec(inputs=KINDS[kind], network=tlp(levels=levels, dim=8))
        with torch.device("meta"):
            names = list(Generator(spec).state_dict())
        assert len({published_name(name, spec) for name in names}) == len(names)
    with pytest.raises(KeyError):
        published_name("something.else", spec)


@pytest.mark.parametrize(
    "network",
    [
        tlp(dim=16, blocks=(1, 1, 3), heads=(1, 2, 4), refinement_blocks=1),
        tlp(levels=1, dim=8),
        tlp(levels=3, dim=8, ffn_expansion=1.5),
    ],
)
def test_the_size_is_read_off_keys_and_shapes(network: NetworkSpec, tmp_path: Path) -> None:
    spec = ModelSpec(inputs=("t2",), network=network)
    torch.manual_seed(0)
    ours = Generator(spec).state_dict()
    torch.save(
        {"state_dict": {f"module.{published_name(k, spec)}": v for k, v in ours.items()}},
        tmp_path / "w.pth",
    )
    path = import_weights(tmp_path / "w.pth", ("t2",), tmp_path / "a.ckpt", overwrite=False)
    checkpoint = load_checkpoint(path)
    assert checkpoint.spec == spec
    assert all(torch.equal(checkpoint.generator_state[k], v) for k, v in ours.items())


def _drop(state: State) -> None:
    del state["output.weight"], state["refinement.1.attn.temperature"]


def _add(state: State) -> None:
    state["output.bias"] = torch.zeros(1)


def _reshape(state: State) -> None:
    state["output.weight"] = torch.zeros(1, 15, 3, 3)


def _depthwise(state: State) -> None:
    state["decoder_level1.0.ffn.dwconv.weight"] = torch.zeros(32, 1, 3, 3)


def _poison(state: State) -> None:
    state["output.weight"][0, 0, 0, 0] = torch.nan


def _not_ours(state: State) -> None:
    for key in list(state):
        if key.startswith("encoder_A."):
            state[key.replace("encoder_A", "net")] = state.pop(key)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_drop, r"1 missing: output\.weight|missing: .*refinement"),
        (_add, r"1 unknown: output\.bias"),
        (_reshape, r"1 misshapen: output\.weight \(1, 15, 3, 3\), expected \(1, 16, 3, 3\)"),
        (_depthwise, r"misshapen: decoder_level1\.0\.ffn\.dwconv\.weight"),
        (_poison, r"not finite tensors: output\.weight"),
        (_not_ours, r"no encoder_A\.patch_embed"),
    ],
)
def test_weights_that_do_not_fit_are_listed_and_nothing_is_written(
    spoil: Callable[[State], None], message: str, fixtures_dir: Path, tmp_path: Path
) -> None:
    state = published_state(fixtures_dir, "single")
    spoil(state)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ModelMismatch, match=message) as caught:
        import_weights(tmp_path / "w.pth", ("t1",), tmp_path / "a.ckpt", overwrite=False)
    assert caught.value.exit_code == 4
    assert not (tmp_path / "a.ckpt").exists()


def test_every_bad_key_is_listed_at_once(fixtures_dir: Path, tmp_path: Path) -> None:
    state = published_state(fixtures_dir, "single")
    _drop(state)
    _add(state)
    _depthwise(state)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ModelMismatch) as caught:
        import_weights(tmp_path / "w.pth", ("t1",), tmp_path / "a.ckpt", overwrite=False)
    for part in ("unknown: output.bias", "missing: ", "output.weight", "misshapen: decoder_level1"):
        assert part in str(caught.value)


def test_inputs_must_suit_the_branches(fixtures_dir: Path, tmp_path: Path) -> None:
    for kind, inputs, right in (("dual", ("t1",), "t1,t2"), ("single", ("t1", "t2"), "t1 or")):
        torch.save(published_state(fixtures_dir, kind), tmp_path / "w.pth")
        with pytest.raises(ModelMismatch, match=f"Set inputs to {right}"):
            import_weights(tmp_path / "w.pth", inputs, tmp_path / "a.ckpt", overwrite=False)


def test_damaged_unsafe_and_foreign_files(fixtures_dir: Path, tmp_path: Path) -> None:
    def attempt(path: Path) -> None:
        import_weights(path, ("t1",), tmp_path / "a.ckpt", overwrite=False)

    path = tmp_path / "w.pth"
    torch.save(published_state(fixtures_dir, "single"), path)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ModelDamaged):
        attempt(path)
    torch.save(torch.nn.Conv2d(1, 1, 1), path)
    with pytest.raises(UnsafeCheckpoint):
        attempt(path)
    for other in ([1, 2], {}, {"epoch": 3}):
        torch.save(other, path)
        with pytest.raises(ModelMismatch, match=r"expected a state dict|no state dict"):
            attempt(path)
    assert not (tmp_path / "a.ckpt").exists()


def test_an_existing_checkpoint_is_kept(weights: Path, tmp_path: Path, kind: str) -> None:
    out = tmp_path / "a.ckpt"
    out.write_text("mine")
    with pytest.raises(OutputError):
        import_weights(weights, KINDS[kind], out, overwrite=False)
    assert out.read_text() == "mine"
