"""Our unpaired networks against outputs of the official code of the published ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.rivals import Fixture, given
from tests.train.test_rivals import watched
from tlp_export.precision import half_module
from tlp_runtime.errors import SpecError
from tlp_runtime.models.manifest import Precision
from tlp_runtime.spec.model import CropSpec, ModelSpec
from tlp_train.networks import cyclegan
from tlp_train.networks.cyclegan import CycleGAN, CycleGANOptions, InstancePatchGAN
from tlp_train.networks.options import NetworkOptions
from tlp_train.networks.syndiff import published as syndiff
from tlp_train.networks.syndiff.discriminator import TimeDiscriminator
from tlp_train.networks.syndiff.network import SynDiff
from tlp_train.networks.syndiff.options import SynDiffOptions
from tlp_train.networks.syndiff.recipe import translator
from tlp_train.networks.syndiff.schedule import NoiseSchedule

SHAPES = {
    "syndiff_ncsnpp_small": SynDiffOptions(
        width=32, multipliers=(1, 2, 2), blocks=1, size=64, latent_width=64
    ),
    "syndiff_ncsnpp": SynDiffOptions(),
}
CASES = [
    "syndiff_ncsnpp_small",
    pytest.param("syndiff_ncsnpp", marks=pytest.mark.proof),
]
TINY = SynDiffOptions(
    width=8, multipliers=(1, 2), blocks=1, attention=8, size=16, latent=4, latent_width=8
)
JUDGED = {"t_embed": "time", "start_conv": "first", "final_conv": "last"}

Rename = Callable[[str], str]


def spec_of(options: NetworkOptions, *inputs: str, height: int, width: int) -> ModelSpec:
    """A model without prompt, as the networks were published."""
    crop = CropSpec(rows=(0, height), columns=(0, width))
    return ModelSpec(inputs=inputs, network=options.as_spec(prompt=False), crop=crop)


def load(fixture: Fixture, module: nn.Module, official: Rename) -> None:
    """Give a module the fixture's weights; it has as many as the published one."""
    module.load_state_dict({official(key): value for key, value in fixture.state().items()})
    module.eval()
    assert sum(p.numel() for p in module.parameters()) == fixture.meta["parameters"]


def modules(fixture: Fixture) -> list[str]:
    """Names of the published modules whose outputs a fixture holds."""
    return [name for name, _ in fixture.inner() if not name.startswith("x")]


def require_inner(fixture: Fixture, found: Mapping[str, Tensor]) -> None:
    """Every inner array that was found is as near to the fixture's as rounding allows."""
    allowed = dict(fixture.inner())
    off = {name: fixture.distance(name, array) for name, array in found.items()}
    assert {name: distance for name, distance in off.items() if distance > allowed[name]} == {}


def require_same(fixture: Fixture, module: nn.Module, part: Rename, *tensors: Tensor) -> None:
    """The module computes what the published one does, within and at its end."""
    parts = {name: part(name) for name in modules(fixture)}
    with torch.no_grad(), watched(module, parts) as found:
        output = module(*tensors)
    assert fixture.distance("output", output) <= 2e-5
    assert set(found) == set(parts)
    require_inner(fixture, found)


def part_by(official: Rename) -> Rename:
    """Our name of a published module, as that of a weight in it says."""
    return lambda name: official(f"{name}.weight").removesuffix(".weight")


@pytest.mark.parametrize("case", ["cyclegan_resnet9", "cyclegan_resnet9_two"])
def test_cyclegan_computes_what_the_official_code_computes(case: str) -> None:
    fixture = Fixture.load(case)
    (x,) = fixture.inputs().values()
    inputs = ("t1", "t2")[: x.shape[1]]
    network = CycleGAN(spec_of(CycleGANOptions(), *inputs, height=64, width=48))
    load(fixture, network, cyclegan.official)
    require_same(fixture, network, part_by(cyclegan.official), *x.chunk(len(inputs), dim=1))
    assert cyclegan.shown(network.state_dict()) == {"width": 64, "blocks": 9}


def test_the_translator_computes_what_the_official_code_computes() -> None:
    fixture = Fixture.load("syndiff_resnet6")
    body = translator(1)
    load(fixture, body, syndiff.translator_official)
    require_same(fixture, body, part_by(syndiff.translator_official), *fixture.inputs().values())


