"""One step of each recipe, against the same computed by hand on a tiny network."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.train.runs import run_step
from tlp_runtime.spec.model import CropSpec
from tlp_train.config import TrainConfig, preset
from tlp_train.module import SynthesisModule

SIDE = 64
OPTIONS: Mapping[str, dict[str, Any]] = {
    "tlp": {"dim": 4},
    "unet": {"width": 2, "stages": 3},
    "pix2pix": {"width": 2, "downs": 5, "dropout": False},
    "hinet": {"width": 2},
    "mmgsn": {"width": 8},
    "resvit": {"width": 2, "blocks": 6, "transformer": False, "dropout": 0.0},
}

Nets = tuple[nn.Module, Any]


def config_of(network: str, **changes: Any) -> TrainConfig:
    config = preset(
        "paper", ("t1", "t2"), network, network_options=OPTIONS[network], start="default",
        discriminator_channels=2, batch_size=2,
    )  # fmt: skip
    crop = CropSpec(rows=(0, SIDE), columns=(0, SIDE))
    return replace(config, spec=replace(config.spec, crop=crop), **changes)


def batch_of(count: int = 2) -> dict[str, Tensor]:
    torch.manual_seed(1)
    batch = {name: torch.rand(count, 1, SIDE, SIDE) * 2 - 1 for name in ("t1", "t2", "t1ce")}
    return {**batch, "prompt": (torch.rand(count, 1, SIDE, SIDE) > 0.8).float()}


def stepped(config: TrainConfig) -> tuple[SynthesisModule, SynthesisModule]:
    """The networks before a step of the recipe, and after it."""
    torch.manual_seed(0)
    module = SynthesisModule(config)
    before = copy.deepcopy(module)
    run_step(module, batch_of())
    return before, module


def made(generator: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    outputs: tuple[Tensor, ...] = generator.outputs(  # type: ignore[operator]
        batch["t1"], batch["t2"], batch["prompt"]
    )
    return outputs


def scores(opponent: Any, *channels: Tensor) -> Tensor:
    found = opponent(torch.cat(channels, dim=1))
    return found[-1] if isinstance(found, list) else found  # type: ignore[no-any-return]


def adam(module: nn.Module, loss: Tensor, config: TrainConfig) -> nn.Module:
    """A copy after Adam's first step, in which both moments cancel but for the sign and eps."""
    parameters = list(module.parameters())
    gradients = torch.autograd.grad(loss, parameters, retain_graph=True)
    after = copy.deepcopy(module)
    with torch.no_grad():
        for parameter, gradient in zip(after.parameters(), gradients, strict=True):
            parameter.sub_(config.learning_rate * gradient / (gradient.abs() + 1e-8))
    return after


def l1(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).abs().mean()


def least_squares(real: Tensor, fake: Tensor) -> Tensor:
    return ((real - 1).square().mean() + fake.square().mean()) / 2


def by_hand(network: str, before: SynthesisModule, config: TrainConfig) -> Nets:
    generator, opponent, batch = before.generator, before.discriminator, batch_of()
    image, *further = made(generator, batch)
    real, t1, t2 = batch["t1ce"], batch["t1"], batch["t2"]
    distance = l1(image, real)
    if network == "unet":
        return adam(generator, distance, config), None
    seen = (t1, t2) if network in ("pix2pix", "resvit") else ()
    if network == "hinet":  # the generator first; the discriminator then sees the same image
        again = 20 * (l1(further[0], t1) + l1(further[1], t2))
        loss = (scores(opponent, image) - 1).square().mean() + 100 * distance + again
        after = adam(generator, loss, config)
        judged = least_squares(scores(opponent, real), scores(opponent, image.detach()))
        return after, adam(opponent, judged, config)  # type: ignore[arg-type]
    if network == "mmgsn":  # both at once; the generator has the discriminator's gradient too
        own = (scores(opponent, image) - 1).square().mean() + 100 * distance
        judged = least_squares(scores(opponent, real), scores(opponent, image))
        return adam(generator, own + judged, config), adam(opponent, judged, config)  # type: ignore[arg-type]
    if network == "pix2pix":
        on_real = F.softplus(-scores(opponent, *seen, real)).mean()
        on_fake = F.softplus(scores(opponent, *seen, image.detach())).mean()
        opponent = adam(opponent, (on_real + on_fake) / 2, config)  # type: ignore[arg-type]
        loss = F.softplus(-scores(opponent, *seen, image)).mean() + 100 * distance
        return adam(generator, loss, config), opponent
    judged = least_squares(scores(opponent, *seen, real), scores(opponent, *seen, image.detach()))
    opponent = adam(opponent, judged, config)  # type: ignore[arg-type]
    loss = (scores(opponent, *seen, image) - 1).square().mean() + 100 * distance
    return adam(generator, loss, config), opponent


def moved(a: nn.Module, b: nn.Module, config: TrainConfig) -> float:
    """The largest difference of two networks' weights, in learning rates."""
    pairs = zip(a.parameters(), b.parameters(), strict=True)
    return max(float((x - y).detach().abs().max()) for x, y in pairs) / config.learning_rate


@pytest.mark.parametrize("network", OPTIONS)
def test_a_step_is_what_the_publication_says(network: str) -> None:
    config = config_of(network)
    before, after = stepped(config)
    generator, opponent = by_hand(network, before, config)
    for wanted, found in zip((generator, opponent), after.sides, strict=False):
        agree = [
            float(((x - y).detach().abs() < 0.02 * config.learning_rate).float().mean())
            for x, y in zip(wanted.parameters(), found.parameters(), strict=True)
        ]
        # where a gradient is all but zero, rounding decides its sign
        assert sum(agree) / len(agree) > 0.99
    assert moved(before.generator, after.generator, config) > 0.5
    assert (after.discriminator is None) == (network == "unet")


@pytest.mark.parametrize("network", ["hinet", "mmgsn", "pix2pix", "unet"])
def test_a_step_in_two_parts_is_the_same_step(network: str) -> None:
    """Without BatchNorm's statistics, which are those of a part."""
    steps = []
    for parts in (1, 2):
        config = config_of(network, accumulate=parts)
        torch.manual_seed(0)
        module = SynthesisModule(config).eval()
        run_step(module, batch_of(), parts)
        steps.append([p.grad for net in module.sides for p in net.parameters()])
    for whole, shared in zip(*steps, strict=True):
        assert whole is not None
        assert shared is not None
        torch.testing.assert_close(whole, shared, rtol=1e-3, atol=1e-4)


def test_optimisers_are_those_of_the_publication() -> None:
    for network, rate in (("hinet", 1e-3), ("mmgsn", 1e-3), ("pix2pix", 2e-4), ("resvit", 2e-4)):
        config = preset("paper", ("t1", "t2"), network)
        assert (config.learning_rate, config.betas, config.batch_size) == (rate, (0.5, 0.999), 1)
        assert config.l1_weight == 100
    epochs = {n: preset("paper", ("t1", "t2"), n) for n in ("hinet", "pix2pix", "resvit")}
    assert {n: (c.epochs, c.constant_epochs) for n, c in epochs.items()} == {
        "hinet": (400, 100), "pix2pix": (200, 100), "resvit": (100, 50),
    }  # fmt: skip
