"""One step of the unpaired recipes against the same by hand, and what they keep between steps."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.train.runs import run_step
from tlp_runtime.errors import UsageError
from tlp_runtime.spec.model import CropSpec
from tlp_train.config import TrainConfig, preset
from tlp_train.module import SynthesisModule
from tlp_train.networks import registry
from tlp_train.networks.base import centred
from tlp_train.networks.syndiff.recipe import AdversarialDiffusion
from tlp_train.pool import ImagePool

SIDE = 32
OPTIONS: Mapping[str, dict[str, Any]] = {
    "cyclegan": {"width": 4, "blocks": 1},
    "syndiff": {
        "width": 8,
        "multipliers": (1, 2),
        "blocks": 1,
        "attention": 16,
        "size": SIDE,
        "latent": 4,
        "latent_width": 8,
    },
}


def config_of(
    network: str, inputs: tuple[str, ...] = ("t1", "t2"), *, prompt: bool = True, **changes: Any
) -> TrainConfig:
    config = preset(
        "paper", inputs, network, start="default", discriminator_channels=4, batch_size=2
    )
    options = registry.network(network).options(**OPTIONS[network]).as_spec(prompt=prompt)
    crop = CropSpec(rows=(0, SIDE), columns=(0, SIDE))
    return replace(config, spec=replace(config.spec, network=options, crop=crop), **changes)


def batch_of(count: int = 2) -> dict[str, Tensor]:
    torch.manual_seed(1)
    batch = {name: torch.rand(count, 1, SIDE, SIDE) * 2 - 1 for name in ("t1", "t2", "t1ce")}
    prompts = (torch.rand(2, count, 1, SIDE, SIDE) > 0.8).float()
    return {**batch, "prompt": prompts[0], "t1ce_prompt": prompts[1]}


def module_of(config: TrainConfig) -> tuple[SynthesisModule, dict[str, Tensor]]:
    """The networks at their start, and a batch with the first step's draws."""
    torch.manual_seed(0)
    module = SynthesisModule(config)
    return module, {**batch_of(), **module.draws(2)}


def first_step(modules: Sequence[nn.Module], loss: Tensor, rate: float) -> list[nn.Module]:
    """Copies after Adam's first step, in which both moments cancel but for the sign and eps."""
    gradients = torch.autograd.grad(
        loss, [p for one in modules for p in one.parameters()], retain_graph=True
    )
    after = [copy.deepcopy(one) for one in modules]
    with torch.no_grad():
        pairs = zip((p for one in after for p in one.parameters()), gradients, strict=True)
        for parameter, gradient in pairs:
            parameter.sub_(rate * gradient / (gradient.abs() + 1e-8))
    return after


def require_same(wanted: Sequence[nn.Module], found: Sequence[nn.Module], rate: float) -> None:
    """The same weights, but for the few whose gradient is all but zero, with a sign of rounding."""
    agree = [
        (x - y).detach().abs() < 0.02 * rate
        for one, other in zip(wanted, found, strict=True)
        for x, y in zip(one.parameters(), other.parameters(), strict=True)
    ]
    assert float(torch.cat([one.flatten() for one in agree]).float().mean()) > 0.98


def require_moved(before: nn.Module, after: nn.Module, rate: float) -> None:
    pairs = zip(before.parameters(), after.parameters(), strict=True)
    assert max(float((x - y).detach().abs().max()) for x, y in pairs) > 0.5 * rate


def l1(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).abs().mean()


def squares(scores: Tensor, wanted: float) -> Tensor:
    return (scores - wanted).square().mean()