def test_the_patchgan_computes_what_the_official_code_computes() -> None:
    fixture = Fixture.load("patchgan_instance")
    judge = InstancePatchGAN(1, 64)
    load(fixture, judge, cyclegan.discriminator_official)
    require_same(
        fixture, judge, part_by(cyclegan.discriminator_official), *fixture.inputs().values()
    )


def test_the_discriminator_of_steps_computes_what_the_official_code_computes() -> None:
    fixture = Fixture.load("syndiff_d")
    judge = TimeDiscriminator()
    load(fixture, judge, syndiff.discriminator_official)

    def part(name: str) -> str:
        return JUDGED.get(name) or f"blocks.{int(name.removeprefix('conv')) - 1}"

    require_same(fixture, judge, part, *fixture.inputs().values())


def syndiff_of(fixture: Fixture, options: SynDiffOptions) -> SynDiff:
    """The network with the fixture's weights."""
    height = fixture.meta["loop"]["source"]["images"]["height"]
    network = SynDiff(spec_of(options, "t1", height=height, width=options.size))
    load(fixture, network, lambda key: syndiff.official(key, options))
    return network


@pytest.mark.parametrize("case", CASES)
def test_the_diffusive_generator_computes_what_the_official_code_computes(case: str) -> None:
    fixture, options = Fixture.load(case), SHAPES[case]
    network = syndiff_of(fixture, options)

    def part(name: str) -> str:
        if name == "z_transform":
            return "latent"
        ours = part_by(lambda key: syndiff.official(key, options))(name)
        return ours.removeprefix("denoiser.")

    require_same(fixture, network.denoiser, part, *fixture.inputs().values())


@pytest.mark.parametrize("case", CASES)
def test_sampling_takes_the_steps_of_the_official_code(case: str) -> None:
    fixture, options = Fixture.load(case), SHAPES[case]
    network = syndiff_of(fixture, options)
    loop = {name: torch.from_numpy(given(spec)) for name, spec in fixture.meta["loop"].items()}
    steps = (3, 2, 1, 0)
    noise = [loop["x_init"], *(loop[f"noise_{t}"] for t in steps[:-1])]
    latents = [loop[f"z_{t}"] for t in steps]
    found: dict[str, Tensor] = {}
    with torch.no_grad():
        made = network.steps(loop["source"], noise, latents)
        for t, (image, x) in zip(steps, made, strict=True):
            found |= {f"x0_t{t}": image, f"x_after_t{t}": x}
    require_inner(fixture, found)
    assert {*modules(fixture), *found} == {name for name, _ in fixture.inner()}


def test_the_schedule_is_the_official_one() -> None:
    arrays, schedule = Fixture.load("syndiff_ncsnpp_small").arrays, NoiseSchedule.of(4)
    ours = {
        "betas": schedule.betas,
        "alphas_cumprod": schedule.kept,
        "posterior_variance": schedule.posterior_variance,
        "posterior_log_variance_clipped": schedule.posterior_log_variance,
        "posterior_mean_coef1": schedule.image_weight,
        "posterior_mean_coef2": schedule.noisy_weight,
        "schedule_betas": schedule.forward_betas,
        "a_s_cum": schedule.forward_kept,
    }
    for name, table in ours.items():
        atol = 1e-7 if "log" in name else 1e-12
        np.testing.assert_allclose(table, arrays[name], rtol=2e-6, atol=atol, err_msg=name)


def test_noise_is_added_as_the_official_tables_say() -> None:
    arrays, schedule = Fixture.load("syndiff_ncsnpp_small").arrays, NoiseSchedule.of(4)
    one, none = (torch.full((4, 1, 1, 1), value, dtype=torch.float64) for value in (1.0, 0.0))
    t = torch.arange(4)
    added = {
        "a_s_cum": schedule.noised(one, t + 1, none),
        "sigmas_cum": schedule.noised(none, t + 1, one),
        "schedule_a_s": schedule.noisier(one, t, none),
        "schedule_sigmas": schedule.noisier(none, t, one),
    }
    for name, found in added.items():
        np.testing.assert_allclose(found.flatten(), arrays[name][1:], rtol=2e-6, err_msg=name)


def test_a_batch_of_steps_is_denoised_as_each_step_alone() -> None:
    schedule = NoiseSchedule.of(4)
    image, x, noise = torch.rand(3, 4, 1, 2, 2)
    together = schedule.denoised(image, x, torch.arange(4), noise)
    for t in range(4):
        alone = schedule.denoised(image[t], x[t], t, noise[t] if t else None)
        torch.testing.assert_close(together[t], alone)


