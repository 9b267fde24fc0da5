"""The network and its options; test_published.py proves it equal to the published one."""

from __future__ import annotations

import pytest
import torch

from tests.networks import PAGE, changed, tlp, written
from tlp_runtime.errors import SpecError
from tlp_runtime.spec.model import ModelSpec, NetworkSpec
from tlp_train.config import preset
from tlp_train.discriminators import patch_discriminator
from tlp_train.networks import registry
from tlp_train.networks.tlp.generator import Generator
from tlp_train.networks.tlp.options import TLPOptions


@pytest.mark.parametrize(("inputs", "millions"), [(("t1", "t2"), 16.35), (("t2",), 10.52)])
def test_full_size_has_the_published_number_of_parameters(
    inputs: tuple[str, ...], millions: float
) -> None:
    with torch.device("meta"):
        generator = Generator(ModelSpec(inputs=inputs, network=tlp()))
    count = sum(parameter.numel() for parameter in generator.parameters()) / 1e6
    assert count == pytest.approx(millions, abs=0.005)


def test_only_fusions_and_attention_outputs_have_biases() -> None:
    generator = Generator(ModelSpec(inputs=("t1", "t2"), network=tlp(dim=8)))
    biased = {
        name
        for name, module in generator.named_modules()
        if isinstance(module, torch.nn.Conv2d) and module.bias is not None
    }
    assert biased == {
        *(f"bottleneck.fusions.{scale}.conv" for scale in range(3)),
        "bottleneck.global_fusion.a.project",
        "bottleneck.global_fusion.b.project",
        "spatial_attention.project",
    }


@pytest.mark.parametrize(
    "options",
    [
        {"levels": 1},
        {"levels": 3},
        {"levels": 2, "ffn": "gdfn"},
        {"levels": 2, "local_fusion": False},
        {"levels": 2, "global_fusion": False},
        {"levels": 2, "local_fusion": False, "global_fusion": False},
    ],
)
def test_every_ablation_runs_trains_and_is_another_function(options: dict[str, object]) -> None:
    torch.manual_seed(0)
    network = tlp(dim=8, **options)
    generator = Generator(ModelSpec(inputs=("t1", "t2"), network=network))
    images = [torch.rand(1, 1, 48, 40) for _ in range(3)]
    output = generator(*images)
    assert output.shape == (1, 1, 48, 40)
    assert output.abs().max() <= 1
    output.mean().backward()
    unused = [name for name, p in generator.named_parameters() if p.grad is None]
    assert unused == []
    full = Generator(ModelSpec(inputs=("t1", "t2"), network=tlp(dim=8)))
    assert set(generator.state_dict()) != set(full.state_dict()) or options["levels"] != 2


def test_gated_ffn_has_restormer_s_hidden_width() -> None:
    network = tlp(dim=8, ffn="gdfn", ffn_expansion=2.66)
    generator = Generator(ModelSpec(inputs=("t1",), network=network))
    block = generator.encoders["t1"].scales[0][0].ffn  # type: ignore[index, union-attr]
    assert block.expand.weight.shape[0] == 2 * int(2.66 * 8)
    assert block.depthwise.groups == 2 * int(2.66 * 8)


def test_the_prompt_reaches_the_output() -> None:
    torch.manual_seed(0)
    generator = Generator(ModelSpec(inputs=("t1",), network=tlp(dim=8))).eval()
    image, prompt = torch.rand(1, 1, 48, 40), torch.zeros(1, 1, 48, 40)
    with torch.no_grad():
        without = generator(image, prompt)
        prompt[..., 10:20, 10:20] = 1
        assert (generator(image, prompt) - without).abs().max() > 1e-3


def test_branches_are_not_interchangeable() -> None:
    torch.manual_seed(0)
    generator = Generator(ModelSpec(inputs=("t1", "t2"), network=tlp(dim=8))).eval()
    t1, t2, prompt = (torch.rand(1, 1, 48, 40) for _ in range(3))
    with torch.no_grad():
        assert (generator(t1, t2, prompt) - generator(t2, t1, prompt)).abs().max() > 1e-3


def test_a_wrong_number_of_tensors_is_refused() -> None:
    generator = Generator(ModelSpec(inputs=("t1",), network=tlp(dim=8)))
    with pytest.raises(TypeError, match="expected t1, prompt"):
        generator(torch.zeros(1, 1, 48, 40))


def test_the_discriminator_is_the_published_patchgan() -> None:
    discriminator = patch_discriminator(1, preset("paper", ("t1",)))
    convolutions = [m for m in discriminator.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [c.out_channels for c in convolutions] == [64, 128, 256, 512, 1]
    assert [c.stride[0] for c in convolutions] == [2, 2, 2, 1, 1]
    assert {c.kernel_size for c in convolutions} == {(4, 4)}
    assert {c.padding for c in convolutions} == {(1, 1)}
    norms = [m for m in discriminator.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert [n.num_features for n in norms] == [128, 256, 512]
    slopes = {m.negative_slope for m in discriminator.modules() if hasattr(m, "negative_slope")}
    assert slopes == {0.2}
    assert convolutions[3].weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert discriminator(torch.zeros(1, 1, 192, 160))[-1].shape == (1, 1, 22, 18)


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"dim": "48"}, "dim is '48'"),
        ({"dim": True}, "dim is True"),
        ({"heads": (2, 4)}, "expected 3 positive numbers"),
        ({"ffn": "mlp"}, "ffn is 'mlp'"),
        ({"depth": 3}, "unknown options depth, it has dim"),
        ({"levels": 3}, "blocks is"),
    ],
)
def test_options_that_make_no_network_are_refused(options: dict[str, object], found: str) -> None:
    network = tlp()
    spec = ModelSpec(inputs=("t1",), network=changed(network, **options))
    with pytest.raises(SpecError, match=found):
        registry.build(spec)


def test_missing_options_are_refused_by_name() -> None:
    with pytest.raises(SpecError, match="missing keys dim, levels"):
        registry.build(ModelSpec(inputs=("t1",)))


def test_a_network_that_is_not_there_is_refused_with_those_that_are() -> None:
    spec = ModelSpec(inputs=("t1",), network=NetworkSpec(name="gan"))
    with pytest.raises(SpecError, match=r"network 'gan': this version knows tlp, unet"):
        registry.build(spec)


def test_fusion_options_need_two_inputs() -> None:
    with pytest.raises(SpecError, match="need two inputs"):
        registry.build(ModelSpec(inputs=("t1",), network=tlp(global_fusion=False)))


def test_group_norm_needs_channels_in_sixteens() -> None:
    with pytest.raises(SpecError, match="multiple of 16"):
        tlp(dim=12, levels=1)


def test_levels_drop_or_repeat_the_lowest_published_scale() -> None:
    assert tlp(levels=1).options["blocks"] == (1, 2)
    assert tlp(levels=2) == TLPOptions().as_spec()
    assert tlp(levels=3).options["heads"] == (2, 4, 8, 8)


def test_the_page_about_networks_is_what_the_registry_says() -> None:
    """``python -m tests.networks`` writes it."""
    text = PAGE.read_text(encoding="utf-8")
    assert written(text) == text
    assert all(f"`{name}`" in text for name in registry.NAMES)