@pytest.mark.parametrize(("inputs", "prompt"), [(("t1", "t2"), True), (("t1",), False)])
def test_a_step_of_cyclegan_is_what_the_publication_says(
    inputs: tuple[str, ...], prompt: bool
) -> None:
    config = config_of("cyclegan", inputs, prompt=prompt)
    module, batch = module_of(config)
    before = copy.deepcopy(module)
    g: Any = before.generator
    f: Any = before.auxiliary
    judges: Any = before.discriminator
    own, other = ((batch["prompt"],), (batch["t1ce_prompt"],)) if prompt else ((), ())
    x, y = torch.cat([batch[name] for name in inputs], dim=1), batch["t1ce"]
    fake_y = g(*(batch[name] for name in inputs), *own)
    fake_x = f(y)
    loss = squares(judges["target"](fake_y), 1) + squares(judges["inputs"](fake_x), 1)
    loss = loss + 10 * l1(f(fake_y), x)
    loss = loss + 10 * l1(g(*fake_x.chunk(len(inputs), dim=1), *other), y)
    if inputs == ("t1",) and not prompt:
        loss = loss + 5 * (l1(g(y), y) + l1(f(x), x))
    judged = sum(
        (squares(judges[name](real), 1) + squares(judges[name](fake.detach()), 0)) / 2
        for name, real, fake in (("target", y, fake_y), ("inputs", x, fake_x))
    )
    assert isinstance(judged, Tensor)
    rate = config.learning_rate
    step = run_step(module, batch)
    torch.testing.assert_close(step.losses["train_generator"][0], loss.detach())
    torch.testing.assert_close(step.losses["train_discriminator"][0], judged.detach())
    found: list[Any] = [module.generator, module.auxiliary]
    require_same(first_step([g, f], loss, rate), found, rate)
    require_same(first_step([judges], judged, rate), [module.discriminator], rate)  # type: ignore[list-item]
    for one, other_one in zip((g, f, judges), (*found, module.discriminator), strict=True):
        require_moved(one, other_one, rate)
    assert int(module.memory["target"].held) == 2  # type: ignore[index]


def softly(scores: Tensor, sign: int) -> Tensor:
    return F.softplus(sign * scores).mean()


@pytest.mark.parametrize(("inputs", "prompt"), [(("t1", "t2"), True), (("t1",), False)])
def test_a_step_of_syndiff_is_what_the_publication_says(
    inputs: tuple[str, ...], prompt: bool
) -> None:
    config = config_of("syndiff", inputs, prompt=prompt)
    module, batch = module_of(config)
    before = copy.deepcopy(module)
    more: Any = before.auxiliary
    judges: Any = before.discriminator
    g: Any = before.trained
    s = g.schedule
    kept, betas = torch.from_numpy(s.forward_kept).float(), torch.from_numpy(s.betas).float()
    own, other = ([batch["prompt"]], [batch["t1ce_prompt"]]) if prompt else ([], [])
    x, y = torch.cat([batch[name] for name in inputs], dim=1), batch["t1ce"]
    fake_y, fake_x = more["to_target"](torch.cat([x, *own], dim=1)), more["to_inputs"](y)
    again_x, again_y = more["to_inputs"](fake_y), more["to_target"](torch.cat([fake_x, *other], 1))

    sides: dict[str, tuple[Tensor, Any, list[Tensor]]] = {
        "target": (y, g.denoiser, [fake_x, *other]),
        "inputs": (x, more["denoiser"], [fake_y]),
    }
    seen: dict[str, Any] = {}
    for side, (real, denoiser, source) in sides.items():
        t, noise = batch[f"{side}_t"], batch[f"{side}_noise"]
        a, b = kept[t][:, None, None, None], betas[t][:, None, None, None]
        x_t = a * real + (1 - a**2).sqrt() * noise[:, 0]
        x_next = (1 - b).sqrt() * x_t + b.sqrt() * noise[:, 1]
        made = denoiser(torch.cat([x_next, *source], 1), t, batch[f"{side}_z"])[:, : real.shape[1]]
        fake = s.denoised(made, x_next, t, noise[:, 2])
        seen[side] = (real, made, t, x_t, x_next, fake)

    judged: Any = 0
    for side, (_, _, t, x_t, x_next, fake) in seen.items():
        leaf = x_t.clone().requires_grad_()
        scores = judges[f"{side}_steps"](leaf, t, x_next)
        (slope,) = torch.autograd.grad(scores.sum(), leaf, create_graph=True)
        judged = judged + softly(scores, -1) + slope.square().flatten(1).sum(1).mean() / 2
        judged = judged + softly(judges[f"{side}_steps"](fake.detach(), t, x_next), 1)
    for name, real, fake in (("target", y, fake_y), ("inputs", x, fake_x)):
        judged = judged + softly(judges[name](real), -1) + softly(judges[name](fake.detach()), 1)
    (after,) = first_step([judges], judged, 1e-4)
    updated: Any = after

    loss: Any = 0  # the generators' step sees discriminators that were updated
    for side, (real, made, t, _, x_next, fake) in seen.items():
        loss = loss + softly(updated[f"{side}_steps"](fake, t, x_next), -1) + 0.5 * l1(made, real)
    loss = loss + softly(updated["target"](fake_y), -1) + softly(updated["inputs"](fake_x), -1)
    loss = loss + 0.5 * (l1(again_y, y) + l1(again_x, x))

    step = run_step(module, batch)
    torch.testing.assert_close(step.losses["train_discriminator"][0], judged.detach())
    torch.testing.assert_close(
        step.losses["train_generator"][0], loss.detach(), rtol=1e-4, atol=1e-4
    )
    found: list[Any] = [module.trained, module.auxiliary, module.discriminator]
    wanted = first_step([g, more], loss, 1.6e-4)
    require_same(wanted, found[:2], 1.6e-4)
    require_same([updated], found[2:], 1e-4)
    for one, two, rate in (
        (g, found[0], 1.6e-4), (more, found[1], 1.6e-4), (judges, found[2], 1e-4),
    ):  # fmt: skip
        require_moved(one, two, rate)