def test_noise_given_as_one_tensor_is_noise_given_as_a_list() -> None:
    network = tiny(height=16, width=16)
    source = torch.rand(2, 1, 16, 16)
    noise, latents = torch.randn(4, 2, 1, 16, 16), torch.randn(4, 2, 4)
    with torch.no_grad():
        one = network.sample(source, noise, latents)
        several = network.sample(source, list(noise), list(latents))
    assert torch.equal(one, several)


def tiny(*, height: int, width: int) -> SynDiff:
    """A network of a few channels."""
    torch.manual_seed(0)
    return SynDiff(spec_of(TINY, "t1", height=height, width=width)).eval()


def test_a_slice_is_synthesized_the_same_every_time_and_in_any_batch() -> None:
    network, again = tiny(height=12, width=10), tiny(height=12, width=10)
    slices = torch.rand(2, 1, 12, 10)
    with torch.no_grad():
        both, alone = network(slices), again(slices[1:])
    assert both.shape == slices.shape
    torch.testing.assert_close(both[1:], alone)


def test_background_around_a_slice_changes_nothing() -> None:
    network = tiny(height=16, width=16)
    slices = torch.rand(1, 1, 12, 10)
    whole = torch.full((1, 1, 16, 16), -1.0)
    whole[..., 2:14, 3:13] = slices
    with torch.no_grad():
        assert torch.equal(network(slices), network(whole)[..., 2:14, 3:13])


@pytest.mark.parametrize(("precision", "far"), [("fp16", 0.01), ("bf16", 0.05)])
def test_syndiff_runs_in_half_precision(precision: Precision, far: float) -> None:
    network = tiny(height=16, width=16)
    slices = torch.rand(2, 1, 16, 16)
    with torch.no_grad():
        expected = network(slices)
        found = half_module(network, precision)(slices)
    assert 0 < (found - expected).abs().max() <= far


def test_the_unpaired_networks_run_in_double_precision() -> None:
    torch.manual_seed(0)
    options = CycleGANOptions(width=4, blocks=1)
    cycle = CycleGAN(spec_of(options, "t1", height=16, width=16)).eval()
    slices = torch.rand(2, 1, 16, 16)
    for network in (tiny(height=16, width=16), cycle):
        with torch.no_grad():
            expected = network(slices)
            found = network.double()(slices.double())
        assert found.dtype == torch.float64
        torch.testing.assert_close(found, expected.double(), rtol=0, atol=1e-5)


def test_every_weight_of_the_unpaired_networks_learns() -> None:
    images = torch.rand(2, 1, 64, 64)
    t, z = torch.tensor([0, 3]), torch.randn(2, 4)
    made = {
        tiny(height=16, width=16).denoiser: (torch.rand(2, 2, 16, 16), t, z),
        TimeDiscriminator(4, 8): (images, t, images),
        InstancePatchGAN(1, 4): (images,),
        translator(1, 4): (images,),
    }
    for module, tensors in made.items():
        module(*tensors).square().mean().backward()
        unused = [name for name, p in module.named_parameters() if p.grad is None]
        assert unused == []


@pytest.mark.parametrize("key", ["all_modules.99.weight", "all_modules.3.Conv_9.weight", "x.1"])
def test_an_unknown_published_key_is_refused(key: str) -> None:
    maps = (
        syndiff.official,
        syndiff.translator_official,
        syndiff.discriminator_official,
        cyclegan.official,
        cyclegan.discriminator_official,
    )
    for official in maps:
        with pytest.raises(KeyError):
            official(key)


def test_the_shape_of_syndiff_is_read_off_its_weights() -> None:
    with torch.device("meta"):
        network = SynDiff(spec_of(SynDiffOptions(), "t1", height=240, width=240))
    assert SynDiffOptions(**syndiff.shown(network.state_dict())) == SynDiffOptions()


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"multipliers": ()}, "multipliers"),
        ({"multipliers": (1, 0)}, "multipliers"),
        ({"size": 100}, "does not halve 5 times"),
        ({"width": 6, "multipliers": (1,)}, "multiple of 4"),
        ({"width": 36}, "multiple of 32"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, object], problem: str) -> None:
    with pytest.raises(SpecError, match=problem):
        SynDiffOptions(**options)  # type: ignore[arg-type]


def test_slices_larger_than_the_padded_size_are_refused() -> None:
    with pytest.raises(SpecError, match="pads them to 16 x 16"):
        SynDiff(spec_of(TINY, "t1", height=18, width=16))
