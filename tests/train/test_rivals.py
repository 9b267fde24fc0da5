"""Our networks against outputs of the official code of the published ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.rivals import Fixture
from tlp_runtime.errors import ModelMismatch, UsageError
from tlp_train.checkpoint import Checkpoint, load_checkpoint
from tlp_train.config import preset
from tlp_train.importing import import_weights
from tlp_train.networks import registry

NETWORKS = {
    "hinet": ("hinet", {}),
    "mmgsn": ("mmgsn", {}),
    "pix2pix_unet5": ("pix2pix", {"downs": 5}),
    "pix2pix_unet8": ("pix2pix", {}),
    "resvit_cnn": ("resvit", {"transformer": False}),
    "resvit_one": ("resvit", {}),
    "resvit_many": ("resvit", {}),
}  # type: Mapping[str, tuple[str, dict[str, Any]]]
LARGE = ("pix2pix_unet8", "resvit_one", "resvit_many")
CASES = [pytest.param(name, marks=pytest.mark.proof if name in LARGE else ()) for name in NETWORKS]


def imported(fixture: Fixture, name: str, folder: Path) -> Checkpoint:
    """A checkpoint of the fixture's weights, as ``tlp import`` makes it: without prompt."""
    weights = folder / "weights.pth"
    torch.save(fixture.state(), weights)
    (x,) = fixture.inputs().values()
    inputs = ("t1", "t2")[: x.shape[1]]
    return load_checkpoint(
        import_weights(weights, inputs, folder / "a.ckpt", network=name, overwrite=False)
    )


RESVIT_PARTS = {
    "encoder_1": "encoder.3",
    "encoder_3": "encoder.9",
    "decoder_1": "decoder.2",
    "decoder_2": "decoder.5",
    **{f"art_{block + 1}": f"blocks.{block}" for block in range(9)},
}


def part_of(name: str, network: str) -> str:
    """Our name of a published module."""
    if name in RESVIT_PARTS:
        return RESVIT_PARTS[name]
    official = registry.network(network).official
    assert official is not None
    return official(f"{name}.").rstrip(".")


@contextmanager
def watched(module: nn.Module, parts: Mapping[str, str]) -> Iterator[dict[str, Tensor]]:
    """The first outputs of parts of a module, by the names that they have elsewhere."""
    found: dict[str, Tensor] = {}

    def keeping(name: str) -> Callable[..., None]:
        def keep(module: nn.Module, given: Any, made: Tensor) -> None:
            found.setdefault(name, made.detach().clone())

        return keep

    handles = [
        module.get_submodule(ours).register_forward_hook(keeping(name))
        for name, ours in parts.items()
    ]
    yield found
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("case", CASES)
def test_a_network_computes_what_the_official_code_computes(case: str, tmp_path: Path) -> None:
    name, options = NETWORKS[case]
    fixture = Fixture.load(case)
    checkpoint = imported(fixture, name, tmp_path)
    network = checkpoint.generator()
    assert checkpoint.spec.network.options.items() >= options.items()
    assert not checkpoint.spec.network.prompt
    tensors = next(iter(fixture.inputs().values())).chunk(len(network.spec.inputs), dim=1)
    inner = dict(fixture.inner())
    parts = {one: part_of(one, name) for one in inner}
    with torch.no_grad(), watched(network, parts) as found:
        outputs = network.outputs(*tensors)
        image = network(*tensors)
    assert fixture.distance("output", image) <= 2e-5
    assert torch.equal(outputs[0], image)
    for index, further in enumerate(outputs[1:], 1):
        assert fixture.distance(f"output{index}", further) <= 2e-5
    off = {one: fixture.distance(one, found[one]) for one in inner}
    assert {one: distance for one, distance in off.items() if distance > inner[one]} == {}
    parameters = sum(p.numel() for p in network.parameters())
    assert parameters == fixture.meta["parameters"]


def _monai(index: int) -> str:
    """MONAI's name of a layer of the PatchGAN, by its index in the published one."""
    convolutions = {0: "initial_conv.conv", 2: "0.conv", 5: "1.conv", 8: "2.conv"}
    norms = {3: "0.adn.N", 6: "1.adn.N", 9: "2.adn.N", 11: "final_conv.conv"}
    return {**convolutions, **norms}[index]


@pytest.mark.parametrize("case", ["patchgan_batch", "hinet_d", "mmgsn_d"])
def test_a_discriminator_computes_what_the_official_code_computes(case: str) -> None:
    fixture = Fixture.load(case)
    (x,) = fixture.inputs().values()
    recipe = {"patchgan_batch": "pix2pix", "hinet_d": "hinet", "mmgsn_d": "mmgsn"}[case]
    config = preset("paper", ("t1", "t2"), recipe, prompt=False)
    discriminator = registry.network(recipe).recipe.discriminator(config)
    assert discriminator is not None
    state = {}
    for key, value in fixture.state().items():
        _, index, leaf = key.split(".")
        ours = _monai(int(index)) if case == "patchgan_batch" else index
        state[f"{ours}.{leaf}"] = value
    discriminator.load_state_dict(state)
    with torch.no_grad():
        scores = discriminator.eval()(x)
    scores = scores[-1] if isinstance(scores, list) else scores
    assert fixture.distance("output", scores) <= 2e-5


def test_weights_that_do_not_fit_are_refused_with_every_kind_listed(tmp_path: Path) -> None:
    state = Fixture.load("hinet").state()
    state["down_9_9.0.weight"] = torch.zeros(1)
    state["out.0.bias"] = torch.zeros(2)
    del state["deconv_1_0.1.bias"]
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ModelMismatch) as caught:
        import_weights(
            tmp_path / "w.pth", ("t1", "t2"), tmp_path / "a.ckpt", network="hinet", overwrite=False
        )
    for found in ("1 unknown: down_9_9", "1 missing: decoder.0.1.bias", "1 misshapen: out.0.bias"):
        assert found in caught.value.problem
    for inputs, network, kind in (
        (("t1",), "hinet", UsageError),  # needs two
        (("t1", "t2"), "unet", UsageError),  # nobody published it
        (("t1", "t2"), "pix2pix", ModelMismatch),
        (("t1", "t2"), "tlp", ModelMismatch),
    ):
        with pytest.raises(kind):
            import_weights(
                tmp_path / "w.pth", inputs, tmp_path / "a.ckpt", network=network, overwrite=False
            )
    assert not (tmp_path / "a.ckpt").exists()


def test_a_shared_part_must_be_the_same_under_all_its_names(tmp_path: Path) -> None:
    """ResViT's one transformer stands under three names; two that differ are two networks."""
    options = {"width": 2, "hidden": 4, "heads": 2, "layers": 1, "mlp": 4}
    spec = preset("demo", ("t1",), "resvit", network_options=options, prompt=False).spec
    shared = registry.build(spec).state_dict()["transformer.norm.weight"]
    other = {"transformer_encoder.encoder_norm.weight": shared}
    other["art_1.transformer.encoder_norm.weight"] = shared + 1
    names = {key: registry.network("resvit").official(key) for key in other}  # type: ignore[misc]
    assert set(names.values()) == {"transformer.norm.weight"}
    torch.save(other, tmp_path / "w.pth")
    with pytest.raises(ModelMismatch):
        import_weights(
            tmp_path / "w.pth", ("t1",), tmp_path / "a.ckpt", network="resvit", overwrite=False
        )