def test_the_penalty_comes_every_ten_steps() -> None:
    config = config_of("syndiff", ("t1",), prompt=False)
    module, batch = module_of(config)
    recipe = module.recipe
    assert isinstance(recipe, AdversarialDiffusion)
    judges: Any = module.discriminator
    s: Any = module.generator.schedule
    slopes: Any = 0
    for side, image in (("target", batch["t1ce"]), ("inputs", batch["t1"])):
        judge, t, noise = judges[f"{side}_steps"], batch[f"{side}_t"], batch[f"{side}_noise"]
        judge.score.weight.data *= 1e3  # a penalty that shows
        x = s.noised(image, t, noise[:, 0])
        noisier = s.noisier(x, t, noise[:, 1])
        x.requires_grad_()
        (slope,) = torch.autograd.grad(judge(x, t, noisier).sum(), x)
        slopes = slopes + slope.square().flatten(1).sum(1).mean()
    outputs = [one.detach() for one in module.outputs(batch)]
    losses = []
    for number in (0, 1, 9, 10, 20):
        nets = replace(module.networks, step=number)
        losses.append(recipe.discriminator_loss(config, outputs, batch, nets).item())
    assert losses[1] == losses[2]
    assert losses[0] == losses[3] == losses[4]
    assert losses[0] - losses[1] == pytest.approx(float(slopes) / 2, rel=1e-2)
    assert float(slopes) > 0.1


@pytest.mark.parametrize("network", OPTIONS)
def test_an_unpaired_step_in_two_parts_is_the_same_step(network: str) -> None:
    gradients = []
    for parts in (1, 2):
        module, batch = module_of(config_of(network, accumulate=parts))
        # deviations between the samples of a batch are those of a part
        for one in module.discriminator.modules():  # type: ignore[union-attr]
            if hasattr(one, "score"):
                last: Any = one.last
                last.weight.data[:, -1] = 0
        run_step(module, batch, parts)
        gradients.append([p.grad for net in module.sides[:1] for p in net.parameters()])
    for whole, shared in zip(*gradients, strict=True):
        assert whole is not None
        assert shared is not None
        torch.testing.assert_close(whole, shared, rtol=1e-3, atol=1e-4)


def test_an_image_loss_sees_the_whole_padded_slice() -> None:
    image = torch.rand(1, 1, 3, 2)
    whole = centred(image, 6, 6, -1.0)
    assert whole.shape == (1, 1, 6, 6)
    assert torch.equal(whole[..., 1:4, 2:4], image)
    assert float(whole.sum()) == pytest.approx(float(image.sum()) - 30)


# What is kept between steps


def test_the_pool_keeps_images_until_it_is_full_and_then_exchanges_half() -> None:
    pool = ImagePool(2, 1, 1, 1)

    def given(value: float, coin: float, place: int) -> float:
        image = torch.full((1, 1, 1, 1), value)
        return float(pool.exchange(image, torch.tensor([coin]), torch.tensor([place])))

    assert [given(1, 0.9, 0), given(2, 0.9, 0)] == [1, 2], "there was room"
    assert given(3, 0.4, 0) == 3, "passed on, and not kept"
    assert given(4, 0.6, 1) == 2, "exchanged"
    assert pool.images.flatten().tolist() == [1, 4]
    assert given(5, 0.6, 1) == 4
    restored = ImagePool(2, 1, 1, 1)
    restored.load_state_dict(pool.state_dict())
    assert (int(restored.held), restored.images.flatten().tolist()) == (2, [1, 5])


def test_a_batch_in_a_pool_is_its_images_one_by_one() -> None:
    torch.manual_seed(0)
    images, coins, places = torch.rand(9, 1, 2, 2), torch.rand(9), torch.randint(3, (9,))
    whole, single = ImagePool(3, 1, 2, 2), ImagePool(3, 1, 2, 2)
    together = whole.exchange(images, coins, places)
    alone = [
        single.exchange(images[i : i + 1], coins[i : i + 1], places[i : i + 1]) for i in range(9)
    ]
    assert torch.equal(together, torch.cat(alone))
    assert not torch.equal(together, images)


def test_a_pool_of_no_images_passes_them_on() -> None:
    images = torch.rand(2, 1, 2, 2)
    made = ImagePool(0, 1, 2, 2).exchange(images, torch.zeros(2), torch.zeros(2, dtype=torch.int64))
    assert torch.equal(made, images)


def test_the_generator_is_the_running_mean_of_what_is_trained() -> None:
    module, batch = module_of(config_of("syndiff", ("t1",), prompt=False, ema=0.9))
    assert module.unaveraged is not None
    names = set(module.state_dict())
    assert {n.split(".")[0] for n in names} == {
        "generator", "unaveraged", "auxiliary", "discriminator",
    }  # fmt: skip
    mean = [p.detach().clone() for p in module.generator.parameters()]
    assert all(torch.equal(*pair) for pair in zip(mean, module.trained.parameters(), strict=True))
    for _ in range(2):
        run_step(module, batch)
        trained = [p.detach() for p in module.trained.parameters()]
        mean = [0.9 * old + 0.1 * new for old, new in zip(mean, trained, strict=True)]
    for wanted, found in zip(mean, module.generator.parameters(), strict=True):
        torch.testing.assert_close(wanted, found.detach())
        assert not found.requires_grad
    assert not all(torch.equal(*pair) for pair in zip(mean, trained, strict=True))


def test_without_a_running_mean_the_generator_is_trained_itself() -> None:
    module, _ = module_of(config_of("cyclegan"))
    assert module.trained is module.generator
    assert module.unaveraged is None


def test_draws_depend_on_the_seed_and_the_step_alone() -> None:
    module, _ = module_of(config_of("syndiff"))
    torch.manual_seed(5)
    first = module.draws(2)
    torch.manual_seed(6)
    again = module.draws(2)
    assert first.keys() == again.keys() == {
        f"{side}_{name}" for side in ("target", "inputs") for name in ("t", "z", "noise")
    }  # fmt: skip
    assert all(torch.equal(first[name], again[name]) for name in first)
    other = SynthesisModule(replace(module.config, seed=1)).draws(2)
    assert not torch.equal(first["target_noise"], other["target_noise"])


# Options


def test_the_unpaired_optimisers_are_those_of_the_publication() -> None:
    cycle = preset("paper", ("t1",), "cyclegan", prompt=False)
    assert (cycle.rates, cycle.betas, cycle.batch_size) == ((2e-4, 2e-4), (0.5, 0.999), 1)
    assert (cycle.epochs, cycle.constant_epochs, cycle.start) == (200, 100, "normal")
    diffusion = preset("paper", ("t1",), "syndiff", prompt=False)
    assert (diffusion.rates, diffusion.betas, diffusion.batch_size) == (
        (1.6e-4, 1e-4), (0.5, 0.9), 1,
    )  # fmt: skip
    assert (diffusion.epochs, diffusion.ema) == (500, 0.999)
    for rate in diffusion.rates:
        for epoch in (0, 125, 250, 499, 500):
            wanted = 1e-5 + (rate - 1e-5) * (1 + np.cos(np.pi * epoch / 500)) / 2
            assert rate * diffusion.rate_factor(epoch, rate) == pytest.approx(wanted)


def test_each_side_has_its_own_rate() -> None:
    module, _ = module_of(config_of("syndiff", ("t1",), prompt=False))
    optimisers, schedules = module.configure_optimizers()
    assert [one.param_groups[0]["lr"] for one in optimisers] == [1.6e-4, 1e-4]
    for schedule in schedules:
        assert schedule.lr_lambdas[0](500) * schedule.base_lrs[0] == pytest.approx(1e-5)


def test_a_configuration_of_schema_1_1_is_trained_as_it_was() -> None:
    config = preset("paper", ("t1",))
    written = config.to_dict()
    assert written["schema"] == {"major": 1, "minor": 2}
    written["schema"] = {"major": 1, "minor": 1}
    for name in ("discriminator_learning_rate", "schedule", "final_learning_rate", "ema"):
        del written[name]
    assert TrainConfig.from_dict(written) == config


@pytest.mark.parametrize(
    "changes",
    [{"ema": 1.0}, {"final_learning_rate": 1.0}, {"discriminator_learning_rate": 0.0}],
)
def test_rates_that_make_no_run_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        preset("paper", ("t1",), **changes)
